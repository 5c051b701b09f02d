//! The node's version 2 transport (BIP 324) against the `bip324` crate on a plain blocking socket:
//! garbage, decoys, streams in pieces, damaged bytes, and peers that know only version 1.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use bip324::{
    PacketType, Role,
    io::{Payload, Protocol},
};
use bitcoin::{
    Network,
    consensus::encode::{deserialize, serialize},
    hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256},
    p2p::{
        ServiceFlags,
        message::{NetworkMessage, RawNetworkMessage},
        message_network::VersionMessage,
    },
    secp256k1::{
        Secp256k1, SecretKey,
        ellswift::{ElligatorSwift, ElligatorSwiftParty},
    },
};
use chacha20_poly1305::{ChaCha20Poly1305, Key, Nonce, chacha20::ChaCha20};
use sockman_node::{
    Chain, Config, Event, Node, TransportType,
    testing::{DEADLINE, start},
};

const NETWORK: Network = Network::Regtest;

fn listening() -> Config {
    let mut config = Config::new(NETWORK);
    config.listen.push("127.0.0.1:0".parse().unwrap());
    config
}

fn dialling(listener: &TcpListener) -> Config {
    let mut config = Config::new(NETWORK);
    config.connect.push(listener.local_addr().unwrap().into());
    // A second connection within the test can only be the fallback to version 1, because the
    // fallback does not wait for the redial time.
    config.redial = Duration::from_secs(3600);
    config
}

fn stream_to(node: &Node) -> TcpStream {
    with_deadlines(TcpStream::connect(node.listening()[0].to_socket_addr().unwrap()).unwrap())
}

fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A stream that reads and writes at most a given number of bytes at a time.
struct Pieces(TcpStream, usize);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.1.min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

impl Write for Pieces {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.write(&buffer[..self.1.min(buffer.len())])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

type Peer = Protocol<Pieces, Pieces>;

fn handshake(
    stream: &TcpStream,
    role: Role,
    garbage: Option<Vec<u8>>,
    decoys: Option<Vec<Vec<u8>>>,
    piece: usize,
) -> Result<Peer, bip324::io::ProtocolError> {
    let [read, write] = [(); 2].map(|()| Pieces(stream.try_clone().unwrap(), piece));
    Protocol::new(NETWORK.magic().to_bytes(), role, garbage, decoys, read, write)
}

fn version() -> NetworkMessage {
    let unknown = bitcoin::p2p::Address::new(&([0, 0, 0, 0], 0).into(), ServiceFlags::NONE);
    let mut version = VersionMessage::new(
        ServiceFlags::NONE,
        0,
        unknown.clone(),
        unknown,
        1,
        "/test/".to_owned(),
        0,
    );
    version.version = 70016;
    NetworkMessage::Version(version)
}

/// Returns a packet with a message, named by `short` or by its command.
fn named(message: NetworkMessage, short: Option<u8>) -> Payload {
    let bytes = serialize(&RawNetworkMessage::new(NETWORK.magic(), message));
    let name = short.map_or([&[0], &bytes[4..16]].concat(), |short| vec![short]);
    Payload::genuine([&name, &bytes[24..]].concat())
}

/// Sends `version`, `verack` and a `ping` (short id 18), and waits for the `pong` (short id 19).
fn converse(peer: &mut Peer) {
    peer.write(&named(version(), None)).unwrap();
    peer.write(&named(NetworkMessage::Verack, None)).unwrap();
    // The node must not answer a decoy, although its contents are a ping.
    let ping = named(NetworkMessage::Ping(76), Some(18));
    peer.write(&Payload::decoy(ping.contents().to_vec())).unwrap();
    peer.write(&named(NetworkMessage::Ping(77), Some(18))).unwrap();
    loop {
        let packet = peer.read().unwrap();
        if packet.packet_type() == PacketType::Genuine && packet.contents()[0] == 19 {
            assert_eq!(packet.contents()[1..], 77u64.to_le_bytes());
            return;
        }
    }
}

fn assert_v2(node: &Node) {
    let peers = node.peers();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].transport, TransportType::V2);
    assert_eq!(peers[0].version.as_ref().unwrap().agent, "/test/");
}

#[test]
fn an_inbound_peer_is_recognised_by_its_first_bytes() {
    let decoys = || Some(vec![vec![1; 3], vec![], vec![2; 5000]]);
    for (garbage, decoys) in
        [(None, None), (Some(vec![7; 4095]), None), (None, decoys()), (Some(vec![9]), decoys())]
    {
        let (node, _) = start(listening(), Chain::new(NETWORK));
        let stream = stream_to(&node);
        let mut peer = handshake(&stream, Role::Initiator, garbage, decoys, usize::MAX).unwrap();
        converse(&mut peer);
        assert_v2(&node);
        node.stop().unwrap();
    }
}

#[test]
fn a_stream_in_pieces_of_any_size_is_decoded() {
    for piece in [1, 2, 3, 17, 63, 65] {
        let (node, _) = start(listening(), Chain::new(NETWORK));
        let stream = stream_to(&node);
        let decoys = Some(vec![vec![1; 40], vec![2; 30]]);
        let garbage = Some(vec![5; 50]);
        let mut peer = handshake(&stream, Role::Initiator, garbage, decoys, piece).unwrap();
        converse(&mut peer);
        assert_v2(&node);
    }
}

#[test]
fn an_outbound_connection_uses_version_2() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (node, _) = start(dialling(&listener), Chain::new(NETWORK));
    let stream = with_deadlines(listener.accept().unwrap().0);
    let decoys = Some(vec![vec![1; 300]]);
    let mut peer = handshake(&stream, Role::Responder, Some(vec![3; 100]), decoys, 1000).unwrap();
    converse(&mut peer);
    assert_v2(&node);
}

#[test]
fn a_peer_that_hangs_up_is_dialled_again_at_once_in_version_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (node, events) = start(dialling(&listener), Chain::new(NETWORK));
    let mut first = with_deadlines(listener.accept().unwrap().0);
    let mut start = [0; 4];
    first.read_exact(&mut start).unwrap();
    assert_ne!(start, NETWORK.magic().to_bytes());
    drop(first);
    let _second = converse_in_version_1(&listener);
    events
        .wait_for("the handshake", |event| matches!(event, Event::Handshake { .. }).then_some(()));
    assert_eq!(node.peers()[0].transport, TransportType::V1);
}

/// bcoin sends its version 1 greeting first, and counts undecodable bytes. So the node must send
/// few bytes of version 2.
#[test]
fn a_peer_that_greets_in_version_1_is_dialled_again_at_once_in_version_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (node, events) = start(dialling(&listener), Chain::new(NETWORK));
    let mut first = with_deadlines(listener.accept().unwrap().0);
    first.write_all(&serialize(&RawNetworkMessage::new(NETWORK.magic(), version()))).unwrap();
    let mut key_and_garbage = Vec::new();
    let _ = first.read_to_end(&mut key_and_garbage);
    assert!((64..240).contains(&key_and_garbage.len()), "{} bytes", key_and_garbage.len());
    let _second = converse_in_version_1(&listener);
    events
        .wait_for("the handshake", |event| matches!(event, Event::Handshake { .. }).then_some(()));
    assert_eq!(node.peers()[0].transport, TransportType::V1);
}

/// The fallback is only for peers that do not know version 2. If the node also fell back after a
/// failed version 2 handshake, a man in the middle could force version 1.
#[test]
fn a_peer_that_fails_after_its_key_is_not_dialled_again_in_version_1() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = dialling(&listener);
    config.redial = Duration::from_millis(1);
    let (_node, events) = start(config, Chain::new(NETWORK));
    let mut first = with_deadlines(listener.accept().unwrap().0);
    first.write_all(&[0x55; 64 + 4095 + 16]).unwrap();
    assert!(events.wait_for_disconnect().contains("v2 transport"));
    let mut second = with_deadlines(listener.accept().unwrap().0);
    let mut start = [0; 4];
    second.read_exact(&mut start).unwrap();
    assert_ne!(start, NETWORK.magic().to_bytes());
}

/// Accepts a version 1 connection, and answers its `version` with `version` and `verack`.
fn converse_in_version_1(listener: &TcpListener) -> TcpStream {
    let mut stream = with_deadlines(listener.accept().unwrap().0);
    let mut header = [0; 24];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[..4], NETWORK.magic().to_bytes());
    let mut message = header.to_vec();
    let length = u32::from_le_bytes(header[16..20].try_into().unwrap());
    message.resize(24 + length as usize, 0);
    stream.read_exact(&mut message[24..]).unwrap();
    let message = deserialize::<RawNetworkMessage>(&message).unwrap().into_payload();
    assert!(matches!(message, NetworkMessage::Version(_)));
    for message in [version(), NetworkMessage::Verack] {
        let message = RawNetworkMessage::new(NETWORK.magic(), message);
        stream.write_all(&serialize(&message)).unwrap();
    }
    stream
}

/// Reads until the node closes the connection, and fails if it does not.
fn assert_closed(mut stream: &TcpStream) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("not closed: {error}"),
        _ => {}
    }
}

#[test]
fn garbage_without_an_end_disconnects_the_peer() {
    let (node, events) = start(listening(), Chain::new(NETWORK));
    let mut stream = stream_to(&node);
    let _ = stream.write_all(&[0x55; 64 + 4095 + 16]);
    let reason = events.wait_for_disconnect();
    assert!(reason.contains("v2 transport"), "{reason}");
    assert_closed(&stream);
    assert_eq!(node.peers().len(), 0);
}

/// Damages each byte after the key in turn: garbage, terminator, version packet. The node never
/// accepts a message, and ends the connection.
#[test]
fn a_damaged_byte_ends_the_connection() {
    for at in 64..120 {
        let (node, events) = start(listening(), Chain::new(NETWORK));
        let stream = stream_to(&node);
        // 64 bytes of key, 20 of garbage, 16 of terminator, 20 of version packet.
        let damaging = Damaging { stream: stream.try_clone().unwrap(), at, sent: 0 };
        let reader = Pieces(stream.try_clone().unwrap(), usize::MAX);
        let magic = NETWORK.magic().to_bytes();
        let peer = Protocol::new(magic, Role::Initiator, Some(vec![8; 20]), None, reader, damaging);
        if let Ok(mut peer) = peer {
            // Sends enough for the node to give up its search for a damaged terminator.
            while peer.write(&Payload::genuine(vec![0; 1000])).is_ok() {}
        }
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("v2 transport"), "byte {at}: {reason}");
        node.stop().unwrap();
    }
}

struct Damaging {
    stream: TcpStream,
    at: usize,
    sent: usize,
}

impl Write for Damaging {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut damaged = buffer.to_vec();
        if let Some(byte) = self.at.checked_sub(self.sent).and_then(|at| damaged.get_mut(at)) {
            *byte ^= 0x10;
        }
        self.stream.write_all(&damaged)?;
        self.sent += buffer.len();
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[test]
fn the_length_of_a_packet_that_is_too_long_disconnects_the_peer() {
    let (node, events) = start(listening(), Chain::new(NETWORK));
    let stream = stream_to(&node);
    let mut peer = handshake(&stream, Role::Initiator, None, None, usize::MAX).unwrap();
    converse(&mut peer);
    let _ = peer.write(&Payload::genuine(vec![0; 4_000_100]));
    let reason = events.wait_for_disconnect();
    assert!(reason.contains("a packet of"), "{reason}");
    assert_closed(&stream);
}

#[test]
fn messages_with_unknown_names_are_ignored() {
    let (node, _) = start(listening(), Chain::new(NETWORK));
    let stream = stream_to(&node);
    let mut peer = handshake(&stream, Role::Initiator, None, None, usize::MAX).unwrap();
    for contents in [vec![200, 1, 2], vec![29], vec![0, 1, 2], vec![]] {
        peer.write(&Payload::genuine(contents)).unwrap();
    }
    converse(&mut peer);
    assert_v2(&node);
}

/// BIP 324 allows the dialling side to withhold the rest of its key until it sees the other key.
#[test]
fn a_key_is_answered_at_its_first_byte_that_is_not_version_1() {
    let (node, _) = start(listening(), Chain::new(NETWORK));
    let mut stream = stream_to(&node);
    let almost = [&NETWORK.magic().to_bytes()[..], b"version\0\0\0\0\x01"].concat();
    stream.write_all(&almost).unwrap();
    let mut key = [0; 64];
    stream.read_exact(&mut key).unwrap();
}

/// Both ciphers of a direction change their keys after 224 packets.
#[test]
fn a_conversation_continues_after_the_change_of_keys() {
    let (node, _) = start(listening(), Chain::new(NETWORK));
    let stream = stream_to(&node);
    let mut peer = handshake(&stream, Role::Initiator, None, None, usize::MAX).unwrap();
    converse(&mut peer);
    for nonce in 0..1000_u64 {
        peer.write(&named(NetworkMessage::Ping(nonce), Some(18))).unwrap();
        let pong = [&[19], &nonce.to_le_bytes()[..]].concat();
        while peer.read().unwrap().contents() != pong {}
    }
    assert_v2(&node);
}

#[test]
fn a_handshake_with_endless_decoys_disconnects_the_peer() {
    for decoys in [vec![vec![0; 500_000]], vec![vec![0; 1000]; 1000]] {
        let (node, events) = start(listening(), Chain::new(NETWORK));
        let stream = stream_to(&node);
        // The version packet follows the decoys, and the node never reads it.
        let _ = handshake(&stream, Role::Initiator, None, Some(decoys), usize::MAX);
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("handshake is longer than"), "{reason}");
        node.stop().unwrap();
    }
}

/// The time-out of the handshake is much longer than the deadline of the test.
#[test]
fn a_peer_that_never_answers_is_dialled_again_in_version_1() {
    // Neither silence nor an incomplete key is an answer.
    for answer in [&[][..], &[0x55; 63]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = dialling(&listener);
        config.v2_wait = Duration::from_millis(50);
        config.handshake_timeout = Duration::from_secs(3600);
        let (_node, events) = start(config, Chain::new(NETWORK));
        let mut first = listener.accept().unwrap().0;
        let _ = first.write_all(answer);
        let reason = events.wait_for_disconnect();
        assert!(reason.contains("did not answer in version 2"), "{reason}");
        let mut second = with_deadlines(listener.accept().unwrap().0);
        let mut start = [0; 4];
        second.read_exact(&mut start).unwrap();
        assert_eq!(start, NETWORK.magic().to_bytes());
    }
}

/// The peer sends its key and then nothing. After the key, only the time-out of the handshake counts.
#[test]
fn a_peer_that_has_sent_its_key_has_the_whole_time_of_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = dialling(&listener);
    // The wait ends at the first judgement, if the key is late. So the key is awaited first.
    config.v2_wait = Duration::from_secs(3600);
    config.handshake_timeout = Duration::from_millis(100);
    let (_node, events) = start(config, Chain::new(NETWORK));
    let mut stream = with_deadlines(listener.accept().unwrap().0);
    stream.read_exact(&mut [0; 64]).unwrap();
    stream.write_all(&[0x55; 64]).unwrap();
    let reason = events.wait_for_disconnect();
    assert!(reason.contains("handshake in time"), "{reason}");
}

#[test]
fn a_node_without_version_2_disconnects_a_peer_that_sends_a_key() {
    let (node, events) = start(Config { v2_transport: false, ..listening() }, Chain::new(NETWORK));
    let mut stream = stream_to(&node);
    stream.write_all(&[0x55; 64]).unwrap();
    assert!(events.wait_for_disconnect().contains("does not speak"));
}

/// Packets by the letter of BIP 324, also those that the crate `bip324` cannot make: with any header
/// and with contents in the version packet. It has no change of keys.
struct Packets {
    lengths: ChaCha20,
    key: [u8; 32],
    count: u32,
}

impl Packets {
    fn new(length_key: [u8; 32], key: [u8; 32]) -> Packets {
        let lengths = ChaCha20::new(Key::new(length_key), Nonce::new([0; 12]), 0);
        Packets { lengths, key, count: 0 }
    }

    fn cipher(&mut self) -> ChaCha20Poly1305 {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.count.to_le_bytes());
        self.count += 1;
        ChaCha20Poly1305::new(Key::new(self.key), Nonce::new(nonce))
    }

    fn encrypt(&mut self, header: u8, contents: &[u8]) -> Vec<u8> {
        let mut length = u32::try_from(contents.len()).unwrap().to_le_bytes();
        self.lengths.apply_keystream(&mut length[..3]);
        let mut plain = [&[header], contents].concat();
        let tag = self.cipher().encrypt(&mut plain, None);
        [&length[..3], &plain, &tag].concat()
    }

    /// Reads a packet with this associated data. Returns its contents.
    fn read(&mut self, stream: &mut impl Read, data: &[u8]) -> Vec<u8> {
        let mut length = [0; 4];
        stream.read_exact(&mut length[..3]).unwrap();
        self.lengths.apply_keystream(&mut length[..3]);
        let mut packet = vec![0; 1 + u32::from_le_bytes(length) as usize];
        let mut tag = [0; 16];
        stream.read_exact(&mut packet).unwrap();
        stream.read_exact(&mut tag).unwrap();
        self.cipher().decrypt(&mut packet, tag, Some(data)).unwrap();
        packet.split_off(1)
    }
}

/// Completes the key exchange as the initiator, without garbage. Returns the packets of the
/// initiator and of the responder, and what the initiator sends next: its garbage terminator.
fn exchange_keys(stream: &mut TcpStream) -> (Packets, Packets, [u8; 16]) {
    let hmac = |key: &[u8], data: &[&[u8]]| {
        let mut engine = HmacEngine::<sha256::Hash>::new(key);
        data.iter().for_each(|data| engine.input(data));
        Hmac::from_engine(engine).to_byte_array()
    };
    let secret = SecretKey::from_slice(&[7; 32]).unwrap();
    let ours = ElligatorSwift::from_seckey(&Secp256k1::new(), secret, None);
    stream.write_all(&ours.to_array()).unwrap();
    let mut theirs = [0; 64];
    stream.read_exact(&mut theirs).unwrap();
    let shared = ElligatorSwift::shared_secret(
        ours,
        ElligatorSwift::from_array(theirs),
        secret,
        ElligatorSwiftParty::A,
        Some(b"bip324_ellswift_xonly_ecdh"),
    );
    let salt = [&b"bitcoin_v2_shared_secret"[..], &NETWORK.magic().to_bytes()].concat();
    let key = hmac(&salt, &[&shared.to_secret_bytes()]);
    let expand = |info: &[u8]| hmac(&key, &[info, &[1]]);
    let terminators = expand(b"garbage_terminators");
    let mut responder = Packets::new(expand(b"responder_L"), expand(b"responder_P"));
    let mut garbage = vec![0; 16];
    stream.read_exact(&mut garbage).unwrap();
    while !garbage.ends_with(&terminators[16..]) {
        garbage.push(0);
        stream.read_exact(garbage.last_mut().map(std::slice::from_mut).unwrap()).unwrap();
    }
    garbage.truncate(garbage.len() - 16);
    assert_eq!(responder.read(stream, &garbage), b"", "the node's version packet is empty");
    let initiator = Packets::new(expand(b"initiator_L"), expand(b"initiator_P"));
    (initiator, responder, terminators[..16].try_into().unwrap())
}

/// BIP 324 reserves the contents of the version packet and the lower bits of the header for later
/// versions. Receivers ignore both.
#[test]
fn reserved_bits_and_the_contents_of_the_version_packet_are_ignored() {
    for (header, version_contents) in [(0, &b""[..]), (0x7f, b"a later version"), (1, &[0; 300])] {
        let (node, _) = start(listening(), Chain::new(NETWORK));
        let mut stream = stream_to(&node);
        let (mut ours, mut theirs, terminator) = exchange_keys(&mut stream);
        let contents = |message, short| named(message, short).contents().to_vec();
        let ping = |nonce| contents(NetworkMessage::Ping(nonce), Some(18));
        let packets = [
            ours.encrypt(0x80 | header, version_contents),
            ours.encrypt(header, version_contents),
            ours.encrypt(header, &contents(version(), None)),
            ours.encrypt(header, &contents(NetworkMessage::Verack, None)),
            ours.encrypt(0x80 | header, &ping(76)),
            ours.encrypt(header, &ping(77)),
        ];
        stream.write_all(&[&terminator[..], &packets.concat()].concat()).unwrap();
        let pong = loop {
            let contents = theirs.read(&mut stream, b"");
            if contents[0] == 19 {
                break contents;
            }
        };
        assert_eq!(pong[1..], 77_u64.to_le_bytes(), "a decoy has no answer");
        assert_v2(&node);
        node.stop().unwrap();
    }
}
