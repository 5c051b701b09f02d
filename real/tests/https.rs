//! Tests of the program `https` with curl, openssl, wrk, ab and Chromium as clients, and with testssl.sh,
//! which looks for known weaknesses.
//!
//! `.ci/run real` installs these programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use real::write_certificates;
use serde_json::Value;
use sockman_test_support::{
    program::{Process, signal, workspace_program},
    tools::TempDir,
};

/// The program, with certificates of two authorities.
struct Server {
    directory: TempDir,
    port: String,
    process: Process,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let directory = TempDir::new();
        write_certificates(&directory);
        let child = Command::new(workspace_program("sockman-https", "https"))
            .args(["--listen", "127.0.0.1:0", "--cert"])
            .arg(directory.path("ours-localhost.pem"))
            .arg("--key")
            .arg(directory.path("ours-localhost.key"))
            .args(arguments.iter().map(|argument| match argument.strip_prefix('@') {
                Some(file) => directory.path(file),
                None => PathBuf::from(argument),
            }))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process::new(child);
        let port = process.wait_for_line("where it listens", |line| {
            line.strip_prefix("listening on 127.0.0.1:").map(str::to_owned)
        });
        Server { directory, port, process }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path(name).to_str().unwrap().to_owned()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// Runs curl, which trusts the authority. Returns its exit code and what it prints.
    fn curl(&self, arguments: &[&str]) -> (i32, String) {
        run(Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"])
            .args(["--cacert", &self.path("ours-authority.pem")])
            .args(arguments))
    }

    /// Runs `openssl s_client` with a request on its standard input.
    fn s_client(&self, arguments: &[&str], input: &str) -> (i32, String) {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("localhost:{}", self.port)]);
        command.args(["-CAfile", &self.path("ours-authority.pem"), "-verify_return_error"]);
        command.args(["-servername", "localhost", "-ign_eof"]).args(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The write fails if the handshake does.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends the program. A test run in the background may ignore SIGINT, and its children then do too.
    fn end(mut self) {
        signal(self.process.child.id(), "TERM");
        let (code, text) = self.process.wait_for_end();
        assert_eq!(code, Some(0), "{text}");
    }
}

fn run(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[test]
fn curl_speaks_both_versions_and_http_1_1() {
    let server = Server::start(&[]);
    let url = server.url("/");
    for version in [&["--tlsv1.2", "--tls-max", "1.2"][..], &["--tlsv1.3"]] {
        let (code, text) = server.curl(&[version, &[&url]].concat());
        assert_eq!((code, &text[..]), (0, "Hello over TLS.\n"));
        // ALPN.
        let write = ["--output", "/dev/null", "--write-out", "%{http_version}"];
        let arguments = [version, &write, &["--http2", &url]].concat();
        assert_eq!(server.curl(&arguments), (0, "1.1".to_owned()));
    }
    // Several requests on one connection, and a body each way.
    let body = server.path("body");
    fs::write(&body, vec![b'z'; 900_000]).unwrap();
    let echo = server.url("/echo");
    let (code, text) = server.curl(&[
        "--data-binary",
        &format!("@{body}"),
        &echo,
        "--next",
        "-sS",
        "--cacert",
        &server.path("ours-authority.pem"),
        &server.url("/bytes/20000000"),
    ]);
    assert_eq!((code, text.len()), (0, 20_900_000));
    server.end();
}

#[test]
fn curl_is_refused_without_an_acceptable_certificate() {
    let server = Server::start(&["--client-ca", "@ours-authority.pem", "--require-client-cert"]);
    let url = server.url("/");
    for version in ["1.2", "1.3"] {
        let with = |whose: &str| {
            let (pem, key) = (format!("{whose}-member.pem"), format!("{whose}-member.key"));
            let files = [server.path(&pem), server.path(&key)];
            server.curl(&["--tls-max", version, "--cert", &files[0], "--key", &files[1], &url])
        };
        assert_eq!(with("ours").0, 0);
        assert_ne!(with("strange").0, 0);
        assert_ne!(server.curl(&["--tls-max", version, &url]).0, 0);
    }
    server.end();
    let server = Server::start(&["--client-ca", "@ours-authority.pem"]);
    assert_eq!(server.curl(&[&server.url("/")]).0, 0);
    server.end();
}

#[test]
fn a_server_of_tls_1_3_alone_refuses_1_2() {
    let server = Server::start(&["--tls-1.3-only"]);
    assert_eq!(server.curl(&[&server.url("/")]).0, 0);
    let (code, text) = server.curl(&["--tls-max", "1.2", &server.url("/")]);
    assert_eq!(code, 35, "{text}");
    server.end();
}

/// openssl verifies the chain, gets a close_notify at the end, and resumes with the ticket that it
/// got.
#[test]
fn openssl_ends_in_order_and_resumes_with_a_ticket() {
    let server = Server::start(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let session = server.path(&format!("session{version}"));
        let (code, text) = server.s_client(&[version, "-msg", "-sess_out", &session], GET);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("Hello over TLS.") && text.contains("Verify return code: 0"),
            "{text}"
        );
        let received: Vec<_> = text.lines().filter(|line| line.starts_with("<<<")).collect();
        let last = received.last().unwrap();
        assert!(last.contains("close_notify"), "{last}");
        let (code, text) = server.s_client(&[version, "-sess_in", &session], GET);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("Reused, "), "{text}");
    }
    server.end();
}

#[test]
fn openssl_hears_that_no_application_protocol_is_common() {
    let server = Server::start(&[]);
    let (code, text) = server.s_client(&["-alpn", "h2"], GET);
    assert_ne!(code, 0);
    assert!(text.contains("no application protocol"), "{text}");
    let (code, text) = server.s_client(&["-alpn", "h2,http/1.1"], GET);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ALPN protocol: http/1.1"), "{text}");
    server.end();
}

#[test]
fn wrk_and_ab_get_no_errors_under_load() {
    // A busy machine may not complete a handshake within the default time.
    let server = Server::start(&["--handshake-timeout", "60", "--idle-timeout", "60"]);
    let (code, report) = run(Command::new("wrk").args(["-t1", "-c32", "-d2s", &server.url("/")]));
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("requests in") && !report.contains("Socket errors"), "{report}");
    assert!(!report.contains("Non-2xx"), "{report}");
    // Each request has a connection and a handshake of its own.
    let arguments = ["-q", "-n", "500", "-c", "16"];
    let (code, report) = run(Command::new("ab").args(arguments).arg(server.url("/")));
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("Complete requests:      500"), "{report}");
    assert!(report.contains("Failed requests:        0"), "{report}");
    server.end();
}

#[test]
fn chromium_shows_the_page() {
    let server = Server::start(&[]);
    // The profile is empty, so the browser does not know the authority of the test.
    let (code, page) = run(Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--no-proxy-server",
        ])
        .args(["--disable-background-networking", "--disable-component-update"])
        .arg(format!("--user-data-dir={}", server.path("profile")))
        .args(["--ignore-certificate-errors", "--dump-dom", &server.url("/")]));
    assert_eq!(code, 0, "{page}");
    assert!(page.contains("Hello over TLS."), "{page}");
    server.end();
}

#[test]
fn testssl_finds_no_weakness() {
    // The program opens hundreds of connections, and waits on some.
    let server = Server::start(&["--handshake-timeout", "60"]);
    let findings = server.path("findings.json");
    let (_, text) = run(Command::new("testssl")
        .args(["--quiet", "--color", "0", "--warnings", "off", "--protocols", "--vulnerable"])
        .args(["--jsonfile", &findings, &format!("127.0.0.1:{}", server.port)]));
    let findings = fs::read_to_string(findings).unwrap_or_else(|error| panic!("{error}: {text}"));
    let findings: Vec<Value> = serde_json::from_str(&findings).unwrap();
    let severity = |id: &str| {
        let finding = findings.iter().find(|finding| finding["id"] == id);
        finding.unwrap_or_else(|| panic!("no {id}: {text}"))["severity"].as_str().unwrap()
    };
    for id in ["SSLv2", "SSLv3", "TLS1_2", "TLS1_3", "heartbleed", "CCS", "ROBOT", "secure_renego"]
    {
        assert_eq!(severity(id), "OK", "{id}: {text}");
    }
    // The program also reports that its own OpenSSL has no engine for GOST.
    for finding in findings.iter().filter(|finding| finding["id"] != "engine_problem") {
        let severity = finding["severity"].as_str().unwrap();
        assert!(["OK", "INFO"].contains(&severity), "{finding}");
    }
    server.end();
}
