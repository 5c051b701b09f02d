//! A task for each connect, on the current-thread runtime. The runtime watches each connection.
use std::{error::Error, io};

use tokio::{net::TcpStream, runtime, task::JoinSet};

use super::{serve_requests, targets};

pub(super) fn run(ports: &[u16]) -> Result<(), Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut connections = Vec::new();
    serve_requests(|count| {
        runtime.block_on(async {
            let mut connects = JoinSet::new();
            for to in targets(ports, count) {
                connects.spawn(async move {
                    let stream = TcpStream::connect(to).await?;
                    stream.set_nodelay(true)?;
                    io::Result::Ok(stream)
                });
            }
            while let Some(connected) = connects.join_next().await {
                connections.push(connected??);
            }
            Ok(())
        })
    })
}
