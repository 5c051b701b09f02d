//! The block headers that this node knows and has checked: the chain with the most work.
//!
//! Plain data without a thread, behind a mutex. The node checks proof of work, linkage, difficulty
//! and times, as a light node does; it never sees blocks. It compares a branch with the chain by
//! the work of the headers in one message, so it does not follow a fork deeper than 2000 headers.
//! The chain stores the sum of the work up to each header, so the comparison costs the same at every
//! height.
//! Bitcoin Core defends itself against a flood of cheap headers by its presync; this node has a
//! plain limit instead.

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

/// The most headers in one message. A message with fewer headers is the last one.
pub(crate) const MAX_HEADERS_PER_MESSAGE: usize = 2000;
/// The most headers that the node keeps: some 100 years of blocks. On regtest a peer can make
/// headers for free, so the number needs a bound.
const MAX_HEADERS: usize = 5_000_000;
/// The number of blocks that share one difficulty.
const DIFFICULTY_PERIOD: usize = 2016;
/// A block's time must lie after the median of the times of this many blocks before it.
const MEDIAN_TIME_SPAN: usize = 11;
/// The time, in seconds, that a block may lie in the future.
const MAX_FUTURE_BLOCK_TIME: u32 = 2 * 60 * 60;

/// A chain of headers that begins with the genesis block.
#[derive(Debug, Clone)]
pub struct Chain {
    network: Network,
    /// The headers by height. Never empty: the first one is the genesis block's.
    headers: Vec<Header>,
    /// The work of all headers up to each height.
    work: Vec<Work>,
    heights: HashMap<BlockHash, usize>,
}

impl Chain {
    /// Returns the chain that has only the genesis block.
    pub fn new(network: Network) -> Chain {
        let genesis = genesis_block(network).header;
        Chain {
            network,
            headers: vec![genesis],
            work: vec![genesis.work()],
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

    pub(crate) fn network(&self) -> Network {
        self.network
    }

    /// Returns the header at a height.
    pub(crate) fn header(&self, height: usize) -> Option<&Header> {
        self.headers.get(height)
    }

    /// Returns the height of a block of the chain.
    pub(crate) fn height_of(&self, hash: &BlockHash) -> Option<usize> {
        self.heights.get(hash).copied()
    }

    pub(crate) fn contains(&self, hash: &BlockHash) -> bool {
        self.heights.contains_key(hash)
    }

    /// Returns hashes by which a peer finds the last block that both sides know: the tip and nine
    /// before it, then hashes in steps that double, and the genesis block.
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

    /// Returns the answer to `getheaders`: the headers up to `stop` that follow the first block of
    /// `locator` in this chain. An empty locator requests the header of `stop` alone. Returns `None`,
    /// which is no answer, if the chain does not have it.
    pub(crate) fn headers_after(
        &self,
        locator: &[BlockHash],
        stop: &BlockHash,
    ) -> Option<Vec<Header>> {
        if locator.is_empty() {
            return Some(vec![*self.header(self.height_of(stop)?)?]);
        }
        let after = self.after(locator, stop);
        Some(after.take(MAX_HEADERS_PER_MESSAGE).map(|(_, header)| *header).collect())
    }

    /// Returns the blocks up to `stop` that follow the first block of `locator` in this chain, or the
    /// genesis block, with their heights.
    pub(crate) fn after(
        &self,
        locator: &[BlockHash],
        stop: &BlockHash,
    ) -> impl Iterator<Item = (usize, &Header)> {
        let known = locator.iter().find_map(|hash| self.height_of(hash));
        let first = known.unwrap_or(0) + 1;
        let end = self.height_of(stop).map_or(usize::MAX, |height| height + 1);
        let headers = self.headers.iter().enumerate();
        headers.skip(first).take(end.saturating_sub(first))
    }

    /// Checks headers that a peer sent, and adds them if the chain then has more work. Costs the
    /// same at every height, unless headers of the chain are replaced.
    ///
    /// # Errors
    ///
    /// [`ChainError`], if a header breaks a rule. The chain stays unchanged.
    pub(crate) fn add(&mut self, headers: &[Header]) -> Result<Added, ChainError> {
        // Known headers are skipped: an overlap is no fault.
        let mut known = 0;
        let mut hashes: Vec<BlockHash> = headers.iter().map(Header::block_hash).collect();
        while known < headers.len() && self.contains(&hashes[known]) {
            known += 1;
        }
        let new = &headers[known..];
        let Some(first) = new.first() else { return Ok(Added::NothingNew) };
        let fork = *self.heights.get(&first.prev_blockhash).ok_or(ChainError::Unconnected)?;
        if fork + new.len() >= MAX_HEADERS {
            return Err(ChainError::TooMany);
        }

        let mut branch = Branch { chain: self, fork, headers: &[] };
        for count in 1..=new.len() {
            branch.check_next(&new[count - 1])?;
            branch.headers = &new[..count];
        }
        let mut work = self.work[fork];
        let sums: Vec<Work> = new
            .iter()
            .map(|header| {
                work = work + work_of(header);
                work
            })
            .collect();
        if work <= self.work[self.height()] {
            return Ok(Added::LessWork);
        }
        for replaced in &self.headers[fork + 1..] {
            self.heights.remove(&replaced.block_hash());
        }
        self.headers.truncate(fork + 1);
        self.work.truncate(fork + 1);
        for (header, hash) in new.iter().zip(hashes.drain(known..)) {
            self.heights.insert(hash, self.headers.len());
            self.headers.push(*header);
        }
        self.work.extend(sums);
        Ok(Added::New(new.len()))
    }

    /// Mines `count` headers on top of the chain, ten minutes apart. This is for regtest, where
    /// every second nonce succeeds.
    ///
    /// # Errors
    ///
    /// [`ChainError`], if the chain does not accept such headers.
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

/// Returns the work of a header. Every sum uses this function, so that a test can count the calls.
fn work_of(header: &Header) -> Work {
    #[cfg(test)]
    tests::COMPUTED.set(tests::COMPUTED.get() + 1);
    header.work()
}

/// What [`Chain::add`] did with valid headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// This many headers are new in the chain.
    New(usize),
    /// The chain has all the headers already, or there were none.
    NothingNew,
    /// The headers lead to no more work than the chain has. The chain does not keep them.
    LessWork,
}

/// A candidate chain. The branch consists of `chain` up to the height `fork`, followed by
/// `headers`.
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

    /// Checks that `header` may follow the last header of the branch.
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

    /// Returns the difficulty that the next header must have if its time is `time`. Corresponds to
    /// Bitcoin Core's `GetNextWorkRequired`.
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
        // On test networks, a block that comes more than 20 minutes after the last one may have
        // the lowest difficulty. The block after it returns to the previous difficulty.
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

/// Returns the seconds since 1970.
pub(crate) fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// The error returned when a [`Chain`] refuses headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainError {
    /// The first header does not follow a known one. The peer is not at fault, because it may know
    /// more headers.
    Unconnected,
    /// A header does not follow the previous one in the message.
    Unlinked,
    /// A header has the wrong difficulty, or its hash does not meet the difficulty.
    ProofOfWork,
    /// The time of a header is not after the median time of the headers before it.
    TimeTooOld,
    /// The time of a header is too far in the future.
    TimeTooNew,
    /// The chain has reached its maximum length.
    TooMany,
}

impl fmt::Display for ChainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChainError::Unconnected => "headers that do not follow a known header",
            ChainError::Unlinked => "headers that do not follow one another",
            ChainError::ProofOfWork => "a header without the required proof of work",
            ChainError::TimeTooOld => "a header that is too old for its place in the chain",
            ChainError::TimeTooNew => "a header whose time is too far in the future",
            ChainError::TooMany => "more headers than this node keeps",
        })
    }
}

impl Error for ChainError {}

#[cfg(test)]
mod tests;
