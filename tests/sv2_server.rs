//! The `sv2_server` example against a client made of the reference implementation's crates, over a
//! plain blocking socket, and against clients that do not behave. The sweep is off.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "../examples/sv2_server/server/mod.rs"]
mod server;

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use binary_sv2::{GetSize, Serialize, Str0255, from_bytes};
use codec_sv2::{
    Decrypted, Handshake, MessageFrame, NoiseDecoder, NoiseEncoder, TransportDecryptState,
    TransportEncryptState,
};
use common_messages_sv2::{
    Protocol, SetupConnection, SetupConnectionError, SetupConnectionSuccess,
};
use noise_sv2::{INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE, Initiator};
use server::{Config, Event, Server, keys::AuthorityKeys};
use template_distribution_sv2::{CoinbaseOutputConstraints, NewTemplate, SetNewPrevHash};

const DEADLINE: Duration = Duration::from_secs(60);

struct Running {
    server: Server,
    keys: AuthorityKeys,
    events: Receiver<Event>,
}

fn start(config: &Config) -> Running {
    let keys = AuthorityKeys::generate().unwrap();
    let (sender, events) = channel();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, ..config.clone() };
    let server =
        Server::start(config, keys.clone(), move |event| drop(sender.send(event))).unwrap();
    Running { server, keys, events }
}

/// No template comes by itself.
fn quiet() -> Config {
    Config { interval: Duration::from_secs(3600), ..Config::default() }
}

impl Running {
    fn stream(&self) -> TcpStream {
        let to = self.server.listening()[0].to_socket_addr().unwrap();
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Waits for a disconnect, and says why.
    fn wait_for_disconnect(&self) -> String {
        loop {
            let event = self.events.recv_timeout(DEADLINE).expect("a disconnect");
            if let Event::Disconnected { reason, .. } = event {
                return reason;
            }
        }
    }
}

struct Client {
    stream: TcpStream,
    encrypt: TransportEncryptState,
    decrypt: Option<TransportDecryptState>,
}

impl Client {
    fn connect(running: &Running) -> Client {
        Client::connect_expecting(running, running.keys.public()).unwrap()
    }

    fn connect_expecting(running: &Running, key: [u8; 32]) -> Result<Client, codec_sv2::Error> {
        Client::on(running.stream(), key)
    }

    fn on(mut stream: TcpStream, key: [u8; 32]) -> Result<Client, codec_sv2::Error> {
        let initiator = Handshake::initiator(Initiator::from_raw_k(key).unwrap());
        let (first, initiator) = initiator.step_0().unwrap();
        stream.write_all(first.payload()).unwrap();
        let mut second = [0; INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE];
        stream.read_exact(&mut second).unwrap();
        let (encrypt, decrypt) = initiator.step_2(second)?.split();
        Ok(Client { stream, encrypt, decrypt: Some(decrypt) })
    }

    fn encode<T: Serialize + GetSize>(&mut self, message: T, kind: u8, extension: u16) -> Vec<u8> {
        let frame = MessageFrame::from_message(message, kind, extension, false).unwrap();
        let bytes = NoiseEncoder::new().encode_transport(frame, &mut self.encrypt).unwrap();
        AsRef::<[u8]>::as_ref(&bytes).to_vec()
    }

    fn send<T: Serialize + GetSize>(&mut self, message: T, kind: u8) {
        let bytes = self.encode(message, kind, 0);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message: its type and its payload.
    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut decoder = NoiseDecoder::new();
        loop {
            let mut piece = vec![0; decoder.writable_len()];
            self.stream.read_exact(&mut piece).unwrap();
            if !piece.is_empty() {
                decoder.writable().copy_from_slice(&piece);
            }
            match decoder.next_transport_frame(self.decrypt.take().unwrap()).unwrap() {
                Decrypted::Incomplete(_, decrypt) => self.decrypt = Some(decrypt),
                Decrypted::Frame(mut frame, decrypt) => {
                    self.decrypt = Some(decrypt);
                    return (frame.header().msg_type(), frame.payload().to_vec());
                }
            }
        }
    }

    fn set_up(&mut self) {
        self.send(setup(Protocol::TemplateDistributionProtocol, 2, 0), 0x00);
        let (kind, mut payload) = self.receive();
        assert_eq!(kind, 0x01);
        let success: SetupConnectionSuccess = from_bytes(&mut payload).unwrap();
        assert_eq!((success.used_version, success.flags), (2, 0));
    }

    fn subscribe(&mut self) {
        self.send(constraints(), 0x70);
    }

    /// A template, and that it is to be worked on.
    fn receive_template(&mut self) -> u64 {
        let (kind, mut payload) = self.receive();
        assert_eq!(kind, 0x71);
        let template: NewTemplate<'_> = from_bytes(&mut payload).unwrap();
        assert!(template.future_template);
        let id = template.template_id;
        let (kind, mut payload) = self.receive();
        assert_eq!(kind, 0x72);
        let prev_hash: SetNewPrevHash<'_> = from_bytes(&mut payload).unwrap();
        assert_eq!((prev_hash.template_id, prev_hash.n_bits), (id, 0x207f_ffff));
        id
    }

    fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("open: {error}"),
            _ => {}
        }
    }
}

fn constraints() -> CoinbaseOutputConstraints {
    CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 4,
    }
}

fn setup(protocol: Protocol, max_version: u16, flags: u32) -> SetupConnection<'static> {
    let text = |text: &'static str| Str0255::try_from(text).unwrap();
    SetupConnection {
        protocol,
        min_version: max_version,
        max_version,
        flags,
        endpoint_host: text("127.0.0.1"),
        endpoint_port: 8442,
        vendor: text("test"),
        hardware_version: text(""),
        firmware: text(""),
        device_id: text(""),
    }
}

#[test]
fn everybody_who_asked_gets_each_template() {
    let interval = Duration::from_millis(20);
    let running = start(&Config { interval, ..Config::default() });
    let (mut one, mut two) = (Client::connect(&running), Client::connect(&running));
    for client in [&mut one, &mut two] {
        client.set_up();
        client.subscribe();
    }
    for client in [&mut one, &mut two] {
        let first = client.receive_template();
        for next in 1..5 {
            assert_eq!(client.receive_template(), first + next);
        }
    }
    running.server.stop().unwrap();
}

#[test]
fn who_did_not_ask_gets_no_template() {
    let interval = Duration::from_millis(5);
    let running = start(&Config { interval, ..Config::default() });
    let mut client = Client::connect(&running);
    client.set_up();
    let mut pushed = 0;
    while pushed < 3 {
        if let Event::Pushed { clients, .. } = running.events.recv_timeout(DEADLINE).unwrap() {
            assert_eq!(clients, 0);
            pushed += 1;
        }
    }
    running.server.stop().unwrap();
    let mut rest = Vec::new();
    client.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = client.stream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn a_setup_that_does_not_fit_is_refused_with_the_reason() {
    let running = start(&quiet());
    let cases = [
        (setup(Protocol::MiningProtocol, 2, 0), "unsupported-protocol"),
        (setup(Protocol::TemplateDistributionProtocol, 3, 0), "protocol-version-mismatch"),
        (setup(Protocol::TemplateDistributionProtocol, 2, 5), "unsupported-feature-flags"),
    ];
    for (message, reason) in cases {
        let mut client = Client::connect(&running);
        client.send(message, 0x00);
        let (kind, mut payload) = client.receive();
        assert_eq!(kind, 0x02);
        let error: SetupConnectionError<'_> = from_bytes(&mut payload).unwrap();
        assert_eq!(error.error_code.as_utf8_or_hex(), reason);
        client.assert_closed();
    }
}

#[test]
fn a_client_with_another_authoritys_key_notices() {
    let running = start(&quiet());
    let other = AuthorityKeys::generate().unwrap();
    assert!(Client::connect_expecting(&running, other.public()).is_err());
    // The right one goes on to work.
    Client::connect(&running).set_up();
}

#[test]
fn messages_out_of_turn_are_disconnected() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.subscribe();
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("0x70 out of turn"));

    let mut client = Client::connect(&running);
    client.set_up();
    client.send(setup(Protocol::TemplateDistributionProtocol, 2, 0), 0x00);
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("0x00 out of turn"));
}

#[test]
fn messages_of_extensions_are_passed_over() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let bytes = client.encode(constraints(), 0x70, 7);
    client.stream.write_all(&bytes).unwrap();
    client.set_up();
}

#[test]
fn a_malformed_message_is_disconnected() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.send(3u8, 0x00);
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("malformed"));
}

#[test]
fn a_frame_that_is_too_long_is_disconnected_before_it_is_whole() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let huge = binary_sv2::B016M::try_from(&[0; 1_000_000][..]).unwrap();
    let bytes = client.encode(huge, 0x00, 0);
    // It closes in the midst of it.
    let _ = client.stream.write_all(&bytes);
    assert!(running.wait_for_disconnect().contains("more than 65536"));
    client.assert_closed();
}

#[test]
fn damage_and_nonsense_are_disconnected_and_the_others_go_on() {
    let running = start(&quiet());
    let mut bystander = Client::connect(&running);
    bystander.set_up();
    for at in [0, 5, 21, 22, 30] {
        let mut client = Client::connect(&running);
        let message = setup(Protocol::TemplateDistributionProtocol, 2, 0);
        let mut bytes = client.encode(message, 0x00, 0);
        bytes[at] ^= 1;
        client.stream.write_all(&bytes).unwrap();
        assert!(running.wait_for_disconnect().contains("decrypted"), "byte {at}");
        client.assert_closed();
    }
    let mut nonsense = running.stream();
    let _ = nonsense.write_all(&[0x55; 4096]);
    let reason = running.wait_for_disconnect();
    assert!(reason.contains("handshake") || reason.contains("decrypted"), "{reason}");
    bystander.subscribe();
    bystander.receive_template();
}

#[test]
fn a_truncated_frame_and_a_silent_client_are_timed_out() {
    let running = start(&Config { setup_timeout: Duration::from_millis(100), ..quiet() });
    let mut silent = running.stream();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    assert!(running.wait_for_disconnect().contains("in time"));
    let mut client = Client::connect(&running);
    let bytes = client.encode(setup(Protocol::TemplateDistributionProtocol, 2, 0), 0x00, 0);
    client.stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("in time"));
}

#[test]
fn a_conversation_may_come_in_single_bytes() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.stream.set_nodelay(true).unwrap();
    let mut bytes = client.encode(setup(Protocol::TemplateDistributionProtocol, 2, 0), 0x00, 0);
    bytes.extend(client.encode(constraints(), 0x70, 0));
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(client.receive().0, 0x01);
    client.receive_template();
}

#[test]
fn a_client_that_never_reads_is_let_go_of_and_the_others_go_on() {
    let running = start(&Config { interval: Duration::from_millis(1), ..Config::default() });
    // A small buffer, so that the kernel does not take megabytes before the server notices.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let to = running.server.listening()[0].to_socket_addr().unwrap();
    socket.connect(&to.into()).unwrap();
    let mut lazy = Client::on(socket.into(), running.keys.public()).unwrap();
    lazy.send(setup(Protocol::TemplateDistributionProtocol, 2, 0), 0x00);
    lazy.subscribe();
    assert!(running.wait_for_disconnect().contains("full"));

    let mut other = Client::connect(&running);
    other.set_up();
    other.subscribe();
    other.receive_template();
    running.server.stop().unwrap();
}
