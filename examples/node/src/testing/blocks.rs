//! Blocks of regtest, and folders with them.

use std::{fs, path::Path};

use bitcoin::{
    Amount, Block, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode, TxOut,
    Witness, absolute,
    block::{Header, Version},
    blockdata::constants::genesis_block,
    consensus::encode::serialize,
    hashes::Hash,
    script::Builder,
    transaction,
};

/// Returns `count` blocks of regtest after the genesis block. Each one but the first spends the
/// coinbase of the one before it, with a witness. The output scripts differ, and have about `script`
/// bytes.
pub fn mine_blocks(count: usize, script: usize) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for height in 1..=count {
        let parent =
            blocks.last().map_or(genesis_block(Network::Regtest).header, |last| last.header);
        let spent = blocks.last().map(|last| OutPoint::new(last.txdata[0].compute_txid(), 0));
        blocks.push(mine_block(&parent, height, spent, script));
    }
    blocks
}

/// Returns a block of regtest at a height. It spends an output, if one is given.
pub fn mine_block(parent: &Header, height: usize, spent: Option<OutPoint>, script: usize) -> Block {
    let number = i64::try_from(height).unwrap();
    let input = |previous_output, script_sig, witness: &[u8]| TxIn {
        previous_output,
        script_sig,
        sequence: Sequence::MAX,
        witness: Witness::from_slice(&[witness]),
    };
    let transaction = |input, kind: u8| Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![input],
        output: vec![TxOut {
            value: Amount::from_sat(1),
            script_pubkey: script_of(height, kind, script),
        }],
    };
    // BIP 34 requires the height in the coinbase.
    let script_sig = Builder::new().push_int(number).push_int(number).into_script();
    let coinbase = transaction(input(OutPoint::null(), script_sig, &[0; 32]), 1);
    let spending = spent.map(|spent| transaction(input(spent, ScriptBuf::new(), b"signature"), 2));
    let mut block = Block {
        header: Header {
            version: Version::TWO,
            prev_blockhash: parent.block_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time: parent.time + 600,
            bits: parent.bits,
            nonce: 0,
        },
        txdata: [coinbase].into_iter().chain(spending).collect(),
    };
    let root = block.witness_root().unwrap();
    let commitment = Block::compute_witness_commitment(&root, &[0; 32]);
    let commitment =
        [&[0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed], &commitment.to_byte_array()[..]].concat();
    let script_pubkey = ScriptBuf::from_bytes(commitment);
    block.txdata[0].output.push(TxOut { value: Amount::ZERO, script_pubkey });
    solve(&mut block);
    block
}

/// Makes the header of a block of regtest commit to its transactions, and have proof of work.
pub fn solve(block: &mut Block) {
    block.header.merkle_root = block.compute_merkle_root().unwrap();
    while block.header.validate_pow(block.header.target()).is_err() {
        block.header.nonce += 1;
    }
}

/// Returns the script of an output, which the filter of its block contains. `kind` is 1 for the
/// coinbase, and 2 for the transaction that spends.
pub fn script_of(height: usize, kind: u8, length: usize) -> ScriptBuf {
    let mut bytes = vec![kind; length.max(9)];
    bytes[1..9].copy_from_slice(&u64::try_from(height).unwrap().to_le_bytes());
    ScriptBuf::from_bytes(bytes)
}

/// Writes each block to a file of its own in `folder`.
pub fn write_blocks(folder: &Path, blocks: &[Block]) {
    for block in blocks {
        fs::write(folder.join(format!("{}.block", block.block_hash())), serialize(block)).unwrap();
    }
}

/// Returns the blocks as Bitcoin Core writes them to a file.
pub fn framed(blocks: &[Block]) -> Vec<u8> {
    let frame = |block: &Block| {
        let bytes = serialize(block);
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        [&Network::Regtest.magic().to_bytes()[..], &length, &bytes].concat()
    };
    blocks.iter().flat_map(frame).collect()
}
