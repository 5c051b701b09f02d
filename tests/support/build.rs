//! Copies `examples/relay.rs` for the module `relay_example`.
#![allow(clippy::print_stdout, reason = "cargo reads the standard output")]
use std::{env, error::Error, fs, path::Path};

/// The path of the example, from this package.
const EXAMPLE: &str = "../../examples/relay.rs";

/// Copies the example without the documentation of its crate, which a module cannot include.
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={EXAMPLE}");
    let text = fs::read_to_string(EXAMPLE).map_err(|e| format!("cannot read {EXAMPLE}: {e}"))?;
    let lines = text.lines().filter(|line| !line.starts_with("//!"));
    let copy = lines.collect::<Vec<_>>().join("\n");
    Ok(fs::write(Path::new(&env::var("OUT_DIR")?).join("relay.rs"), copy)?)
}
