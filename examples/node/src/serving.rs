//! The answers from the block store: headers, blocks (`getdata`) and compact filters (BIP 157).
//!
//! The message handler runs these methods. An answer of many messages is an [`Answer`], which it gives
//! in steps: after each step, other peers have their turn, and while the send queue of the peer is
//! above its high mark, there is no step. The peer's next message is processed after the answer.
//! So a peer that does not read has one block or [`MAX_FILTER_BYTES`] of filters above the high mark at
//! most.

use std::{io, sync::atomic::Ordering};

use bitcoin::{
    BlockHash,
    bip158::FilterHeader,
    hashes::Hash,
    p2p::{
        message::{CommandString, NetworkMessage},
        message_blockdata::{GetBlocksMessage, GetHeadersMessage, Inventory},
        message_filter::{CFCheckpt, CFHeaders, CFilter, GetCFCheckpt, GetCFHeaders, GetCFilters},
    },
};

use crate::{
    blocks::BlockStore,
    connman::Connman,
    peer::Peer,
    processing::{Fault, MAX_INVENTORY},
};

/// Bitcoin Core's `MAX_LOCATOR_SZ`. A peer that exceeds it is disconnected.
const MAX_LOCATOR: usize = 101;
/// Bitcoin Core's limit for one answer to `getblocks`.
const MAX_BLOCKS_PER_INV: usize = 500;
/// The limits of BIP 157 for one request. A peer that exceeds one is disconnected.
const MAX_FILTERS: usize = 1000;
const MAX_FILTER_HASHES: usize = 2000;
/// The distance between two filter headers of `cfcheckpt` (BIP 157).
const CHECKPOINT_INTERVAL: usize = 1000;
/// The only type of filter (BIP 158).
const BASIC_FILTER: u8 = 0;
/// The most items of `getdata` and the most filters in one step.
const MAX_ITEMS_PER_STEP: usize = 1000;
const MAX_FILTERS_PER_STEP: usize = 100;
/// The bytes of filters after which a step ends.
const MAX_FILTER_BYTES: usize = 100_000;

/// An answer that is not complete.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The items of a `getdata` from the index `next` on.
    Items { items: Vec<Inventory>, next: usize },
    /// The filters at these heights.
    Filters { next: usize, stop: usize },
}

impl Answer {
    /// Returns whether nothing is left to send.
    fn is_complete(&self) -> bool {
        match self {
            Answer::Items { items, next } => *next >= items.len(),
            Answer::Filters { next, stop } => next > stop,
        }
    }

    /// Returns the bytes that the answer keeps in memory.
    fn bytes(&self) -> usize {
        match self {
            Answer::Items { items, .. } => items.capacity() * size_of::<Inventory>(),
            Answer::Filters { .. } => 0,
        }
    }
}

impl Connman {
    fn blocks(&self) -> Option<&BlockStore> {
        self.config.blocks.as_deref()
    }

    /// Answers `getheaders` from the blocks, so that no peer requests a block that the node does not
    /// have. Without blocks, the node answers from the headers that it knows.
    pub(crate) fn got_get_headers(
        &self,
        peer: &Peer,
        request: &GetHeadersMessage,
    ) -> Result<(), Fault> {
        check_locator(&request.locator_hashes)?;
        let (locator, stop) = (&request.locator_hashes, &request.stop_hash);
        let headers = match self.blocks() {
            Some(blocks) => blocks.chain().headers_after(locator, stop),
            None => self.chain.lock().headers_after(locator, stop),
        };
        if let Some(headers) = headers {
            self.reply(peer, NetworkMessage::Headers(headers));
        }
        Ok(())
    }

    /// Answers `getblocks`, by which older peers learn what to request. Without blocks, the node has
    /// no answer.
    pub(crate) fn got_get_blocks(
        &self,
        peer: &Peer,
        request: &GetBlocksMessage,
    ) -> Result<(), Fault> {
        check_locator(&request.locator_hashes)?;
        let Some(blocks) = self.blocks() else { return Ok(()) };
        let after = blocks.chain().after(&request.locator_hashes, &request.stop_hash);
        let hashes: Vec<BlockHash> =
            after.take(MAX_BLOCKS_PER_INV).map(|(_, header)| header.block_hash()).collect();
        let last = hashes.last().filter(|_| hashes.len() == MAX_BLOCKS_PER_INV);
        peer.conversation.lock().continuation = last.copied();
        if !hashes.is_empty() {
            let items = hashes.into_iter().map(Inventory::Block).collect();
            self.reply(peer, NetworkMessage::Inv(items));
        }
        Ok(())
    }

    /// Begins the answer to `getdata`.
    pub(crate) fn got_get_data(&self, peer: &Peer, items: Vec<Inventory>) -> Result<(), Fault> {
        if items.len() > MAX_INVENTORY {
            return Err(format!(
                "the peer requested {} items in one message, more than {MAX_INVENTORY}",
                items.len()
            ));
        }
        self.give(peer, Answer::Items { items, next: 0 });
        Ok(())
    }

    /// Begins the answer to `getcfilters`.
    pub(crate) fn got_get_filters(&self, peer: &Peer, request: &GetCFilters) -> Result<(), Fault> {
        let (kind, stop) = (request.filter_type, &request.stop_hash);
        let (_, start, stop) =
            self.filter_range(kind, request.start_height, stop, Some(MAX_FILTERS))?;
        self.give(peer, Answer::Filters { next: start, stop });
        Ok(())
    }

    /// Answers `getcfheaders`.
    pub(crate) fn got_get_filter_headers(
        &self,
        peer: &Peer,
        request: &GetCFHeaders,
    ) -> Result<(), Fault> {
        let (filter_type, stop_hash) = (request.filter_type, request.stop_hash);
        let (blocks, start, stop) = self.filter_range(
            filter_type,
            request.start_height,
            &stop_hash,
            Some(MAX_FILTER_HASHES),
        )?;
        let previous = start.checked_sub(1).and_then(|height| blocks.filter_header(height));
        let filter_hashes = (start..=stop).filter_map(|height| blocks.filter_hash(height));
        let answer = NetworkMessage::CFHeaders(CFHeaders {
            filter_type,
            stop_hash,
            previous_filter_header: previous.unwrap_or(FilterHeader::all_zeros()),
            filter_hashes: filter_hashes.collect(),
        });
        self.reply(peer, answer);
        Ok(())
    }

    /// Answers `getcfcheckpt`.
    pub(crate) fn got_get_filter_checkpoints(
        &self,
        peer: &Peer,
        request: &GetCFCheckpt,
    ) -> Result<(), Fault> {
        let (filter_type, stop_hash) = (request.filter_type, request.stop_hash);
        let (blocks, _, stop) = self.filter_range(filter_type, 0, &stop_hash, None)?;
        let heights = (CHECKPOINT_INTERVAL..=stop).step_by(CHECKPOINT_INTERVAL);
        let filter_headers = heights.filter_map(|height| blocks.filter_header(height)).collect();
        let answer = CFCheckpt { filter_type, stop_hash, filter_headers };
        self.reply(peer, NetworkMessage::CFCheckpt(answer));
        Ok(())
    }

    /// Checks a request for filters, and returns the blocks and the first and last height. Bitcoin
    /// Core disconnects for the same reasons.
    fn filter_range(
        &self,
        kind: u8,
        start: u32,
        stop: &BlockHash,
        limit: Option<usize>,
    ) -> Result<(&BlockStore, usize, usize), Fault> {
        let Some(blocks) = self.blocks().filter(|_| kind == BASIC_FILTER) else {
            return Err(format!(
                "the peer requested filters of type {kind}, which are not offered"
            ));
        };
        let Some(stop) = blocks.chain().height_of(stop) else {
            return Err("the peer requested filters up to an unknown block".to_owned());
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let Some(more) = stop.checked_sub(start) else {
            return Err(format!("the peer requested filters from {start} to {stop}"));
        };
        if limit.is_some_and(|limit| more >= limit) {
            return Err(format!("the peer requested {} filters in one message", more + 1));
        }
        Ok((blocks, start, stop))
    }

    /// Gives the first step of an answer. The message handler gives the others.
    fn give(&self, peer: &Peer, answer: Answer) {
        *peer.answer.lock() = Some(answer);
        self.continue_answer(peer);
    }

    /// Gives the next step of an answer.
    pub(crate) fn continue_answer(&self, peer: &Peer) {
        let Some(answer) = peer.answer.lock().take() else {
            return peer.inbox.set_unfinished(None);
        };
        let rest = match answer {
            Answer::Items { items, next } => self.send_items(peer, items, next),
            Answer::Filters { next, stop } => self.send_filters(peer, next, stop),
        };
        let rest = Some(rest).filter(|rest| !rest.is_complete());
        peer.inbox.set_unfinished(rest.as_ref().map(Answer::bytes));
        *peer.answer.lock() = rest;
    }

    /// Sends `notfound` for the items that the node does not have, up to the first one that it has,
    /// and then that one.
    fn send_items(&self, peer: &Peer, items: Vec<Inventory>, mut next: usize) -> Answer {
        let mut not_found = Vec::new();
        let mut found = Vec::new();
        for item in items.iter().skip(next).take(MAX_ITEMS_PER_STEP) {
            next += 1;
            if let Some(block) = self.block_of(item) {
                found.push(block);
                found.extend(self.continuation(peer, item));
                break;
            }
            not_found.push(*item);
        }
        let not_found = Some(not_found).filter(|items| !items.is_empty());
        let not_found = not_found.map(NetworkMessage::NotFound);
        self.push_messages(peer, not_found.into_iter().chain(found));
        Answer::Items { items, next }
    }

    /// Returns the announcement of the last block, if `item` is the last one of a full answer to
    /// `getblocks`.
    fn continuation(&self, peer: &Peer, item: &Inventory) -> Option<NetworkMessage> {
        let (Inventory::Block(hash) | Inventory::WitnessBlock(hash)) = item else { return None };
        peer.conversation.lock().continuation.take_if(|last| last == hash)?;
        let tip = self.blocks()?.chain().tip();
        Some(NetworkMessage::Inv(vec![Inventory::Block(tip)]))
    }

    /// Returns the message that answers an item of `getdata`. `None` if the node does not have the
    /// item, or cannot read it.
    fn block_of(&self, item: &Inventory) -> Option<NetworkMessage> {
        let blocks = self.blocks()?;
        let height = |hash| blocks.chain().height_of(hash);
        let payload = match item {
            Inventory::WitnessBlock(hash) => blocks.read(height(hash)?),
            Inventory::Block(hash) => blocks.read_stripped(height(hash)?),
            _ => return None,
        };
        let payload = payload.map_err(|error| self.cannot_read(&error)).ok()?;
        Some(NetworkMessage::Unknown {
            command: CommandString::try_from_static("block").ok()?,
            payload,
        })
    }

    /// Logs the first time that a block cannot be read. Peers could fill the log with this line.
    fn cannot_read(&self, error: &io::Error) {
        if !self.has_lost_blocks.swap(true, Ordering::Relaxed) {
            log::error!("a block cannot be read, so it is not served: {error}");
        }
    }

    /// Sends the next filters.
    fn send_filters(&self, peer: &Peer, next: usize, stop: usize) -> Answer {
        let mut heights = next..stop.saturating_add(1);
        let mut bytes = 0;
        let mut messages = Vec::new();
        for height in heights.by_ref().take(MAX_FILTERS_PER_STEP) {
            let filter = self.blocks().and_then(|blocks| {
                let block_hash = blocks.chain().header(height)?.block_hash();
                let filter = blocks.filter(height)?.to_vec();
                Some(CFilter { filter_type: BASIC_FILTER, block_hash, filter })
            });
            let Some(filter) = filter else { break };
            bytes += filter.filter.len();
            messages.push(NetworkMessage::CFilter(filter));
            if bytes >= MAX_FILTER_BYTES {
                break;
            }
        }
        self.push_messages(peer, messages);
        Answer::Filters { next: heights.start, stop }
    }
}

/// Returns an error if a locator has too many hashes.
///
/// # Errors
///
/// The reason to disconnect the peer.
pub(crate) fn check_locator(hashes: &[BlockHash]) -> Result<(), Fault> {
    if hashes.len() > MAX_LOCATOR {
        return Err(format!(
            "the peer sent a block locator of {} hashes, more than {MAX_LOCATOR}",
            hashes.len()
        ));
    }
    Ok(())
}
