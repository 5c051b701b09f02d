//! Both versions of the transport without sockets: the version is detected, and messages arrive,
//! whatever the pieces of the stream are.

use bitcoin::{consensus::encode::serialize, p2p::message::RawNetworkMessage};

use super::*;

const MAGIC: Magic = Magic::REGTEST;

fn ping(nonce: u64) -> Vec<u8> {
    serialize(&RawNetworkMessage::new(MAGIC, NetworkMessage::Ping(nonce)))
}

fn version_prefix() -> Vec<u8> {
    [&MAGIC.to_bytes()[..], VERSION_COMMAND].concat()
}

/// One end of a connection, without a socket.
struct End {
    incoming: Incoming,
    outgoing: Outgoing,
    /// The bytes on their way to the other end.
    sent: Vec<u8>,
    received: Vec<NetworkMessage>,
}

impl End {
    fn new(start: Start) -> End {
        let (incoming, outgoing, sent) = begin(MAGIC, start);
        End { incoming, outgoing, sent, received: Vec::new() }
    }

    fn receive(&mut self, data: &[u8]) -> Result<(), TransportError> {
        let received = &mut self.received;
        let progress = self.incoming.receive(data, |message| {
            received.extend(message.decode(MAGIC).unwrap());
        })?;
        self.sent.extend(progress.out);
        if let Some(outgoing) = progress.outgoing {
            self.outgoing = outgoing;
        }
        Ok(())
    }

    fn next_piece(&mut self, length: usize) -> Vec<u8> {
        let length = length.min(self.sent.len());
        self.sent.drain(..length).collect()
    }

    fn say(&mut self, message: &[u8]) {
        match &mut self.outgoing {
            Outgoing::Waiting(_) => panic!("the handshake is not over"),
            Outgoing::V1 => self.sent.extend_from_slice(message),
            Outgoing::V2(cipher) => {
                let contents = short_ids::to_v2(message);
                self.sent.extend(cipher.encrypt_to_vec(&contents, PacketType::Genuine, None));
            }
        }
    }
}

/// Carries the bytes of both ends to each other, in pieces of `piece` bytes, until both are silent.
fn carry(one: &mut End, other: &mut End, piece: usize) {
    while !one.sent.is_empty() || !other.sent.is_empty() {
        other.receive(&one.next_piece(piece)).unwrap();
        one.receive(&other.next_piece(piece)).unwrap();
    }
}

#[test]
fn a_version_2_connection_works_in_pieces_of_any_size() {
    for piece in [1, 2, 3, 16, 17, 63, 64, 65, 100, 1000, usize::MAX] {
        let (mut one, mut other) =
            (End::new(Start::DialV2), End::new(Start::Detect { with_v2: true }));
        carry(&mut one, &mut other, piece);
        let transport = one.incoming.transport();
        let is_v2 = matches!(transport, Some((TransportType::V2, Some(_))));
        assert!(is_v2, "the bytes are carried in pieces of {piece}");
        assert_eq!(transport, other.incoming.transport());
        // Both ends change their keys within 300 packets.
        for nonce in 0..300 {
            one.say(&ping(nonce));
            other.say(&ping(nonce));
        }
        carry(&mut one, &mut other, piece);
        let expected: Vec<_> = (0..300).map(NetworkMessage::Ping).collect();
        assert_eq!((&one.received, &other.received), (&expected, &expected));
    }
}

#[test]
fn version_1_is_recognised_by_its_first_bytes_in_any_pieces() {
    for with_v2 in [true, false] {
        let mut message = serialize(&RawNetworkMessage::new(MAGIC, NetworkMessage::Verack));
        message[4..16].copy_from_slice(VERSION_COMMAND);
        let mut end = End::new(Start::Detect { with_v2 });
        for byte in &message[..message.len() - 1] {
            end.receive(&[*byte]).unwrap();
        }
        assert_eq!(end.incoming.transport(), Some((TransportType::V1, None)));
        assert!(end.sent.is_empty(), "the node sent bytes of version 2");
    }
}

#[test]
fn version_2_is_recognised_by_the_first_byte_that_differs() {
    for at in 0..V1_PREFIX {
        let mut bytes = version_prefix();
        bytes[at] ^= 1;
        let mut end = End::new(Start::Detect { with_v2: true });
        end.receive(&bytes[..at]).unwrap();
        assert!(end.sent.is_empty());
        end.receive(&bytes[at..=at]).unwrap();
        assert!(end.sent.len() >= 64, "the node did not answer with its key");
    }
}

#[test]
fn version_1_of_another_network_is_reported_as_such() {
    for start in [Start::DialV2, Start::Detect { with_v2: true }] {
        let mut bytes = version_prefix();
        bytes[0] ^= 1;
        let mut end = End::new(start);
        let error = end.receive(&bytes).unwrap_err();
        assert!(error.to_string().contains("another network"), "{error}");
    }
}

#[test]
fn a_complete_key_shows_that_a_peer_knows_version_2() {
    let mut end = End::new(Start::DialV2);
    assert!(end.incoming.is_without_key());
    end.receive(&[0x55; 63]).unwrap();
    assert!(end.incoming.is_without_key());
    end.receive(&[0x55]).unwrap();
    assert!(!end.incoming.is_without_key());

    let mut end = End::new(Start::DialV2);
    let greeting = [version_prefix(), vec![0; 64]].concat();
    assert!(end.receive(&greeting).is_err());
    assert!(end.incoming.is_without_key(), "a greeting in version 1 is not taken for a key");
}
