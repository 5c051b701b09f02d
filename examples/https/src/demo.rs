//! The service of the program `https`: a greeting, an echo, and bytes to measure with.

use sockman_http_rpc::{
    Answer, HttpService, Response, Timers,
    parser::{Head, Request},
};

/// The longest answer of `/bytes/N`.
const MOST_BYTES: usize = 32 << 20;

/// Answers `GET /`, `GET /bytes/N` and `POST /echo`.
#[derive(Debug, Default)]
pub struct Demo;

impl HttpService for Demo {
    fn admit(&self, head: &Head) -> Result<(), Response> {
        match (&head.method[..], &head.path[..]) {
            ("POST", "/echo") => Ok(()),
            (_, "/echo") => Err(Response::text(405, "Use POST.").with_header("Allow", "POST")),
            ("GET" | "HEAD", path) if path == "/" || number_of_bytes(path).is_some() => Ok(()),
            (_, "/") => Err(Response::text(405, "Use GET.").with_header("Allow", "GET, HEAD")),
            _ => Err(Response::text(404, "There are: /, /bytes/N and /echo.")),
        }
    }

    fn answer(&self, request: Request, _: &Timers<'_>) -> Answer {
        let Request { head, body } = request;
        let response = match (&head.path[..], number_of_bytes(&head.path)) {
            (_, Some(bytes)) => Response::new(200, "application/octet-stream", vec![b'x'; bytes]),
            ("/echo", _) => Response::new(200, "application/octet-stream", body),
            _ => Response::text(200, "Hello over TLS."),
        };
        Answer::Response(response)
    }
}

/// Returns the N of `/bytes/N`, if it is not too large.
fn number_of_bytes(path: &str) -> Option<usize> {
    path.strip_prefix("/bytes/")?.parse().ok().filter(|bytes| *bytes <= MOST_BYTES)
}
