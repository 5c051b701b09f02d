//! Idle connections, held by a process of their own: both ends of 10,000 of them would not fit
//! below a limit of 20,000 descriptors for one process.
use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use super::connect;

/// `hold ADDRESS`, which the suite runs as a process: for each line of standard input, a number,
/// opens connections until there are that many, and says so. At the end of input all are reset.
pub fn hold(to: SocketAddr) -> Result<(), Box<dyn Error>> {
    let mut held = Vec::new();
    for line in io::stdin().lines() {
        let wanted: usize = line?.trim().parse().map_err(|e| format!("not a number: {e}"))?;
        while held.len() < wanted {
            held.push(connect(to).map_err(|e| format!("connection {}: {e}", held.len() + 1))?);
        }
        println!("holding {}", held.len());
    }
    Ok(())
}

/// Such a process, as seen from the suite. Dropping it ends it, and so its connections.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    /// `None` only while it is being dropped.
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
        let answers = answers.ok_or_else(|| io::Error::other("no pipe from the child"))?;
        Ok(Holder { child, requests, answers: BufReader::new(answers) })
    }

    /// Opens connections until there are this many. The server may not have accepted all yet.
    pub fn grow_to(&mut self, count: usize) -> io::Result<()> {
        let requests = self.requests.as_mut().ok_or_else(|| io::Error::other("it has ended"))?;
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
        // It ends by itself now; there is nothing to do about one that does not.
        let _ = self.child.wait();
    }
}
