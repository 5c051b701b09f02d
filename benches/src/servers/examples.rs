//! Two examples of the library as servers: what a user copies, not what is written for a benchmark.
//!
//! `build.rs` copies them from `examples/`. `first.rs` is the first program of README.md. It has only
//! the contract echo. `echo.rs` has all contracts.
use std::{
    env,
    error::Error,
    fs::File,
    io::{self, BufRead},
    os::unix::process::CommandExt,
    process::{self, Command},
    thread,
};

use nix::unistd::dup2_stdout;

use super::{Task, end_with_stdin};

#[allow(dead_code, clippy::print_stdout, reason = "a program of its own, with its function main")]
mod first_program {
    include!(concat!(env!("OUT_DIR"), "/first.rs"));
}

#[allow(dead_code, reason = "a program of its own, with its function main")]
mod echo_program {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

pub(super) fn first() -> Result<(), Box<dyn Error>> {
    discard_output_after_a_line()?;
    first_program::start()
}

/// Ends the process at the end of its standard input. The first line of input redirects the
/// standard output to `/dev/null`: the program prints a line for each connection that ends, and a
/// reader of these lines would need time on the core of the load.
fn discard_output_after_a_line() -> io::Result<()> {
    // The number of descriptors stays the same from here on: the suite counts connections by it.
    let nowhere = File::options().write(true).open("/dev/null")?;
    thread::Builder::new().name("stdin".into()).spawn(move || {
        for line in io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            // If this fails, the suite goes on to read the output.
            let _ = dup2_stdout(&nowhere);
        }
        process::exit(0);
    })?;
    Ok(())
}

/// Starts this program again with the arguments of the example, which reads them itself.
pub(super) fn become_echo(task: Task) -> Result<(), Box<dyn Error>> {
    let any_port = "0".to_owned();
    let error =
        Command::new(env::current_exe()?).args([task.contract.to_string(), any_port]).exec();
    Err(format!("cannot run the echo example: {error}").into())
}

/// Runs the example `echo MODE PORT` with the arguments of this process.
pub fn echo() -> Result<(), Box<dyn Error>> {
    end_with_stdin()?;
    echo_program::start()
}
