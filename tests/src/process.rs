//! A child process with its log in a file: started, signalled, waited for, and never left behind.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_until;

/// A running program whose output goes to a log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both outputs are appended to `log`.
    pub fn spawn(mut command: Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("the log's folder exists");
        let err = file.try_clone().expect("a file handle can be cloned");
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        Self { child, log: log.to_owned() }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything written so far, over all starts that shared the log.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends a signal; a process that is already gone is fine.
    pub fn signal(&self, signal: Signal) {
        let raw = i32::try_from(self.child.id()).expect("a pid fits an i32");
        let pid = Pid::from_raw(raw).expect("a child's pid is not zero");
        let _ = kill_process(pid, signal);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // A stopped process dies of SIGKILL too, so no SIGCONT is needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits until it ends by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_until("the process has ended", || self.exited())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where a program of this workspace was built: `KEYWARD_BIN` (or `KEYWARDCTL_BIN`), else beside this test's binary,
/// else the target folder's newest build.
pub fn binary(name: &str) -> PathBuf {
    let variable = format!("{}_BIN", name.to_uppercase());
    if let Some(path) = env::var_os(&variable) {
        return PathBuf::from(path);
    }
    let sibling = env::var_os("KEYWARD_BIN").map(|path| PathBuf::from(path).with_file_name(name));
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.join(name)));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let mut built: Vec<PathBuf> = ["release", "debug"].iter().map(|profile| target.join(profile).join(name)).collect();
    built.sort_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
    built.reverse();
    sibling
        .into_iter()
        .chain(beside)
        .chain(built)
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no {name} binary: build it first, or set {variable}"))
}

/// The checkout this crate was built from.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// What a short-lived program said.
#[derive(Debug)]
pub struct Finished {
    /// Whether it exited with 0.
    pub success: bool,
    /// With which code it exited; none if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a program to its end with `input` on its standard input.
pub fn run(program: &Path, arguments: &[&str], input: &str) -> Finished {
    let mut command = Command::new(program);
    // What a run of the tests is told is no setting of what it runs.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KEYWARD_")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    // A program that does not read its input may close it early.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("a child can be waited for");
    Finished {
        success: status.success(),
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Creates a file with its content, and the folders above it.
pub(crate) fn write_file(path: &Path, content: &str) {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).expect("a test's folder can be made");
    }
    let mut file = File::create(path).expect("a test's file can be made");
    file.write_all(content.as_bytes()).expect("a test's file can be written");
}
