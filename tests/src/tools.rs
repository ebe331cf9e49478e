//! Where the programs are: ours, built in the profile of the running test, and
//! those of others, put in place by `scripts/setup test`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The folder of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// A file of this package.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where set-up puts tools: `.tools`, or what `POSTKEEP_TOOLS` says.
pub fn folder() -> PathBuf {
    std::env::var_os("POSTKEEP_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from)
}

/// One of our own programs, freshly built.
///
/// The first test process of a run builds `postkeepd` and `postkeep` in its own
/// profile; the others of the same run wait for it and find them. `make test`
/// has built them before, so that this takes a moment only. `POSTKEEP_BINARIES`
/// names a folder with ready programs instead.
///
/// # Panics
/// When the build fails.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER
        .get_or_init(|| match std::env::var_os("POSTKEEP_BINARIES") {
            Some(folder) => PathBuf::from(folder),
            None => build(),
        })
        .join(name)
}

fn build() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // target/PROFILE/deps/TEST
    let folder = test.parent().and_then(Path::parent).expect("target/PROFILE/deps above the test").to_owned();
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    // All processes of one run have the same parent; nextest also numbers its runs.
    let run = std::env::var("NEXTEST_RUN_ID").unwrap_or_else(|_| format!("{:?}", rustix::process::getppid()));
    let marker = folder.join(".postkeep-tests-built");
    let lock = std::fs::File::create(folder.join(".postkeep-tests-lock")).expect("make a lock file in target");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("wait for the build of our programs");
    if std::fs::read_to_string(&marker).is_ok_and(|built| built == run) {
        return folder;
    }
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "-p", "postkeepd", "-p", "postkeep", "--profile", profile])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .output()
        .expect("run cargo");
    assert!(
        output.status.success(),
        "the programs under test do not build (cargo build -p postkeepd -p postkeep):\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    std::fs::write(&marker, run).expect("note the build");
    folder
}

/// A program or file of others that is not there.
#[derive(Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is missing: run `scripts/setup test` (POSTKEEP_SKIP_MISSING_TOOLS=1 skips what needs it)", self.0)
    }
}

/// A program by its name: in `.tools/bin`, else on the PATH, else among the administrator's.
pub fn find(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(folder().join("bin"))
        .chain(std::env::split_paths(&path))
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Missing(name.to_owned()))
}

/// The Python of `.tools/venv`, which has aiosmtpd and dkimpy.
pub fn python() -> Result<PathBuf, Missing> {
    let python = folder().join("venv/bin/python");
    if python.is_file() { Ok(python) } else { Err(Missing("the Python environment .tools/venv".to_owned())) }
}

/// The tool, or the end of this test: it fails, or is skipped where that was asked for.
///
/// ```ignore
/// let Some(swaks) = needs(tools::find("swaks")) else { return };
/// ```
///
/// # Panics
/// When the tool is missing and nobody allowed that.
#[track_caller]
pub fn needs<T>(tool: Result<T, Missing>) -> Option<T> {
    match tool {
        Ok(tool) => Some(tool),
        Err(missing) if std::env::var_os("POSTKEEP_SKIP_MISSING_TOOLS").is_some_and(|value| value == "1") => {
            eprintln!("SKIPPED: {missing}");
            None
        }
        Err(missing) => panic!("{missing}"),
    }
}

/// Whether this test runs as root; mounts and other users need it.
pub fn root() -> Result<(), Missing> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Missing("root (mounting a small file system, running a mail server under its own user)".to_owned()))
    }
}

/// A child process; it ends when dropped.
///
/// It stays in the process group of the test, so that whoever ends the test in
/// the middle (a time-out, Ctrl-C) ends it too.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the end.
    pub fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL, and the body is collected.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(1));
        self.kill();
    }
}
