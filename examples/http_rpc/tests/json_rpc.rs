//! Tests of JSON-RPC (both versions, batches, parameters, the cookie) and of the program's wallet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::{
    fs,
    path::PathBuf,
    process,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use data_encoding::BASE64;
use serde_json::{Value, json};
use sockman::Interrupt;
use sockman_http_rpc::{
    Config, Server, Timers,
    methods::Wallets,
    rpc::{Cookie, CookieFile, Methods, Params, RpcResult, RpcService},
};
use support::{Answered, Client, DEADLINE, start_with};

struct Rpc {
    server: Server,
    service: Arc<RpcService<Wallets>>,
    authorization: String,
    cookie: PathBuf,
    cookie_file: CookieFile,
    stop: Interrupt,
}

fn cookie_path() -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    sockman_test_support::tools::temporary_directory()
        .join(format!("sockman-cookie-{}-{number}", process::id()))
}

fn start() -> Rpc {
    let (path, stop) = (cookie_path(), Interrupt::new());
    let methods = Wallets::new("open sesame", stop.clone());
    let service = Arc::new(RpcService { cookie: Cookie::generate().unwrap(), methods });
    let server = start_with(Config::default(), service.clone());
    let cookie_file = service.cookie.write(&path).unwrap();
    let authorization = format!("Basic {}", BASE64.encode(&fs::read(&path).unwrap()));
    Rpc { server, service, authorization, cookie: path, cookie_file, stop }
}

impl Rpc {
    fn request(&self, body: &str) -> String {
        format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.authorization,
            body.len()
        )
    }

    fn post(&self, body: &str) -> Answered {
        let mut client = Client::connect(&self.server);
        client.send(self.request(body));
        client.receive().unwrap()
    }

    fn call(&self, method: &str, params: &Value) -> Value {
        let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": 0 });
        let mut answer: Value =
            serde_json::from_slice(&self.post(&request.to_string()).body).unwrap();
        answer["result"].take()
    }
}

#[test]
fn requests_are_answered_in_their_own_version() {
    let rpc = start();
    let error = |code: i32, message: &str| json!({ "code": code, "message": message });
    let v1 = |error: Value| json!({ "result": null, "error": error, "id": 1 });
    let cases = [
        (
            r#"{"method": "echo", "params": [1, "a"], "id": 1}"#,
            200,
            json!({ "result": [1, "a"], "error": null, "id": 1 }),
        ),
        (
            r#"{"method": "echo", "params": {"arg1": "a"}, "jsonrpc": "1.0", "id": "x"}"#,
            200,
            json!({ "result": [null, "a", null, null], "error": null, "id": "x" }),
        ),
        (
            r#"{"method": "echo", "jsonrpc": "2.0", "id": null}"#,
            200,
            json!({ "jsonrpc": "2.0", "result": [], "id": null }),
        ),
        (r#"{"method": "no", "id": 1}"#, 404, v1(error(-32601, "Method not found"))),
        (
            r#"{"method": "no", "id": 1, "jsonrpc": "2.0"}"#,
            200,
            json!({ "jsonrpc": "2.0", "error": error(-32601, "Method not found"), "id": 1 }),
        ),
        (r#"{"id": 1}"#, 400, v1(error(-32600, "Missing method"))),
        (r#"{"id": 1, "method": 5}"#, 400, v1(error(-32600, "Method must be a string"))),
        (
            r#"{"id": 1, "method": "echo", "params": 5}"#,
            400,
            v1(error(-32600, "Params must be an array or object")),
        ),
        (
            r#"{"id": 1, "method": "echo", "jsonrpc": "3.0"}"#,
            400,
            v1(error(-32600, "JSON-RPC version not supported")),
        ),
        (
            r#"{"id": 1, "method": "echo", "jsonrpc": 2}"#,
            400,
            v1(error(-32600, "jsonrpc field must be a string")),
        ),
        // Bitcoin Core's command-line client sends the positional parameters as `args`.
        (
            r#"{"method": "echo", "params": {"args": [1], "arg2": 2}, "id": 1}"#,
            200,
            json!({ "result": [1, null, 2, null], "error": null, "id": 1 }),
        ),
        (
            r#"{"id": 1, "method": "echo", "params": {"args": [1], "arg0": 2}}"#,
            500,
            v1(error(-8, "Parameter arg0 specified twice both as positional and named argument")),
        ),
        (
            r#"{"id": 1, "method": "echo", "params": {"args": 1}}"#,
            500,
            v1(error(-8, "args must be an array")),
        ),
        // Of a member that is given twice, the first one counts. A named parameter must not be.
        (
            r#"{"id": 1, "method": "echo", "method": "no", "id": 2, "params": [1], "params": [2]}"#,
            200,
            json!({ "result": [1], "error": null, "id": 1 }),
        ),
        (
            r#"{"id": 1, "method": "echo", "params": {"arg0": 1, "arg0": 1}}"#,
            500,
            v1(error(-8, "Parameter arg0 specified multiple times")),
        ),
        (
            r#"{"id": 1, "method": "echo", "params": {"arg0": 1, "\u0061rg0": 2}}"#,
            500,
            v1(error(-8, "Parameter arg0 specified multiple times")),
        ),
        (
            r#"{"id": 1, "method": "echo", "params": {"args": [1], "args": [1]}}"#,
            500,
            v1(error(-8, "Parameter args specified multiple times")),
        ),
        (r#"{"id": 1, "method": "uptime", "params": [1]}"#, 500, v1(error(-1, "usage: uptime"))),
        (
            r#"{"id": 1, "method": "echo", "params": {"arg9": 1}}"#,
            500,
            v1(error(-8, "Unknown named parameter arg9")),
        ),
        (
            r#"{"id": 1, "method": "walletpassphrase", "params": ["x", "y"]}"#,
            500,
            v1(error(-3, "timeout is not of expected type number")),
        ),
        (
            r#"{"id": 1, "method": "walletpassphrase", "params": ["x"]}"#,
            500,
            v1(error(-1, "timeout is missing")),
        ),
        (
            r#"{"id": 1, "method": "walletpassphrase", "params": ["x", 5]}"#,
            500,
            v1(error(-14, "Error: The wallet passphrase entered was incorrect.")),
        ),
        (
            r#"{"id": 1, "method": "echo", "jsonrpc": null}"#,
            200,
            json!({ "result": [], "error": null, "id": 1 }),
        ),
        ("{", 500, json!({ "result": null, "error": error(-32700, "Parse error"), "id": null })),
        (
            "5",
            500,
            json!({ "result": null, "error": error(-32700, "Top-level object parse error"),
                    "id": null }),
        ),
        ("[]", 200, json!([])),
        (
            r#"[{"method": "echo", "id": 1}, 5, {"method": "echo", "jsonrpc": "2.0"},
                {"method": "no", "jsonrpc": "2.0", "id": 2}]"#,
            200,
            json!([
                { "result": [], "error": null, "id": 1 },
                { "result": null, "error": error(-32600, "Invalid Request object"), "id": null },
                { "jsonrpc": "2.0", "error": error(-32601, "Method not found"), "id": 2 },
            ]),
        ),
    ];
    for (request, status, expected) in cases {
        let answered = rpc.post(request);
        assert_eq!(answered.status, status, "{request}");
        assert_eq!(serde_json::from_slice::<Value>(&answered.body).unwrap(), expected, "{request}");
    }
}

#[test]
fn a_notification_has_no_answer() {
    let rpc = start();
    for request in [
        r#"{"method": "echo", "jsonrpc": "2.0"}"#,
        r#"[{"method": "echo", "jsonrpc": "2.0"}, {"method": "no", "jsonrpc": "2.0"}]"#,
    ] {
        let answered = rpc.post(request);
        assert_eq!((answered.status, answered.body.len()), (204, 0));
    }
}

/// Bitcoin Core's functional tests expect this answer, too.
#[test]
fn a_request_without_id_gets_an_answer_without_id() {
    let rpc = start();
    let error = |code: i32, message: &str| json!({ "code": code, "message": message });
    let failed = |code, message| json!({ "result": null, "error": error(code, message) });
    let cases = [
        (r#"{"method": "echo"}"#, 200, json!({ "result": [], "error": null })),
        (r#"{"method": "echo", "jsonrpc": null}"#, 200, json!({ "result": [], "error": null })),
        (r#"{"method": "no"}"#, 404, failed(-32601, "Method not found")),
        ("{}", 400, failed(-32600, "Missing method")),
        (
            r#"{"method": "echo", "jsonrpc": "3.0"}"#,
            400,
            failed(-32600, "JSON-RPC version not supported"),
        ),
        (
            r#"[{"method": "echo"}, {"method": "echo", "id": null}]"#,
            200,
            json!([
                { "result": [], "error": null },
                { "result": [], "error": null, "id": null },
            ]),
        ),
    ];
    for (request, status, expected) in cases {
        let answered = rpc.post(request);
        assert_eq!(answered.status, status, "{request}");
        assert_eq!(serde_json::from_slice::<Value>(&answered.body).unwrap(), expected, "{request}");
    }
}

#[test]
fn numbers_come_back_as_they_were_written() {
    let rpc = start();
    for number in [
        "0",
        "-0",
        "18446744073709551616",
        "123456789012345678901234567890",
        "0.10000000",
        "20999999.97690000",
        "0.1234567890123456789",
        "1e+400",
        "1E400",
        "1.0e-0",
    ] {
        let request = format!(r#"{{"id": {number}, "method": "echo", "params": [{number}]}}"#);
        let expected = format!("{{\"result\":[{number}],\"error\":null,\"id\":{number}}}\n");
        assert_eq!(String::from_utf8(rpc.post(&request).body).unwrap(), expected);
    }
    for id in [r#""x""#, r#"["a",{"b":[]}]"#, "true"] {
        let request = format!(r#"{{"id": {id}, "method": "echo", "jsonrpc": "2.0"}}"#);
        let expected = format!("{{\"jsonrpc\":\"2.0\",\"result\":[],\"id\":{id}}}\n");
        assert_eq!(String::from_utf8(rpc.post(&request).body).unwrap(), expected);
    }
}

/// A result that holds values of the request holds the same text.
#[test]
fn values_come_back_as_they_were_sent() {
    let rpc = start();
    for value in [
        r#"{"a":1,"a":2,"b":{"c":1,"c":1}}"#,
        r#"{"$serde_json::private::Number":"1"}"#,
        r#"{"$serde_json::private::Number":"x"}"#,
        r#"{"$serde_json::private::Number":1,"b":2}"#,
        r#"{"$serde_json::private::RawValue":"1"}"#,
        r#"[{"z": 1, "a" :2 }]"#,
        r#""\u00e4\/\ud83d\ude00""#,
    ] {
        for params in [format!("[{value}]"), format!(r#"{{"args": [{value}]}}"#)] {
            let request = format!(r#"{{"id":{value},"method":"echo","params":{params}}}"#);
            let text = String::from_utf8(rpc.post(&request).body).unwrap();
            assert!(text.starts_with(&format!("{{\"result\":[{value}")), "{text}");
            assert!(text.ends_with(&format!(",\"error\":null,\"id\":{value}}}\n")), "{text}");
        }
    }
    // Such an object is not a number, and a string with the text of one is not either.
    for timeout in [r#"{"$serde_json::private::Number":"1"}"#, r#""1""#, "1.0", "true"] {
        let params = format!(r#"["open sesame",{timeout}]"#);
        let answered = rpc.post(&format!(r#"{{"method":"walletpassphrase","params":{params}}}"#));
        let answer: Value = serde_json::from_slice(&answered.body).unwrap();
        assert_eq!(answer["error"]["code"], json!(-3), "{timeout}");
    }
}

/// No call is made for a body that is not JSON, even if it begins with calls.
#[test]
fn a_body_that_is_not_json_is_a_parse_error_and_no_call_is_made() {
    let rpc = start();
    let stop = r#"{"method":"stop"}"#;
    for rest in [
        "",
        ",",
        ",]",
        "]]",
        "] x",
        ",01]",
        ",+1]",
        ",1.]",
        ",.5]",
        ",0x1]",
        ",nan]",
        ",tru]",
        ",'a']",
        ",\"\u{1}\"]",
        ",\"\\x\"]",
        ",\"\\ud800\"]",
        ",{a:1}]",
        ",{\"a\"}]",
        ",{\"a\":1,}]",
        ",/**/1]",
    ] {
        let answered = rpc.post(&format!("[{stop}{rest}"));
        let answer: Value = serde_json::from_slice(&answered.body).unwrap();
        assert_eq!((answered.status, &answer["error"]["code"]), (500, &json!(-32700)), "{rest}");
    }
    assert!(!rpc.stop.is_interrupted());
}

#[test]
fn deep_nesting_is_a_parse_error() {
    let rpc = start();
    assert_eq!(rpc.post(&"[".repeat(1_000_000)).status, 500);
    assert_eq!(rpc.post(&("[".repeat(1_000) + &"]".repeat(1_000))).status, 500);
    // With its feature `raw_value`, serde_json would parse the content of such a string, and the
    // strings in it, with unlimited recursion, and overflow the stack.
    let object = r#"{"$serde_json::private::RawValue":"[]"}"#;
    let answered = rpc.post(&format!(r#"{{"method": "echo", "params": [{object}]}}"#));
    let expected = format!("{{\"result\":[{object}],\"error\":null}}\n");
    assert_eq!(String::from_utf8(answered.body).unwrap(), expected);
}

/// A method whose answer has a megabyte.
#[derive(Default)]
struct Long {
    calls: AtomicU64,
}

impl Methods for Long {
    fn parameters(&self, _: &str) -> Option<&'static [&'static str]> {
        Some(&[])
    }

    fn call(&self, _: &str, _: &Params<'_>, _: &Timers<'_>) -> RpcResult {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(Value::String("x".repeat(1 << 20)))
    }
}

#[test]
fn the_answers_of_a_batch_are_limited_together() {
    let service =
        Arc::new(RpcService { cookie: Cookie::generate().unwrap(), methods: Long::default() });
    let server = start_with(Config::default(), service.clone());
    let path = cookie_path();
    let _cookie_file = service.cookie.write(&path).unwrap();
    let authorization = BASE64.encode(&fs::read(&path).unwrap());
    let post = |calls: usize| {
        let body = format!("[{}]", vec![r#"{"method": "long"}"#; calls].join(","));
        let mut client = Client::connect(&server);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {authorization}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.receive().unwrap()
    };
    let answered = post(31);
    assert_eq!(answered.status, 200);
    assert!(answered.body.len() > 31 << 20);
    assert_eq!(service.methods.calls.swap(0, Ordering::Relaxed), 31);

    let answered = post(100);
    assert_eq!(answered.status, 500);
    let answer: Value = serde_json::from_slice(&answered.body).unwrap();
    assert_eq!((&answer["error"]["code"], &answer["id"]), (&json!(-1), &Value::Null));
    assert_eq!(
        service.methods.calls.load(Ordering::Relaxed),
        32,
        "calls were made beyond the limit"
    );
}

#[test]
fn the_cookie_is_required_and_readable_only_by_its_owner() {
    let rpc = start();
    #[cfg(unix)]
    assert_eq!(fs::metadata(&rpc.cookie).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&rpc.cookie).unwrap().starts_with("__cookie__:"));

    let right = rpc.authorization.clone();
    let other_case = right.replacen("Basic", "bASIC", 1);
    let (mut wrong, mut short) = (right.clone(), right.clone());
    wrong.replace_range(right.len() - 2.., "AA");
    short.truncate(right.len() - 1);
    let cases = [
        (format!("Authorization: {right}\r\n"), 200),
        (format!("Authorization: {other_case}\r\n"), 200),
        (format!("Authorization: {wrong}\r\n"), 401),
        (format!("Authorization: {short}\r\n"), 401),
        (format!("Authorization: {right}A\r\n"), 401),
        (format!("Authorization: Bearer {}\r\n", &right[6..]), 401),
        ("Authorization: Basic \r\n".to_owned(), 401),
        ("Authorization: B\r\n".to_owned(), 401),
        (String::new(), 401),
        (format!("Authorization: {right}\r\nAuthorization: {right}\r\n"), 400),
    ];
    for (header, status) in cases {
        let body = r#"{"method": "uptime"}"#;
        let length = body.len();
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{header}Content-Length: {length}\r\n");
        let mut client = Client::connect(&rpc.server);
        client.send(format!("{head}\r\n{body}"));
        let answered = client.receive().unwrap();
        assert_eq!(answered.status, status, "{header}");
        assert_eq!(answered.header("www-authenticate").is_some(), status == 401);
    }
    let Rpc { server, cookie, cookie_file, .. } = rpc;
    server.stop().unwrap();
    drop(cookie_file);
    assert!(!cookie.exists(), "the cookie file remains after the server");
}

#[cfg(unix)] // With a symbolic link.
#[test]
fn a_cookie_replaces_an_old_file_and_does_not_remove_a_newer_one() {
    let path = cookie_path();
    let other = path.with_extension("other");
    fs::write(&other, "precious").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    let (first, second) = (Cookie::generate().unwrap(), Cookie::generate().unwrap());
    let first_file = first.write(&path).unwrap();
    assert_eq!(
        fs::read_to_string(&other).unwrap(),
        "precious",
        "the cookie was written through the link"
    );
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    // Another server writes its cookie to the same path.
    let second_file = second.write(&path).unwrap();
    drop(first_file);
    let text = fs::read(&path).unwrap();
    let admits =
        |cookie: &Cookie| cookie.admits(Some(format!("Basic {}", BASE64.encode(&text)).as_bytes()));
    assert!(admits(&second) && !admits(&first));
    drop(second_file);
    assert!(!path.exists());
    fs::remove_file(&other).unwrap();
}

#[test]
fn only_post_to_the_root_path_is_served() {
    let rpc = start();
    let mut client = Client::connect(&rpc.server);
    assert_eq!(client.ask("POST /wallet HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"), 404);
    let mut client = Client::connect(&rpc.server);
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answered = client.receive().unwrap();
    assert_eq!((answered.status, answered.header("allow")), (405, Some("POST")));
}

#[test]
fn an_unlocked_wallet_locks_itself_again() {
    let rpc = start();
    let unlocked = |rpc: &Rpc| rpc.call("getwalletinfo", &Value::Null)["unlocked"].clone();
    assert_eq!(unlocked(&rpc), false);
    // `walletlock` clears the timer of the first call. The last call moves the timer of the third
    // call.
    rpc.call("walletpassphrase", &json!(["open sesame", 100_000_000]));
    assert_eq!(unlocked(&rpc), true);
    rpc.call("walletlock", &Value::Null);
    assert_eq!(unlocked(&rpc), false);
    rpc.call("walletpassphrase", &json!(["open sesame", 1000]));
    rpc.call("walletpassphrase", &json!({ "passphrase": "open sesame", "timeout": 1 }));
    // The test reads the wallet directly. A request would cause a pass of the loop, which runs the
    // timers.
    let wallet = &rpc.service.methods;
    let deadline = Instant::now() + DEADLINE;
    while wallet.info()["unlocked"] == true {
        assert!(Instant::now() < deadline, "the wallet stays unlocked");
        thread::park_timeout(Duration::from_millis(1));
    }
    // The wallet was not locked early. The test allows any delay of the lock.
    assert!(wallet.info()["locked_late_by_ms"].as_f64().unwrap() >= 0.0);
    rpc.server.stop().unwrap();
}

#[test]
fn a_call_that_waits_ends_with_the_server() {
    let rpc = start();
    let mut client = Client::connect(&rpc.server);
    // The call is answered before the server stops, whether a worker has begun it or not.
    client.send(rpc.request(r#"{"method": "wait", "params": [60000], "id": 1}"#));
    let mut other = Client::connect(&rpc.server);
    other.send(rpc.request(r#"{"method": "stop", "id": 1}"#));
    assert_eq!(other.receive().unwrap().status, 200);
    assert!(!rpc.stop.sleep_for(Duration::from_secs(60)), "`stop` did not set the interrupt");
    assert_eq!(client.receive().unwrap().status, 500);
    rpc.server.stop().unwrap();
}

/// Two containers that share a directory can have the same process id.
#[test]
fn a_temporary_cookie_of_another_process_is_left_alone() {
    let path = cookie_path();
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}.tmp", process::id()));
    fs::write(&temporary, "of another process").unwrap();
    let file = Cookie::generate().unwrap().write(&path).unwrap();
    assert_eq!(fs::read(&temporary).unwrap(), b"of another process");
    drop(file);
    fs::remove_file(&temporary).unwrap();
}
