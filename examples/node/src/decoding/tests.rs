//! What Bitcoin Core takes is taken: missing newer fields, more bytes, unknown things.

use bitcoin::{
    consensus::encode::serialize,
    p2p::{Magic, message::RawNetworkMessage},
};

use super::*;

/// Returns the message that a peer's payload becomes, or `None` if it is malformed.
fn received(command: &'static str, payload: &[u8]) -> Option<NetworkMessage> {
    let command = CommandString::try_from_static(command).unwrap();
    let message = NetworkMessage::Unknown { command, payload: payload.to_vec() };
    decode(&serialize(&RawNetworkMessage::new(Magic::REGTEST, message))).ok().flatten()
}

fn version_payload() -> Vec<u8> {
    let nobody = Address { services: ServiceFlags::NONE, address: [0; 8], port: 0 };
    serialize(&VersionMessage {
        start_height: 7,
        ..VersionMessage::new(ServiceFlags::NONE, 1, nobody.clone(), nobody, 9, "/a/".into(), 0)
    })
}

#[test]
fn a_version_may_end_before_each_newer_field_and_may_grow() {
    let whole = version_payload();
    let relay = whole.len() - 1;
    let (height, agent) = (relay - 4, relay - 4 - 4);
    let nonce_and_sender = agent - 8 - 26;
    for length in 0..=whole.len() {
        let Some(NetworkMessage::Version(version)) = received("version", &whole[..length]) else {
            assert!(![nonce_and_sender, agent, height, relay, relay + 1].contains(&length));
            continue;
        };
        assert!([nonce_and_sender, agent, height, relay, relay + 1].contains(&length), "{length}");
        assert_eq!(version.nonce, if length >= agent { 9 } else { 0 });
        assert_eq!(version.user_agent, if length >= height { "/a/" } else { "" });
        assert_eq!(version.start_height, if length >= relay { 7 } else { -1 });
        assert_eq!(version.relay, length <= relay, "without the byte, transactions are relayed");
    }
    let longer = received("version", &[&whole[..], b"more"].concat());
    assert_eq!(longer, received("version", &whole));
}

#[test]
fn a_user_agent_may_hold_any_bytes() {
    let mut payload = version_payload();
    let agent = payload.len() - 1 - 4 - 3;
    payload[agent] = 0xff;
    let Some(NetworkMessage::Version(version)) = received("version", &payload) else {
        panic!("the version was not taken")
    };
    assert_eq!(version.user_agent, "\x7fa/");
}

#[test]
fn bytes_after_the_known_fields_are_ignored() {
    let header = bitcoin::blockdata::constants::genesis_block(bitcoin::Network::Regtest).header;
    let inventory = bitcoin::p2p::message_blockdata::Inventory::Error;
    let cases: [(&'static str, Vec<u8>); 12] = [
        ("verack", vec![]),
        ("sendaddrv2", vec![]),
        ("getaddr", vec![]),
        ("ping", vec![7; 8]),
        ("pong", vec![7; 8]),
        ("addr", vec![0]),
        ("addrv2", vec![0]),
        ("getheaders", vec![0; 4 + 1 + 32]),
        ("headers", [&[1], &serialize(&header)[..], &[0]].concat()),
        ("inv", serialize(&vec![inventory])),
        ("getdata", serialize(&vec![inventory])),
        ("sendheaders", vec![]),
    ];
    for (command, payload) in cases {
        let exact = received(command, &payload);
        assert!(exact.is_some(), "{command}");
        assert_eq!(received(command, &[&payload[..], &[1, 2, 3]].concat()), exact, "{command}");
    }
}

#[test]
fn old_pings_and_short_pongs_are_taken() {
    assert_eq!(received("ping", &[]), None);
    let command = CommandString::try_from_static("ping").unwrap();
    let message = NetworkMessage::Unknown { command, payload: Vec::new() };
    assert!(decode(&serialize(&RawNetworkMessage::new(Magic::REGTEST, message))).is_ok());
    assert_eq!(received("pong", &[1, 2]), Some(NetworkMessage::Pong(0)));
}

#[test]
fn messages_that_this_node_does_not_use_are_not_decoded() {
    for command in ["feefilter", "sendcmpct", "tx", "block", "reject", "alert", "sendtxrcncl"] {
        assert!(
            matches!(received(command, &[0xff; 3]), Some(NetworkMessage::Unknown { .. })),
            "{command}"
        );
    }
}

#[test]
fn the_number_of_transactions_after_a_header_is_ignored() {
    let header = bitcoin::blockdata::constants::genesis_block(bitcoin::Network::Regtest).header;
    let payload = [&[1], &serialize(&header)[..], &[0xfd, 0x00, 0x01]].concat();
    assert_eq!(received("headers", &payload), Some(NetworkMessage::Headers(vec![header])));
}

fn entry(network: u8, address: &[u8]) -> Vec<u8> {
    let length = u8::try_from(address.len()).unwrap();
    [&[0, 0, 0, 0, 0, network, length], address, &[0x20, 0x8d]].concat()
}

#[test]
fn an_address_that_is_none_does_not_spoil_the_others_in_the_message() {
    let mapped = "::ffff:1.2.3.4".parse::<Ipv6Addr>().unwrap().octets();
    let onion_cat = "fd87:d87e:eb43::1".parse::<Ipv6Addr>().unwrap().octets();
    let strange = [
        entry(2, &mapped),
        entry(2, &onion_cat),
        entry(3, &[7; 10]),
        entry(3, &[7; 11]),
        entry(6, &[7; 16]),
        entry(7, &[7; 16]),
        entry(0xaa, &[7; 200]),
    ];
    for strange in strange {
        let payload = [&[2], &strange[..], &entry(1, &[1, 2, 3, 4])].concat();
        let Some(NetworkMessage::AddrV2(list)) = received("addrv2", &payload) else {
            panic!("{strange:?}")
        };
        assert!(matches!(list[0].addr, AddrV2::Unknown(..)), "{strange:?}");
        assert_eq!((&list[1].addr, list[1].port), (&AddrV2::Ipv4([1, 2, 3, 4].into()), 8333));
    }
    // Core refuses these too.
    for malformed in [entry(1, &[7; 5]), entry(4, &[7; 31]), entry(5, &[7; 33])] {
        assert_eq!(received("addrv2", &[&[1], &malformed[..]].concat()), None);
    }
}

#[test]
fn a_list_that_is_too_long_is_seen_as_such_and_takes_no_memory() {
    let payload = [&[0xfd, 0xff, 0xff][..], &entry(1, &[1, 2, 3, 4]).repeat(1001)].concat();
    let Some(NetworkMessage::AddrV2(list)) = received("addrv2", &payload) else {
        panic!("the list was not taken")
    };
    assert_eq!(list.len(), MAX_ADDRESSES + 1);
    assert_eq!(received("headers", &[0xff; 9]), None);
}
