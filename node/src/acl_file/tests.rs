//! Files that appear, change, break and vanish, as editors and the kubelet do it.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyward_acl::{CategorySet, CommandId, Directory, PasswordHash, Treatment};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;

/// A process that knows one command.
struct OnlyGet;

impl Catalog for OnlyGet {
    fn count(&self) -> usize {
        1
    }

    fn find(&self, full_name_lower: &str) -> Option<CommandId> {
        (full_name_lower == "get").then_some(0)
    }

    fn full_name(&self, _id: CommandId) -> &str {
        "get"
    }

    fn parent(&self, _id: CommandId) -> Option<CommandId> {
        None
    }

    fn subcommands(&self, _id: CommandId) -> &[CommandId] {
        &[]
    }

    fn categories(&self, _id: CommandId) -> CategorySet {
        CategorySet::default()
    }

    fn is_no_auth(&self, _id: CommandId) -> bool {
        false
    }

    fn treatment(&self, _id: CommandId) -> Treatment {
        Treatment::ByRule
    }
}

/// The names of the users in a file, without `default`.
fn names(path: &Path, bytes: &[u8]) -> Result<Vec<String>, AclFileError> {
    let users = parse(path, bytes, &OnlyGet, None)?;
    Ok(users.iter().map(|(name, _)| name.to_string()).filter(|name| name != "default").collect())
}

struct Watched {
    folder: TempDir,
    changes: Receiver<Vec<String>>,
    looks: Arc<AtomicUsize>,
    valid: Arc<AtomicBool>,
}

impl Watched {
    /// Watches `users.acl` in a folder that `prepare` filled. Without inotify the poll would be too slow for the tests.
    fn start(prepare: impl Fn(&Path)) -> Self {
        Self::start_at("users.acl", Duration::from_secs(60), prepare)
    }

    fn start_at(file: &str, poll: Duration, prepare: impl Fn(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let path = folder.path().join(file);
        let (sender, changes) = mpsc::channel(1);
        let looks = Arc::new(AtomicUsize::new(0));
        let parses = Arc::clone(&looks);
        let parse = move |path: &Path, bytes: &[u8]| {
            parses.fetch_add(1, Ordering::SeqCst);
            names(path, bytes)
        };
        let seen = load(&path, parse.clone()).ok().map(|loaded| loaded.digest);
        looks.store(0, Ordering::SeqCst);
        let pace = Pace { quiet: Duration::from_millis(50), quiet_max: Duration::from_secs(1), poll };
        let usable = Arc::new(AtomicBool::new(true));
        let valid = Arc::clone(&usable);
        tokio::spawn(async move { watch_with(path, seen, (pace, &usable), parse, sender).await });
        Self { folder, changes, looks, valid }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn next(&mut self) -> Vec<String> {
        let change = tokio::time::timeout(Duration::from_secs(20), self.changes.recv()).await;
        change.expect("a change arrives").expect("the watcher lives")
    }

    async fn until_valid(&self, valid: bool) {
        let told = async {
            while self.valid.load(Ordering::SeqCst) != valid {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.expect("it is told");
    }

    async fn until_parsed(&self, times: usize) {
        let parsed = async {
            while self.looks.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), parsed).await.expect("the file is looked at");
    }
}

/// As the kubelet does: a new folder, a link to it, and that link renamed over `..data`.
fn mount_secret(volume: &Path, generation: &str, text: &str) {
    let data = volume.join(format!("..{generation}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("users.acl"), text).unwrap();
    symlink(format!("..{generation}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if !volume.join("users.acl").is_symlink() {
        symlink("..data/users.acl", volume.join("users.acl")).unwrap();
    }
}

#[tokio::test]
async fn a_secret_that_the_kubelet_swaps_is_passed_on_once_per_content() {
    let mut watched = Watched::start(|folder| mount_secret(folder, "1", "user a\n"));
    mount_secret(watched.folder.path(), "2", "user a\n");
    mount_secret(watched.folder.path(), "3", "user b\n");
    assert_eq!(watched.next().await, ["b"]);
    mount_secret(watched.folder.path(), "4", "user b\n");
    mount_secret(watched.folder.path(), "5", "user c\n");
    assert_eq!(watched.next().await, ["c"]);
    assert_eq!(watched.looks.load(Ordering::SeqCst), 2, "unchanged content is not even parsed");
}

#[tokio::test]
async fn a_file_that_is_wrong_or_gone_changes_nothing_until_it_is_right_again() {
    let mut watched = Watched::start(|folder| fs::write(folder.join("users.acl"), "user a\n").unwrap());
    fs::write(watched.path("users.acl"), "user b\nnonsense\n").unwrap();
    watched.until_parsed(1).await;
    watched.until_valid(false).await;
    fs::write(watched.path("users.acl"), "user a\n").unwrap();
    watched.until_parsed(2).await;
    watched.until_valid(true).await;
    fs::remove_file(watched.path("users.acl")).unwrap();
    fs::write(watched.path("new"), "user c\n").unwrap();
    fs::rename(watched.path("new"), watched.path("users.acl")).unwrap();
    assert_eq!(watched.next().await, ["c"]);
}

#[tokio::test]
async fn a_folder_that_comes_later_or_tells_nothing_is_polled() {
    let mut watched = Watched::start_at("later/users.acl", Duration::from_millis(100), |_| {});
    fs::create_dir(watched.path("later")).unwrap();
    fs::write(watched.path("later/users.acl"), "user a\n").unwrap();
    assert_eq!(watched.next().await, ["a"]);
}

#[tokio::test]
async fn the_watcher_ends_with_its_receiver() {
    let (sender, changes) = mpsc::channel(1);
    let watcher = tokio::spawn(async move {
        let path = PathBuf::from("no-such-file");
        watch_with(path, None, (Pace::default(), &AtomicBool::default()), names, sender).await;
    });
    drop(changes);
    tokio::time::timeout(Duration::from_secs(20), watcher).await.expect("it ends").unwrap();
}

#[test]
fn what_cannot_be_loaded_says_why_with_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.acl");
    let load_text = |text: &str| {
        fs::write(&path, text).unwrap();
        let loaded = load_now(&path, &OnlyGet, None);
        loaded.map_err(|error| error.to_string().replace(path.to_str().unwrap(), "users.acl"))
    };
    assert!(load_text("# of all\n\n  user a on >x ~a:* +get\r\n").is_ok());
    let unknown = load_text("user a on\nuser b +nosuch\n").unwrap_err();
    assert!(unknown.starts_with("users.acl:2: Error in applying operation '+nosuch'"), "{unknown}");
    assert!(load_text("user a on >#{ password }#\n").unwrap_err().starts_with("users.acl:1: it is a template"));
    assert!(load_text("").is_err(), "an empty file never opens anything");
    let missing = load_now(Path::new("/no/such/file"), &OnlyGet, None).unwrap_err();
    assert_eq!(missing.to_string(), "Error loading ACLs, opening file '/no/such/file': No such file or directory");
}

#[test]
fn default_is_off_unless_the_file_or_the_configuration_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.acl");
    fs::write(&path, "user a on >x\n").unwrap();
    let password = Secret::of("p w");
    let default_after = |password: Option<&Secret>| {
        let mut directory = Directory::new();
        directory.apply(1, &import(&path, &OnlyGet, password).unwrap().0);
        let default = directory.get(b"default").cloned().unwrap();
        (default.enabled, default.nopass, default.accepts_password(&PasswordHash::of(b"p w")))
    };
    assert_eq!(default_after(None), (false, false, false));
    assert_eq!(default_after(Some(&password)), (true, false, true));
    let mut directory = Directory::new();
    directory.apply(1, &default_with_password(&password));
    assert!(!directory.get(b"default").unwrap().nopass);
    fs::write(&path, "user a on >x\nuser default on >y +@all\n").unwrap();
    let both = import(&path, &OnlyGet, Some(&password)).unwrap_err().to_string();
    assert!(
        both.ends_with("users.acl declares the user default, and requirepass gives it a password; keep one of the two")
    );
}

#[test]
fn an_export_replaces_the_file_and_keeps_its_mode() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.acl");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    export(&path, &[b"user a".to_vec()]).unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("user a\n", 0o600));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    export(&path, &[b"user b".to_vec()]).unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("user b\n", 0o440));
    let link = folder.path().join("link");
    symlink("users.acl", &link).unwrap();
    export(&link, &[b"user c".to_vec()]).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&path).unwrap(), "user c\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    assert!(export(&folder.path().join("no/such"), &[]).is_err());
}
