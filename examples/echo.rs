//! `echo MODE PORT`: an `echo`, a `sink` (discards) or a `source` (sends without end). The server
//! stops reading from a peer that leaves a megabyte unread. It keeps 32 megabytes for all peers.
use std::{env, error::Error, io, io::Write, process, sync::Arc, time::Duration};

use sockman::helpers::SendBudget;
use sockman::stateful::{Handler, Link};
use sockman::{NextRecv, Options, Service, SockMan};

struct Server {
    mode: String,
    budget: SendBudget,
}

impl Handler for Server {
    type Connection = ();

    fn accepted(&self, _: Link<'_, ()>, _me: &Service, _them: &Service) -> Option<()> {
        Some(())
    }
    fn should_try_to_send(&self, link: Link<'_, ()>, (): &mut ()) -> bool {
        self.mode == "source" || link.queue().has_queued()
    }
    fn ready_to_send(&self, link: Link<'_, ()>, (): &mut ()) -> NextRecv {
        let sent = match self.mode.as_str() {
            "source" => link.send(&[0; 256 * 1024]).map(|_| ()),
            _ => link.drain().map(|_| ()),
        };
        if sent.is_err() {
            link.close();
        }
        NextRecv::Proceed
    }
    fn got_data(&self, link: Link<'_, ()>, (): &mut (), data: &[u8]) {
        if self.mode == "echo" && link.push(data).is_err() {
            link.close();
        }
    }
    fn got_eof(&self, link: Link<'_, ()>, (): &mut ()) {
        if self.mode == "source" {
            link.close();
        } else {
            link.finish(Duration::MAX); // Sends what is queued, and then closes.
        }
    }
    fn send_budget(&self) -> Option<&SendBudget> {
        Some(&self.budget)
    }
}

fn main() {
    let Err(error) = run() else { return };
    let _ = writeln!(io::stderr(), "echo: {error:#}");
    process::exit(1);
}
fn run() -> Result<(), Box<dyn Error>> {
    let mode = env::args().nth(1).unwrap_or_default();
    let port = env::args().nth(2).filter(|_| ["echo", "sink", "source"].contains(&&*mode));
    let Some(port) = port else { return Err("usage: echo echo|sink|source PORT".into()) };
    let budget = SendBudget::new(32_000_000);
    // Every change of a hook's answer wakes the connection, so the server needs no sweep.
    let options = Options::default().sweep(None);
    let sockman = SockMan::with_state(Arc::new(Server { mode, budget }), options)?;
    let bound = sockman.bind_and_start_listening(format!("127.0.0.1:{port}"))?;
    writeln!(io::stdout(), "listening on {bound}")?;
    Ok(sockman.start_sockets_threads()?.join()?)
}
