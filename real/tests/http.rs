//! Tests of the program `http_rpc` with curl, ab, wrk and python-bitcoinrpc as clients.
//!
//! `.ci/run real` installs these programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use sockman_test_support::program::{Process, workspace_program};

struct Server {
    url: String,
    cookie: PathBuf,
    process: Process,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("real-http-cookie-{}-{number}", std::process::id());
        let cookie = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let child = Command::new(workspace_program("sockman-http-rpc", "http_rpc"))
            .args(["--listen", "127.0.0.1:0", "--cookie"])
            .arg(&cookie)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process::new(child);
        let address = process.wait_for_line("where it listens", |line| {
            line.strip_prefix("listening on ").map(str::to_owned)
        });
        process.wait_for_line("the cookie", |line| line.contains("cookie").then_some(()));
        Server { url: format!("http://{address}/"), cookie, process }
    }

    fn password(&self) -> String {
        fs::read_to_string(&self.cookie).unwrap()
    }

    fn end(mut self) {
        let stopped = self.curl(&["--data", r#"{"method": "stop"}"#]);
        assert!(stopped.contains("stopping"), "{stopped}");
        assert_eq!(self.process.wait_for_end().0, Some(0));
        assert!(!self.cookie.exists());
    }

    fn curl(&self, arguments: &[&str]) -> String {
        output(
            Command::new("curl")
                .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
                .args(["--user", &self.password()])
                .args(arguments)
                .arg(&self.url),
        )
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn curl_works_with_100_continue_and_with_chunks() {
    let server = Server::start(&[]);
    let result = server.curl(&["--data", r#"{"method": "echo", "params": ["curl"], "id": 1}"#]);
    assert_eq!(result.trim(), r#"{"result":["curl"],"error":null,"id":1}"#);

    // curl waits for `100 Continue` before it sends a body of more than 1 MiB.
    let large = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-http-large.json");
    let text = "x".repeat(3_000_000);
    fs::write(&large, format!(r#"{{"method": "echo", "params": ["{text}"]}}"#)).unwrap();
    let data = format!("@{}", large.display());
    for header in ["Accept: */*", "Transfer-Encoding: chunked", "Expect:"] {
        let result = server.curl(&["--header", header, "--data-binary", &data]);
        assert!(result.contains(&text), "{header}: an answer of {} bytes", result.len());
    }
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    assert_eq!(server.curl(&[&status[..], &["--user", "a:b", "--data", "{}"]].concat()), "401");
    assert_eq!(server.curl(&status), "405");
    server.end();
}

#[test]
fn every_request_of_ab_is_answered_with_and_without_keep_alive() {
    let server = Server::start(&["--max-connections", "64"]);
    let body = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-http-ab.json");
    fs::write(&body, r#"{"method": "uptime"}"#).unwrap();
    for keep_alive in [&["-k"][..], &[]] {
        let report = output(
            Command::new("ab")
                .args(["-q", "-n", "20000", "-c", "64", "-T", "application/json", "-A"])
                .arg(server.password())
                .arg("-p")
                .arg(&body)
                .args(keep_alive)
                .arg(&server.url),
        );
        assert!(report.contains("Complete requests:      20000"), "{report}");
        assert!(report.contains("Failed requests:        0"), "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
    }
    server.end();
}

#[test]
fn wrk_gets_no_errors_under_load() {
    let server = Server::start(&["--max-connections", "64"]);
    let script = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real-http-wrk.lua");
    let authorization = data_encoding::BASE64.encode(server.password().as_bytes());
    fs::write(
        &script,
        format!(
            "wrk.method = 'POST'\nwrk.body = '{{\"method\": \"uptime\"}}'\n\
             wrk.headers['Authorization'] = 'Basic {authorization}'\n"
        ),
    )
    .unwrap();
    let report = output(
        Command::new("wrk").args(["-t1", "-c64", "-d2s", "-s"]).arg(&script).arg(&server.url),
    );
    assert!(report.contains("Requests/sec"), "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
    assert!(!report.contains("Socket errors"), "{report}");
    server.end();
}

/// The test sends no batch. In a batch, this client asks for version 2.0, but expects the null
/// error of version 1.0. This client has the same problem with Bitcoin Core since version 28.0.
#[test]
fn python_bitcoinrpc_gets_results_and_errors() {
    let server = Server::start(&[]);
    let package = real::installed(env!("CARGO_TARGET_TMPDIR"), "python", "");
    let program = "
import sys
from bitcoinrpc.authproxy import AuthServiceProxy, JSONRPCException
rpc = AuthServiceProxy(sys.argv[1])
print(rpc.echo(1, 'two'))
try:
    rpc.nothing()
except JSONRPCException as error:
    print(error.code)
";
    let url = server.url.replacen("http://", &format!("http://{}@", server.password()), 1);
    let printed =
        output(Command::new("python3").env("PYTHONPATH", &package).args(["-c", program, &url]));
    assert_eq!(printed, "[1, 'two']\n-32601\n");
    server.end();
}
