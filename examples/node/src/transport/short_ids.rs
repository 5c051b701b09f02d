//! The names of messages in version 2 of the transport (BIP 324, "v2 Bitcoin P2P message
//! structure"). Frequent messages have a name of one byte, the others have their command.
//!
//! The rest of the node uses the form of version 1, with a header. This module converts between the
//! two forms. Plain functions, on any thread.

use bitcoin::{
    hashes::{Hash, sha256d},
    p2p::Magic,
};

/// The place of the command in a version 1 header of magic, command, length and checksum.
const COMMAND: std::ops::Range<usize> = 4..16;
const HEADER: usize = 24;
const COMMAND_LENGTH: usize = 12;

/// The commands by their short id. Short id 0 means that the command follows in full.
const SHORT_IDS: [&str; 29] = [
    "",
    "addr",
    "block",
    "blocktxn",
    "cmpctblock",
    "feefilter",
    "filteradd",
    "filterclear",
    "filterload",
    "getblocks",
    "getblocktxn",
    "getdata",
    "getheaders",
    "headers",
    "inv",
    "mempool",
    "merkleblock",
    "notfound",
    "ping",
    "pong",
    "sendcmpct",
    "tx",
    "getcfilters",
    "cfilter",
    "getcfheaders",
    "cfheaders",
    "getcfcheckpt",
    "cfcheckpt",
    "addrv2",
];

/// Converts a message with a version 1 header to the contents of a version 2 packet.
pub(super) fn to_v2(message: &[u8]) -> Vec<u8> {
    let command = message.get(COMMAND).unwrap_or_default();
    let name = command.split(|byte| *byte == 0).next().unwrap_or_default();
    let short = SHORT_IDS.iter().skip(1).position(|known| known.as_bytes() == name);
    let mut contents = match short.and_then(|index| u8::try_from(index + 1).ok()) {
        Some(short) => vec![short],
        None => [&[0], command].concat(),
    };
    contents.extend_from_slice(message.get(HEADER..).unwrap_or_default());
    contents
}

/// Converts the contents of a version 2 packet to a message with a version 1 header. Returns `None`
/// if the short id is unknown or the name is cut off.
pub(super) fn to_v1(magic: Magic, contents: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = contents.split_first()?;
    let (command, payload) = if *first == 0 {
        let (command, payload) = rest.split_at_checked(COMMAND_LENGTH)?;
        (command.to_vec(), payload)
    } else {
        let name = SHORT_IDS.get(usize::from(*first))?.as_bytes();
        let mut command = name.to_vec();
        command.resize(COMMAND_LENGTH, 0);
        (command, rest)
    };
    let length = u32::try_from(payload.len()).ok()?;
    let checksum = sha256d::Hash::hash(payload).to_byte_array();
    let checksum = checksum.get(..4).unwrap_or_default();
    Some([&magic.to_bytes()[..], &command, &length.to_le_bytes(), checksum, payload].concat())
}
