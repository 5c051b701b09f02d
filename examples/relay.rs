//! `relay LISTEN TARGET`: connects each client of LISTEN to TARGET, and passes on bytes, ends and
//! resets. It does not read from a side while the other one leaves a megabyte unread.
use std::{any::Any, env, error::Error, io, io::Write, process, sync::Arc};

use sockman::stateful::{Handler, Link, Remote};
use sockman::{ConnectOptions, ConnectionId, NextRecv, Options, Service, SockMan};
use sockman::{address::Destination, error::ConnectError, helpers::SendBudget, stats::HangUp};

type Value = Box<dyn Any + Send>;
struct Relay {
    target: Service,
    budget: SendBudget,
}
/// One side of a pair: the connection of a client, or the one to its target.
struct Side {
    other_id: ConnectionId,
    /// A client has none, and is not read, until its target is connected.
    other: Option<Remote<Side>>,
    /// The other side's stream has ended. So does the one to this side, after the queue.
    must_end: bool,
    open_streams: u8,
}
impl Side {
    fn send(&mut self, link: Link<'_, Side>, must_end: bool) {
        self.must_end |= must_end;
        let mut sent = link.drain().map(drop);
        if self.must_end && !link.queue().has_queued() {
            (sent, self.must_end) = (link.shutdown_write(), false);
            self.open_streams -= u8::from(sent.is_ok());
        }
        if sent.is_err() || self.open_streams == 0 {
            link.close();
        }
    }
}

#[rustfmt::skip]
impl Handler for Relay {
    type Connection = Side;
    fn accepted(&self, link: Link<'_, Side>, _: &Service, _: &Service) -> Option<Side> {
        let options = ConnectOptions::default();
        let other_id = link.sockman().start_connect_with(&self.target, &options, link.remote());
        let other_id = other_id.map_err(|_| link.abort()).ok()?;
        Some(Side { other_id, other: None, must_end: false, open_streams: 2 })
    }
    fn connected_with(
        &self, link: Link<'_, Side>, _: &Destination, _: &Service, client: Value,
    ) -> Option<Side> {
        let (client, target) = (*client.downcast::<Remote<Side>>().ok()?, link.remote());
        link.queue().resumes([client.id()]);
        client.queue().resumes([link.id()]);
        client.run(|_, client| client.other = Some(target)).ok()?; // Now the client is read.
        Some(Side { other_id: client.id(), other: Some(client), must_end: false, open_streams: 2 })
    }
    fn connect_failed_with(
        &self, _: &SockMan, _: ConnectionId, _: &Destination, _: ConnectError, client: Value,
    ) {
        let _ = client.downcast::<Remote<Side>>().map(|client| client.abort());
    }
    fn should_try_to_recv(&self, link: Link<'_, Side>, side: &mut Side) -> bool {
        let may = side.other.as_ref().is_some_and(|other| !other.queue().is_above_high_mark());
        if !may && link.info().is_some_and(|info| matches!(info.hung_up, Some(HangUp::Error(_)))) {
            link.close(); // A reset is not reported while the side is not read.
        }
        may
    }
    fn got_data(&self, link: Link<'_, Side>, side: &mut Side, data: &[u8]) {
        if side.other.as_ref().is_none_or(|other| other.push(data).is_err()) {
            link.abort(); // The other side is broken, or the budget is used up.
        }
    }
    fn ready_to_send(&self, link: Link<'_, Side>, side: &mut Side) -> NextRecv {
        side.send(link, false);
        NextRecv::Proceed
    }
    fn got_eof(&self, link: Link<'_, Side>, side: &mut Side) {
        side.open_streams -= 1;
        let _ = side.other.as_ref().map(|other| other.run(|link, other| other.send(link, true)));
        side.send(link, false);
    }
    fn closed(&self, sockman: &SockMan, _: ConnectionId, side: Side) {
        let _ = side.open_streams > 0 && sockman.abort_connection(side.other_id);
    }
    fn send_budget(&self) -> Option<&SendBudget> { Some(&self.budget) }
}

fn main() {
    let Err(error) = run() else { return };
    let _ = writeln!(io::stderr(), "relay: {error:#}");
    process::exit(1);
}
fn run() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args_os().skip(1).flat_map(|text| text.into_string()).collect();
    let [listen, target] = &*arguments else { return Err("usage: relay LISTEN TARGET".into()) };
    let relay = Relay { target: target.parse()?, budget: SendBudget::new(32_000_000) };
    let sockman = SockMan::with_state(Arc::new(relay), Options::default().sweep(None))?;
    writeln!(io::stdout(), "listening on {}", sockman.bind_and_start_listening(listen)?)?;
    Ok(sockman.run_sockets_thread()?)
}
