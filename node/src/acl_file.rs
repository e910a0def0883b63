//! The ACL file on disk: read at start and on `ACL LOAD`, watched while the node runs, written by `ACL SAVE`. Knows files;
//! what a line means is the business of `keyward_acl`, and what becomes of a change that of the receiver.
//!
//! In Kubernetes the file lies in a mounted Secret. The kubelet writes a new folder beside the old one and renames the
//! link `..data` over it, so the file itself never changes: what is watched is the *folder*. Network file systems and
//! `subPath` mounts tell nothing at all, so the content is also looked at every few seconds. Whatever woke the watcher,
//! only the content decides: the same bytes are passed on once, bad bytes are reported once and change nothing.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_acl::file::FILE_BYTES_MAX;
use keyward_acl::{Catalog, FileError, FileKind, Rule, UserChange, UserName, parse_policy, parse_rules};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::config::Secret;

/// SHA-256 of the file's bytes.
pub type Digest = [u8; 32];

/// A file that was read and understood as a whole: what the parser made of it, and the digest of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loaded<U> {
    users: U,
    digest: Digest,
}

/// Why a file changes nothing. `Display` is one line that names the file and, where there is one, the line.
#[derive(Debug)]
pub enum AclFileError {
    /// It cannot be read. The text is that of the system, as Redis shows it.
    Unreadable(PathBuf, io::Error),
    /// What is wrong with its content, each finding with file and line.
    Invalid(FileError),
    /// It declares `default`, and the configuration gives `default` a password: two words about one user.
    TwoDefaults(PathBuf),
}

impl fmt::Display for AclFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => {
                // Redis prints the system's text alone; Rust appends the number.
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                write!(f, "Error loading ACLs, opening file '{}': {text}", path.display())
            }
            Self::Invalid(findings) => findings.fmt(f),
            Self::TwoDefaults(path) => write!(
                f,
                "{} declares the user default, and requirepass gives it a password; keep one of the two",
                path.display()
            ),
        }
    }
}

impl std::error::Error for AclFileError {}

/// Where imported users come from, as the log names it. The same on every node, wherever each has the file, since it is
/// one policy: users that one node's copy no longer names are gone from the cluster.
pub const SOURCE: &str = "acl-file";

/// Users with the rules that make them from nothing.
pub type Users = Vec<(UserName, Vec<Rule>)>;

/// For `ACL LOAD`: the users of the file, `default` among them. Blocks.
pub fn load_now(path: &Path, catalog: &dyn Catalog, password: Option<&Secret>) -> Result<Users, AclFileError> {
    load(path, |path, bytes| parse(path, bytes, catalog, password)).map(|loaded| loaded.users)
}

/// At start: the change that brings in the file, and the digest that tells [`watch`] what was seen. Blocks.
pub fn import(
    path: &Path,
    catalog: &dyn Catalog,
    password: Option<&Secret>,
) -> Result<(UserChange, Digest), AclFileError> {
    let loaded = load(path, |path, bytes| parse(path, bytes, catalog, password))?;
    Ok((import_of(loaded.users), loaded.digest))
}

/// Watches the file until the receiver is gone. Each content that differs from the one before, beginning with `seen`, is
/// sent once if it is valid as a whole, and logged once if it is not. The channel is bounded by its maker; one place is
/// enough, as a file that changes while a change is being carried out is read after it. `usable` tells whether the content was
/// valid that was read last.
pub async fn watch(
    path: PathBuf,
    seen: Option<Digest>,
    catalog: &'static (dyn Catalog + Sync),
    password: Option<Secret>,
    changes: mpsc::Sender<UserChange>,
    usable: Arc<AtomicBool>,
) {
    let parse = move |path: &Path, bytes: &[u8]| parse(path, bytes, catalog, password.as_ref()).map(import_of);
    watch_with(path, seen, (Pace::default(), &usable), parse, changes).await;
}

/// The user `default` with a password, who may do everything: what `requirepass` means without an ACL file.
pub fn default_with_password(password: &Secret) -> UserChange {
    let (name, rules) = default_user(password);
    UserChange::Set { name, rules }
}

fn import_of(users: Users) -> UserChange {
    UserChange::Import { source: SOURCE.to_owned(), users }
}

/// The users of the whole file. One that does not mention `default` switches it off, or gives it the password that is
/// configured; one that does mention it leaves no room for another word about it.
fn parse(path: &Path, bytes: &[u8], catalog: &dyn Catalog, password: Option<&Secret>) -> Result<Users, AclFileError> {
    let file = path.to_string_lossy();
    let policy = parse_policy(&file, FileKind::detect(bytes), bytes, catalog).map_err(AclFileError::Invalid)?;
    let mut users = policy.users;
    if let Some(password) = password {
        if policy.names_default {
            return Err(AclFileError::TwoDefaults(path.to_owned()));
        }
        users.retain(|(name, _)| !name.is_default());
        users.push(default_user(password));
    }
    Ok(users)
}

fn default_user(password: &Secret) -> (UserName, Vec<Rule>) {
    let password = format!(">{}", password.expose());
    let rules = parse_rules(&["reset", "on", "~*", "&*", "+@all", &password]).expect("these words are rules");
    (UserName::new(b"default").expect("default is a name"), rules)
}

fn load<U>(path: &Path, parse: impl Fn(&Path, &[u8]) -> Result<U, AclFileError>) -> Result<Loaded<U>, AclFileError> {
    let bytes = read(path)?;
    understand(path, &bytes, parse)
}

fn read(path: &Path) -> Result<Vec<u8>, AclFileError> {
    let unreadable = |error| AclFileError::Unreadable(path.to_owned(), error);
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(FILE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

fn understand<U>(
    path: &Path,
    bytes: &[u8],
    parse: impl Fn(&Path, &[u8]) -> Result<U, AclFileError>,
) -> Result<Loaded<U>, AclFileError> {
    let users = parse(path, bytes)?;
    Ok(Loaded { users, digest: Sha256::digest(bytes).into() })
}

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// So long nothing must happen before the file is read: an editor writes in several steps.
    quiet: Duration,
    /// But never longer than this after the first sign.
    quiet_max: Duration,
    /// So often the file is looked at without any sign.
    poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(200), quiet_max: Duration::from_secs(2), poll: Duration::from_secs(5) }
    }
}

/// See [`watch`], with any parser, at any pace.
async fn watch_with<U, P>(
    path: PathBuf,
    seen: Option<Digest>,
    (pace, usable): (Pace, &AtomicBool),
    parse: P,
    changes: mpsc::Sender<U>,
) where
    U: Send + 'static,
    P: Fn(&Path, &[u8]) -> Result<U, AclFileError> + Send + Sync + 'static,
{
    let parse = Arc::new(parse);
    let mut passed_on = seen;
    let mut seen = Seen::Content(seen.unwrap_or_default());
    let signs = signs::Signs::new(folder_of(&path));
    loop {
        // The first look comes without a sign: the file may have changed since `seen` was read.
        let read = {
            let (path, parse, before) = (path.clone(), Arc::clone(&parse), seen.clone());
            tokio::task::spawn_blocking(move || look(&path, &before, parse.as_ref())).await
        };
        // A parser that panicked is logged by the panic itself; the users stay.
        if let Ok((now, news)) = read {
            seen = now;
            if let Some(news) = &news {
                usable.store(news.is_ok(), Ordering::Relaxed);
            }
            let told = match news {
                None => Ok(()),
                // Bad or gone for a while, and now as it was: nothing new.
                Some(Ok(loaded)) if passed_on == Some(loaded.digest) => Ok(()),
                Some(Ok(loaded)) => {
                    tracing::info!(path = %path.display(), "acl file changed");
                    passed_on = Some(loaded.digest);
                    changes.send(loaded.users).await
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "acl file is not usable, users stay as they are");
                    Ok(())
                }
            };
            if told.is_err() {
                return;
            }
        }
        tokio::select! {
            () = signs.sign(pace.poll) => {}
            () = changes.closed() => return,
        }
        settle(&signs, pace).await;
    }
}

/// Waits until the folder was quiet for a moment.
async fn settle(signs: &signs::Signs, pace: Pace) {
    let quiet = async {
        // A sign before the time is up starts the wait anew.
        while tokio::time::timeout(pace.quiet, signs.sign(Duration::MAX)).await.is_ok() {}
    };
    let _busy_folder = tokio::time::timeout(pace.quiet_max, quiet).await;
}

/// What the watcher last found, good or bad.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Content(Digest),
    Unreadable(io::ErrorKind),
}

type News<U> = Option<Result<Loaded<U>, AclFileError>>;

/// One look at the file: what is there now, and what to tell about it if that is new.
fn look<U>(path: &Path, before: &Seen, parse: &impl Fn(&Path, &[u8]) -> Result<U, AclFileError>) -> (Seen, News<U>) {
    match read(path) {
        Ok(bytes) => {
            let now = Seen::Content(Sha256::digest(&bytes).into());
            let news = (now != *before).then(|| understand(path, &bytes, parse));
            (now, news)
        }
        Err(AclFileError::Unreadable(path, error)) => {
            let now = Seen::Unreadable(error.kind());
            let news = (now != *before).then_some(Err(AclFileError::Unreadable(path, error)));
            (now, news)
        }
        Err(other) => (before.clone(), Some(Err(other))),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Replaces the file by these lines, for `ACL SAVE`: whoever reads it finds the old text or the new one, also after a
/// power cut. Keeps the mode of the file; a new one is for its owner alone. Blocks.
pub fn export(path: &Path, lines: &[Vec<u8>]) -> io::Result<()> {
    let text: Vec<u8> = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
    // The target of a link is replaced, not the link: the folder of the target is the one that must be written.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = match fs::metadata(&path) {
        Ok(metadata) => metadata.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0o600,
        Err(error) => return Err(error),
    };
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = folder_of(&path);
    // Two processes, or two threads of one, never share the temporary file: `create_new` lets only one have it.
    let temporary = folder.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let written = write_durably(&temporary, &text, mode).and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        if error.kind() != io::ErrorKind::AlreadyExists {
            let _nothing_left_behind = fs::remove_file(&temporary);
        }
        return Err(error);
    }
    File::open(&folder)?.sync_all()
}

fn write_durably(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    // After the text, as the mode may forbid writing; and by hand, as the umask would narrow the mode asked for at creation.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Signs that something in a folder changed. They may be missed or come for nothing; the watcher looks at the content.
mod signs {
    use std::future;
    use std::io;
    use std::path::PathBuf;
    use std::time::Duration;

    use rustix::fs::inotify;
    use tokio::net::unix::pipe;

    /// Listens to one folder through inotify; without it, only time gives a sign.
    pub(super) struct Signs {
        folder: PathBuf,
        // An inotify descriptor is read like a pipe: wait until readable, take bytes. What the bytes say does not matter.
        events: Option<pipe::Receiver>,
    }

    impl Signs {
        /// Starts to listen. A system that is out of inotify instances still has the poll.
        pub(super) fn new(folder: PathBuf) -> Self {
            let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC);
            let events = events.map_err(io::Error::from).and_then(pipe::Receiver::from_owned_fd_unchecked);
            if let Err(error) = &events {
                tracing::warn!(%error, "acl file is polled, as its folder cannot be watched");
            }
            let signs = Self { folder, events: events.ok() };
            signs.listen();
            signs
        }

        /// The next sign, or the time without one. Forgets nothing when dropped early: unread events stay unread.
        pub(super) async fn sign(&self, patience: Duration) {
            self.listen();
            let silence = async {
                if patience == Duration::MAX { future::pending().await } else { tokio::time::sleep(patience).await }
            };
            tokio::select! {
                () = silence => {}
                () = self.event() => {}
            }
        }

        /// Every time, as the folder may have been replaced or have appeared; for a folder already watched it does nothing.
        fn listen(&self) {
            let Some(events) = &self.events else { return };
            let wanted = inotify::WatchFlags::CREATE
                | inotify::WatchFlags::CLOSE_WRITE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::MOVED_FROM
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::ONLYDIR;
            // A folder that does not exist is no error: the next look says so about the file.
            let _not_there_yet = inotify::add_watch(events, &self.folder, wanted);
        }

        async fn event(&self) {
            let Some(events) = &self.events else { return future::pending().await };
            let mut buffer = [0; 4096];
            loop {
                if events.readable().await.is_err() {
                    return future::pending().await;
                }
                match events.try_read(&mut buffer) {
                    Ok(_) => return,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return future::pending().await,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
