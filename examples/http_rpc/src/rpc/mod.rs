//! JSON-RPC over HTTP, as Bitcoin Core speaks it: versions 1.0 and 2.0, single requests and
//! batches, positional and named parameters.
//!
//! Calls run on the worker threads of a [`Server`](crate::Server). This module defines no methods.
//! The program provides them by implementing [`Methods`].

mod cookie;
mod message;

use serde_json::{Value, json, value::RawValue};

use crate::{
    Answer, HttpService, Response, Timers,
    parser::{Credentials, Head, Request},
};

use self::message::Members;

pub use self::cookie::{Cookie, CookieFile};

// The error codes of the JSON-RPC standard (Bitcoin Core's `src/rpc/protocol.h`).
const INVALID_REQUEST: i32 = -32600;
/// The code for an unknown method.
pub const METHOD_NOT_FOUND: i32 = -32601;
const PARSE_ERROR: i32 = -32700;
// Bitcoin Core's own error codes (the same file).
/// The code for an error without a more specific code.
pub const MISC_ERROR: i32 = -1;
const TYPE_ERROR: i32 = -3;
/// The code for a parameter with an invalid value.
pub const INVALID_PARAMETER: i32 = -8;

/// The limit for the answers of one batch together, in bytes. This limit equals the default limit
/// of a request's body. A short call can have a long answer, and a batch can hold thousands of
/// calls.
const MAX_BATCH_ANSWER: usize = 32 * 1024 * 1024;

/// The error of a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// The error code.
    pub code: i32,
    /// The reason, for the user.
    pub message: String,
}

impl RpcError {
    /// Returns an error with this code and message.
    pub fn new(code: i32, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into() }
    }

    fn to_value(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

/// The result of a method.
pub type RpcResult = Result<Value, RpcError>;

/// The parameters of a call, in the order of the method's parameter list. A parameter that is null
/// counts as missing. The values are the text that the client sent, as parts of the body.
#[derive(Debug)]
pub struct Params<'a> {
    names: &'static [&'static str],
    values: Vec<Option<&'a RawValue>>,
}

impl<'a> Params<'a> {
    /// Assigns the parameters of a request to `names`.
    ///
    /// # Errors
    ///
    /// The request has more parameters than the method, one with an unknown name, or one twice.
    fn new(
        method: &str,
        names: &'static [&'static str],
        params: Option<&'a RawValue>,
    ) -> Result<Params<'a>, RpcError> {
        let values = match params.filter(|params| !message::is_null(params)) {
            None => Vec::new(),
            Some(params) => match (positional(names, params), named(names, params)?) {
                (Some(values), _) | (None, Some(values)) => values,
                (None, None) => {
                    let message = "Params must be an array or object";
                    return Err(RpcError::new(INVALID_REQUEST, message));
                }
            },
        };
        if values.len() > names.len() {
            return Err(RpcError::new(MISC_ERROR, format!("usage: {}", usage(method, names))));
        }
        Ok(Params { names, values })
    }

    /// Returns all parameters as a JSON array, each one as the client sent it.
    pub fn all(&self) -> String {
        let texts: Vec<_> =
            self.values.iter().map(|value| value.map_or("null", RawValue::get)).collect();
        format!("[{}]", texts.join(","))
    }

    fn value(&self, index: usize) -> Option<&'a RawValue> {
        self.values.get(index).copied().flatten().filter(|value| !message::is_null(value))
    }

    fn wrong_type(&self, index: usize, expected: &str) -> RpcError {
        let name = self.names.get(index).copied().unwrap_or("parameter");
        RpcError::new(TYPE_ERROR, format!("{name} is not of expected type {expected}"))
    }

    fn missing(&self, index: usize) -> RpcError {
        let name = self.names.get(index).copied().unwrap_or("parameter");
        RpcError::new(MISC_ERROR, format!("{name} is missing"))
    }

    /// Returns the parameter with this index as a string.
    ///
    /// # Errors
    ///
    /// The parameter is of another type.
    pub fn string(&self, index: usize) -> Result<Option<String>, RpcError> {
        self.value(index)
            .map(|value| message::string(value).ok_or_else(|| self.wrong_type(index, "string")))
            .transpose()
    }

    /// Returns the parameter with this index as an integer.
    ///
    /// # Errors
    ///
    /// The parameter is of another type.
    pub fn integer(&self, index: usize) -> Result<Option<i64>, RpcError> {
        self.value(index)
            .map(|value| value.get().parse().map_err(|_| self.wrong_type(index, "number")))
            .transpose()
    }

    /// Returns the parameter with this index as a boolean.
    ///
    /// # Errors
    ///
    /// The parameter is of another type.
    pub fn boolean(&self, index: usize) -> Result<Option<bool>, RpcError> {
        self.value(index)
            .map(|value| value.get().parse().map_err(|_| self.wrong_type(index, "bool")))
            .transpose()
    }

    /// Returns the parameter with this index, read by one of the methods above.
    ///
    /// # Errors
    ///
    /// The parameter is missing, or of another type.
    pub fn required<T>(
        &self,
        index: usize,
        of_type: impl FnOnce(&Params<'a>, usize) -> Result<Option<T>, RpcError>,
    ) -> Result<T, RpcError> {
        of_type(self, index)?.ok_or_else(|| self.missing(index))
    }
}

/// Returns the elements of an array, and no more of them than one beyond the method's parameters.
/// Returns `None` for another value.
fn positional<'a>(names: &[&str], params: &'a RawValue) -> Option<Vec<Option<&'a RawValue>>> {
    let mut values = Vec::new();
    message::for_each_element(params, |value| {
        if values.len() <= names.len() {
            values.push(Some(value));
        }
    })
    .then_some(values)
}

/// Returns the members of an object in the order of `names`. Returns `None` for another value.
fn named<'a>(
    names: &[&str],
    params: &'a RawValue,
) -> Result<Option<Vec<Option<&'a RawValue>>>, RpcError> {
    let invalid = |message: String| Err(RpcError::new(INVALID_PARAMETER, message));
    let mut named = vec![None; names.len()];
    // Bitcoin Core's command-line client sends the positional parameters under this name.
    let (args_name, mut args) = ("args", None);
    let (mut twice, mut unknown) = (None, None);
    let is_object = message::for_each_member(params, |name, value| {
        let place = match names.iter().position(|other| *other == name) {
            Some(index) => named.get_mut(index),
            None => (name == args_name).then_some(&mut args),
        };
        match place {
            None => drop(unknown.get_or_insert_with(|| name.to_owned())),
            Some(place @ None) => *place = Some(value),
            Some(Some(_)) => drop(twice.get_or_insert_with(|| name.to_owned())),
        }
    });
    if !is_object {
        return Ok(None);
    }
    if let Some(name) = twice {
        return invalid(format!("Parameter {name} specified multiple times"));
    }
    let mut values = match args.map(|args| positional(names, args)) {
        None => Vec::new(),
        Some(Some(values)) => values,
        Some(None) => return invalid("args must be an array".to_owned()),
    };
    for (index, (name, value)) in names.iter().zip(named).enumerate() {
        match value {
            Some(_) if index < values.len() => {
                return invalid(format!(
                    "Parameter {name} specified twice both as positional and named argument"
                ));
            }
            None if index < values.len() => {}
            value => values.push(value),
        }
    }
    match unknown {
        None => Ok(Some(values)),
        Some(name) => invalid(format!("Unknown named parameter {}", name.escape_debug())),
    }
}

/// A method and the names of its parameters.
pub type Method = (&'static str, &'static [&'static str]);

fn usage(method: &str, names: &[&str]) -> String {
    let mut usage = method.to_owned();
    for name in names {
        usage.push(' ');
        usage += name;
    }
    usage
}

/// Returns the result of the method `help`: a list of all methods, or the parameters of one.
pub fn help(methods: &[Method], command: Option<&str>) -> Value {
    let all = || methods.iter().map(|(name, names)| usage(name, names));
    match command {
        None => json!(all().collect::<Vec<_>>().join("\n")),
        Some(command) => match methods.iter().find(|(name, _)| *name == command) {
            Some((name, names)) => json!(usage(name, names)),
            None => json!(format!("help: unknown command: {}", command.escape_debug())),
        },
    }
}

/// Implement this trait to provide methods.
pub trait Methods: Send + Sync {
    /// Returns the names of a method's parameters, or `None` if the method does not exist.
    fn parameters(&self, method: &str) -> Option<&'static [&'static str]>;

    /// Calls a method. Called on a worker thread.
    ///
    /// # Errors
    ///
    /// An [`RpcError`] is sent to the client.
    fn call(&self, method: &str, params: &Params<'_>, timers: &Timers<'_>) -> RpcResult;

    /// Calls a method and returns its result as JSON text. Called on a worker thread. The default
    /// calls [`call`](Self::call). Implement this method for a result that holds values of the
    /// request, which must stay as the client sent them.
    ///
    /// # Errors
    ///
    /// An [`RpcError`] is sent to the client.
    fn call_for_text(
        &self,
        method: &str,
        params: &Params<'_>,
        timers: &Timers<'_>,
    ) -> Result<String, RpcError> {
        self.call(method, params, timers).map(|value| value.to_string())
    }

    /// Called on the socket thread when a timer set with [`Timers::set`] has expired.
    fn timer_ended(&self, number: u32) {
        let _ = number;
    }
}

/// The [`HttpService`] that answers JSON-RPC requests. The service requires POST, the path `/` and
/// the cookie.
#[derive(Debug)]
pub struct RpcService<M> {
    /// The credentials that a client must send.
    pub cookie: Cookie,
    /// The methods that a client can call.
    pub methods: M,
}

impl<M: Methods> HttpService for RpcService<M> {
    fn admit(&self, head: &Head) -> Result<(), Response> {
        if head.path != "/" {
            return Err(Response::text(
                404,
                "This path does not exist. Send JSON-RPC requests to /.",
            ));
        }
        if head.method != "POST" {
            let answer = Response::text(405, "JSONRPC server handles only POST requests");
            return Err(answer.with_header("Allow", "POST"));
        }
        if !self.cookie.admits(head.authorization.as_ref().map(Credentials::as_bytes)) {
            let realm = "Basic realm=\"jsonrpc\"";
            let answer =
                Response::text(401, "Send the user and the password from the cookie file.");
            return Err(answer.with_header("WWW-Authenticate", realm));
        }
        Ok(())
    }

    fn answer(&self, request: Request, timers: &Timers<'_>) -> Answer {
        Answer::Response(self.respond(&request.body, timers))
    }

    fn timer_ended(&self, number: u32) {
        self.methods.timer_ended(number);
    }
}

/// The version of a request. The version decides the form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// The answer has a result and an error, and one of them is null. The HTTP status depends on
    /// the error.
    V1,
    /// The answer has either a result or an error. The HTTP status is 200. A request without an id
    /// is a notification and gets no answer.
    V2,
}

/// A completed call.
struct Done<'a> {
    version: Version,
    /// `None` if the request had no id. The answer to such a request has no id either.
    id: Option<&'a RawValue>,
    /// The result is JSON text.
    result: Result<String, RpcError>,
}

impl<M: Methods> RpcService<M> {
    fn respond(&self, body: &[u8], timers: &Timers<'_>) -> Response {
        let Some(value) = message::check(body) else {
            return failed(PARSE_ERROR, "Parse error");
        };
        if let Some(request) = Members::of(value) {
            self.respond_to_one(request, timers)
        } else if value.get().starts_with('[') {
            self.respond_to_batch(value, timers)
        } else {
            failed(PARSE_ERROR, "Top-level object parse error")
        }
    }

    fn respond_to_one(&self, request: Members<'_>, timers: &Timers<'_>) -> Response {
        let done = self.execute(request, timers);
        if done.is_notification() {
            return Response::empty(204);
        }
        let status = match (&done.result, done.version) {
            (Ok(_), _) | (Err(_), Version::V2) => 200,
            (Err(error), Version::V1) => http_status(error.code),
        };
        done.into_response(status)
    }

    /// Returns the answer to a batch. As in Bitcoin Core, an empty batch has an empty answer.
    fn respond_to_batch(&self, batch: &RawValue, timers: &Timers<'_>) -> Response {
        let (mut is_empty, mut is_too_long) = (true, false);
        let mut answers = Vec::new();
        message::for_each_element(batch, |request| {
            is_empty = false;
            if is_too_long {
                return;
            }
            let done = match Members::of(request) {
                Some(request) => self.execute(request, timers),
                None => Done::without_request(INVALID_REQUEST, "Invalid Request object"),
            };
            if done.is_notification() {
                return;
            }
            answers.push(if answers.is_empty() { b'[' } else { b',' });
            done.write(&mut answers);
            is_too_long = answers.len() > MAX_BATCH_ANSWER;
        });
        if is_too_long {
            let message = format!(
                "The answers of this batch exceed {MAX_BATCH_ANSWER} bytes. The remaining calls \
                 were not made. Send a smaller batch."
            );
            return failed(MISC_ERROR, &message);
        }
        match (answers.is_empty(), is_empty) {
            (true, false) => return Response::empty(204),
            (true, true) => answers.extend_from_slice(b"[]"),
            (false, _) => answers.push(b']'),
        }
        Response::json(200, answers)
    }

    fn execute<'a>(&self, request: Members<'a>, timers: &Timers<'_>) -> Done<'a> {
        let id = request.id;
        let version = match request.jsonrpc.filter(|version| !message::is_null(version)) {
            None => Ok(Version::V1),
            Some(version) => match message::string(version).as_deref() {
                Some("1.0") => Ok(Version::V1),
                Some("2.0") => Ok(Version::V2),
                Some(_) => Err("JSON-RPC version not supported"),
                None => Err("jsonrpc field must be a string"),
            },
        };
        match version {
            Ok(version) => Done { version, id, result: self.call(request, timers) },
            Err(message) => {
                let result = Err(RpcError::new(INVALID_REQUEST, message));
                Done { version: Version::V1, id, result }
            }
        }
    }

    fn call(&self, request: Members<'_>, timers: &Timers<'_>) -> Result<String, RpcError> {
        let invalid = |message| Err(RpcError::new(INVALID_REQUEST, message));
        let Some(method) = request.method.filter(|method| !message::is_null(method)) else {
            return invalid("Missing method");
        };
        let Some(method) = message::string(method) else {
            return invalid("Method must be a string");
        };
        let Some(names) = self.methods.parameters(&method) else {
            return Err(RpcError::new(METHOD_NOT_FOUND, "Method not found"));
        };
        let params = Params::new(&method, names, request.params)?;
        self.methods.call_for_text(&method, &params, timers)
    }
}

impl Done<'_> {
    /// Returns the answer to a message that is not a request.
    fn without_request(code: i32, message: &str) -> Done<'static> {
        let (id, result) = (Some(RawValue::NULL), Err(RpcError::new(code, message)));
        Done { version: Version::V1, id, result }
    }

    fn is_notification(&self) -> bool {
        self.version == Version::V2 && self.id.is_none()
    }

    fn into_response(self, status: u16) -> Response {
        let mut answer = Vec::new();
        self.write(&mut answer);
        Response::json(status, answer)
    }

    /// Appends the answer. The members have the order that Bitcoin Core uses.
    fn write(self, answer: &mut Vec<u8>) {
        let (before, behind): (&[u8], &[u8]) = match (self.version, &self.result) {
            (Version::V1, Ok(_)) => (b"{\"result\":", b",\"error\":null"),
            (Version::V1, Err(_)) => (b"{\"result\":null,\"error\":", b""),
            (Version::V2, Ok(_)) => (b"{\"jsonrpc\":\"2.0\",\"result\":", b""),
            (Version::V2, Err(_)) => (b"{\"jsonrpc\":\"2.0\",\"error\":", b""),
        };
        answer.extend_from_slice(before);
        let result = self.result.unwrap_or_else(|error| error.to_value().to_string());
        answer.extend_from_slice(result.as_bytes());
        answer.extend_from_slice(behind);
        if let Some(id) = self.id {
            answer.extend_from_slice(b",\"id\":");
            answer.extend_from_slice(id.get().as_bytes());
        }
        answer.push(b'}');
    }
}

fn failed(code: i32, message: &str) -> Response {
    Done::without_request(code, message).into_response(http_status(code))
}

fn http_status(code: i32) -> u16 {
    match code {
        INVALID_REQUEST => 400,
        METHOD_NOT_FOUND => 404,
        _ => 500,
    }
}
