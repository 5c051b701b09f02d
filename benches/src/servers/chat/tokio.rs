//! The chat on tokio in the usual way: a task for each member, and a channel to each task. The task
//! that receives a line sends it to the channels of all others.
use std::{error::Error, io, sync::Arc};

use parking_lot::Mutex;
use slab::Slab;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime,
    sync::mpsc::{self, Receiver, Sender},
    task::AbortHandle,
};

use super::{LONGEST_READ, MOST_UNREAD, complete_lines};
use crate::servers::{announce, listen};

/// The size of a line of the load, bytes. A channel is bounded by a number of messages.
const USUAL_LINE: usize = 64;
/// The most messages that a task takes from its channel at once.
const BATCH: usize = 64;

/// tokio requires that tasks can move to other threads, although this runtime has one thread.
type Members = Arc<Mutex<Slab<Member>>>;

struct Member {
    lines: Sender<Arc<[u8]>>,
    task: AbortHandle,
}

pub(crate) fn serve() -> Result<(), Box<dyn Error>> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listen()?)?;
        announce(listener.local_addr()?)?;
        let members = Members::default();
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e.into()),
            };
            stream.set_nodelay(true)?;
            let (lines, heard) = mpsc::channel(MOST_UNREAD / USUAL_LINE);
            let mut all = members.lock();
            let entry = all.vacant_entry();
            let (number, members) = (entry.key(), Arc::clone(&members));
            let task = tokio::spawn(async move {
                // The member is removed after every end, so an error needs no other treatment.
                let _ = serve_member(number, stream, heard, &members).await;
                members.lock().try_remove(number);
            });
            entry.insert(Member { lines, task: task.abort_handle() });
        }
    })
}

async fn serve_member(
    number: usize,
    mut stream: TcpStream,
    mut heard: Receiver<Arc<[u8]>>,
    members: &Members,
) -> io::Result<()> {
    let (mut beginning, mut buffer) = (Vec::new(), vec![0; LONGEST_READ]);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = heard.recv_many(&mut batch, BATCH) => {
                match count {
                    0 => return Ok(()),
                    1 => stream.write_all(&batch[0]).await?,
                    _ => stream.write_all(&batch.concat()).await?,
                }
                batch.clear();
            }
            received = stream.read(&mut buffer) => {
                let received = received?;
                if received == 0 {
                    return Ok(());
                }
                if let Some(text) = complete_lines(&mut beginning, &buffer[..received]) {
                    send_to_others(number, &text, members);
                }
            }
        }
    }
}

fn send_to_others(from: usize, text: &Arc<[u8]>, members: &Members) {
    members.lock().retain(|number, member| {
        let keeps = number == from || member.lines.try_send(Arc::clone(text)).is_ok();
        if !keeps {
            // The member does not read, and its task waits for it. The abort closes the connection.
            member.task.abort();
        }
        keeps
    });
}
