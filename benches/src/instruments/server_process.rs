//! A server under an instrument, from its start to its orderly end: an instrument writes its counts
//! when the server has ended.

use std::{
    io::{self, BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::driver::Driver;

/// The limit for the start. Callgrind takes a second or two, and longer on a busy machine.
const START: Duration = Duration::from_secs(60);
/// The limit for the end.
const END: Duration = Duration::from_secs(60);
/// The interval of checks whether the child has ended. The checks are needed because `Child::wait`
/// has no deadline.
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

/// The server to start.
pub struct Server<'a> {
    pub suite: &'a Path,
    pub peer: &'static str,
    pub core: usize,
}

impl Server<'_> {
    /// Runs the server under `instrument` (a command and its arguments), and calls `drive` with the
    /// server's address and the process id of the instrument. The connections that `drive` returns
    /// stay open until the server has ended. Otherwise the number of connections that the server
    /// closes before its end would be random.
    pub fn run_under(
        &self,
        instrument: &mut Command,
        drive: impl FnOnce(SocketAddr, u32) -> io::Result<Driver>,
    ) -> io::Result<()> {
        let mut child = instrument
            .arg(self.suite)
            .args(["serve", self.peer, "echo", "--core", &self.core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let driven = address(&mut child).and_then(|to| drive(to, child.id()));
        let ended = end(child);
        // If both failed, the error of the end is returned, because it contains the server's own
        // message.
        ended.and(driven).map(drop)
    }
}

fn address(child: &mut Child) -> io::Result<SocketAddr> {
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (sender, line) = mpsc::channel();
    // A thread reads the pipe, because the standard library has no timeout for it. This thread ends
    // with the server.
    thread::spawn(move || {
        let mut output = BufReader::new(stdout);
        // After the time-out, nobody receives the line.
        let _ = sender.send(first_line(&mut output));
        // A program may print more. Without a reader, its print would wait or fail.
        io::copy(&mut output, &mut io::sink())
    });
    let line = line.recv_timeout(START).map_err(io::Error::other)??;
    let address = line.trim().strip_prefix("listening on ").and_then(|at| at.parse().ok());
    address.ok_or_else(|| {
        io::Error::other(format!("the server printed {line:?} instead of its address"))
    })
}

fn first_line(output: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    Ok(line)
}

/// Closes the input of the server, which ends it, and waits for the end.
fn end(mut child: Child) -> io::Result<()> {
    drop(child.stdin.take());
    let deadline = Instant::now() + END;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::other("the server did not end at the end of its input"));
            }
            // `Child::wait` has no deadline.
            None => thread::sleep(BETWEEN_LOOKS),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    Err(io::Error::other(format!("the server ended with {status}; its last message: {last}")))
}
