//! A server in a separate process, and its time on the processor.
use std::{
    env,
    error::Error,
    fs,
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use crate::cases::{Case, Peer};

/// What a server needs besides its own case.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub core: usize,
    /// Whether the server checks what it discards, and confirms it.
    pub is_checked: bool,
}

/// A running server. Dropping this value ends the process.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    pub address: SocketAddr,
    /// Who the server is: its certificate, or the id of its node.
    pub identity: Vec<u8>,
}

impl ServerProcess {
    pub fn start(
        case: Case,
        peer: Peer,
        settings: Settings,
    ) -> Result<ServerProcess, Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["serve", peer.command_name(), case.command_name()]);
        command.args(["--core", &settings.core.to_string()]);
        if settings.is_checked {
            command.arg("--checked");
        }
        // The server ends at the end of its input, so it does not outlive this process.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let words = line.split_once(' ').and_then(|(address, identity)| {
            Some((address.parse().ok()?, from_hex(identity.trim())?))
        });
        let Some((address, identity)) = words else {
            let _ = child.kill();
            return Err(format!("the server did not start ({})", child.wait()?).into());
        };
        Ok(ServerProcess { child, address, identity })
    }

    /// Returns the times of all its threads since their start.
    pub fn times(&self) -> io::Result<Times> {
        let mut sum = Times::default();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let times = Times::read(&format!("{}/schedstat", task?.path().display()))?;
            sum = Times { on_core: sum.on_core + times.on_core, waited: sum.waited + times.waited };
        }
        Ok(sum)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // The server keeps nothing that needs an orderly end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Prints the line that [`ServerProcess::start`] reads.
pub fn announce(address: SocketAddr, identity: &[u8]) {
    let hex: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("{address} {hex}");
}

/// Ends this process at the end of its input.
pub fn end_with_the_input() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| Some(digit.to_digit(16)? as u8)).collect();
    Some(
        digits?
            .chunks(2)
            .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
            .collect(),
    )
}

/// Times that the scheduler counts, ns.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// User and system time.
    pub on_core: u64,
    /// The time in which a thread was ready and another program had the core.
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
            _ => Err(io::Error::other(format!("{path} contains no processor times"))),
        }
    }

    pub fn since(self, before: Times) -> Times {
        Times {
            on_core: self.on_core.saturating_sub(before.on_core),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_from_its_digits() {
        assert_eq!(from_hex("00ff7a"), Some(vec![0, 0xff, 0x7a]));
        assert_eq!(from_hex("0g"), None);
    }
}
