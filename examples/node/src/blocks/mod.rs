//! The blocks that this node serves, from files, and their compact filters (BIP 157 and 158).
//!
//! [`BlockStore::open`] checks all blocks and computes the filters, on the caller's thread. The store
//! does not change afterwards. It keeps headers and filters in memory and the blocks in their files,
//! so only the message handler, which may wait for a disk, reads blocks.

mod files;
mod filters;

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use bitcoin::{
    Block, BlockHash, Network, OutPoint, Weight, Work,
    bip158::{FilterHash, FilterHeader},
    block::Header,
    blockdata::constants::genesis_block,
    consensus::encode::{deserialize, serialize},
};

use self::{
    files::{BlockFile, Place},
    filters::{Filters, Outputs},
};
use crate::{Chain, ChainError};

/// The length of a header at the beginning of a block.
const HEADER: usize = 80;

/// A chain of blocks that begins with the genesis block, and the filters of the blocks.
pub struct BlockStore {
    chain: Chain,
    files: Vec<BlockFile>,
    /// The places by height, without the genesis block, which needs no file.
    places: Vec<Place>,
    filters: Filters,
    left_out: usize,
}

impl fmt::Debug for BlockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockStore").field("height", &self.height()).finish_non_exhaustive()
    }
}

impl BlockStore {
    /// Reads and checks the blocks at `path`, and computes their filters.
    ///
    /// `path` is a file, or a folder with `blk*.dat` files of Bitcoin Core and `*.block` files; other
    /// files in it are ignored. A file has one block, or blocks behind the network's magic and their
    /// length, as Bitcoin Core writes them. The order is free, and the genesis block may be absent.
    /// The key `xor.dat` of Bitcoin Core is used if it is in the folder.
    ///
    /// The store takes the chain with the most work. Each of its blocks must have proof of work and
    /// the right difficulty and time, must contain the transactions that its header commits to with
    /// their witnesses, must not exceed the weight limit, and must spend existing outputs. The
    /// store checks no script, signature or amount, and on signet no signature of a block: the
    /// operator vouches for the files.
    ///
    /// While it opens, the store takes memory for the unspent outputs; afterwards it takes about 300
    /// bytes and a filter for each block.
    ///
    /// # Errors
    ///
    /// [`BlockStoreError`], which names the file.
    pub fn open(path: &Path, network: Network) -> Result<BlockStore, BlockStoreError> {
        let files = files::find(path)?;
        let mut found = HashMap::new();
        for (file, blocks) in files.iter().enumerate() {
            blocks.scan(network, |offset, bytes| {
                let header = bytes.get(..HEADER).and_then(|bytes| deserialize(bytes).ok());
                let problem = || BlockStoreError::new(blocks.path(), Problem::Malformed);
                let header: Header = header.ok_or_else(problem)?;
                let place = Place { file, offset, length: bytes.len() };
                let number = found.len();
                found.entry(header.block_hash()).or_insert(Found { number, header, place });
                Ok(())
            })?;
        }
        let failed = |problem| BlockStoreError::new(path, problem);
        let genesis = genesis_block(network);
        found.remove(&genesis.block_hash());
        let hashes = best_chain(&genesis.header, &found);
        if hashes.is_empty() && !found.is_empty() {
            return Err(failed(Problem::NoConnection));
        }
        let headers: Vec<Header> = hashes.iter().map(|hash| found[hash].header).collect();
        let mut chain = Chain::new(network);
        chain.add(&headers).map_err(|error| failed(Problem::Chain(error)))?;
        let mut store = BlockStore {
            chain,
            places: hashes.iter().map(|hash| found[hash].place).collect(),
            left_out: found.len() - hashes.len(),
            files,
            filters: Filters::default(),
        };
        store.compute_filters(&genesis)?;
        Ok(store)
    }

    /// Checks each block, in the order of the chain, and adds its filter.
    fn compute_filters(&mut self, genesis: &Block) -> Result<(), BlockStoreError> {
        let mut unspent = Outputs::default();
        self.filters.add(genesis, &unspent).map_err(|problem| self.failed(0, problem))?;
        for height in 1..=self.height() {
            let checked = self.read_place(height).map_err(Problem::Io).and_then(|bytes| {
                let block = files::decode(&bytes)?;
                check(&block)?;
                unspent.add_all(&block);
                self.filters.add(&block, &unspent)?;
                unspent.spend_all(&block)
            });
            checked.map_err(|problem| self.failed(height, problem))?;
        }
        Ok(())
    }

    fn failed(&self, height: usize, problem: Problem) -> BlockStoreError {
        let place = height.checked_sub(1).and_then(|index| self.places.get(index));
        let file = place.map_or(Path::new(""), |place| self.files[place.file].path());
        BlockStoreError { height: Some(height), ..BlockStoreError::new(file, problem) }
    }

    /// Returns the headers of the store.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns the height of the last block.
    pub fn height(&self) -> usize {
        self.chain.height()
    }

    /// Returns the number of blocks in the files that are not in the chain: blocks of other branches,
    /// and blocks that follow no known block.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Reads a block of the chain, with its witnesses.
    ///
    /// # Errors
    ///
    /// [`io::Error`], if the file cannot be read, or if it has changed.
    pub(crate) fn read(&self, height: usize) -> io::Result<Vec<u8>> {
        let bytes = match height {
            0 => serialize(&genesis_block(self.chain.network())),
            _ => self.read_place(height)?,
        };
        let header = bytes.get(..HEADER).and_then(|bytes| deserialize::<Header>(bytes).ok());
        if header.is_some_and(|header| self.chain.header(height) == Some(&header)) {
            return Ok(bytes);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the file of a block has changed"))
    }

    fn read_place(&self, height: usize) -> io::Result<Vec<u8>> {
        let place = height.checked_sub(1).and_then(|index| self.places.get(index));
        let place = place.ok_or(io::ErrorKind::NotFound)?;
        self.files[place.file].read(place)
    }

    /// Reads a block of the chain, without its witnesses.
    ///
    /// # Errors
    ///
    /// As [`read`](BlockStore::read).
    pub(crate) fn read_stripped(&self, height: usize) -> io::Result<Vec<u8>> {
        let changed = |_| io::Error::new(io::ErrorKind::InvalidData, "a block is malformed");
        let mut block: Block = deserialize(&self.read(height)?).map_err(changed)?;
        for input in block.txdata.iter_mut().flat_map(|transaction| &mut transaction.input) {
            input.witness.clear();
        }
        Ok(serialize(&block))
    }

    /// Returns the basic filter (BIP 158) of the block at a height. `None` above the last block.
    pub fn filter(&self, height: usize) -> Option<&[u8]> {
        self.filters.content(height)
    }

    /// Returns the hash of the filter at a height.
    pub(crate) fn filter_hash(&self, height: usize) -> Option<FilterHash> {
        self.filters.hash(height)
    }

    /// Returns the filter header (BIP 157) at a height. `None` above the last block.
    pub fn filter_header(&self, height: usize) -> Option<FilterHeader> {
        self.filters.header(height)
    }
}

/// A block in a file.
struct Found {
    /// The position among all blocks. The first of two chains with the same work counts.
    number: usize,
    header: Header,
    place: Place,
}

/// Returns the blocks of the chain with the most work after the genesis block, in order.
fn best_chain(genesis: &Header, found: &HashMap<BlockHash, Found>) -> Vec<BlockHash> {
    let mut children: HashMap<BlockHash, Vec<BlockHash>> = HashMap::new();
    for (hash, block) in found {
        children.entry(block.header.prev_blockhash).or_default().push(*hash);
    }
    let mut best: Option<(Work, usize, BlockHash)> = None;
    let mut waiting = VecDeque::from([(genesis.block_hash(), genesis.work())]);
    while let Some((parent, parent_work)) = waiting.pop_front() {
        for hash in children.get(&parent).into_iter().flatten() {
            let block = &found[hash];
            let work = parent_work + block.header.work();
            waiting.push_back((*hash, work));
            let is_better = best.is_none_or(|(most, number, _)| {
                work > most || (work == most && block.number < number)
            });
            if is_better {
                best = Some((work, block.number, *hash));
            }
        }
    }
    let mut hashes = Vec::new();
    let mut next = best.map(|(_, _, hash)| hash);
    while let Some((hash, block)) = next.and_then(|hash| Some((hash, found.get(&hash)?))) {
        hashes.push(hash);
        next = Some(block.header.prev_blockhash);
    }
    hashes.reverse();
    hashes
}

/// Checks what a block says about itself.
fn check(block: &Block) -> Result<(), Problem> {
    let mut coinbases = block.txdata.iter().map(bitcoin::Transaction::is_coinbase);
    if coinbases.next() != Some(true) || coinbases.any(|is_coinbase| is_coinbase) {
        return Err(Problem::Coinbase);
    }
    if !block.check_merkle_root() {
        return Err(Problem::MerkleRoot);
    }
    if !block.check_witness_commitment() {
        return Err(Problem::WitnessCommitment);
    }
    if block.weight() > Weight::MAX_BLOCK {
        return Err(Problem::Weight);
    }
    Ok(())
}

/// The error returned by [`BlockStore::open`].
#[derive(Debug)]
pub struct BlockStoreError {
    path: PathBuf,
    height: Option<usize>,
    problem: Problem,
}

impl BlockStoreError {
    fn new(path: &Path, problem: Problem) -> BlockStoreError {
        BlockStoreError { path: path.to_owned(), height: None, problem }
    }

    /// Returns what is wrong.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for BlockStoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot serve the blocks in {}", self.path.display())?;
        if let Some(height) = self.height {
            write!(f, ": the block at height {height}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl Error for BlockStoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.problem {
            Problem::Io(error) => Some(error),
            Problem::Chain(error) => Some(error),
            _ => None,
        }
    }
}

/// What is wrong with the files of a [`BlockStore`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// A file or folder cannot be read.
    Io(io::Error),
    /// The folder has neither a `blk*.dat` nor a `*.block` file.
    NoFile,
    /// The file `xor.dat` does not have the length of a key.
    XorKey,
    /// A block is longer than the weight limit allows.
    TooLong {
        /// The place in the file.
        offset: u64,
    },
    /// The file ends within a block.
    CutOff {
        /// The place in the file.
        offset: u64,
    },
    /// The file has bytes that are neither a block nor reserved space.
    NoBlock {
        /// The place in the file.
        offset: u64,
    },
    /// A block cannot be decoded.
    Malformed,
    /// No block follows the genesis block of the network.
    NoConnection,
    /// A header of the chain breaks a rule.
    Chain(ChainError),
    /// The first transaction of a block is no coinbase, or another one is.
    Coinbase,
    /// The header of a block does not commit to the transactions.
    MerkleRoot,
    /// A block does not commit to its witnesses.
    WitnessCommitment,
    /// A block exceeds the weight limit.
    Weight,
    /// A transaction spends an output that does not exist or is spent.
    MissingOutput(OutPoint),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Problem {
        Problem::Io(error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Io(error) => error.fmt(f),
            Problem::NoFile => f.write_str("the folder has neither blk*.dat nor *.block files"),
            Problem::XorKey => f.write_str("the key does not have 8 bytes"),
            Problem::TooLong { offset } => {
                write!(f, "a block at byte {offset} is longer than {}", files::MAX_BLOCK_LENGTH)
            }
            Problem::CutOff { offset } => write!(f, "the block at byte {offset} is cut off"),
            Problem::NoBlock { offset } => write!(f, "no block begins at byte {offset}"),
            Problem::Malformed => f.write_str("a block is malformed, or of another network"),
            Problem::NoConnection => f.write_str(
                "no block follows the genesis block of the network; blocks of a pruned node cannot \
                 be served",
            ),
            Problem::Chain(error) => write!(f, "the chain has {error}"),
            Problem::Coinbase => f.write_str("the coinbase is missing or is not alone"),
            Problem::MerkleRoot => f.write_str("its header does not commit to its transactions"),
            Problem::WitnessCommitment => f.write_str("it does not commit to its witnesses"),
            Problem::Weight => f.write_str("it exceeds the weight limit"),
            Problem::MissingOutput(output) => write!(f, "it spends {output}, which is missing"),
        }
    }
}

#[cfg(test)]
mod tests;
