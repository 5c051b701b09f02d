//! A server over a network in memory, and a rustls client whose bytes the test moves by hand.

use std::{io::Read, sync::Arc};

use rustls::{ClientConfig, ClientConnection, ServerConfig, pki_types::ServerName};
use sockman::{
    Options, Service, SockMan,
    testing::{Ended, Network, Peer, SocketThreadByHand},
};
use sockman_rustls::{Tls, TlsSettings};

use crate::{
    certificates::{Authority, BOTH},
    recorder::Recorder,
};

pub(crate) struct World {
    pub(crate) network: Network,
    pub(crate) sockman: SockMan,
    pub(crate) thread: SocketThreadByHand,
    pub(crate) tls: Arc<Tls<Recorder>>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) at: Service,
}

impl World {
    pub(crate) fn new(config: ServerConfig, settings: TlsSettings) -> World {
        World::on(Network::new(), config, settings)
    }

    pub(crate) fn on(network: Network, config: ServerConfig, settings: TlsSettings) -> World {
        World::with(network, config, settings, Options::default())
    }

    pub(crate) fn with(
        network: Network,
        config: ServerConfig,
        settings: TlsSettings,
        options: Options,
    ) -> World {
        let clock = network.clone();
        let settings = settings.clock(move || clock.now());
        let recorder = Recorder::new();
        let tls = Tls::server(Arc::clone(&recorder), Arc::new(config), settings).unwrap();
        let tls = Arc::new(tls);
        let options = options.sweep(None).sock_factory(network.factory());
        let sockman = SockMan::with_state(Arc::clone(&tls), options).unwrap();
        let at = sockman.bind_and_start_listening("10.0.0.1:443").unwrap();
        let thread = SocketThreadByHand::start(&sockman, &network).unwrap();
        World { network, sockman, thread, tls, recorder, at }
    }

    /// Returns a server, and a client whose handshake is complete. The events are taken.
    pub(crate) fn with_client() -> (World, Client) {
        let authority = Authority::new();
        let mut world = World::new(authority.server(BOTH), TlsSettings::default());
        let mut client = world.client(authority.client(BOTH, None));
        world.exchange(&mut client);
        assert!(!client.tls.is_handshaking());
        assert_eq!(world.recorder.take(), [crate::recorder::Event::Secured]);
        (world, client)
    }

    /// Returns a client that has connected and sent nothing.
    pub(crate) fn client(&self, config: ClientConfig) -> Client {
        self.client_of(Arc::new(config))
    }

    pub(crate) fn client_of(&self, config: Arc<ClientConfig>) -> Client {
        let name = ServerName::try_from("localhost").unwrap();
        Client {
            tls: ClientConnection::new(config, name).unwrap(),
            peer: self.network.connect(&self.at).unwrap(),
            unsent: Vec::new(),
            got: Vec::new(),
            ended: None,
            error: None,
            has_close_notify: false,
        }
    }

    /// Moves bytes in both directions until none is left.
    pub(crate) fn exchange(&mut self, client: &mut Client) {
        loop {
            let sent = client.send();
            self.thread.run_until_idle().unwrap();
            if !client.receive() && !sent {
                return;
            }
        }
    }

    /// Checks that nothing is left of any connection.
    pub(crate) fn assert_empty(&mut self) {
        self.thread.run_until_idle().unwrap();
        assert_eq!((self.sockman.stats().connections, self.tls.handshakes()), (0, 0));
    }
}

pub(crate) struct Client {
    pub(crate) tls: ClientConnection,
    pub(crate) peer: Peer,
    /// The records that the network has not taken.
    pub(crate) unsent: Vec<u8>,
    /// The decrypted bytes.
    pub(crate) got: Vec<u8>,
    pub(crate) ended: Option<Ended>,
    pub(crate) error: Option<rustls::Error>,
    pub(crate) has_close_notify: bool,
}

impl Client {
    pub(crate) fn write(&mut self, data: &[u8]) {
        std::io::Write::write_all(&mut self.tls.writer(), data).unwrap();
    }

    /// Sends what the network takes. Returns whether it took anything.
    pub(crate) fn send(&mut self) -> bool {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.unsent).unwrap();
        }
        // An error means that the server has closed the connection.
        let sent = self.peer.send(&self.unsent).unwrap_or(0);
        self.unsent.drain(..sent);
        sent > 0
    }

    /// Receives and decrypts what has arrived. Returns whether anything had.
    pub(crate) fn receive(&mut self) -> bool {
        let (bytes, ended) = self.peer.receive();
        let is_new = !bytes.is_empty() || (self.ended.is_none() && ended.is_some());
        // After a reset was received, the network reports a plain end.
        self.ended = self.ended.or(ended);
        self.decrypt(&bytes);
        is_new
    }

    pub(crate) fn decrypt(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() && !self.has_close_notify {
            self.tls.read_tls(&mut bytes).unwrap();
            match self.tls.process_new_packets() {
                Ok(state) => self.has_close_notify = state.peer_has_closed(),
                Err(error) => self.error = Some(error),
            }
            // An error means that nothing more is there.
            let _ = self.tls.reader().read_to_end(&mut self.got);
        }
    }
}
