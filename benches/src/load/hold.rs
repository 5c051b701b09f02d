//! Holds idle connections in a separate process, because both ends of 10,000 connections exceed a
//! limit of 20,000 descriptors for one process.
use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::connect;

/// Runs `hold ADDRESS`, which the suite starts as a process. Each line of standard input is a
/// number: the process opens connections until it has that many, and then prints their number. At
/// the end of its input the process resets all connections.
pub fn hold(to: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut held = Vec::new();
    for line in io::stdin().lines() {
        let wanted = line?.trim().parse();
        let wanted: usize = wanted.map_err(|e| format!("cannot parse the wanted number: {e}"))?;
        while held.len() < wanted {
            held.push(connect(to).map_err(|e| format!("connection {}: {e}", held.len() + 1))?);
        }
        println!("holding {}", held.len());
    }
    Ok(())
}

/// A process that holds connections, as the suite sees it. Dropping this value ends the process and
/// its connections.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    /// `None` only during the drop.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    pub fn start(to: SocketAddr) -> io::Result<Holder> {
        let mut child = Command::new(env::current_exe()?)
            .args(["hold", &to.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| {
            io::Error::other("the process that holds idle connections has no standard output")
        })?;
        Ok(Holder { child, requests, answers: BufReader::new(answers) })
    }

    /// Opens connections until there are `count`. The server may not have accepted all connections
    /// yet.
    pub fn grow_to(&mut self, count: usize) -> io::Result<()> {
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
