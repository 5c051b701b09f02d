//! Holds idle connections in a separate process, because both ends of 10,000 connections exceed a
//! limit of 20,000 descriptors for one process.
use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::connect_from;

/// The most connections of one process: fewer than the ports that the kernel gives to the
/// connections of one source address.
const MOST: usize = 15_000;

/// Runs `hold ADDRESS SOURCE`, which the suite starts as a process. Each line of standard input is a
/// number: the process opens connections until it has that many, and then prints their number. At
/// the end of its input the process resets all connections.
pub fn hold(to: SocketAddr, from: Ipv4Addr) -> Result<(), Box<dyn Error>> {
    let mut held = Vec::new();
    for line in io::stdin().lines() {
        let wanted = line?.trim().parse();
        let wanted: usize = wanted.map_err(|e| format!("cannot parse the wanted number: {e}"))?;
        while held.len() < wanted {
            let connected = connect_from(from, to);
            held.push(connected.map_err(|e| format!("connection {}: {e}", held.len() + 1))?);
        }
        println!("holding {}", held.len());
    }
    Ok(())
}

/// Processes that hold connections, each with a source address of its own. Dropping this value ends
/// the processes and their connections.
#[derive(Debug)]
pub struct Holders {
    to: SocketAddr,
    /// All but the last one hold [`MOST`] connections.
    processes: Vec<Holder>,
}

impl Holders {
    pub fn of(to: SocketAddr) -> Holders {
        Holders { to, processes: Vec::new() }
    }

    /// Opens connections until there are `count`. The server may not have accepted all connections
    /// yet.
    pub fn grow_to(&mut self, count: usize) -> io::Result<()> {
        for index in 0..count.div_ceil(MOST) {
            if index == self.processes.len() {
                self.processes.push(Holder::start(self.to, source(index)?)?);
            }
            self.processes[index].grow_to((count - index * MOST).min(MOST))?;
        }
        Ok(())
    }
}

/// Returns the source address of a process: 127.0.1.1, 127.0.1.2 …
fn source(index: usize) -> io::Result<Ipv4Addr> {
    let number = u8::try_from(index + 1).map_err(io::Error::other)?;
    Ok(Ipv4Addr::new(127, 0, 1, number))
}

/// A process that holds connections, as the suite sees it. Dropping this value ends the process and
/// its connections.
#[derive(Debug)]
struct Holder {
    child: Child,
    /// `None` only during the drop.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    fn start(to: SocketAddr, from: Ipv4Addr) -> io::Result<Holder> {
        let mut child = Command::new(env::current_exe()?)
            .args(["hold", &to.to_string(), &from.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| {
            io::Error::other("the process that holds idle connections has no standard output")
        })?;
        Ok(Holder { child, requests, answers: BufReader::new(answers) })
    }

    fn grow_to(&mut self, count: usize) -> io::Result<()> {
        let requests = self
            .requests
            .as_mut()
            .ok_or_else(|| io::Error::other("the process that holds idle connections has ended"))?;
        writeln!(requests, "{count}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.trim() == format!("holding {count}") {
            return Ok(());
        }
        Err(io::Error::other(format!("{count} idle connections cannot be opened")))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.requests.take());
        // The process ends by itself at the end of its input.
        let _ = self.child.wait();
    }
}
