//! Tests of the request parser, without sockets. The parser finds the same requests in a stream,
//! whatever pieces the stream arrives in.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sockman_http_rpc::{
    chunked::{ChunkedBody, ChunkedError},
    parser::{MAX_HEAD, RequestParser},
    testing::{End, Outcome, parse},
};

const MAX_BODY: usize = 1000;
/// Streams of at least this length are not cut at every byte.
const SHORT: usize = 600;
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
const SECOND: &str = "GET /second HTTP/1.1\r\nHost: x\r\n\r\n";

const MALFORMED: End = refused(400);

const fn refused(status: u16) -> End {
    End::Refused { status, to_head: false }
}

/// Returns a head with these lines.
fn head(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\r\n")).collect::<String>() + "\r\n"
}

fn get(lines: &[&str]) -> String {
    head(&[&["GET / HTTP/1.1", "Host: x"], lines].concat())
}

fn post(lines: &[&str]) -> String {
    head(&[&["POST / HTTP/1.1", "Host: x"], lines].concat())
}

/// Returns a head of `length` bytes.
fn head_of(length: usize) -> String {
    let empty = get(&["X: "]).len();
    get(&[&format!("X: {}", "y".repeat(length - empty))])
}

/// Returns streams, the bodies of the requests in each stream, and the state after these requests.
fn streams() -> Vec<(String, Vec<&'static str>, End)> {
    let mut streams = well_framed();
    let faults = faults().into_iter().map(|(stream, status)| (stream, vec![], refused(status)));
    streams.extend(faults);
    // A fault after a request is refused, too, like all bytes after the fault.
    let faults = streams.iter().filter(|(_, bodies, end)| bodies.is_empty() && *end == MALFORMED);
    let behind: Vec<_> = faults
        .map(|(stream, ..)| (format!("{SECOND}{stream}{SECOND}"), vec![""], MALFORMED))
        .collect();
    streams.extend(behind);
    streams
}

fn well_framed() -> Vec<(String, Vec<&'static str>, End)> {
    let length = post(&["Content-Length: 5"]);
    let chunks = format!("{CHUNKED}5;a=\"b\"\r\nhello\r\n00006 \t; c\r\n world\r\n");
    let empty_body = post(&["Content-Length: 0"]);
    vec![
        (String::new(), vec![], End::Idle),
        ("\r\n".repeat(4), vec![], End::Idle),
        ("\r".to_owned(), vec![], End::WithinHead),
        (format!("{}\r", "\r\n".repeat(4)), vec![], End::WithinHead),
        (get(&[]), vec![""], End::Idle),
        (format!("{}{}", "\r\n".repeat(4), get(&[])), vec![""], End::Idle),
        (format!("{SECOND}\r\n\r\n{SECOND}\r\n"), vec!["", ""], End::Idle),
        (format!("{SECOND}G"), vec![""], End::WithinHead),
        (SECOND.repeat(9), vec![""; 9], End::Idle),
        (head(&["GET / HTTP/1.0"]), vec![""], End::Idle),
        (length.clone(), vec![], End::WithinBody),
        (format!("{length}hell"), vec![], End::WithinBody),
        (format!("{length}hello{SECOND}"), vec!["hello", ""], End::Idle),
        (format!("{length}hello\r\n{length}\r\nabc"), vec!["hello", "\r\nabc"], End::Idle),
        (format!("{empty_body}{empty_body}"), vec!["", ""], End::Idle),
        (CHUNKED.to_owned(), vec![], End::WithinBody),
        (format!("{chunks}0\r\n"), vec![], End::WithinBody),
        (format!("{chunks}0\r\n\r\n"), vec!["hello world"], End::Idle),
        (
            format!("{chunks}000;x\r\nX: y\r\nZ:\t\r\n\r\n{SECOND}"),
            vec!["hello world", ""],
            End::Idle,
        ),
        (format!("{CHUNKED}0\r\n\r\n{CHUNKED}0\r\n\r\n"), vec!["", ""], End::Idle),
        (head_of(MAX_HEAD), vec![""], End::Idle),
        (head_of(MAX_HEAD) + SECOND, vec!["", ""], End::Idle),
    ]
}

fn faults() -> Vec<(String, u16)> {
    let length_and_host = ["Host: y", "Content-Length: 5"];
    let mut faults = vec![
        ("\r\n".repeat(5), 400),
        ("\r\n".repeat(5_000), 400),
        (format!("\r{SECOND}"), 400),
        (format!("\n{SECOND}"), 400),
        (format!(" {SECOND}"), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (head(&["GET / HTTP/1.1"]), 400),
        (head(&["GET relative HTTP/1.1", "Host: x"]), 400),
        (get(&length_and_host), 400),
        (get(&["X: a\rY: b"]), 400),
        (get(&["X: a\nY: b"]), 400),
        (get(&["X: \0"]), 400),
        (get(&[" folded"]), 400),
        (get(&["Authorization: a", "Authorization: b"]), 400),
        (head(&["GET /secret HTTP/1.1", "Host: x"]), 401),
        (head(&["POST /secret HTTP/1.1", "Host: x", "Content-Length: 9999"]), 401),
        (post(&["Content-Length: 1001"]), 413),
        (post(&["Content-Length: 18446744073709551615"]), 413),
        (post(&["Expect: a miracle"]), 417),
        (head_of(MAX_HEAD + 1), 431),
        (head_of(2 * MAX_HEAD), 431),
        ("G".repeat(MAX_HEAD), 431),
        (get(&["A: b"; 101]), 431),
        (post(&["Transfer-Encoding: gzip"]), 501),
        (head(&["GET / HTTP/2.0", "Host: x"]), 505),
        (format!("{CHUNKED}3e9\r\n"), 413),
        (format!("{CHUNKED}3e8\r\n{}\r\n1\r\n", "x".repeat(1000)), 413),
        (format!("{CHUNKED}fffffffff\r\n"), 413),
        (format!("{CHUNKED}1\r\nabc"), 400),
        (format!("{CHUNKED}1\r\na\r\r"), 400),
        (format!("{CHUNKED}{}", "0".repeat(256)), 400),
    ];
    for framing in [
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Content-Length: +5", ""],
        ["Content-Length: 5, 5", ""],
        ["Content-Length: 0x5", ""],
        ["Content-Length:", ""],
        ["Transfer-Encoding : chunked", ""],
        ["Content-Length: 5,", ""],
        ["Content-Length: ,5", ""],
        ["Content-Length: 5;a", ""],
        ["Content-Length: 5 5", ""],
        ["Content-Length: 5.0", ""],
        ["Content-Length: \u{665}", ""],
        ["Content-Length: 18446744073709551616", ""],
        ["Content-Length:\u{b}5", ""],
        ["Content-Length : 5", ""],
        ["Content-Length\t: 5", ""],
        ["Content-Length: 5", "content-length: 6"],
        ["Content-Length: 0", "Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked, identity", ""],
        ["Transfer-Encoding: chunked, chunked", ""],
        ["Transfer-Encoding: chunked,", ""],
        ["Transfer-Encoding: gzip, chunked, gzip", ""],
        ["Transfer-Encoding: Chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: \u{b}chunked\u{b}", "Content-Length: 5"],
        ["Transfer-Encoding: chunked\rX: y", ""],
        ["Transfer-Encoding:", " chunked"],
    ] {
        faults.push((post(framing.as_slice()), 400));
    }
    for coding in
        ["gzip, chunked", ", chunked", "chunked;a=b", "\"chunked\"", "xchunked", "chunked x", ""]
    {
        faults.push((post(&[&format!("Transfer-Encoding: {coding}")]), 501));
    }
    faults.push((head(&["POST / HTTP/1.0", "Transfer-Encoding: chunked"]), 400));
    faults
}

fn check(stream: &str, bodies: &[&str], end: End) {
    let bytes = stream.as_bytes();
    let whole = parse([bytes], MAX_BODY);
    assert_eq!(whole.end, end, "{stream:?}");
    let found: Vec<_> = whole.requests.iter().map(|request| &request.body[..]).collect();
    assert_eq!(found, bodies.iter().map(|body| body.as_bytes()).collect::<Vec<_>>(), "{stream:?}");

    let all = 0..=bytes.len();
    let cuts: Vec<usize> = match bytes.len() {
        ..SHORT => all.collect(),
        length => all.filter(|cut| cut % 509 < 2 || length - cut < 10).collect(),
    };
    for cut in cuts {
        let (first, second) = bytes.split_at(cut);
        assert_eq!(parse([first, second], MAX_BODY), whole, "{stream:?} cut at {cut}");
    }
    assert_eq!(parse(bytes.chunks(1), MAX_BODY), whole, "{stream:?} in single bytes");
}

#[test]
fn a_stream_holds_the_same_requests_and_faults_in_any_pieces() {
    for (stream, bodies, end) in streams() {
        check(&stream, &bodies, end);
    }
}

/// Two programs that parse a line differently can be made to see different bodies.
#[test]
fn lines_of_chunks_are_strict() {
    let zeros = |count| "0".repeat(count);
    let nineteen = "x".repeat(19);
    let good = [
        "13\r\n".to_owned(),
        "13;a\r\n".to_owned(),
        "13 \t; \ta\t=\t\"\" ;b=c;d\r\n".to_owned(),
        "13;a=\"b;c=\\\"\\\\\t\u{e4} \"\r\n".to_owned(),
        "000000013\r\n".to_owned(),
        // Lines of the longest allowed length.
        format!("{}13\r\n", zeros(252)),
        format!("13;{}\r\n", "x".repeat(251)),
    ];
    for size in good {
        let body = format!("{size}{nineteen}\r\n0\r\n\r\n");
        assert_eq!(chunked(&body), Ok(nineteen.clone().into_bytes()), "{body:?}");
    }
    let bad = [
        "",
        ";a",
        " 13",
        "\t13",
        "1 3",
        "13 x",
        "+13",
        "-13",
        "0x13",
        "1_3",
        "13\u{b}",
        "13\u{c}",
        "13\u{a0}",
        "13\r",
        "\r13",
        "13\0",
        "13;a\rb",
        "13;a\0b",
        "13;a\u{c}b",
        "13;a\u{7f}b",
        "13\u{c};a",
        "\u{ff11}3",
        // Blanks that no extension follows.
        "13 ",
        "13\t",
        "13  \t",
        "13;a ",
        "13;a=b\t",
        "13;a=\"b\" ",
        // Extensions that are none.
        "13;",
        "13; ",
        "13\t;",
        "13;a;",
        "13;;a",
        "13;=b",
        "13;a=",
        "13;a= ;b",
        "13;a=b=c",
        "13;a b",
        "13;a\tb",
        "13;a,b",
        "13;\u{e4}",
        "13;a=\u{e4}",
        "13;a=\"",
        "13;a=\"b",
        "13;a=\"b\\\"",
        "13;a=\"b\"c",
        "13;\"a\"",
        "13,a",
        "13=a",
    ];
    let too_long = [format!("{}13", zeros(253)), format!("13;{}", "x".repeat(252))];
    for size in bad.map(str::to_owned).into_iter().chain(too_long) {
        let body = format!("{size}\r\n{nineteen}\r\n0\r\n\r\n");
        assert_eq!(chunked(&body), Err(ChunkedError::Malformed), "{body:?}");
    }
    for size in ["3e9", "0003e9", "ffffffff", "100000000", "0000fffffffffffffffff"] {
        assert_eq!(chunked(&format!("{size}\r\n")), Err(ChunkedError::TooLarge), "{size}");
    }
}

#[test]
fn trailers_are_fields() {
    let trailers = |line: &str| chunked(&format!("1\r\na\r\n0\r\n{line}\r\n\r\n"));
    for line in ["X: y", "X:", "x-1_.!#$%&'*+^`|~: a\tb \u{e4}", "X: y\r\nZ: :"] {
        assert_eq!(trailers(line), Ok(b"a".to_vec()), "{line:?}");
    }
    for line in [
        "X",
        ": y",
        " X: y",
        "X : y",
        "X\t: y",
        "X: a\rb",
        "X: \0",
        "X: a\u{c}",
        "(: y",
        "\u{e4}: y",
        "\rX: y",
        "X: y\r",
        "X: y\n",
    ] {
        assert_eq!(trailers(line), Err(ChunkedError::Malformed), "{line:?}");
    }
    // The trailers and the empty line have 8 KiB together, in one line or in many.
    let fits = [format!("X:{}", "y".repeat(8192 - 6)), vec!["X:"; 2047].join("\r\n") + "yy"];
    for lines in fits {
        assert_eq!(trailers(&lines), Ok(b"a".to_vec()));
        assert_eq!(trailers(&(lines + "y")), Err(ChunkedError::Malformed));
    }
}

/// Decodes a chunked body, from its first size to its end, in one piece and in single bytes.
fn chunked(body: &str) -> Result<Vec<u8>, ChunkedError> {
    let read = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut chunked = ChunkedBody::new(MAX_BODY);
        for piece in pieces {
            assert!(!chunked.is_complete(), "the body was complete before its last byte");
            assert_eq!(chunked.receive(piece)?, piece.len());
        }
        assert!(chunked.is_complete());
        Ok(chunked.into_bytes())
    };
    let whole = read(&mut [body.as_bytes()].into_iter());
    assert_eq!(read(&mut body.as_bytes().chunks(1)), whole, "{body:?} in single bytes");
    whole
}

#[test]
fn a_refused_head_request_is_marked_as_head() {
    let cases = [
        (head(&["HEAD /secret HTTP/1.1", "Host: x"]), 401, true),
        (head(&["HEAD / HTTP/1.1", "Host: x", "Content-Length: 1001"]), 413, true),
        (
            head(&["HEAD / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]) + "3e9\r\n",
            413,
            true,
        ),
        (head(&["HEAD / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked"]) + "x\r\n", 400, true),
        // The head cannot be parsed.
        (head(&["HEAD / HTTP/1.1"]), 400, false),
        (head(&["head /secret HTTP/1.1", "Host: x"]), 401, false),
    ];
    for (stream, status, to_head) in cases {
        check(&stream, &[], End::Refused { status, to_head });
    }
}

#[test]
fn one_close_option_overrides_keep_alive() {
    let cases: &[(&str, &[&str], bool)] = &[
        ("1.1", &[], true),
        ("1.1", &["keep-alive"], true),
        ("1.1", &["close"], false),
        ("1.1", &["Close , keep-alive"], false),
        ("1.1", &["keep-alive", "close"], false),
        ("1.0", &[], false),
        ("1.0", &["keep-alive"], true),
        ("1.0", &["x, Keep-Alive"], true),
        ("1.0", &["close, keep-alive"], false),
        ("1.0", &["keep-alive, close"], false),
        ("1.0", &["close", "keep-alive"], false),
        ("1.0", &["keep-alive", "close"], false),
        ("1.0", &["keep-alive", "x"], true),
    ];
    for (version, connection, expected) in cases {
        let lines: String =
            connection.iter().map(|value| format!("Connection: {value}\r\n")).collect();
        let stream = format!("GET / HTTP/{version}\r\nHost: x\r\n{lines}\r\n");
        let outcome = parse([stream.as_bytes()], MAX_BODY);
        assert_eq!(outcome.requests[0].keep_alive, *expected, "{stream:?}");
    }
}

#[test]
fn a_query_does_not_choose_the_path() {
    let cases = [
        ("/a/b", "/a/b"),
        ("/a?x=/secret", "/a"),
        ("/?http://host/secret", "/"),
        ("http://host", "/"),
        ("http://host/", "/"),
        ("http://host/a?x", "/a"),
        ("http://host?x=/secret", "/"),
        ("http://host?/secret", "/"),
        ("/%2F:@!$&'()*+,;=-._~", "/%2F:@!$&'()*+,;=-._~"),
        ("/?/?:@%20", "/"),
        ("//a", "//a"),
    ];
    for (target, expected) in cases {
        let stream = head(&[&format!("GET {target} HTTP/1.1"), "Host: x"]);
        let outcome = parse([stream.as_bytes()], MAX_BODY);
        assert_eq!((&*outcome.requests[0].path, outcome.end), (expected, End::Idle), "{target}");
    }
    let outcome = parse([head(&["OPTIONS * HTTP/1.1", "Host: x"]).as_bytes()], MAX_BODY);
    assert_eq!((&*outcome.requests[0].path, outcome.end), ("*", End::Idle));
}

/// RFC 9112, section 3.2.
#[test]
fn a_target_outside_the_grammar_is_refused() {
    for target in [
        "*",
        "/a#b",
        "http://host#b",
        "/a\"b",
        "/a<b",
        "/a>b",
        "/a\\b",
        "/a^b",
        "/a`b",
        "/a{b",
        "/a|b",
        "/a}b",
        "/a[b",
        "/a]b",
        "/\u{e4}",
        "/%",
        "/%2",
        "/%2g",
        "/?%",
        "/?a\"b",
        "/?a[b",
        "/\t",
        "a",
        "host:80",
        "http:/",
        "http:///a",
        "http://",
        "https://host/",
        "http://user@host/",
        "http://[::1/",
        "http://host:x/",
        "ftp://host/",
        "http://ho\\st/",
    ] {
        check(&head(&[&format!("GET {target} HTTP/1.1"), "Host: x"]), &[], MALFORMED);
    }
    // The request line has one blank between its parts, and nothing around them. What follows the
    // second blank is the version.
    for line in [
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\t",
        "GET / HTTP/1.1\r",
        "GET /",
        "GET / ",
        "GET HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\u{e4}T / HTTP/1.1",
        ":GET / HTTP/1.1",
        "GET / b HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.1x",
        "GET / HTTP/1",
        "GET / HTTP/11",
        "GET / HTTP/1.2",
        "GET / HTTP/ 1.1",
        "GET / HTP/1.1",
    ] {
        let End::Refused { status, .. } = parse([head(&[line, "Host: x"]).as_bytes()], 0).end
        else {
            panic!("{line:?} is accepted")
        };
        assert!(matches!(status, 400 | 505), "{line:?}: {status}");
    }
}

/// RFC 9110, section 7.2, and RFC 3986, section 3.2.
#[test]
fn a_host_outside_the_grammar_is_refused() {
    for host in [
        "x",
        "X.example",
        "x:80",
        "x:",
        "127.0.0.1:8332",
        "[::1]",
        "[::1]:80",
        "[::1]:",
        "[2001:db8::1]",
        "[v1.a:b]",
        "a-b_c~d.e",
        "!$&'()*+,;=",
        "%41b",
        "",
    ] {
        let outcome = parse([head(&["GET / HTTP/1.1", &format!("Host: {host}")]).as_bytes()], 0);
        assert_eq!(outcome.end, End::Idle, "{host:?}");
        assert_eq!(outcome.requests[0].host.as_deref(), Some(host));
    }
    for host in [
        "a b",
        "a\tb",
        "a, b",
        "a,b c",
        ":80",
        ":",
        "x:80:80",
        "x:-1",
        "x:+1",
        "x:8o",
        "x: 80",
        "x :80",
        "user@x",
        "x/",
        "/x",
        "x?y",
        "x#y",
        "http://x",
        "a\"b",
        "a<b>",
        "a\\b",
        "a^b",
        "a`b",
        "{x}",
        "a|b",
        "%",
        "%4",
        "%zz",
        "\u{e4}",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]x:80",
        "[::1] :80",
        "[]",
        "[]:80",
        "[x]",
        "[127.0.0.1]",
        "[::1%25eth0]",
        "[fe80::1%1]",
        "[v1]",
        "[v.a]",
        "[vg.a]",
        "[v1.]",
        "::1",
        "[[::1]]",
        "x[::1]",
        "a\rb",
        "a\0b",
    ] {
        for version in ["1.0", "1.1"] {
            let stream = head(&[&format!("GET / HTTP/{version}"), &format!("Host: {host}")]);
            check(&stream, &[], MALFORMED);
        }
    }
    // The host of the target replaces the Host header, which must be there nevertheless.
    let lines = ["GET http://[::1]:8332/a HTTP/1.1", "Host: x"];
    let outcome = parse([head(&lines).as_bytes()], MAX_BODY);
    assert_eq!(outcome.requests[0].host.as_deref(), Some("[::1]:8332"));
    check(&head(&lines[..1]), &[], MALFORMED);
}

/// RFC 9112, sections 2.2 and 5.
#[test]
fn a_header_outside_the_grammar_is_refused() {
    for line in [
        "A : b",
        "A\t: b",
        ": b",
        " : b",
        "A",
        "A b: c",
        "A\u{e4}: b",
        "A(: b",
        "A,: b",
        "\"A\": b",
        "@: b",
        "A: \0",
        "A: b\rc",
        "A: b\r",
        "\rA: b",
        "A: \u{7f}",
        "A: \u{b}",
        "A: \u{1b}",
        "A\r: b",
        "A:\r b",
    ] {
        check(&get(&[line]), &[], MALFORMED);
        check(&head(&["GET / HTTP/1.1", line, "Host: x"]), &[], MALFORMED);
    }
    // A folded line, in the middle, as the first and as the last header.
    for fold in [" b", "\tb", " ", "\t", " X: y"] {
        check(&get(&[fold]), &[], MALFORMED);
        check(&get(&["A: a", fold, "B: b"]), &[], MALFORMED);
        check(&head(&["GET / HTTP/1.1", fold, "Host: x"]), &[], MALFORMED);
    }
    for line in ["A:b", "A:", "A: \t b \t", "a!#$%&'*+-.^_`|~1: b", "A: \u{e4}\"(),:;<>@[\\]"] {
        check(&get(&[line]), &[""], End::Idle);
    }
}

/// The `Debug` output of the parser, the head and the request shows no secret.
#[test]
fn credentials_and_bodies_are_never_printed() {
    const SECRET: &str = "c2VjcmV0";
    let decimal = format!("{:?}", SECRET.as_bytes());
    let is_printed = |printed: String| {
        assert!(!printed.is_empty());
        printed.contains(SECRET) || printed.contains(decimal.trim_matches(['[', ']']))
    };
    let authorization = format!("Authorization: Basic {SECRET}");
    for (framing, body) in [
        ("Content-Length: 8".to_owned(), SECRET.to_owned()),
        ("Transfer-Encoding: chunked".to_owned(), format!("8\r\n{SECRET}\r\n0\r\n\r\n")),
    ] {
        let stream = post(&[&authorization, &framing]) + &body;
        let mut parser = RequestParser::new(MAX_BODY);
        for byte in stream.as_bytes() {
            parser.receive(&[*byte]);
            assert!(!is_printed(format!("{parser:?}")));
            let next = parser.next(|head| {
                assert_eq!(
                    head.authorization.as_ref().unwrap().as_bytes(),
                    &authorization.as_bytes()[15..]
                );
                assert!(!is_printed(format!("{head:?}")));
                Ok(())
            });
            assert!(!is_printed(format!("{next:?}")));
        }
        parser.receive(stream.as_bytes());
        assert!(!is_printed(format!("{parser:?}")));
    }
}

/// If each request moved all the bytes after it, the parser would move a hundred gigabytes.
#[test]
fn a_hundred_thousand_requests_that_arrive_together_are_all_parsed() {
    const REQUESTS: usize = 100_000;
    let stream = head(&["GET / HTTP/1.0"]).repeat(REQUESTS);
    let Outcome { requests, end } = parse([stream.as_bytes()], MAX_BODY);
    assert_eq!((requests.len(), end), (REQUESTS, End::Idle));
}
