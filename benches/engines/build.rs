//! Records the version of the compiler for the table.
use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let output = Command::new(env::var("RUSTC")?).arg("--version").output()?;
    println!("cargo:rustc-env=RUSTC_VERSION={}", String::from_utf8(output.stdout)?.trim());
    Ok(())
}
