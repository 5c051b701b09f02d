//! The node's JSON-RPC and its page over TLS, with curl as the client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    process::{Command, Stdio},
};

use real::{node, write_certificates};
use serde_json::{Value, json};
use sockman_test_support::{
    program::{Process, signal},
    tools::TempDir,
};

/// A running node whose RPC and page are served over TLS.
struct Server {
    directory: TempDir,
    process: Process,
    rpc: String,
    page: String,
}

impl Server {
    fn start() -> Server {
        let directory = TempDir::new();
        write_certificates(&directory);
        let child = node()
            .args(["--network", "regtest", "--listen", "127.0.0.1:0"])
            .args(["--rpc", "127.0.0.1:0", "--web", "127.0.0.1:0", "--rpc-cookie"])
            .arg(directory.path("cookie"))
            .arg("--tls-cert")
            .arg(directory.path("ours-localhost.pem"))
            .arg("--tls-key")
            .arg(directory.path("ours-localhost.key"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process::new(child);
        let rpc = process.wait_for_line("the address of the RPC server", |line| {
            let rest = line.strip_prefix("the RPC server listens on https://127.0.0.1:")?;
            Some(rest.split_once(';')?.0.to_owned())
        });
        let page = process.wait_for_line("the address of the page", |line| {
            let rest = line.strip_prefix("the peers are shown on https://127.0.0.1:")?;
            Some(rest.trim_end_matches('/').to_owned())
        });
        Server { directory, process, rpc, page }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path(name).to_str().unwrap().to_owned()
    }

    fn rpc_url(&self) -> String {
        format!("https://localhost:{}/", self.rpc)
    }

    fn page_url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.page)
    }

    /// Returns a command that runs curl, which trusts the authority `authority`.
    fn curl(&self, authority: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]);
        command.args(["--cacert", &self.path(&format!("{authority}-authority.pem"))]);
        command.args(arguments);
        command
    }

    /// Calls a method, with the password. Returns curl's exit code and the answer.
    fn call(&self, authority: &str, body: &Value) -> (i32, String) {
        let user = fs::read_to_string(self.path("cookie")).unwrap();
        let (body, url) = (body.to_string(), self.rpc_url());
        run(&mut self.curl(authority, &["--user", &user, "--data", &body, &url]))
    }

    /// Ends the program. A test run in the background may ignore SIGINT, and its children then do
    /// too.
    fn end(mut self) {
        signal(self.process.child.id(), "TERM");
        let (code, text) = self.process.wait_for_end();
        assert_eq!(code, Some(0), "{text}");
        assert!(!self.directory.path("cookie").exists());
    }
}

fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

/// Arguments of curl that print the status in place of the answer.
const STATUS: [&str; 4] = ["--output", "/dev/null", "--write-out", "%{http_code}"];
/// The exit code of curl if it does not trust the certificate.
const NOT_TRUSTED: i32 = 60;

#[test]
fn curl_calls_methods_over_tls_and_is_refused_without_the_password() {
    let server = Server::start();
    let (code, text) = server.call("ours", &json!({ "method": "getblockcount", "id": 1 }));
    assert_eq!(code, 0, "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer, json!({ "result": 0, "error": null, "id": 1 }));
    // A batch, whose answer is longer than the send buffer of TLS.
    let batch: Vec<Value> =
        (0..2000).map(|id| json!({ "method": "getnetworkinfo", "id": id })).collect();
    let body = server.path("batch");
    fs::write(&body, Value::from(batch).to_string()).unwrap();
    let user = fs::read_to_string(server.path("cookie")).unwrap();
    let (data, url) = (format!("@{body}"), server.rpc_url());
    let (code, text) = run(&mut server.curl("ours", &["--user", &user, "--data", &data, &url]));
    assert_eq!(code, 0, "{text}");
    let answers: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(text.len() > 100_000, "{} bytes", text.len());
    assert_eq!(answers.len(), 2000);
    assert_eq!(answers[1999]["id"], 1999);

    let call = ["--data", r#"{"method": "getblockcount"}"#, &url];
    let (code, status) = run(&mut server.curl("ours", &[&STATUS[..], &call].concat()));
    assert_eq!((code, &*status), (0, "401"));
    server.end();
}

#[test]
fn a_client_that_does_not_trust_the_certificate_or_speaks_no_tls_gets_nothing() {
    let server = Server::start();
    let (code, text) = server.call("strange", &json!({ "method": "getblockcount" }));
    assert_eq!(code, NOT_TRUSTED, "{text}");
    let (code, text) = run(&mut server.curl("strange", &[&server.page_url("/")]));
    assert_eq!(code, NOT_TRUSTED, "{text}");
    for port in [&server.rpc, &server.page] {
        let url = format!("http://localhost:{port}/");
        let (code, text) = run(&mut server.curl("ours", &[&url]));
        assert_ne!(code, 0, "{text}");
        assert!(!text.contains("<html"), "{text}");
    }
    // The server goes on.
    assert_eq!(server.call("ours", &json!({ "method": "getblockcount" })).0, 0);
    server.end();
}

/// The page and its stream of events. The page's own origin begins with `https`.
#[test]
fn the_page_and_its_events_come_over_tls() {
    let server = Server::start();
    let (code, page) = run(&mut server.curl("ours", &[&server.page_url("/")]));
    assert_eq!(code, 0, "{page}");
    assert!(page.contains("<title>"), "{page}");
    for (origin, expected) in [("https", "200"), ("http", "403")] {
        let header = format!("Origin: {origin}://localhost:{}", server.page);
        let url = server.page_url("/");
        let arguments = [&STATUS[..], &["--header", &header, &url]].concat();
        assert_eq!(run(&mut server.curl("ours", &arguments)), (0, expected.to_owned()));
    }
    let mut command = server.curl("ours", &["--no-buffer", &server.page_url("/events")]);
    let mut events = Process::new(command.stdout(Stdio::piped()).spawn().unwrap());
    // A state comes each second.
    for _ in 0..2 {
        events.wait_for_line("a state", |line| {
            let state: Value = serde_json::from_str(line.strip_prefix("data: ")?).ok()?;
            (state["network"] == "regtest").then_some(())
        });
    }
    // The open stream does not delay the end of the node.
    server.end();
    events.wait_for_end();
}
