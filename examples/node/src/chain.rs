//! The block headers that this node knows and has checked: one chain, the one with the most work.
//!
//! Plain data, no thread; it sits behind a mutex. A light node's view: proof of work, linkage,
//! difficulty and times are checked, blocks are never seen. (A branch is compared with the chain by
//! the work of the headers in one message, so a fork deeper than 2000 headers is not followed; and
//! Bitcoin Core's defence against a flood of cheap headers, its presync, is replaced by a plain
//! limit.)

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use bitcoin::{
    BlockHash, CompactTarget, Network, Target, TxMerkleNode, Work,
    block::{Header, Version},
    blockdata::constants::genesis_block,
    consensus::Params,
    hashes::Hash,
};

/// How many headers one message carries at most; a message with fewer is the last.
pub(crate) const MAX_HEADERS_PER_MESSAGE: usize = 2000;
/// How many headers are kept at most: some 100 years of blocks. On regtest a peer makes them for
/// nothing, so there has to be an end.
const MAX_HEADERS: usize = 5_000_000;
/// How many blocks share one difficulty.
const DIFFICULTY_PERIOD: usize = 2016;
/// A block's time lies after the median of the times of so many blocks before it.
const MEDIAN_TIME_SPAN: usize = 11;
/// How far in the future, in seconds, a block's time may lie.
const MAX_FUTURE_BLOCK_TIME: u32 = 2 * 60 * 60;

/// A chain of headers, from the genesis block on.
#[derive(Debug)]
pub struct Chain {
    network: Network,
    /// By height. Never empty: the genesis block is there.
    headers: Vec<Header>,
    heights: HashMap<BlockHash, usize>,
}

impl Chain {
    /// Returns the chain that has only the genesis block.
    pub fn new(network: Network) -> Chain {
        let genesis = genesis_block(network).header;
        Chain {
            network,
            headers: vec![genesis],
            heights: HashMap::from([(genesis.block_hash(), 0)]),
        }
    }

    pub(crate) fn height(&self) -> usize {
        self.headers.len() - 1
    }

    pub(crate) fn tip(&self) -> BlockHash {
        self.tip_header().block_hash()
    }

    pub(crate) fn tip_header(&self) -> Header {
        self.headers[self.height()]
    }

    pub(crate) fn contains(&self, hash: &BlockHash) -> bool {
        self.heights.contains_key(hash)
    }

    /// Hashes by which a peer finds the last block that both know: the tip and nine before it, and
    /// from there in steps that double, down to the genesis block.
    pub(crate) fn locator(&self) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        let mut height = self.height();
        let mut step = 1;
        while height > 0 {
            hashes.push(self.headers[height].block_hash());
            if hashes.len() >= 10 {
                step *= 2;
            }
            height = height.saturating_sub(step);
        }
        hashes.push(self.headers[0].block_hash());
        hashes
    }

    /// What follows the first block of a peer's locator that is in this chain, up to `stop`: the
    /// answer to `getheaders`.
    pub(crate) fn headers_after(&self, locator: &[BlockHash], stop: &BlockHash) -> Vec<Header> {
        let known = locator.iter().find_map(|hash| self.heights.get(hash));
        let first = known.map_or(1, |height| height + 1);
        let last = self.heights.get(stop).copied().unwrap_or(usize::MAX);
        let count = last.saturating_add(1).saturating_sub(first).min(MAX_HEADERS_PER_MESSAGE);
        self.headers.iter().skip(first).take(count).copied().collect()
    }

    /// Checks headers that a peer sent, and adds them if that makes the chain one of more work.
    /// Returns how many are new.
    ///
    /// # Errors
    ///
    /// [`ChainError`]; the chain is as it was.
    pub(crate) fn add(&mut self, headers: &[Header]) -> Result<usize, ChainError> {
        // What is known already is skipped: an overlap is nobody's fault.
        let mut known = 0;
        let mut hashes: Vec<BlockHash> = headers.iter().map(Header::block_hash).collect();
        while known < headers.len() && self.contains(&hashes[known]) {
            known += 1;
        }
        let new = &headers[known..];
        let Some(first) = new.first() else { return Ok(0) };
        let fork = *self.heights.get(&first.prev_blockhash).ok_or(ChainError::Unconnected)?;
        if fork + new.len() >= MAX_HEADERS {
            return Err(ChainError::TooMany);
        }

        let mut branch = Branch { chain: self, fork, headers: &[] };
        for count in 1..=new.len() {
            branch.check_next(&new[count - 1])?;
            branch.headers = &new[..count];
        }
        let ours = &self.headers[fork + 1..];
        if work(new) <= work(ours) {
            return Ok(0);
        }
        for replaced in ours {
            self.heights.remove(&replaced.block_hash());
        }
        self.headers.truncate(fork + 1);
        for (header, hash) in new.iter().zip(hashes.drain(known..)) {
            self.heights.insert(hash, self.headers.len());
            self.headers.push(*header);
        }
        Ok(new.len())
    }

    /// Makes `count` headers on top, ten minutes apart. For regtest, where every second nonce
    /// fits.
    ///
    /// # Errors
    ///
    /// [`ChainError`]: the chain does not take such headers.
    pub fn mine(&mut self, count: usize) -> Result<(), ChainError> {
        for _ in 0..count {
            let tip = self.headers[self.height()];
            let mut header = Header {
                version: Version::TWO,
                prev_blockhash: tip.block_hash(),
                merkle_root: TxMerkleNode::all_zeros(),
                time: tip.time + 600,
                bits: tip.bits,
                nonce: 0,
            };
            while header.validate_pow(header.target()).is_err() {
                header.nonce += 1;
            }
            self.add(&[header])?;
        }
        Ok(())
    }
}

fn work(headers: &[Header]) -> Work {
    headers.iter().fold(Work::from_be_bytes([0; 32]), |sum, header| sum + header.work())
}

/// A chain as it would be: `chain` up to the height `fork`, then `headers`.
struct Branch<'a> {
    chain: &'a Chain,
    fork: usize,
    headers: &'a [Header],
}

impl Branch<'_> {
    fn height(&self) -> usize {
        self.fork + self.headers.len()
    }

    fn at(&self, height: usize) -> &Header {
        if height <= self.fork {
            &self.chain.headers[height]
        } else {
            &self.headers[height - self.fork - 1]
        }
    }

    /// May `header` follow?
    fn check_next(&self, header: &Header) -> Result<(), ChainError> {
        if header.prev_blockhash != self.at(self.height()).block_hash() {
            return Err(ChainError::Unlinked);
        }
        let required = Target::from_compact(self.required_bits(header.time));
        header.validate_pow(required).map_err(|_| ChainError::ProofOfWork)?;
        if header.time <= self.median_time() {
            return Err(ChainError::TimeTooOld);
        }
        if header.time > now().saturating_add(MAX_FUTURE_BLOCK_TIME) {
            return Err(ChainError::TimeTooNew);
        }
        Ok(())
    }

    /// The difficulty of the next header, whose time is `time`. Bitcoin Core's
    /// `GetNextWorkRequired`.
    fn required_bits(&self, time: u32) -> CompactTarget {
        let params: &Params = self.chain.network.params();
        let last = self.at(self.height());
        let next_height = self.height() + 1;
        if params.no_pow_retargeting {
            return last.bits;
        }
        if next_height % DIFFICULTY_PERIOD == 0 {
            let first = self.at(next_height - DIFFICULTY_PERIOD);
            // BIP 94: on testnet4 the first block of a period keeps the real difficulty.
            let bits = if self.chain.network == Network::Testnet4 { first.bits } else { last.bits };
            let timespan = last.time.saturating_sub(first.time);
            return CompactTarget::from_next_work_required(bits, timespan.into(), params);
        }
        if !params.allow_min_difficulty_blocks {
            return last.bits;
        }
        // The test networks let a block that took more than 20 minutes have the lowest
        // difficulty; the one after it goes back to what was before.
        let lowest = params.max_attainable_target.to_compact_lossy();
        if u64::from(time) > u64::from(last.time) + 2 * params.pow_target_spacing {
            return lowest;
        }
        let mut height = self.height();
        while height % DIFFICULTY_PERIOD != 0 && self.at(height).bits == lowest {
            height -= 1;
        }
        self.at(height).bits
    }

    fn median_time(&self) -> u32 {
        let lowest = (self.height() + 1).saturating_sub(MEDIAN_TIME_SPAN);
        let mut times: Vec<u32> =
            (lowest..=self.height()).map(|height| self.at(height).time).collect();
        times.sort_unstable();
        times[times.len() / 2]
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Why headers were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// The first does not follow a known one. Not a fault: the peer may be ahead.
    Unconnected,
    /// One does not follow the one before it in the message.
    Unlinked,
    /// Wrong difficulty, or a hash that does not meet it.
    ProofOfWork,
    /// One is older than the headers before it allow.
    TimeTooOld,
    /// One is too far in the future.
    TimeTooNew,
    /// The chain is as long as it may become.
    TooMany,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChainError::Unconnected => "headers that follow no known one",
            ChainError::Unlinked => "headers that are no chain",
            ChainError::ProofOfWork => "a header without its proof of work",
            ChainError::TimeTooOld => "a header older than those before it",
            ChainError::TimeTooNew => "a header from the future",
            ChainError::TooMany => "more headers than are kept",
        })
    }
}

impl Error for ChainError {}

#[cfg(test)]
mod tests;
