//! The memory of a JSON-RPC request is a small multiple of its body, whatever the body holds.
//!
//! This is a test binary of its own because it counts the allocations of the process. The method
//! that the first call of each batch names counts, while the rest of the batch waits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{alloc::System, fs, sync::Arc};

use data_encoding::BASE64;
use parking_lot::Mutex;
use serde_json::Value;
use sockman_http_rpc::{
    Config, Timers,
    rpc::{Cookie, Methods, Params, RpcResult, RpcService},
};
use sockman_test_support::tools::TempDir;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, Stats, StatsAlloc};
use support::{Client, start_with};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BODY: usize = 1 << 19;
/// The body itself may take twice its length, because a growing buffer doubles. The rest is for the
/// client of this test, which has the body twice, and for the connection.
const ALLOWED: usize = 6 * BODY;

fn in_use(stats: Stats) -> usize {
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// Counts the bytes in use during a call.
struct Counting {
    region: Mutex<Region<'static, System>>,
    during_call: Mutex<Vec<usize>>,
}

impl Methods for Counting {
    fn parameters(&self, method: &str) -> Option<&'static [&'static str]> {
        (method == "count").then_some(&["a", "b"])
    }

    fn call(&self, _: &str, _: &Params<'_>, _: &Timers<'_>) -> RpcResult {
        let used = in_use(self.region.lock().change());
        self.during_call.lock().push(used);
        Ok(Value::Null)
    }
}

#[test]
fn a_request_takes_a_small_multiple_of_its_body() {
    let service = Arc::new(RpcService {
        cookie: Cookie::generate().unwrap(),
        methods: Counting {
            region: Mutex::new(Region::new(ALLOCATOR)),
            during_call: Mutex::default(),
        },
    });
    let server = start_with(Config::default(), service.clone());
    let directory = TempDir::new();
    let path = directory.path("cookie");
    let cookie_file = service.cookie.write(&path).unwrap();
    let authorization = BASE64.encode(&fs::read(&path).unwrap());
    drop(cookie_file);

    let count = r#"{"method":"count"}"#;
    let many = |element: &str| vec![element; BODY / (element.len() + 1)].join(",");
    let bodies = [
        // The reported one.
        format!("[{count},{}]", many(r#"{"":1}"#)),
        format!("[{count},{}]", many("{}")),
        format!("[{count},{}]", many("[]")),
        format!("[{count},{}]", many("0")),
        format!("[{count},{}]", many(r#"{"a":{"b":[{}]}}"#)),
        format!("[{count},[{}]]", many("[[]]")),
        format!("[{count},{{{}}}]", many(r#""":0"#)),
        format!("[{count},\"{}\"]", "\\n".repeat(BODY / 2)),
        // One call with a large parameter, and one with large members besides.
        format!(r#"{{"method":"count","params":[[{}]]}}"#, many("0")),
        format!(r#"{{"method":"count","params":{{"b":[{}]}}}}"#, many("{}")),
        format!(r#"{{"method":"count","x":[{}]}}"#, many("{}")),
        format!(r#"{{"method":"count",{}}}"#, many(r#""":0"#)),
        format!(r#"{{"method":"count","id":[{}]}}"#, many("0")),
    ];
    for body in bodies {
        let shown = &body[..60];
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {authorization}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut client = Client::connect(&server);
        *service.methods.region.lock() = Region::new(ALLOCATOR);
        client.send(head);
        client.send(&body);
        client.receive().unwrap();
        let during_call = service.methods.during_call.lock().pop();
        let used = during_call.unwrap_or_else(|| panic!("no call was made for {shown}"));
        assert!(used < ALLOWED, "{used} bytes are in use for a body of {} ({shown})", body.len());
    }
}
