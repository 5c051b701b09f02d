//! Two `node` examples shake hands over I2P, through a real router (i2pd) on loopback.
//!
//! Needs i2pd: `tests/fixtures/i2pd/install.sh` fetches it. It talks to nobody but this machine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod node_support;

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use node_support::{DEADLINE, Process};

/// A session takes a router 3 to 27 seconds, and connects may have to be tried again.
const PATIENCE: Duration = Duration::from_secs(180);
/// The same key again sooner than this makes a session that is dead.
const BETWEEN_ROUTERS: Duration = Duration::from_secs(7);

struct Router {
    directory: PathBuf,
    host: String,
    child: Option<Child>,
}

impl Router {
    fn start() -> Router {
        // Loopback addresses of this test's own: several may run side by side.
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let host = format!("127.{}.{low}.7", high | 0x40);
        let name = format!("i2pd-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).unwrap();
        let template = include_str!("fixtures/i2pd/router.conf");
        let configuration = template.replace("HOST", &host).replace("PORT", "17001");
        fs::write(directory.join("conf"), configuration).unwrap();
        let mut router = Router { directory, host, child: None };
        router.run();
        router
    }

    fn sam(&self) -> String {
        format!("{}:7656", self.host)
    }

    fn run(&mut self) {
        // `target/tmp`; the install script puts it beside.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let program = target.join("i2pd/run");
        assert!(
            program.exists(),
            "{} is missing: run tests/fixtures/i2pd/install.sh first",
            program.display()
        );
        let at = |name: &str| self.directory.join(name).display().to_string();
        let child = Command::new(program)
            .arg(format!("--conf={}", at("conf")))
            .arg(format!("--datadir={}", at("data")))
            .args(["--tunconf=/dev/null", "--tunnelsdir=/nonexistent", "--certsdir=/nonexistent"])
            .arg(format!("--logfile={}", at("log")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect(self.sam()).is_err() {
            assert!(Instant::now() < deadline, "the router has no SAM bridge");
            thread::yield_now();
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn node(arguments: &[&str]) -> Process {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.push("examples/node");
    assert!(path.exists(), "{} is missing: cargo build --example node", path.display());
    let mut command = Command::new(path);
    command.args(arguments).args(["--network", "regtest", "--i2p-tunnel-length", "0"]);
    Process::new(command.stdout(Stdio::piped()).spawn().unwrap())
}

/// As `wait_for_line`, for longer: other lines come meanwhile.
fn wait_for(process: &mut Process, what: &str, wanted: impl Fn(&str) -> Option<String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Tables are printed all the time.
        let line = process.wait_for_line(what, |line| Some(line.to_owned()));
        if let Some(found) = wanted(&line) {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
    }
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
fn two_nodes_shake_hands_through_a_real_router() {
    let mut router = Router::start();
    let sam = router.sam();
    let key = router.directory.join("key").display().to_string();
    let accepting = ["--i2p-sam", &sam, "--i2p-key", &key, "--i2p-accept"];
    let began = Instant::now();
    let mut server = node(&accepting);
    let address = wait_for(&mut server, "its address", listening);
    println!("listening after {:?}", began.elapsed());
    assert!(address.ends_with(".b32.i2p:0"), "{address}");

    let began = Instant::now();
    let mut client = node(&["--i2p-sam", &sam, "--connect", &address]);
    wait_for(&mut client, "a handshake", handshake);
    println!("a handshake over a transient session after {:?}", began.elapsed());
    wait_for(&mut server, "the other's handshake", handshake);
    let text = terminate(&mut client);
    assert!(text.contains("outbound    i2p") && text.contains(&address), "{text}");

    router.stop();
    let lost = format!("no longer listening on {address}");
    wait_for(&mut server, "the loss of the router", |line| (line == lost).then(String::new));
    thread::sleep(BETWEEN_ROUTERS);
    router.run();
    let again = wait_for(&mut server, "its address again", listening);
    assert_eq!(again, address, "recovered by itself");
    terminate(&mut server);

    thread::sleep(BETWEEN_ROUTERS);
    let mut server = node(&accepting);
    assert_eq!(wait_for(&mut server, "the same address", listening), address);
    let mut client = node(&["--i2p-sam", &sam, "--connect", &address]);
    wait_for(&mut client, "another handshake", handshake);
    terminate(&mut client);
    terminate(&mut server);
}
