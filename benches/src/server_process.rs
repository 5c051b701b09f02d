//! A server in a separate process, and the kernel's statistics about that process.
use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::verify,
    servers::{Contract, Peer, Task},
};

/// How long a server may take to accept waiting connections or to close reset connections.
const PATIENCE: Duration = Duration::from_secs(20);
/// The interval of checks on another process, which sends no event when it is done.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// A running server. Dropping this value ends the process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    /// `None` only during the drop: the server ends at the end of its input.
    stdin: Option<ChildStdin>,
    pub address: SocketAddr,
}

impl ServerProcess {
    pub fn start(peer: Peer, task: Task, core: Option<usize>) -> io::Result<ServerProcess> {
        ServerProcess::run(Command::new(env::current_exe()?), peer, task, core)
    }

    /// Starts a server that gets its core only while no other program wants it.
    pub fn start_at_idle_priority(
        peer: Peer,
        task: Task,
        core: usize,
    ) -> io::Result<ServerProcess> {
        ServerProcess::run(at_idle_priority(&env::current_exe()?), peer, task, Some(core))
    }

    fn run(
        mut command: Command,
        peer: Peer,
        task: Task,
        core: Option<usize>,
    ) -> io::Result<ServerProcess> {
        command.args(["serve", peer.command_name(), &task.contract.to_string()]);
        command.args(["--send-size", &task.send_size.to_string()]);
        command.args(["--work", &task.work.to_string()]);
        command.args(["--more-listeners", &task.more_listeners.to_string()]);
        if let Some(core) = core {
            command.args(["--core", &core.to_string()]);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let stdin = child.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            let mut output = BufReader::new(stdout);
            output.read_line(&mut line)?;
            // A program may print more. Without a reader, its print would wait or fail.
            thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        }
        let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let status = child.wait()?;
            let text = format!("the server did not start ({status}; its first line was {line:?})");
            return Err(io::Error::other(text));
        };
        let mut server = ServerProcess { child, stdin, address };
        if let Some(stdin) = &mut server.stdin {
            // A program that prints while it runs stops printing. The others ignore the line.
            writeln!(stdin, "quiet")?;
        }
        if task.contract == Contract::Echo {
            let settled = server.descriptors()?;
            verify(address)?;
            server.wait_for_descriptors(settled)?;
        }
        Ok(server)
    }

    /// Returns the processor time and the waiting time of all threads since their start.
    pub fn times(&self) -> io::Result<Times> {
        Times::of(self.child.id())
    }

    /// Returns how often its threads have gone to sleep, and so have woken, since their start.
    pub fn sleeps(&self) -> io::Result<u64> {
        let mut sum = 0;
        for task in tasks(self.child.id())? {
            sum += number(&format!("{task}/status"), "voluntary_ctxt_switches:")?;
        }
        Ok(sum)
    }

    /// Returns the bytes of memory that no other process shares.
    pub fn private_memory(&self) -> io::Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        Ok((number(&path, "Private_Clean:")? + number(&path, "Private_Dirty:")?) * 1024)
    }

    /// Returns the most bytes of memory that the process has had at a time.
    pub fn peak_memory(&self) -> io::Result<u64> {
        Ok(number(&format!("/proc/{}/status", self.child.id()), "VmHWM:")? * 1024)
    }

    /// Returns the number of open descriptors. Each connection has one descriptor.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
    }

    /// Waits until the server has accepted every connection and closed every reset one.
    pub fn wait_for_descriptors(&self, count: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.descriptors()?;
            if now == count {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = format!(
                    "the server has {now} descriptors after {PATIENCE:?}; expected {count}"
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            // The kernel reports no event for another process's descriptors.
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // The server ends by itself now. A server that hangs is killed, because it would keep its
        // core busy.
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            // `Child::wait` has no deadline.
            thread::sleep(BETWEEN_LOOKS);
        }
    }
}

/// Times that the scheduler counts, ns. Their sum is the one that `getrusage` splits into user and
/// system time (both agree to within 0.1 %), but another process can read it while the process
/// runs. The time includes the work of loopback to deliver a packet, which runs in the sender's
/// time. A kernel that accounts interrupts separately (`CONFIG_IRQ_TIME_ACCOUNTING`) does not
/// include it, for all peers alike.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub on_core: u64,
    /// The time in which a thread was ready and another program had the core.
    pub waited: u64,
}

impl Times {
    /// Returns the times of all threads of a process since their start.
    pub fn of(process: u32) -> io::Result<Times> {
        let mut sum = Times::default();
        for task in tasks(process)? {
            sum.add(Times::read(&format!("{task}/schedstat"))?);
        }
        Ok(sum)
    }

    pub fn of_this_thread() -> io::Result<Times> {
        Times::read("/proc/thread-self/schedstat")
    }

    fn read(path: &str) -> io::Result<Times> {
        let text = fs::read_to_string(path)?;
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(on_core), Some(waited)) => Ok(Times { on_core, waited }),
            _ => Err(io::Error::other(format!("{path} contains no processor times"))),
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

/// Returns the directories of the threads of a process.
fn tasks(process: u32) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(format!("/proc/{process}/task"))?;
    entries.map(|entry| Ok(entry?.path().display().to_string())).collect()
}

/// Returns a command that runs this program with `SCHED_IDLE`: any program of normal priority that
/// becomes ready gets the core at once.
pub fn at_idle_priority(program: &Path) -> Command {
    let mut command = Command::new("chrt");
    command.args(["--idle", "0"]).arg(program);
    command
}

/// Returns the number after a heading in a file of the kernel.
fn number(path: &str, heading: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(heading));
    let word = line.and_then(|line| line.split_whitespace().next());
    let value = word.and_then(|word| word.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("{path} has no {heading}")))
}
