//! The server on tokio's current-thread runtime, with `tokio-rustls` and a task for each
//! connection.
use std::{error::Error, io, sync::Arc};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
    runtime::Builder,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{CONFIRMED, Task};
use crate::{cases::Case, pattern, server_process::announce};

/// As `sockman`'s, where all connections share one.
pub(super) const RECEIVE_BUFFER: usize = 64 * 1024;
/// The most bytes of a TLS record. A task receives as much at a time.
const RECORD: usize = 16 * 1024;

/// Serves until an error. With `buffer`, each connection has a buffer of this size between the
/// socket and rustls, which otherwise receives one record at a time.
pub(super) fn serve(
    task: Task,
    config: Arc<ServerConfig>,
    certificate: &[u8],
    buffer: Option<usize>,
) -> Result<(), Box<dyn Error>> {
    let acceptor = TlsAcceptor::from(config);
    Builder::new_current_thread().enable_io().build()?.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        announce(listener.local_addr()?, certificate);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let acceptor = acceptor.clone();
            // An error ends the task, which closes its connection.
            tokio::spawn(async move {
                match buffer {
                    None => talk(task, acceptor.accept(stream).await?).await,
                    Some(size) => {
                        let stream = BufReader::with_capacity(size, stream);
                        talk(task, acceptor.accept(stream).await?).await
                    }
                }
            });
        }
    })
}

async fn talk<S>(task: Task, mut stream: TlsStream<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut position = 0;
    if task.case == Case::TlsDownload {
        loop {
            stream.write_all(pattern::at(position, pattern::LONGEST)).await?;
            position += pattern::LONGEST as u64;
        }
    }
    let mut buffer = vec![0; RECORD];
    loop {
        let data = match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            length => &buffer[..length],
        };
        if task.case == Case::TlsEcho {
            stream.write_all(data).await?;
            stream.flush().await?;
        } else if task.is_checked {
            if !pattern::is_at(position, data) {
                return Ok(());
            }
            let before = position / CONFIRMED;
            position += data.len() as u64;
            if position / CONFIRMED > before {
                stream.write_all(b"k").await?;
                stream.flush().await?;
            }
        }
    }
}
