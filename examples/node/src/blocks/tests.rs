//! What a store takes from its files, and what it refuses.

use std::fs;

use bitcoin::{Amount, bip158::BlockFilter, hashes::Hash};
use sockman_test_support::tools::TempDir;

use super::*;
use crate::testing::{framed, mine_block, mine_blocks, script_of, solve, write_blocks};

const NETWORK: Network = Network::Regtest;

fn open(path: &Path) -> BlockStore {
    BlockStore::open(path, NETWORK).unwrap()
}

/// Asserts that a store refuses a folder with these files, with an error that has these words.
fn assert_refused(files: &[(&str, Vec<u8>)], expected: &str) {
    let folder = TempDir::new();
    for (name, bytes) in files {
        fs::write(folder.path(name), bytes).unwrap();
    }
    let error = BlockStore::open(&folder.path(""), NETWORK).unwrap_err().to_string();
    assert!(error.contains(expected), "{expected}: {error}");
}

fn assert_has(store: &BlockStore, blocks: &[Block]) {
    assert_eq!(store.height(), blocks.len());
    for (height, block) in (1..).zip(blocks) {
        assert_eq!(store.chain().height_of(&block.block_hash()), Some(height));
        assert_eq!(store.read(height).unwrap(), serialize(block));
    }
}

#[test]
fn blocks_are_found_in_files_of_one_block_and_of_many_in_any_order() {
    let blocks = mine_blocks(20, 0);
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &blocks[..7]);
    let mut late: Vec<Block> = blocks[12..].to_vec();
    late.reverse();
    fs::write(folder.path("blk00000.dat"), framed(&late)).unwrap();
    // Bitcoin Core writes the genesis block too. A block may be there twice.
    let others = [&[genesis_block(NETWORK)], &blocks[5..12]].concat();
    fs::write(folder.path("blk00001.dat"), framed(&others)).unwrap();
    fs::write(folder.path("rev00000.dat"), b"ignored").unwrap();
    let store = open(&folder.path(""));
    assert_has(&store, &blocks);
    assert_eq!(store.left_out(), 0);
    assert_eq!(store.read(0).unwrap(), serialize(&genesis_block(NETWORK)));
    assert!(store.read(21).is_err());
    // A file alone.
    let file = folder.path("all");
    fs::write(&file, framed(&blocks)).unwrap();
    assert_has(&open(&file), &blocks);
    fs::write(&file, serialize(&blocks[0])).unwrap();
    assert_has(&open(&file), &blocks[..1]);
}

#[test]
fn files_that_bitcoin_core_obfuscated_and_reserved_space_in_are_read() {
    let blocks = mine_blocks(20, 50);
    let key = [1, 2, 3, 4, 5, 6, 7, 0x88];
    let folder = TempDir::new();
    fs::write(folder.path("xor.dat"), key).unwrap();
    for (name, blocks, reserved) in
        [("blk00000.dat", &blocks[..9], 0), ("blk00001.dat", &blocks[9..], 100_003)]
    {
        let mut bytes = framed(blocks);
        for (byte, key) in bytes.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        bytes.resize(bytes.len() + reserved, 0);
        fs::write(folder.path(name), bytes).unwrap();
    }
    assert_has(&open(&folder.path("")), &blocks);
}

#[test]
fn the_chain_with_the_most_work_is_taken() {
    let blocks = mine_blocks(10, 0);
    let fork = mine_block(&blocks[5].header, 7, None, 7);
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &blocks);
    write_blocks(&folder.path(""), std::slice::from_ref(&fork));
    // A block whose parent is missing.
    let unknown = mine_block(&mine_block(&fork.header, 8, None, 0).header, 9, None, 0);
    write_blocks(&folder.path(""), &[unknown]);
    let store = open(&folder.path(""));
    assert_has(&store, &blocks);
    assert_eq!(store.left_out(), 2);
    assert_eq!(store.chain().height_of(&fork.block_hash()), None);
}

#[test]
fn a_block_without_witnesses_has_the_same_hash() {
    let blocks = mine_blocks(2, 0);
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &blocks);
    let stripped = open(&folder.path("")).read_stripped(2).unwrap();
    let block: Block = deserialize(&stripped).unwrap();
    assert_eq!(block.block_hash(), blocks[1].block_hash());
    assert!(block.check_merkle_root());
    assert!(block.txdata.iter().all(|it| it.input.iter().all(|input| input.witness.is_empty())));
    assert!(stripped.len() < serialize(&blocks[1]).len());
}

/// The values for the genesis block are those of BIP 158's test vectors.
#[test]
fn filters_have_the_scripts_of_created_and_spent_outputs() {
    let mut filters = Filters::default();
    filters.add(&genesis_block(Network::Testnet), &Outputs::default()).ok().unwrap();
    assert_eq!(filters.content(0).unwrap(), [0x01, 0x9d, 0xfc, 0xa8]);
    assert_eq!(
        filters.header(0).unwrap().to_string(),
        "21584579b7eb08997773e5aeff3a7f932700042d0ed2a6129012b7d7ae81b750"
    );

    let blocks = mine_blocks(4, 0);
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &blocks);
    let store = open(&folder.path(""));
    let has = |height: usize, script: bitcoin::ScriptBuf| {
        let filter = BlockFilter::new(store.filter(height).unwrap());
        filter.match_any(&blocks[height - 1].block_hash(), [script.as_bytes()].into_iter()).unwrap()
    };
    assert!(has(3, script_of(3, 1, 0)) && has(3, script_of(3, 2, 0)), "created");
    assert!(has(3, script_of(2, 1, 0)), "spent");
    assert!(
        !has(3, script_of(2, 2, 0)) && !has(3, script_of(1, 1, 0)) && !has(3, script_of(4, 1, 0))
    );
    assert!(!has(3, blocks[2].txdata[0].output[1].script_pubkey.clone()), "OP_RETURN");
    let mut header = FilterHeader::all_zeros();
    for height in 0..=4 {
        header = store.filter_hash(height).unwrap().filter_header(&header);
        assert_eq!(store.filter_header(height), Some(header));
    }
    assert_eq!(store.filter_header(5), None);
}

#[test]
fn files_that_are_damaged_are_refused() {
    let blocks = mine_blocks(3, 0);
    let whole = framed(&blocks);
    let cut = whole[..whole.len() - 1].to_vec();
    let long = [&whole[..4], &4_000_001_u32.to_le_bytes(), &whole[8..]].concat();
    let cases: [(Vec<u8>, &str); 8] = [
        (cut, "is cut off"),
        (long, "longer than 4000000"),
        ([&whole[..], b"\0\0\0\0\0\0\0\x01"].concat(), "no block begins at byte"),
        ([&whole[..], b"x"].concat(), "no block begins at byte"),
        ([&whole[..], &whole[..4]].concat(), "no block begins at byte"),
        (vec![7; 4_000_001], "longer than 4000000"),
        (vec![7; 79], "malformed"),
        (Vec::new(), "malformed"),
    ];
    for (bytes, expected) in cases {
        assert_refused(&[("blk00000.dat", bytes)], expected);
    }
    // The end of the last transaction is damaged.
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert_refused(&[("blk00000.dat", damaged)], "height 3: its header does not commit");
    assert_refused(&[("blk00000.dat", whole.clone()), ("xor.dat", vec![1; 7])], "8 bytes");
    assert_refused(&[("other.dat", whole)], "neither blk*.dat nor *.block files");
    let missing = BlockStore::open(Path::new("/nonexistent"), NETWORK).unwrap_err();
    assert!(matches!(missing.problem(), Problem::Io(_)), "{missing}");
}

/// Asserts that a chain whose second block is `block` is refused.
fn assert_block_refused(block: &Block, expected: &str) {
    let first = &mine_blocks(1, 0)[0];
    assert_refused(&[("blk00000.dat", framed(&[first.clone(), block.clone()]))], expected);
}

#[test]
fn blocks_that_break_a_rule_are_refused() {
    let second = &mine_blocks(2, 0)[1];
    let changed = |change: &dyn Fn(&mut Block)| {
        let mut block = second.clone();
        change(&mut block);
        solve(&mut block);
        block
    };
    let missing = changed(&|block| block.txdata[1].input[0].previous_output.vout = 9);
    // The witness commitment does not cover what only an input spends.
    assert_block_refused(&missing, "witnesses");
    let parent = &mine_blocks(1, 0)[0];
    let unknown = OutPoint::new(parent.txdata[0].compute_txid(), 9);
    let missing = mine_block(&parent.header, 2, Some(unknown), 0);
    assert_block_refused(&missing, "height 2: it spends");
    let twice = mine_block(&parent.header, 2, Some(OutPoint::null()), 0);
    assert_block_refused(&twice, "coinbase");
    let none = changed(&|block| drop(block.txdata.remove(0)));
    assert_block_refused(&none, "coinbase");
    let witness = changed(&|block| block.txdata[1].input[0].witness.push(b"more"));
    assert_block_refused(&witness, "witnesses");
    let heavy = mine_block(&parent.header, 2, None, 1_100_000);
    assert_block_refused(&heavy, "weight");
    let early = changed(&|block| block.header.time = 0);
    assert_block_refused(&early, "too old");
    let cheap = {
        let mut block = second.clone();
        while block.header.validate_pow(block.header.target()).is_ok() {
            block.header.nonce += 1;
        }
        block
    };
    assert_block_refused(&cheap, "proof of work");
    let money = changed(&|block| block.txdata[0].output[0].value = Amount::MAX_MONEY);
    // Amounts are not checked, but the commitment covers the outputs of all but the coinbase.
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &[parent.clone(), money]);
    assert_eq!(open(&folder.path("")).height(), 2);
    // The same output in two transactions.
    let double = changed(&|block| {
        let mut again = block.txdata[1].clone();
        again.output[0].value = Amount::ZERO;
        block.txdata.push(again);
        let root = block.witness_root().unwrap();
        let commitment = Block::compute_witness_commitment(&root, &[0; 32]).to_byte_array();
        let script = [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &commitment[..]].concat();
        block.txdata[0].output[1].script_pubkey = script.into();
    });
    assert_block_refused(&double, "height 2: it spends");
}

#[test]
fn blocks_of_another_network_or_a_pruned_node_are_refused() {
    let blocks = mine_blocks(3, 0);
    assert_refused(&[("blk00000.dat", framed(&blocks[1..]))], "pruned");
    let folder = TempDir::new();
    write_blocks(&folder.path(""), &blocks);
    let error = BlockStore::open(&folder.path(""), Network::Signet).unwrap_err();
    assert!(matches!(error.problem(), Problem::NoConnection), "{error}");
}

#[test]
fn a_file_that_changes_later_is_not_served() {
    let blocks = mine_blocks(3, 0);
    let folder = TempDir::new();
    let file = folder.path("blk00000.dat");
    fs::write(&file, framed(&blocks)).unwrap();
    let store = open(&folder.path(""));
    fs::write(&file, framed(&[blocks[0].clone(), blocks[2].clone(), blocks[1].clone()])).unwrap();
    assert!(store.read(1).is_ok());
    assert!(store.read(2).is_err());
    fs::remove_file(&file).unwrap();
    assert!(store.read(1).is_err());
    assert!(store.read_stripped(1).is_err());
}
