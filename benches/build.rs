//! Compiles the C servers, and records the versions of the compilers and of the peers for the
//! report.
use std::{env, error::Error, fs, path::Path, process::Command};

/// The examples that are measured, and the function that starts each.
const EXAMPLES: [(&str, &str); 2] = [("first", "main"), ("echo", "run")];
/// The fixed address in `first.rs`, which another program may use.
const FIXED_ADDRESS: (&str, &str) = ("first", "127.0.0.1:7000");

const SERVERS: [&str; 3] = ["epoll", "poll", "connect"];
const PEERS: [&str; 3] = ["mio", "tokio", "message-io"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=servers");
    println!("cargo:rerun-if-changed=Cargo.lock");
    let out = env::var("OUT_DIR")?;
    let compiler = cc::Build::new().get_compiler();
    for name in SERVERS {
        let status = (compiler.to_command())
            .args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-pthread", "-o"])
            .arg(Path::new(&out).join(format!("{name}-c")))
            .arg(format!("servers/{name}.c"))
            .status()
            .map_err(|e| format!("cannot run the C compiler {:?}: {e}", compiler.path()))?;
        if !status.success() {
            return Err(format!("servers/{name}.c does not compile: {status}").into());
        }
    }
    println!("cargo:rustc-env=C_SERVERS={out}");
    println!("cargo:rustc-env=C_VERSION={}", first_line(compiler.to_command().arg("--version")));
    let rustc = env::var("RUSTC")?;
    println!("cargo:rustc-env=RUSTC_VERSION={}", first_line(Command::new(rustc).arg("--version")));

    for (name, start) in EXAMPLES {
        copy_example(name, start, Path::new(&out))?;
    }

    let lock = fs::read_to_string("Cargo.lock")?;
    let versions: Vec<String> =
        PEERS.iter().map(|peer| format!("{peer}={}", newest(&lock, peer))).collect();
    println!("cargo:rustc-env=PEER_VERSIONS={}", versions.join(","));
    Ok(())
}

/// Copies an example without its inner attributes and comments, which a module cannot include, and
/// adds a public function `start`. The server listens on a free port.
fn copy_example(name: &str, start: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let path = format!("../examples/{name}.rs");
    println!("cargo:rerun-if-changed={path}");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {path}: {e}"))?;
    let lines = text.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("#!["));
    let mut text = lines.collect::<Vec<_>>().join("\n");
    if name == FIXED_ADDRESS.0 {
        if !text.contains(FIXED_ADDRESS.1) {
            return Err(format!("{path} does not listen on {}", FIXED_ADDRESS.1).into());
        }
        text = text.replace(FIXED_ADDRESS.1, "127.0.0.1:0");
    }
    text += &format!("\n\npub fn start() -> Result<(), Box<dyn Error>> {{\n    {start}()\n}}\n");
    Ok(fs::write(out.join(format!("{name}.rs")), text)?)
}

/// Returns the last version of a package in a Cargo.lock, which is the newest because the file is
/// sorted. (message-io depends on an older `mio`.)
fn newest<'a>(lock: &'a str, package: &str) -> &'a str {
    let heading = format!("name = \"{package}\"\nversion = \"");
    let found = lock.rsplit_once(&heading).and_then(|(_, rest)| rest.split('"').next());
    found.unwrap_or("unknown")
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    output.ok().and_then(|text| text.lines().next().map(str::to_owned)).unwrap_or_default()
}
