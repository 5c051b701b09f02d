//! The files of a block store: which files have blocks, and where each block lies.
//!
//! Plain functions, on any thread. Files are read in pieces of one block at most.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bitcoin::{Network, consensus::encode::deserialize};

use super::{BlockStoreError, Problem};

/// The most bytes of a block: a block has at most 4,000,000 weight units.
pub(super) const MAX_BLOCK_LENGTH: usize = 4_000_000;
/// The bytes before each block in a file of Bitcoin Core: the magic and the length.
const FRAME: usize = 8;
/// The name of the file with the key by which Bitcoin Core obfuscates its block files, and the
/// length of the key.
const XOR_FILE: &str = "xor.dat";
const XOR_LENGTH: usize = 8;

/// A file with blocks.
#[derive(Debug)]
pub(super) struct BlockFile {
    path: PathBuf,
    /// The key of the obfuscation. All zeros for a plain file.
    key: [u8; XOR_LENGTH],
}

/// The place of a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The index of the file in the list that [`find`] returns.
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) length: usize,
}

/// Returns the files with blocks at `path`, sorted by name. If `path` is a folder, these are the
/// `blk*.dat` files of Bitcoin Core and the `*.block` files in it. Otherwise it is `path` itself.
///
/// # Errors
///
/// [`BlockStoreError`], if the folder cannot be read, or if it has no such file.
pub(super) fn find(path: &Path) -> Result<Vec<BlockFile>, BlockStoreError> {
    let failed = |error| BlockStoreError::new(path, Problem::Io(error));
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        // A copy of one file has no key beside it, or a key that is not its own.
        return Ok(vec![BlockFile { path: path.to_owned(), key: [0; XOR_LENGTH] }]);
    }
    let key = xor_key(&path.join(XOR_FILE))?;
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_core = name.starts_with("blk") && name.ends_with(".dat");
        if !is_core && !name.ends_with(".block") {
            continue;
        }
        let key = if is_core { key } else { [0; XOR_LENGTH] };
        files.push(BlockFile { key, path });
    }
    if files.is_empty() {
        return Err(BlockStoreError::new(path, Problem::NoFile));
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn xor_key(path: &Path) -> Result<[u8; XOR_LENGTH], BlockStoreError> {
    match fs::read(path) {
        Ok(bytes) => bytes.try_into().map_err(|_| BlockStoreError::new(path, Problem::XorKey)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok([0; XOR_LENGTH]),
        Err(error) => Err(BlockStoreError::new(path, Problem::Io(error))),
    }
}

impl BlockFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Passes each block in the file to `found`, with its offset. A file that begins with the magic
    /// of the network has any number of blocks, each behind the magic and its length. Zeros at its
    /// end are ignored, because Bitcoin Core reserves space in this way. Another file is one block.
    ///
    /// # Errors
    ///
    /// [`BlockStoreError`], if the file cannot be read or has other bytes, and the errors of
    /// `found`.
    pub(super) fn scan(
        &self,
        network: Network,
        mut found: impl FnMut(u64, &[u8]) -> Result<(), BlockStoreError>,
    ) -> Result<(), BlockStoreError> {
        let failed = |problem| BlockStoreError::new(&self.path, problem);
        let file = File::open(&self.path).map_err(|error| failed(Problem::Io(error)))?;
        let mut reader = Reader { input: BufReader::new(file), key: self.key, at: 0 };
        let magic = network.magic().to_bytes();
        let mut block = Vec::new();
        let mut is_framed = false;
        loop {
            let offset = reader.at;
            let mut frame = [0; FRAME];
            let length = reader.read_up_to(&mut frame).map_err(|error| failed(error.into()))?;
            if length == FRAME && frame[..magic.len()] == magic {
                is_framed = true;
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&frame[magic.len()..]);
                let length = usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX);
                if length > MAX_BLOCK_LENGTH {
                    return Err(failed(Problem::TooLong { offset }));
                }
                block.resize(length, 0);
                if reader.read_up_to(&mut block).map_err(|error| failed(error.into()))? < length {
                    return Err(failed(Problem::CutOff { offset }));
                }
                found(offset + FRAME as u64, &block)?;
            } else if is_framed {
                let is_end = reader.is_reserved_from(offset, &frame[..length]);
                let is_end = is_end.map_err(|error| failed(error.into()))?;
                return if is_end { Ok(()) } else { Err(failed(Problem::NoBlock { offset })) };
            } else {
                block.clear();
                block.extend_from_slice(&frame[..length]);
                let rest = MAX_BLOCK_LENGTH + 1 - length;
                reader.append(rest, &mut block).map_err(|error| failed(error.into()))?;
                if block.len() > MAX_BLOCK_LENGTH {
                    return Err(failed(Problem::TooLong { offset }));
                }
                return found(offset, &block);
            }
        }
    }

    /// Reads a block again.
    ///
    /// # Errors
    ///
    /// [`io::Error`], if the file cannot be read, or is shorter than before.
    pub(super) fn read(&self, place: &Place) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(place.offset))?;
        let mut block = vec![0; place.length];
        file.read_exact(&mut block)?;
        apply(&self.key, place.offset, &mut block);
        Ok(block)
    }
}

/// Reads a file and removes its obfuscation.
struct Reader {
    input: BufReader<File>,
    key: [u8; XOR_LENGTH],
    at: u64,
}

impl Reader {
    /// Fills the buffer, or its beginning if the file ends. Returns the number of bytes.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length < buffer.len() {
            match self.input.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.took(&mut buffer[..length]);
        Ok(length)
    }

    /// Appends `limit` bytes to the buffer, or fewer if the file ends.
    fn append(&mut self, limit: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let before = buffer.len();
        self.input.by_ref().take(limit as u64).read_to_end(buffer)?;
        self.took(&mut buffer[before..]);
        Ok(())
    }

    /// Removes the obfuscation of bytes that were read.
    fn took(&mut self, bytes: &mut [u8]) {
        apply(&self.key, self.at, bytes);
        self.at += bytes.len() as u64;
    }

    /// Returns whether the file has only zeros from `offset` on, where the bytes `read` have been
    /// read. Bitcoin Core does not obfuscate the zeros of reserved space.
    fn is_reserved_from(&mut self, offset: u64, read: &[u8]) -> io::Result<bool> {
        let (mut piece, mut at) = (read.to_vec(), offset);
        while !piece.is_empty() {
            apply(&self.key, at, &mut piece);
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at = self.at;
            piece.resize(64 * 1024, 0);
            let length = self.read_up_to(&mut piece)?;
            piece.truncate(length);
        }
        Ok(true)
    }
}

/// Adds or removes the obfuscation of bytes that lie at `offset` in their file.
fn apply(key: &[u8; XOR_LENGTH], offset: u64, bytes: &mut [u8]) {
    if key.iter().all(|byte| *byte == 0) {
        return;
    }
    // The key is short, so the place in it fits.
    let start = usize::try_from(offset % XOR_LENGTH as u64).unwrap_or_default();
    for (byte, key) in bytes.iter_mut().zip(key.iter().cycle().skip(start)) {
        *byte ^= key;
    }
}

/// Decodes a block.
///
/// # Errors
///
/// [`Problem::Malformed`], also if bytes follow the block.
pub(super) fn decode(bytes: &[u8]) -> Result<bitcoin::Block, Problem> {
    deserialize(bytes).map_err(|_| Problem::Malformed)
}
