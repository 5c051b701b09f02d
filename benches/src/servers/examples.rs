//! Two examples of the library as servers: what a user copies, not what is written for a benchmark.
//!
//! `build.rs` copies them from `examples/`. `first.rs` is the first program of README.md. It has only
//! the contract echo. `echo.rs` has all contracts.
use std::{env, error::Error, os::unix::process::CommandExt, process::Command};

use super::{Contract, Task, end_with_stdin};

#[allow(dead_code, clippy::print_stdout, reason = "a program of its own, with its function main")]
mod first_program {
    include!(concat!(env!("OUT_DIR"), "/first.rs"));
}

#[allow(dead_code, reason = "a program of its own, with its function main")]
mod echo_program {
    include!(concat!(env!("OUT_DIR"), "/echo.rs"));
}

pub(super) fn first(task: Task) -> Result<(), Box<dyn Error>> {
    if task.contract != Contract::Echo {
        return Err("sockman-first has only the contract echo".into());
    }
    end_with_stdin()?;
    first_program::start()
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
