//! Running the examples as the programs that they are.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

/// The binary of an example, which cargo has built beside the tests.
pub fn example(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/<profile>/deps/<test> → target/<profile>/examples/<name>
    let path = test.parent().unwrap().with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples", path.display());
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
