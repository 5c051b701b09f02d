//! The chat on `sockman`, as `examples/chat.rs` does it: a line is queued for every member without
//! a copy, and the socket thread sends what a member's queue has with one system call.
use std::{error::Error, sync::Arc};

use sockman::{
    ConnectionId, Options, Service, SockMan,
    helpers::{ConnectionTable, SendQueueLimits},
    stateful::{Handler, Link, Remote},
};

use super::{MOST_UNREAD, complete_lines};
use crate::servers::announce;

struct Chat {
    members: ConnectionTable<Remote<Member>>,
    limits: SendQueueLimits,
}

#[derive(Default)]
struct Member {
    beginning: Vec<u8>,
}

impl Handler for Chat {
    type Connection = Member;

    fn accepted(&self, link: Link<'_, Member>, _: &Service, _: &Service) -> Option<Member> {
        self.members.insert(link.id(), link.remote());
        Some(Member::default())
    }

    fn got_data(&self, link: Link<'_, Member>, member: &mut Member, data: &[u8]) {
        let Some(lines) = complete_lines(&mut member.beginning, data) else { return };
        for (id, other) in self.members.all() {
            if id == link.id() || other.enqueue_shared(&lines).is_ok() {
                continue;
            }
            // The queue may be full of lines that came in this pass.
            if other.drain().is_err() || other.enqueue_shared(&lines).is_err() {
                other.close();
            }
        }
    }

    fn got_eof(&self, link: Link<'_, Member>, _: &mut Member) {
        link.close();
    }

    fn closed(&self, _: &SockMan, id: ConnectionId, _: Member) {
        self.members.remove(id);
    }

    fn queue_limits(&self) -> SendQueueLimits {
        self.limits
    }
}

pub(crate) fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let limits = SendQueueLimits::new(MOST_UNREAD / 8, MOST_UNREAD / 4, MOST_UNREAD)?;
    let chat = Chat { members: ConnectionTable::new(), limits };
    let sockman = SockMan::with_state(Arc::new(chat), options)?;
    let bound = sockman.bind_and_start_listening("127.0.0.1:0")?;
    let threads = sockman.start_sockets_threads()?;
    announce(bound.to_socket_addr().ok_or("the listener is not bound to an IP address")?)?;
    Ok(threads.join()?)
}
