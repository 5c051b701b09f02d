//! Does the work of `uptime` in the `http_rpc` example with hyper: a current-thread runtime reads
//! and writes, and four worker threads answer. `run.sh` measures both with wrk.

use std::{
    collections::VecDeque, convert::Infallible, env, error::Error, sync::Arc, thread, time::Instant,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

/// The default of `http_rpc`.
const WORKERS: usize = 4;

type Job = (Bytes, oneshot::Sender<Vec<u8>>);

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    changed: Condvar,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: http-peer ADDR")?;
    let queue = Arc::new(Queue::default());
    let start = Instant::now();
    for _ in 0..WORKERS {
        let queue = Arc::clone(&queue);
        thread::spawn(move || work(&queue, start));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            spawn_local(serve(stream, Arc::clone(&queue)));
        }
    })
}

fn work(queue: &Queue, start: Instant) {
    loop {
        let (body, answer) = {
            let mut jobs = queue.jobs.lock();
            loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => queue.changed.wait(&mut jobs),
                }
            }
        };
        let request: Value = serde_json::from_slice(&body).unwrap_or_default();
        let result = match request["method"].as_str() {
            Some("uptime") => json!(start.elapsed().as_secs()),
            _ => Value::Null,
        };
        let text = json!({ "jsonrpc": "2.0", "result": result, "id": request["id"] });
        // The send fails if the client has left.
        let _ = answer.send(format!("{text}\n").into_bytes());
    }
}

async fn serve(stream: TcpStream, queue: Arc<Queue>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| call(request, Arc::clone(&queue)));
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn call(
    request: Request<Incoming>,
    queue: Arc<Queue>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (sender, answer) = oneshot::channel();
    queue.jobs.lock().push_back((body, sender));
    queue.changed.notify_one();
    Ok(Response::new(Full::new(Bytes::from(answer.await.unwrap_or_default()))))
}
