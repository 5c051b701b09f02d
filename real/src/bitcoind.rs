//! A bitcoind of a test, and `bitcoin-cli`, which calls its RPC or that of the node.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sockman_test_support::{DEADLINE, program::Process, tools::TempDir};

use crate::installed;

/// The pause between two requests for another program's state.
const LOOK: Duration = Duration::from_millis(50);

/// An RPC server that `bitcoin-cli` can call.
#[derive(Debug)]
pub struct Rpc {
    /// The test's `CARGO_TARGET_TMPDIR`.
    temporary: &'static str,
    port: u16,
    cookie: PathBuf,
    datadir: PathBuf,
}

impl Rpc {
    /// Returns the server at a port of this machine, whose password is in the file `cookie`.
    /// `bitcoin-cli` reads its configuration from `datadir`, which may be empty. `temporary` is the
    /// test's `CARGO_TARGET_TMPDIR`.
    #[must_use]
    pub fn new(temporary: &'static str, port: u16, cookie: PathBuf, datadir: PathBuf) -> Rpc {
        Rpc { temporary, port, cookie, datadir }
    }

    /// Returns the path of the file with the password.
    #[must_use]
    pub fn cookie(&self) -> &Path {
        &self.cookie
    }

    /// Runs `bitcoin-cli`.
    ///
    /// # Panics
    ///
    /// The program does not start.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Output {
        run(self.temporary, "bitcoin-cli")
            .args(["-regtest", "-rpcconnect=127.0.0.1", "-rpcclienttimeout=60"])
            .arg(format!("-datadir={}", self.datadir.display()))
            .arg(format!("-rpcport={}", self.port))
            .arg(format!("-rpccookiefile={}", self.cookie.display()))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Returns the answer as text.
    ///
    /// # Panics
    ///
    /// The call fails.
    pub fn text(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Returns the answer.
    ///
    /// # Panics
    ///
    /// The call fails, or the answer is no JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.text(arguments);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }

    /// Returns the exit code of `bitcoin-cli`, which is the absolute value of Core's error code,
    /// modulo 256.
    ///
    /// # Panics
    ///
    /// A signal ended the program.
    #[must_use]
    pub fn error(&self, arguments: &[&str]) -> i32 {
        self.command(arguments).status.code().unwrap()
    }

    /// Repeats a call until the answer is right.
    ///
    /// # Panics
    ///
    /// The call fails, or the answer is not right in time.
    pub fn wait_for(&self, arguments: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.json(arguments);
            if is_right(&answer) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{arguments:?} still returns {answer}");
            thread::park_timeout(LOOK);
        }
    }
}

/// A bitcoind on regtest, at an address of its own. It can be stopped and started again, at the same
/// address, with the same chain. Its files go when it is dropped.
#[derive(Debug)]
pub struct Bitcoind {
    /// The address for peers.
    pub address: SocketAddr,
    /// Its RPC.
    pub rpc: Rpc,
    /// Comes before `directory`, so that the process ends before its files go.
    process: Option<Process>,
    directory: TempDir,
}

impl Bitcoind {
    /// Starts a bitcoind. `temporary` is the test's `CARGO_TARGET_TMPDIR`.
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start(temporary: &'static str, arguments: &[&str]) -> Bitcoind {
        let directory = TempDir::new();
        let datadir = directory.path("bitcoind");
        fs::create_dir_all(&datadir).unwrap();
        let cookie = datadir.join("regtest/.cookie");
        let mut bitcoind = Bitcoind {
            address: ([127, 0, 0, 1], free_port()).into(),
            rpc: Rpc::new(temporary, free_port(), cookie, datadir),
            process: None,
            directory,
        };
        bitcoind.start_again(arguments);
        bitcoind
    }

    /// Starts the process again, after a [`stop`](Self::stop).
    ///
    /// # Panics
    ///
    /// It does not start.
    pub fn start_again(&mut self, arguments: &[&str]) {
        let child = run(self.rpc.temporary, "bitcoind")
            .args(["-regtest", "-listen=1", "-server=1", "-printtoconsole=1", "-nodebuglogfile"])
            .args(["-dnsseed=0", "-fixedseeds=0", "-listenonion=0", "-discover=0", "-natpmp=0"])
            .args(["-maxconnections=40", "-par=1", "-dbcache=4", "-disablewallet=1"])
            .arg(format!("-datadir={}", self.rpc.datadir.display()))
            .arg(format!("-bind={}", self.address))
            .arg(format!("-rpcport={}", self.rpc.port))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut process = Process::new(child);
        process
            .wait_for_line("bitcoind's start", |line| line.contains("Done loading").then_some(()));
        self.process = Some(process);
    }

    /// Stops the process, and keeps its files.
    ///
    /// # Panics
    ///
    /// It does not end in order.
    pub fn stop(&mut self) {
        self.rpc.text(&["stop"]);
        assert_eq!(self.process.take().unwrap().wait_for_end().0, Some(0));
    }

    /// Stops the process, and removes its files.
    ///
    /// # Panics
    ///
    /// It does not end in order.
    pub fn end(mut self) {
        self.stop();
    }

    /// Returns the folder of the `blk*.dat` files.
    #[must_use]
    pub fn blocks(&self) -> PathBuf {
        self.directory.path("bitcoind/regtest/blocks")
    }
}

fn run(temporary: &str, program: &str) -> Command {
    let mut command = Command::new(installed(temporary, "bitcoind", "run"));
    command.arg(program);
    command
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
