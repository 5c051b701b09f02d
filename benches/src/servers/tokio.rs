//! tokio on its current-thread runtime, with a task for each connection.
//!
//! The simple way is a buffer in each task and `read(&mut buffer).await`, which costs 64 KiB for
//! each idle connection. This server uses tokio's poll functions instead: all tasks share the
//! buffer of the thread, which `poll_read` fills and the task empties before it returns. Unlike
//! `try_read`, `poll_read` treats a short read as "empty" and needs no second call that would
//! block.
use std::{
    cell::RefCell,
    error::Error,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    runtime,
};

use super::{
    Contract, NOT_CALLED, RECEIVE_BUFFER, STOP_READING_ABOVE, Task, announce, leftovers::Leftovers,
    listen, listen_at,
};

thread_local! {
    /// The receive buffer of all tasks of the thread. No task borrows it while it waits.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; RECEIVE_BUFFER]);
}

pub(super) fn serve(task: Task) -> Result<(), Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listen()?)?;
        for _ in 0..task.more_listeners {
            let listener = TcpListener::from_std(listen_at(NOT_CALLED)?)?;
            tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        }
        announce(listener.local_addr()?)?;
        // The tasks borrow the zeroes until the process ends.
        let zeroes: &'static [u8] = Box::leak(vec![0; task.send_size].into_boxed_slice());
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e.into()),
            };
            stream.set_nodelay(true)?;
            // An error ends the task, which closes its connection.
            match task.contract {
                Contract::Source => drop(tokio::spawn(send_zeroes(stream, zeroes))),
                contract => drop(tokio::spawn(receive_and_send(stream, contract))),
            }
        }
    })
}

async fn receive_and_send(stream: TcpStream, contract: Contract) -> io::Result<()> {
    let leftovers = Leftovers::default();
    let mut connection = Connection { stream, leftovers, finished: false };
    poll_fn(|context| {
        BUFFER.with_borrow_mut(|buffer| connection.poll_until_done(context, contract, buffer))
    })
    .await
}

async fn send_zeroes(mut stream: TcpStream, zeroes: &[u8]) -> io::Result<()> {
    loop {
        poll_fn(|context| Pin::new(&mut stream).poll_write(context, zeroes)).await?;
    }
}

struct Connection {
    stream: TcpStream,
    leftovers: Leftovers,
    finished: bool,
}

impl Connection {
    /// Serves the connection until it would wait. tokio's budget ends a long poll, for fairness.
    fn poll_until_done(
        &mut self,
        context: &mut Context<'_>,
        contract: Contract,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        loop {
            let sent = self.poll_leftovers(context)?;
            if self.finished && self.leftovers.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let received = self.poll_receive(context, contract, buffer)?;
            if sent.is_pending() && received.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Sends leftovers. Pending if nothing was sent.
    fn poll_leftovers(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.leftovers.is_empty() {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(context, self.leftovers.as_slice())?;
        written.map(|sent| {
            self.leftovers.advance(sent);
            Ok(())
        })
    }

    /// Receives once and echoes. Pending if nothing was received.
    fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        contract: Contract,
        buffer: &mut [u8],
    ) -> Poll<io::Result<()>> {
        if self.finished || self.leftovers.len() > STOP_READING_ABOVE {
            return Poll::Pending;
        }
        let mut into = ReadBuf::new(buffer);
        if Pin::new(&mut self.stream).poll_read(context, &mut into)?.is_pending() {
            return Poll::Pending;
        }
        let data = into.filled();
        if data.is_empty() {
            self.finished = true;
        } else if contract == Contract::Echo {
            let mut sent = 0;
            if self.leftovers.is_empty() {
                let written = Pin::new(&mut self.stream).poll_write(context, data)?;
                sent = if let Poll::Ready(sent) = written { sent } else { 0 };
            }
            if sent < data.len() {
                self.leftovers.keep(&data[sent..]);
            }
        }
        Poll::Ready(Ok(()))
    }
}
