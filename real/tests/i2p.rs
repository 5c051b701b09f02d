//! Two nodes shake hands over I2P, through two real routers (i2pd) on loopback, with
//! tunnels as Bitcoin Core has them.
//!
//! Needs i2pd: `real/fixtures/i2pd/install.sh` fetches it. It talks to nobody but this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sockman_test_support::program::Process;

/// A session takes a router 3 to 27 seconds, and connects may have to be tried again.
const PATIENCE: Duration = Duration::from_secs(180);
/// The same key again sooner than this makes a session that is dead.
const BETWEEN_ROUTERS: Duration = Duration::from_secs(7);

/// Ends when its standard input does, which is when this process ends.
struct Routers {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The bridges of the two.
    sam: [String; 2],
}

impl Routers {
    fn start() -> Routers {
        let temporary = env!("CARGO_TARGET_TMPDIR");
        let program = real::installed(temporary, "i2pd", "run");
        let script = real::fixture("i2pd/network.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(Path::new(temporary).join(format!("i2pd-{}", std::process::id())))
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3, which starts the routers, is installed");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut bridges = line.split('"').filter(|text| text.starts_with("127."));
        let sam = [(); 2].map(|()| bridges.next().expect("two routers started").to_owned());
        Routers { child, output, sam }
    }

    fn command(&mut self, command: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }
}

impl Drop for Routers {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn node(arguments: &[&str]) -> Process {
    let mut command = real::node();
    command.args(arguments).args(["--network", "regtest"]);
    Process::new(command.stdout(Stdio::piped()).spawn().unwrap())
}

fn wait_for(process: &mut Process, what: &str, wanted: impl Fn(&str) -> Option<String>) -> String {
    process.wait_for_line_within(PATIENCE, what, wanted)
}

fn listening(line: &str) -> Option<String> {
    line.strip_prefix("listening on ").map(str::to_owned)
}

fn handshake(line: &str) -> Option<String> {
    line.contains("handshake with /sockman-node:").then(String::new)
}

fn terminate(process: &mut Process) -> String {
    let command = format!("kill -s TERM {}", process.child.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
    let (code, text) = process.wait_for_end();
    assert_eq!(code, Some(0));
    text
}

/// Inbound on a persistent session, outbound on a transient one; then the router goes and comes back;
/// then the node restarts, under the same address.
#[test]
fn two_nodes_shake_hands_through_real_routers() {
    let mut routers = Routers::start();
    let [sam, other_sam] = routers.sam.clone();
    let key = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("key-{}", std::process::id()));
    let key = key.display().to_string();
    let accepting = ["--i2p-sam", &sam, "--i2p-key", &key, "--i2p-accept"];
    let began = Instant::now();
    let mut server = node(&accepting);
    let address = wait_for(&mut server, "its address", listening);
    println!("listening after {:?}", began.elapsed());
    assert!(address.ends_with(".b32.i2p:0"), "{address}");

    let began = Instant::now();
    let mut client = node(&["--i2p-sam", &other_sam, "--connect", &address]);
    wait_for(&mut client, "a handshake", handshake);
    println!("a handshake over a transient session after {:?}", began.elapsed());
    wait_for(&mut server, "the other's handshake", handshake);
    let text = terminate(&mut client);
    assert!(text.contains("outbound    i2p") && text.contains(&address), "{text}");

    routers.command("stop");
    let lost = format!("no longer listening on {address}");
    wait_for(&mut server, "the loss of the router", |line| (line == lost).then(String::new));
    thread::sleep(BETWEEN_ROUTERS);
    routers.command("start");
    let again = wait_for(&mut server, "its address again", listening);
    assert_eq!(again, address, "recovered by itself");
    terminate(&mut server);

    thread::sleep(BETWEEN_ROUTERS);
    let mut server = node(&accepting);
    assert_eq!(wait_for(&mut server, "the same address", listening), address);
    terminate(&mut server);
    fs::remove_file(key).unwrap();
}
