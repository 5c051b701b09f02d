//! Runs the examples as programs.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::DEADLINE;

/// Returns the path of an example's binary, which cargo has built beside the tests.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/<profile>/deps/<test> → target/<profile>/examples/<name>
    let path = test.parent().unwrap().with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built; run `cargo build --examples`", path.display());
    path
}

/// Builds the program `name` of the package `package` in this workspace, and returns its path.
///
/// Tests of other packages use this function. The tests of `package` itself have
/// `env!("CARGO_BIN_EXE_…")`.
pub fn workspace_program(package: &str, name: &str) -> PathBuf {
    build(package, "--bin", name)
}

/// Builds the example `name` of the package `package` in this workspace, and returns its path.
pub fn workspace_example(package: &str, name: &str) -> PathBuf {
    build(package, "--example", name)
}

/// Builds with the profile and into the directory of the calling test.
///
/// Without the build the program could be older than its source, and a test could pass although the
/// source is wrong.
fn build(package: &str, kind: &str, name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

    // target/<profile>/deps/<test>
    let test = env::current_exe().unwrap();
    let directory = test.ancestors().nth(2).unwrap();
    let profile = match directory.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        other => other,
    };
    let path = match kind {
        "--example" => directory.join("examples").join(name),
        _ => directory.join(name),
    };
    // This lock is held while cargo runs, because other tests of this process wait for the same
    // program.
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !built.contains(&path) {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["build", "--quiet", "--package", package, kind, name]);
        command.args(["--profile", profile, "--target-dir"]).arg(directory.parent().unwrap());
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} failed:\n{errors}");
        assert!(path.exists(), "{command:?} did not make {}", path.display());
        built.insert(path.clone());
    }
    path
}

/// A running program, which is killed when this is dropped.
pub struct Program {
    pub child: Child,
    pub stdout: BufReader<ChildStdout>,
}

impl Program {
    pub fn start(command: &mut Command) -> Program {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Program { child, stdout }
    }

    /// Reads lines until one contains `wanted`, and returns that line.
    pub fn wait_for_line(&mut self, wanted: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            let bytes = self.stdout.read_line(&mut line).unwrap();
            assert!(
                bytes > 0,
                "the program ended without printing {wanted:?}; it printed:\n{seen}"
            );
            if line.contains(wanted) {
                return line.trim_end().to_owned();
            }
            seen += &line;
        }
    }

    /// Sends SIGTERM, as an init system does, and waits for the end.
    pub fn terminate(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both calls fail if the program has already ended. The errors are ignored.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(process: u32, name: &str) {
    let kill = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A child process, which is killed and waited for when this is dropped.
#[derive(Debug)]
pub struct Process {
    /// The process, whose standard output a thread reads.
    pub child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Takes a child whose standard output is piped.
    pub fn new(mut child: Child) -> Process {
        let output = child.stdout.take().expect("the child's standard output must be piped");
        let (sender, lines) = channel();
        // Reads all the time, so that the child never blocks.
        thread::spawn(move || read_lines(output, |line| drop(sender.send(line))));
        Process { child, lines, seen: Vec::new() }
    }

    /// Waits for a line in which `found` returns a value, and returns the value.
    pub fn wait_for_line<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        self.wait_for_line_within(DEADLINE, what, found)
    }

    /// Waits like [`wait_for_line`](Self::wait_for_line), but with the given deadline, for lines
    /// that depend on other machines or programs.
    pub fn wait_for_line_within<T>(
        &mut self,
        patience: Duration,
        what: &str,
        found: impl Fn(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("waited in vain for {what}; the process printed: {:#?}", self.seen);
            };
            let result = found(&line);
            self.seen.push(line);
            if let Some(result) = result {
                return result;
            }
        }
    }

    /// Waits until the process ends. Returns the exit code of the process and the lines that were
    /// not read yet.
    pub fn wait_for_end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text += &(line + "\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the process did not end in time; it printed: {text}")
                }
            }
        }
        // The output of the process is closed, so the process has ended or is about to end.
        (self.child.wait().unwrap().code(), text)
    }
}

fn read_lines(output: impl Read, mut each: impl FnMut(String)) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        each(String::from_utf8_lossy(&line).into_owned());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The signals that end a program by default, except SIGKILL and those that report a fault of the
/// program.
const ENDING: [&str; 16] = [
    "HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "XCPU", "XFSZ",
    "PWR", "16", "34", "64",
];

/// Returns a mask of signals from the text of `/proc/…/status`.
fn signal_mask(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
}

/// Returns a command that starts the same program with the default action for all signals. The caller
/// sets its standard streams.
///
/// A program that was started to ignore a signal continues to ignore it. So would the programs of
/// tests that run under `nohup` (SIGHUP) or in the background of a shell (SIGINT, SIGQUIT).
pub fn with_default_signals(original: &Command) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(original.get_program()).args(original.get_args());
    for (name, value) in original.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = original.get_current_dir() {
        command.current_dir(directory);
    }
    command
}

/// Checks a program that listens on the unix-domain path `path`, and that may make other files,
/// `left`. Each signal ends the program in order, so that it leaves nothing behind. After a SIGKILL,
/// which leaves the path, the program starts again. It does not take a path that is in use.
pub fn assert_unix_path_is_handled(
    command: impl Fn() -> Command,
    path: &Path,
    left: Option<&Path>,
) {
    let start = |command: &mut Command| {
        let mut process = Process::new(command.stdout(Stdio::piped()).spawn().unwrap());
        process.wait_for_line("its address", |line| line.contains("listen").then_some(()));
        process
    };
    let is_anything_left = || path.exists() || left.is_some_and(Path::exists);
    for name in ENDING {
        let mut process = start(&mut with_default_signals(&command()));
        assert!(is_anything_left());
        signal(process.child.id(), name);
        let (code, text) = process.wait_for_end();
        assert_eq!(code, Some(0), "SIG{name}: {text}");
        assert!(!is_anything_left(), "SIG{name} leaves files");
    }

    // `nohup` makes a program ignore SIGHUP.
    let original = command();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(original.get_program());
    let mut process = start(shell.args(original.get_args()));
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let mask = |name| signal_mask(&status, name);
    assert_eq!((mask("SigIgn") & 1, mask("SigCgt") & 1), (1, 0), "SIGHUP is not ignored");
    signal(process.child.id(), "TERM");
    assert_eq!(process.wait_for_end().0, Some(0));

    let mut killed = start(&mut command());
    signal(killed.child.id(), "KILL");
    assert_eq!(killed.wait_for_end().0, None);
    assert!(path.exists());
    let mut next = start(&mut command());

    // The path is in use, and later it is another file.
    let assert_refused = || {
        let output = command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains(path.to_str().unwrap()), "{complaint}");
    };
    assert_refused();
    drop(UnixStream::connect(path).unwrap());
    signal(next.child.id(), "TERM");
    assert_eq!(next.wait_for_end().0, Some(0));
    fs::write(path, "precious").unwrap();
    assert_refused();
    assert_eq!(fs::read_to_string(path).unwrap(), "precious");
    fs::remove_file(path).unwrap();
}

/// Runs a program that the operating system gives no threads, and checks that it ends with an exit
/// code and one line. The limit does not bind root, so under root the program runs as another user.
pub fn assert_lack_of_threads_is_told(program: &Path, arguments: &[&str]) {
    const UNPRIVILEGED: u32 = 65_534;
    // The other user may have access neither to the program nor to the directories above it. So the program is a copy
    // that others may execute, and a descriptor leads to it.
    let name = program.file_name().unwrap().to_str().unwrap();
    let copy = env::temp_dir().join(format!("sockman-{}-{name}", process::id()));
    // Another process makes the copy. If this one did, a child that another test starts at the same
    // time would have the copy open for writing, and the program could not be executed.
    assert!(Command::new("cp").arg(program).arg(&copy).status().unwrap().success());
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("prlimit");
    command.args(["--nproc=1", "/proc/self/fd/0"]).args(arguments).env_remove("RUST_LOG");
    command.stdin(File::open(&copy).unwrap());
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
    let output = command.output().unwrap();
    fs::remove_file(&copy).unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(!complaint.contains("panicked"), "{complaint}");
}
