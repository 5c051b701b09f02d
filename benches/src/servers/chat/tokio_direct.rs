//! The chat on tokio without a channel: the task that receives a line sends it to all members with
//! `try_write`. A member's own task only sends what the kernel did not accept.
use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use slab::Slab;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::Notify,
};

use super::{LONGEST_READ, MOST_UNREAD, complete_lines};
use crate::servers::{announce, leftovers::Leftovers, listen};

/// tokio requires that tasks can move to other threads, although this runtime has one thread.
type Members = Arc<Mutex<Slab<Arc<Member>>>>;

struct Member {
    stream: TcpStream,
    unsent: Mutex<Leftovers>,
    /// Wakes the member's task: there are unsent bytes, or the member is dropped.
    changed: Notify,
    is_dropped: AtomicBool,
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
            let member = Arc::new(Member {
                stream,
                unsent: Mutex::default(),
                changed: Notify::new(),
                is_dropped: AtomicBool::new(false),
            });
            let number = members.lock().insert(Arc::clone(&member));
            let members = Arc::clone(&members);
            tokio::spawn(async move {
                // The member is removed after every end, so an error needs no other treatment.
                let _ = serve_member(number, &member, &members).await;
                members.lock().remove(number);
            });
        }
    })
}

async fn serve_member(number: usize, member: &Member, members: &Members) -> io::Result<()> {
    let (mut beginning, mut buffer) = (Vec::new(), vec![0; LONGEST_READ]);
    while !member.is_dropped.load(Ordering::Relaxed) {
        let has_unsent = !member.unsent.lock().is_empty();
        tokio::select! {
            biased;
            ready = member.stream.readable() => {
                ready?;
                match member.stream.try_read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(received) => {
                        if let Some(text) = complete_lines(&mut beginning, &buffer[..received]) {
                            send_to_others(number, &text, members);
                        }
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            ready = member.stream.writable(), if has_unsent => {
                ready?;
                member.send_unsent()?;
            }
            () = member.changed.notified() => {}
        }
    }
    Ok(())
}

fn send_to_others(from: usize, text: &[u8], members: &Members) {
    for (number, member) in members.lock().iter() {
        if number != from {
            member.send(text);
        }
    }
}

impl Member {
    fn send(&self, text: &[u8]) {
        let mut unsent = self.unsent.lock();
        let mut sent = 0;
        if unsent.is_empty() {
            match self.stream.try_write(text) {
                Ok(count) if count == text.len() => return,
                Ok(count) => sent = count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // The member's task finds the same error.
                Err(_) => return,
            }
        }
        unsent.keep(&text[sent..]);
        if unsent.len() > MOST_UNREAD {
            self.is_dropped.store(true, Ordering::Relaxed);
        }
        self.changed.notify_one();
    }

    fn send_unsent(&self) -> io::Result<()> {
        let mut unsent = self.unsent.lock();
        match self.stream.try_write(unsent.as_slice()) {
            Ok(sent) => unsent.advance(sent),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}
