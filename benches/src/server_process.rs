//! A server that runs as a process of its own, and what the kernel tells of it.
use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::verify,
    servers::{Contract, Peer, Task},
};

/// How long a server may take to accept what is connected already, or to close what was reset.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at another process, which tells nobody when it has got that far.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// Dropping it ends the process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// `None` only while it is being dropped: at the end of its input, the server ends.
    stdin: Option<ChildStdin>,
    pub address: SocketAddr,
}

impl ServerProcess {
    pub fn start(peer: Peer, task: Task, core: Option<usize>) -> io::Result<ServerProcess> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["serve", peer.command_name(), &task.contract.to_string()]);
        command.args(["--send-size", &task.send_size.to_string()]);
        command.args(["--work", &task.work.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let status = child.wait()?;
            let text = format!("the server did not start ({status}; it said {line:?})");
            return Err(io::Error::other(text));
        };
        let server = ServerProcess { child, stdin, address };
        if task.contract == Contract::Echo {
            let settled = server.descriptors()?;
            verify(address)?;
            server.wait_for_descriptors(settled)?;
        }
        Ok(server)
    }

    /// Processor time and waiting, of all threads since they began.
    pub fn times(&self) -> io::Result<Times> {
        let mut sum = Times::default();
        for task in self.tasks()? {
            sum.add(Times::read(&format!("{task}/schedstat"))?);
        }
        Ok(sum)
    }

    /// How often its threads went to sleep (and so woke), since they began.
    pub fn sleeps(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in self.tasks()? {
            sum += number(&format!("{task}/status"), "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    /// Bytes in memory that no other process shares.
    pub fn private_memory(&self) -> io::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        Ok((number(&path, "Private_Clean:")? + number(&path, "Private_Dirty:")?) * 1024)
    }

    /// Open descriptors: each connection is one.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Until all that was connected is accepted, and all that was reset is closed.
    pub fn wait_for_descriptors(&self, count: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.descriptors()?;
            if now == count {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = format!("{now} descriptors after {PATIENCE:?}, not {count}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }

    fn tasks(&self) -> io::Result<Vec<String>> {
        let directory = format!("/proc/{}/task", self.child.id());
        let entries = fs::read_dir(directory)?;
        entries.map(|entry| Ok(entry?.path().display().to_string())).collect()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // It ends by itself now. One that hangs would keep its core busy: it is ended by force.
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

/// As the scheduler counts it, in ns: the sum that `getrusage` shares out to user and system (they
/// agree to within 0.1 %), but readable for another process while it runs. What loopback has to do
/// to deliver a packet is done on behalf of who sends it and is in here, unless the kernel was
/// built to account interrupts apart (`CONFIG_IRQ_TIME_ACCOUNTING`): then it is missing for all
/// peers alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub on_core: u64,
    /// Ready to run, while something else had the core.
    pub waited: u64,
}

impl Times {
    pub fn of_this_thread() -> io::Result<Times> {
        Times::read("/proc/thread-self/schedstat")
    }

    fn read(path: &str) -> io::Result<Times> {
        let text = fs::read_to_string(path)?;
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(on_core), Some(waited)) => Ok(Times { on_core, waited }),
            _ => Err(io::Error::other(format!("{path} holds no times"))),
        }
    }

    fn add(&mut self, other: Times) {
        self.on_core += other.on_core;
        self.waited += other.waited;
    }

    pub fn since(self, before: Times) -> Times {
        Times {
            on_core: self.on_core.saturating_sub(before.on_core),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// The number behind a heading in one of the kernel's files.
fn number(path: &str, heading: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(heading));
    let word = line.and_then(|line| line.split_whitespace().next());
    let value = word.and_then(|word| word.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("{path} has no {heading}")))
}
