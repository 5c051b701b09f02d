//! A server that sends back what it receives.
#![allow(clippy::print_stdout, reason = "a program prints")]
use std::{error::Error, io, sync::Arc};

use sockman::{ConnectionId as Id, EventHandler, Options, Service, SockMan};

struct Echo;

impl EventHandler for Echo {
    fn event_new_connection_accepted(&self, _: &SockMan, _: Id, _: &Service, _: &Service) -> bool {
        true
    }
    fn event_got_data(&self, sockman: &SockMan, id: Id, data: &[u8]) {
        if sockman.send_bytes(id, data).ok() != Some(data.len()) {
            sockman.close_connection(id); // The peer does not read.
        }
    }
    fn event_got_eof(&self, sockman: &SockMan, id: Id) {
        sockman.close_connection(id);
    }
    fn event_got_permanent_read_error(&self, sockman: &SockMan, id: Id, _: &io::Error) {
        sockman.close_connection(id);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let sockman = SockMan::new(Arc::new(Echo), Options::default())?;
    println!("listening on {}", sockman.bind_and_start_listening("127.0.0.1:7000")?);
    Ok(sockman.run_sockets_thread()?)
}
