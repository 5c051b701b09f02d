//! Helpers for the tests: a server, and a client over a blocking socket that uses the reference
//! implementation's crates. The sweep is off.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    error::Error,
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use binary_sv2::{GetSize, Serialize, Str0255, from_bytes};
use codec_sv2::{
    Decrypted, Handshake, MessageFrame, NoiseDecoder, NoiseEncoder, SerializedFrame,
    TransportDecryptState, TransportEncryptState,
};
use common_messages_sv2::{
    Protocol, SetupConnection, SetupConnectionError, SetupConnectionSuccess,
};
use noise_sv2::{INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE, Initiator};
use sockman_sv2_server::{AuthorityKeys, Config, Event, Server};
use template_distribution_sv2::{
    CoinbaseOutputConstraints, NewTemplate, RequestTransactionData, RequestTransactionDataError,
    RequestTransactionDataSuccess, SetNewPrevHash,
};

/// How long a test waits for an expected event. A passing test never waits that long.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// A time longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

pub(crate) struct Running {
    pub server: Server,
    pub keys: AuthorityKeys,
    pub events: Receiver<Event>,
}

pub(crate) fn start(config: &Config) -> Running {
    let keys = AuthorityKeys::generate().unwrap();
    let (sender, events) = channel();
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen, ..config.clone() };
    let server =
        Server::start(config, keys.clone(), move |event| drop(sender.send(event))).unwrap();
    Running { server, keys, events }
}

/// Returns a configuration with this interval between templates. No client times out, even on a
/// slow machine.
pub(crate) fn every(milliseconds: u64) -> Config {
    let interval = Duration::from_millis(milliseconds);
    Config { interval, setup_timeout: NEVER, max_missed: u64::MAX, ..Config::default() }
}

/// Returns a configuration in which no new template is made during a test.
pub(crate) fn quiet() -> Config {
    Config { interval: NEVER, ..every(0) }
}

impl Running {
    pub(crate) fn stream(&self) -> TcpStream {
        let to = self.server.listening()[0].to_socket_addr().unwrap();
        with_deadlines(TcpStream::connect(to).unwrap())
    }

    /// Returns a stream with a small receive buffer, so that the kernel holds little for a client
    /// that does not read.
    pub(crate) fn stream_with_small_buffer(&self) -> TcpStream {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let to = self.server.listening()[0].to_socket_addr().unwrap();
        socket.connect(&to.into()).unwrap();
        with_deadlines(socket.into())
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(DEADLINE).expect("an event")
    }

    /// Waits for a disconnect, and returns its reason.
    pub(crate) fn wait_for_disconnect(&self) -> String {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Event::Disconnected { reason, .. } = self.event() {
                return reason;
            }
        }
        panic!("no client was disconnected");
    }
}

pub fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// The answer to a request for a template's transactions. The answer has the template's id, and
/// either no transactions or an error code.
#[derive(Debug, PartialEq, Eq)]
pub enum Transactions {
    None(u64),
    Error(u64, String),
}

impl Transactions {
    pub fn stale(template: u64) -> Transactions {
        Transactions::Error(template, "stale-template-id".to_owned())
    }

    pub fn not_found(template: u64) -> Transactions {
        Transactions::Error(template, "template-id-not-found".to_owned())
    }
}

pub(crate) struct Client {
    pub stream: TcpStream,
    encrypt: TransportEncryptState,
    decrypt: Option<TransportDecryptState>,
}

impl Client {
    pub(crate) fn connect(running: &Running) -> Client {
        Client::on(running.stream(), running.keys.public()).unwrap()
    }

    /// Performs the handshake with a server that must have this authority's key.
    pub(crate) fn on(stream: TcpStream, key: [u8; 32]) -> Result<Client, Box<dyn Error>> {
        Client::with_clock(stream, key, 0)
    }

    /// Performs the handshake with a clock that is ahead by this many seconds.
    pub(crate) fn with_clock(
        mut stream: TcpStream,
        key: [u8; 32],
        ahead: i64,
    ) -> Result<Client, Box<dyn Error>> {
        let initiator = Handshake::initiator(Initiator::from_raw_k(key).unwrap());
        let (first, initiator) = initiator.step_0().unwrap();
        stream.write_all(first.payload())?;
        let mut second = [0; INITIATOR_EXPECTED_HANDSHAKE_MESSAGE_SIZE];
        stream.read_exact(&mut second)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let now = u32::try_from(now.saturating_add_signed(ahead))?;
        let transport =
            initiator.step_2_with_now(second, now).map_err(|error| error.to_string())?;
        let (encrypt, decrypt) = transport.split();
        Ok(Client { stream, encrypt, decrypt: Some(decrypt) })
    }

    pub(crate) fn encode<T: Serialize + GetSize>(&mut self, message: T, kind: u8) -> Vec<u8> {
        self.encode_for_extension(message, kind, 0)
    }

    pub(crate) fn encode_for_extension<T: Serialize + GetSize>(
        &mut self,
        message: T,
        kind: u8,
        extension: u16,
    ) -> Vec<u8> {
        let frame = MessageFrame::from_message(message, kind, extension, false).unwrap();
        let bytes = NoiseEncoder::new().encode_transport(frame, &mut self.encrypt).unwrap();
        AsRef::<[u8]>::as_ref(&bytes).to_vec()
    }

    pub(crate) fn send<T: Serialize + GetSize>(&mut self, message: T, kind: u8) {
        let bytes = self.encode(message, kind);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Sends a message with any payload.
    pub(crate) fn send_payload(&mut self, payload: &[u8], kind: u8) {
        let length = u32::try_from(payload.len()).unwrap().to_le_bytes();
        let bytes = [&[0, 0, kind], &length[..3], payload].concat();
        let frame = SerializedFrame::from_bytes(bytes).unwrap();
        let bytes = NoiseEncoder::new().encode_transport(frame, &mut self.encrypt).unwrap();
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Returns the type and the payload of the next message.
    pub(crate) fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut decoder = NoiseDecoder::new();
        loop {
            let mut piece = vec![0; decoder.writable_len()];
            self.stream.read_exact(&mut piece).unwrap();
            decoder.writable().copy_from_slice(&piece);
            match decoder.next_transport_frame(self.decrypt.take().unwrap()).unwrap() {
                Decrypted::Incomplete(_, decrypt) => self.decrypt = Some(decrypt),
                Decrypted::Frame(mut frame, decrypt) => {
                    self.decrypt = Some(decrypt);
                    return (frame.header().msg_type(), frame.payload().to_vec());
                }
            }
        }
    }

    pub(crate) fn set_up(&mut self) {
        self.send(honest_setup(), 0x00);
        self.receive_success();
    }

    pub(crate) fn receive_success(&mut self) {
        let (kind, mut payload) = self.receive();
        assert_eq!(kind, 0x01);
        let success: SetupConnectionSuccess = from_bytes(&mut payload).unwrap();
        assert_eq!((success.used_version, success.flags), (2, 0));
    }

    pub(crate) fn subscribe(&mut self) {
        self.send(constraints(), 0x70);
    }

    /// Receives a template and its `SetNewPrevHash`, and returns the id.
    pub(crate) fn receive_template(&mut self) -> u64 {
        self.receive_template_with(|template, prev_hash| {
            assert_eq!(template.template_id, prev_hash.template_id);
            template.template_id
        })
    }

    pub(crate) fn receive_template_with<R>(
        &mut self,
        look: impl FnOnce(&NewTemplate<'_>, &SetNewPrevHash<'_>) -> R,
    ) -> R {
        let (kind, mut template) = self.receive();
        assert_eq!(kind, 0x71);
        let (kind, mut prev_hash) = self.receive();
        assert_eq!(kind, 0x72);
        look(&from_bytes(&mut template).unwrap(), &from_bytes(&mut prev_hash).unwrap())
    }

    pub(crate) fn ask_for_transactions(&mut self, template_id: u64) {
        self.send(RequestTransactionData { template_id }, 0x73);
    }

    /// Returns the answer to a request for a template's transactions. Skips templates that arrive
    /// before the answer.
    pub(crate) fn receive_transactions(&mut self) -> Transactions {
        loop {
            match self.receive() {
                (0x71 | 0x72, _) => {}
                (0x74, mut payload) => {
                    let success: RequestTransactionDataSuccess<'_> =
                        from_bytes(&mut payload).unwrap();
                    assert_eq!(success.excess_data.as_bytes(), b"");
                    assert!(success.transaction_list.is_empty());
                    return Transactions::None(success.template_id);
                }
                (0x75, mut payload) => {
                    let error: RequestTransactionDataError<'_> = from_bytes(&mut payload).unwrap();
                    return Transactions::Error(
                        error.template_id,
                        error.error_code.as_utf8_or_hex(),
                    );
                }
                (kind, _) => panic!("unexpected message of type {kind:#04x}"),
            }
        }
    }

    /// Receives a `SetupConnection.Error`, and returns its flags and its reason.
    pub(crate) fn receive_refusal(&mut self) -> (u32, String) {
        let (kind, mut payload) = self.receive();
        assert_eq!(kind, 0x02);
        let error: SetupConnectionError<'_> = from_bytes(&mut payload).unwrap();
        (error.flags, error.error_code.as_utf8_or_hex())
    }

    /// Asserts that the connection ends with EOF, without further bytes and without a reset.
    pub(crate) fn assert_ended(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }

    /// Asserts that the connection ends, by EOF or reset. Ignores bytes before the end.
    pub(crate) fn assert_closed(&mut self) {
        assert_closed(&mut self.stream);
    }
}

/// Asserts that the connection ends, by EOF or reset. Ignores bytes before the end.
pub fn assert_closed(stream: &mut TcpStream) {
    use std::io::ErrorKind;
    match stream.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => {
            panic!("the connection did not end: {error}")
        }
        _ => {}
    }
}

pub(crate) fn constraints() -> CoinbaseOutputConstraints {
    CoinbaseOutputConstraints {
        coinbase_output_max_additional_size: 100,
        coinbase_output_max_additional_sigops: 4,
    }
}

pub(crate) fn honest_setup() -> SetupConnection<'static> {
    setup(Protocol::TemplateDistributionProtocol, 2, 0)
}

pub(crate) fn setup(protocol: Protocol, version: u16, flags: u32) -> SetupConnection<'static> {
    let text = |text: &'static str| Str0255::try_from(text).unwrap();
    SetupConnection {
        protocol,
        min_version: version,
        max_version: version,
        flags,
        endpoint_host: text("127.0.0.1"),
        endpoint_port: 8442,
        vendor: text("test"),
        hardware_version: text(""),
        firmware: text(""),
        device_id: text(""),
    }
}
