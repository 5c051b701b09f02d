//! The server on `sockman`, with `sockman-rustls`. It keeps what a client does not take, and reads
//! nothing from that client until then.
use std::{error::Error, sync::Arc};

use rustls::ServerConfig;
use sockman::{Options, SockMan};
use sockman_rustls::{Tls, TlsHandler, TlsLink, TlsSettings};

use super::{CONFIRMED, Task};
use crate::{cases::Case, pattern, server_process::announce};

pub(super) fn serve(
    task: Task,
    config: Arc<ServerConfig>,
    certificate: &[u8],
) -> Result<(), Box<dyn Error>> {
    let tls = Tls::server(Arc::new(Server { task }), config, TlsSettings::default())?;
    let sockman = SockMan::with_state(Arc::new(tls), Options::default().sweep(None))?;
    let bound = sockman.bind_and_start_listening("127.0.0.1:0")?;
    let address = bound.to_socket_addr().ok_or("the listener is not bound to an IP address")?;
    announce(address, certificate);
    Ok(sockman.run_sockets_thread()?)
}

struct Server {
    task: Task,
}

#[derive(Default)]
struct Client {
    /// What the echo has received and not sent.
    rest: Vec<u8>,
    /// The bytes that were received by a sink, or sent by a source.
    position: u64,
}

impl Client {
    /// Sends the pattern until there is no room.
    fn send(&mut self, link: &mut TlsLink<'_, Client>) {
        loop {
            match link.write(pattern::at(self.position, pattern::LONGEST)) {
                Ok(taken) => {
                    self.position += taken as u64;
                    if taken < pattern::LONGEST {
                        return; // `got_room` follows.
                    }
                }
                Err(_) => return, // The connection ends.
            }
        }
    }

    /// Checks what was received, and confirms it.
    fn check(&mut self, link: &mut TlsLink<'_, Client>) {
        let (is_right, length) = (pattern::is_at(self.position, link.data()), link.data().len());
        let before = self.position / CONFIRMED;
        self.position += length as u64;
        let is_due = self.position / CONFIRMED > before;
        if !is_right || is_due && link.write(b"k") != Ok(1) {
            link.close();
        }
    }
}

impl TlsHandler for Server {
    type Connection = Client;

    fn secured(&self, link: &mut TlsLink<'_, Client>) -> Option<Client> {
        let mut client = Client::default();
        if self.task.case == Case::TlsDownload {
            client.send(link);
        }
        Some(client)
    }

    fn got_data(&self, link: &mut TlsLink<'_, Client>, client: &mut Client) {
        match self.task.case {
            Case::TlsEcho => {
                client.rest.extend_from_slice(link.data());
                self.got_room(link, client);
            }
            _ if self.task.is_checked => client.check(link),
            _ => {}
        }
    }

    fn got_room(&self, link: &mut TlsLink<'_, Client>, client: &mut Client) {
        if self.task.case == Case::TlsDownload {
            client.send(link);
        } else if let Ok(taken) = link.write(&client.rest) {
            client.rest.drain(..taken);
        }
    }
}
