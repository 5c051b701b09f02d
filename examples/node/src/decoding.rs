//! Decodes messages as Bitcoin Core does: newer fields may be missing, and bytes after the known
//! fields are ignored, because messages may grow. Plain functions, on any thread.
//!
//! The crate `bitcoin` is stricter: it requires every field and the end of the message after them.

use std::net::{Ipv4Addr, Ipv6Addr};

use bitcoin::{
    VarInt,
    block::Header,
    consensus::encode::{Decodable, Error},
    hashes::{Hash, sha256d},
    p2p::{
        Address, ServiceFlags,
        address::{AddrV2, AddrV2Message},
        message::{CommandString, NetworkMessage},
        message_network::VersionMessage,
    },
};

use crate::{
    addresses::MAX_ADDRESSES, chain::MAX_HEADERS_PER_MESSAGE, processing::MAX_AGENT_LENGTH,
};

/// The places in a version 1 header of magic, command, length and checksum.
const COMMAND: std::ops::Range<usize> = 4..16;
const CHECKSUM: std::ops::Range<usize> = 20..24;
const HEADER: usize = 24;
/// Bitcoin Core's `MAX_SIZE`, the largest number of items that a message may announce.
const MAX_SIZE: u64 = 0x0200_0000;
/// The longest address in an `addrv2` message, also of a network that is not known (BIP 155).
const MAX_ADDRV2_LENGTH: usize = 512;

/// Decodes a message with a version 1 header. Returns `None` for a message that this node does not
/// use: Bitcoin Core ignores what it does not know.
///
/// # Errors
///
/// [`Error`], if the checksum is wrong or a field is cut off or invalid.
pub(crate) fn decode(message: &[u8]) -> Result<Option<NetworkMessage>, Error> {
    let cut_off = Error::ParseFailed("the header is cut off");
    let (Some(command), Some(checksum), Some(mut payload)) =
        (message.get(COMMAND), message.get(CHECKSUM), message.get(HEADER..))
    else {
        return Err(cut_off);
    };
    if sha256d::Hash::hash(payload).as_byte_array().get(..checksum.len()) != Some(checksum) {
        return Err(Error::ParseFailed("the checksum is wrong"));
    }
    let name_length = command.iter().position(|byte| *byte == 0).unwrap_or(command.len());
    let (name, padding) = command.split_at(name_length);
    if padding.iter().any(|byte| *byte != 0) {
        return Ok(None);
    }
    let rest = &mut payload;
    Ok(Some(match name {
        b"version" => NetworkMessage::Version(version(rest)?),
        b"verack" => NetworkMessage::Verack,
        b"sendaddrv2" => NetworkMessage::SendAddrV2,
        b"getaddr" => NetworkMessage::GetAddr,
        // Before BIP 31 a ping had no nonce and no answer.
        b"ping" => match u64::consensus_decode(rest) {
            Ok(nonce) => NetworkMessage::Ping(nonce),
            Err(_) => return Ok(None),
        },
        // A pong without a nonce ends the wait for a pong, as one with the nonce 0 does.
        b"pong" => NetworkMessage::Pong(u64::consensus_decode(rest).unwrap_or(0)),
        b"addr" => NetworkMessage::Addr(list(rest, MAX_ADDRESSES, |rest| {
            Ok((u32::consensus_decode(rest)?, Address::consensus_decode(rest)?))
        })?),
        b"addrv2" => NetworkMessage::AddrV2(list(rest, MAX_ADDRESSES, addr_v2)?),
        b"getheaders" => NetworkMessage::GetHeaders(Decodable::consensus_decode(rest)?),
        b"getblocks" => NetworkMessage::GetBlocks(Decodable::consensus_decode(rest)?),
        b"headers" => NetworkMessage::Headers(list(rest, MAX_HEADERS_PER_MESSAGE, |rest| {
            let header = Header::consensus_decode(rest)?;
            // The number of transactions, which has no meaning here.
            VarInt::consensus_decode(rest)?;
            Ok(header)
        })?),
        b"inv" => NetworkMessage::Inv(Decodable::consensus_decode(rest)?),
        b"getdata" => NetworkMessage::GetData(Decodable::consensus_decode(rest)?),
        b"getcfilters" => NetworkMessage::GetCFilters(Decodable::consensus_decode(rest)?),
        b"getcfheaders" => NetworkMessage::GetCFHeaders(Decodable::consensus_decode(rest)?),
        b"getcfcheckpt" => NetworkMessage::GetCFCheckpt(Decodable::consensus_decode(rest)?),
        _ => match CommandString::try_from(String::from_utf8_lossy(name).into_owned()) {
            Ok(command) => NetworkMessage::Unknown { command, payload: Vec::new() },
            Err(_) => return Ok(None),
        },
    }))
}

/// Decodes a list. Stops behind the first item that exceeds `limit`, by which the caller sees that
/// the list is too long.
fn list<T>(
    rest: &mut &[u8],
    limit: usize,
    item: impl Fn(&mut &[u8]) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let VarInt(count) = VarInt::consensus_decode(rest)?;
    if count > MAX_SIZE {
        return Err(Error::ParseFailed("the number of items is too large"));
    }
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(limit + 1);
    (0..count).map(|_| item(rest)).collect()
}

/// Decodes a `version` message. Nodes have sent it without the fields at its end: the relay byte is
/// from BIP 37, the others are older.
fn version(rest: &mut &[u8]) -> Result<VersionMessage, Error> {
    let nobody = Address { services: ServiceFlags::NONE, address: [0; 8], port: 0 };
    let mut message = VersionMessage {
        version: Decodable::consensus_decode(rest)?,
        services: Decodable::consensus_decode(rest)?,
        timestamp: Decodable::consensus_decode(rest)?,
        receiver: Decodable::consensus_decode(rest)?,
        sender: nobody,
        nonce: 0,
        user_agent: String::new(),
        start_height: -1,
        relay: true,
    };
    if !rest.is_empty() {
        message.sender = Decodable::consensus_decode(rest)?;
        message.nonce = Decodable::consensus_decode(rest)?;
    }
    if !rest.is_empty() {
        message.user_agent = agent(rest)?;
    }
    if !rest.is_empty() {
        message.start_height = Decodable::consensus_decode(rest)?;
    }
    if let Some(relay) = rest.first() {
        message.relay = *relay != 0;
    }
    Ok(message)
}

/// Decodes a user agent, which may hold any bytes. Those outside ASCII become DEL, which is not
/// printable and has one byte as well.
fn agent(rest: &mut &[u8]) -> Result<String, Error> {
    let bytes = bytes(rest, MAX_AGENT_LENGTH)
        .map_err(|_| Error::ParseFailed("the user agent is too long or cut off"))?;
    Ok(bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '\x7f' }).collect())
}

/// Decodes a number of bytes and then as many bytes.
fn bytes<'a>(rest: &mut &'a [u8], limit: usize) -> Result<&'a [u8], Error> {
    let VarInt(length) = VarInt::consensus_decode(rest)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= limit);
    let split = length.and_then(|length| rest.split_at_checked(length));
    let (bytes, behind) = split.ok_or(Error::ParseFailed("bytes are cut off or too many"))?;
    *rest = behind;
    Ok(bytes)
}

/// Decodes an address of an `addrv2` message. An address that is none on its network, and an address
/// of an unknown network, become `AddrV2::Unknown`, so that the others in the message are used.
fn addr_v2(rest: &mut &[u8]) -> Result<AddrV2Message, Error> {
    let time = Decodable::consensus_decode(rest)?;
    let VarInt(services) = VarInt::consensus_decode(rest)?;
    let network = u8::consensus_decode(rest)?;
    let bytes = bytes(rest, MAX_ADDRV2_LENGTH)?;
    let wrong_length = |_| Error::ParseFailed("an address has the wrong length for its network");
    let unknown = || AddrV2::Unknown(network, bytes.to_vec());
    let addr = match network {
        1 => AddrV2::Ipv4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).map_err(wrong_length)?)),
        2 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).map_err(wrong_length)?);
            let is_onion_cat = ip.segments().starts_with(&[0xfd87, 0xd87e, 0xeb43]);
            let is_embedded = ip.to_ipv4_mapped().is_some() || is_onion_cat;
            if is_embedded { unknown() } else { AddrV2::Ipv6(ip) }
        }
        4 => AddrV2::TorV3(bytes.try_into().map_err(wrong_length)?),
        5 => AddrV2::I2p(bytes.try_into().map_err(wrong_length)?),
        6 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).map_err(wrong_length)?);
            if ip.octets().starts_with(&[0xfc]) { AddrV2::Cjdns(ip) } else { unknown() }
        }
        _ => unknown(),
    };
    let port = u16::consensus_decode(rest)?.swap_bytes();
    Ok(AddrV2Message { time, services: ServiceFlags::from(services), addr, port })
}

#[cfg(test)]
mod tests;
