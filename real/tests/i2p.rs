//! A test of two nodes over I2P, through two i2pd routers on loopback, with the same tunnels as
//! Bitcoin Core's.
//!
//! The test needs i2pd, which `real/fixtures/i2pd/install.sh` installs. All traffic stays on this
//! machine.

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

/// How long the test waits for a line. A router takes 3 to 27 seconds for a session, and a connect
/// may need several tries.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause between two sessions with one key. A session that uses the same key earlier does not
/// work.
const BETWEEN_ROUTERS: Duration = Duration::from_secs(7);

/// The two routers. Their program ends when its standard input closes, at the latest at the end of
/// this process.
struct Routers {
    child: Child,
    output: BufReader<ChildStdout>,
    /// The addresses of the two SAM bridges.
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
            .expect("cannot start python3, which runs the routers; install it");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let mut bridges = line.split('"').filter(|text| text.starts_with("127."));
        let sam = [(); 2].map(|()| bridges.next().expect("the routers did not start").to_owned());
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

/// The listening node has a persistent session, and the dialling one a transient session. After the
/// handshake, the router stops and starts again, and then the listening node restarts. The
/// listening node keeps its address each time.
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
    assert_eq!(again, address, "the node did not recover under its address");
    terminate(&mut server);

    thread::sleep(BETWEEN_ROUTERS);
    let mut server = node(&accepting);
    assert_eq!(wait_for(&mut server, "the same address", listening), address);
    terminate(&mut server);
    fs::remove_file(key).unwrap();
}
