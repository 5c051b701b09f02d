//! `chat PORT`: a chat for thousands of members. Each line goes to everyone else. `/nick NAME` names
//! a member. A member that reads too slowly is dropped. Ctrl-C ends the chat in order.
use std::{env, error::Error, io, io::Write, mem, process, sync::Arc, time::Duration};

use sockman::helpers::{ConnectionTable, SendBudget, SendQueueLimits};
use sockman::stateful::{Handler, Link, Remote};
use sockman::{ConnectionId, Options, Service, SockMan};

/// The library receives at most this at once. A member whose line goes on after it is dropped.
const LONGEST_LINE: usize = 4096;
/// How long a member may take to receive the rest after the end.
const LINGER: Duration = Duration::from_secs(5);

struct Chat {
    members: ConnectionTable<Remote<Member>>,
    limits: SendQueueLimits,
    budget: SendBudget,
}
/// What the library keeps for each connection.
struct Member {
    nick: String,
    line: Vec<u8>, // The beginning of a line whose end has not arrived.
}
impl Chat {
    fn send_to_others(&self, from: Option<ConnectionId>, text: &str) {
        let text: Arc<[u8]> = text.as_bytes().into(); // One allocation for all members.
        for (_, member) in self.members.all().iter().filter(|(id, _)| Some(*id) != from) {
            let is_full = member.enqueue_shared(&text).is_err();
            // The queue may be full of lines that came in this very pass.
            if is_full && (member.drain().is_err() || member.enqueue_shared(&text).is_err()) {
                member.close(); // `closed` removes it.
            }
        }
    }
}
impl Handler for Chat {
    type Connection = Member;
    fn accepted(&self, link: Link<'_, Member>, _me: &Service, _them: &Service) -> Option<Member> {
        self.members.insert(link.id(), link.remote());
        Some(Member { nick: link.id().to_string(), line: Vec::new() })
    }
    fn got_data(&self, link: Link<'_, Member>, member: &mut Member, data: &[u8]) {
        member.line.extend_from_slice(data);
        let end = member.line.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let rest = member.line.split_off(end);
        let (lines, mut text) = (mem::replace(&mut member.line, rest), String::new());
        for line in String::from_utf8_lossy(&lines).lines().filter(|line| !line.is_empty()) {
            // No member can send control sequences to the terminals of the others.
            let line: String = line.chars().filter(|char| !char.is_control()).collect();
            match line.strip_prefix("/nick ") {
                Some(nick) => member.nick = nick.chars().take(16).collect(),
                None => text += &format!("{}: {line}\n", member.nick),
            }
        }
        if !text.is_empty() {
            self.send_to_others(Some(link.id()), &text);
        }
        if member.line.len() > LONGEST_LINE {
            link.close();
        }
    }
    fn got_eof(&self, link: Link<'_, Member>, _: &mut Member) {
        self.members.remove(link.id());
        link.finish(LINGER); // Sends what is queued, and then closes.
    }
    fn closed(&self, _: &SockMan, id: ConnectionId, _: Member) {
        self.members.remove(id);
    }
    fn queue_limits(&self) -> SendQueueLimits {
        self.limits
    }
    fn send_budget(&self) -> Option<&SendBudget> {
        Some(&self.budget)
    }
}
fn main() {
    let Err(error) = run() else { return };
    let _ = writeln!(io::stderr(), "chat: {error:#}");
    process::exit(1);
}
fn run() -> Result<(), Box<dyn Error>> {
    let port = env::args().nth(1).ok_or("usage: chat PORT")?;
    let limits = SendQueueLimits::new(32 << 10, 64 << 10, 256 << 10)?;
    let (members, budget) = (ConnectionTable::new(), SendBudget::new(256 << 20));
    let chat = Arc::new(Chat { members, limits, budget });
    let options = Options::default().sweep(None).receive_buffer(LONGEST_LINE);
    let sockman = SockMan::with_state(Arc::clone(&chat), options)?;
    let bound = sockman.bind_and_start_listening(format!("127.0.0.1:{port}"))?;
    let server = sockman.clone();
    ctrlc::set_handler(move || {
        chat.send_to_others(None, "the chat ends\n");
        server.drain_and_stop(LINGER);
    })?;
    writeln!(io::stdout(), "listening on {bound}")?;
    Ok(sockman.run_sockets_thread()?)
}
