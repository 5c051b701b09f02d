//! Running the examples as the programs that they are.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::DEADLINE;

/// The binary of an example, which cargo has built beside the tests.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/<profile>/deps/<test> → target/<profile>/examples/<name>
    let path = test.parent().unwrap().with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples", path.display());
    path
}

/// Builds the program `name` of the package `package` in this workspace, and returns its path.
///
/// This is for tests of other packages. The tests of `package` itself have
/// `env!("CARGO_BIN_EXE_…")`.
pub fn workspace_program(package: &str, name: &str) -> PathBuf {
    build(package, "--bin", name)
}

/// Builds the example `name` of the package `package` in this workspace, and returns its path.
pub fn workspace_example(package: &str, name: &str) -> PathBuf {
    build(package, "--example", name)
}

/// Builds with the profile and into the directory of the test that calls this.
///
/// A program that is only looked for may be older than its source: a test could pass with a program
/// that is no longer what the source says.
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
    // Held while cargo runs: the other tests of this process wait for the same program.
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !built.contains(&path) {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        command.args(["build", "--quiet", "--package", package, kind, name]);
        command.args(["--profile", profile, "--target-dir"]).arg(directory.parent().unwrap());
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}:\n{errors}");
        assert!(path.exists(), "{command:?} did not make {}", path.display());
        built.insert(path.clone());
    }
    path
}

/// A running program, which ends with the test.
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

    /// Reads lines until one contains `wanted`, and returns that one.
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

    /// Asks it to end, as an init system would, and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Ended already in the good case; then both fail, as they should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(process: u32, name: &str) {
    let kill = format!("kill -{name} {process}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// A child process that is killed, and waited for, when this is dropped.
#[derive(Debug)]
pub struct Process {
    /// The process. Its standard output is read already.
    pub child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Process {
    /// Of a child whose standard output is piped.
    pub fn new(mut child: Child) -> Process {
        let output = child.stdout.take().expect("standard output is piped");
        let (sender, lines) = channel();
        // Reads on whether or not anybody waits for lines, so that the child never blocks.
        thread::spawn(move || read_lines(output, |line| drop(sender.send(line))));
        Process { child, lines, seen: Vec::new() }
    }

    /// Waits for a line in which `found` finds something.
    pub fn wait_for_line<T>(&mut self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        self.wait_for_line_within(DEADLINE, what, found)
    }

    /// The same, for what takes longer than anything on this machine alone.
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
                panic!("waited in vain for {what}; what it said: {:#?}", self.seen);
            };
            let result = found(&line);
            self.seen.push(line);
            if let Some(result) = result {
                return result;
            }
        }
    }

    /// Waits until the process ends. Returns its exit code, and the lines that nobody has waited
    /// for.
    pub fn wait_for_end(&mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => text += &(line + "\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end; it said: {text}"),
            }
        }
        // Its output is closed: it has ended, or is about to.
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
