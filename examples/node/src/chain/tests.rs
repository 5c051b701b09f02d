//! The rules for headers, on regtest and with data of the real chains.

use std::cell::Cell;

use super::*;

/// The first block of the main chain after the genesis block.
fn main_block_1() -> Header {
    Header {
        version: Version::ONE,
        prev_blockhash: genesis_block(Network::Bitcoin).header.block_hash(),
        merkle_root: "0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098"
            .parse()
            .unwrap(),
        time: 1_231_469_665,
        bits: CompactTarget::from_consensus(0x1d00_ffff),
        nonce: 2_573_394_689,
    }
}

fn regtest_chain(headers: usize) -> Chain {
    let mut chain = Chain::new(Network::Regtest);
    chain.mine(headers).unwrap();
    chain
}

/// Returns a valid header on top of `parent`, which differs for each `version`.
fn next(parent: &Header, version: i32) -> Header {
    let mut header = Header {
        version: Version::from_consensus(version),
        prev_blockhash: parent.block_hash(),
        time: parent.time + 600,
        nonce: 0,
        ..*parent
    };
    while header.validate_pow(header.target()).is_err() {
        header.nonce += 1;
    }
    header
}

#[test]
fn block_1_of_the_main_chain_is_accepted_and_a_cheaper_one_is_not() {
    let mut chain = Chain::new(Network::Bitcoin);
    let cheap = Header { bits: CompactTarget::from_consensus(0x207f_ffff), ..main_block_1() };
    assert_eq!(chain.add(&[cheap]), Err(ChainError::ProofOfWork));
    assert_eq!(chain.add(&[main_block_1()]), Ok(Added::New(1)));
    assert_eq!(chain.add(&[main_block_1()]), Ok(Added::NothingNew), "the header is known already");
    assert_eq!(chain.height(), 1);
}

#[test]
fn headers_have_to_follow_each_other() {
    let full = regtest_chain(10);
    let headers = &full.headers[1..];
    let mut chain = Chain::new(Network::Regtest);
    assert_eq!(chain.add(&headers[1..]), Err(ChainError::Unconnected));
    assert_eq!(chain.add(&[headers[0], headers[2]]), Err(ChainError::Unlinked));
    assert_eq!(chain.height(), 0, "a refused message changes nothing");
    assert_eq!(chain.add(headers), Ok(Added::New(10)));
    assert_eq!(chain.tip(), full.tip());
}

#[test]
fn times_are_neither_before_the_median_nor_in_the_future() {
    let mut chain = regtest_chain(20);
    let tip = chain.headers[20];
    // The median of the last eleven headers, 10 to 20, is the time of header 15.
    let with_time = |time| {
        let mut header = Header { time, ..next(&tip, 1) };
        while header.validate_pow(header.target()).is_err() {
            header.nonce += 1;
        }
        header
    };
    let median = chain.headers[15].time;
    assert_eq!(chain.add(&[with_time(median)]), Err(ChainError::TimeTooOld));
    let future = now() + MAX_FUTURE_BLOCK_TIME + 100;
    assert_eq!(chain.add(&[with_time(future)]), Err(ChainError::TimeTooNew));
    assert_eq!(chain.add(&[with_time(median + 1)]), Ok(Added::New(1)));
}

#[test]
fn a_branch_wins_when_it_has_more_work() {
    let mut chain = regtest_chain(10);
    let old_tip = chain.tip();
    let first = next(&chain.headers[8], 7);
    let second = next(&first, 7);
    let third = next(&second, 7);
    assert_eq!(chain.add(&[first, second]), Ok(Added::LessWork), "equal work is not more work");
    assert_eq!(chain.tip(), old_tip);
    assert_eq!(chain.add(&[first, second, third]), Ok(Added::New(3)));
    assert_eq!((chain.height(), chain.tip()), (11, third.block_hash()));
    assert!(!chain.contains(&old_tip));
    let sums = chain.headers.iter().scan(Work::from_be_bytes([0; 32]), |sum, header| {
        *sum = *sum + header.work();
        Some(*sum)
    });
    assert_eq!(chain.work, sums.collect::<Vec<_>>());
    assert!(
        chain
            .headers
            .iter()
            .enumerate()
            .all(|(height, header)| { chain.heights.get(&header.block_hash()) == Some(&height) })
    );
}

#[test]
fn a_locator_finds_the_last_block_in_common() {
    let long = regtest_chain(3000);
    let mut short = Chain::new(Network::Regtest);
    short.add(&long.headers[1..=100]).unwrap();
    let locator = short.locator();
    assert!(locator.len() < 20, "{}", locator.len());
    let headers = long.headers_after(&locator, &BlockHash::all_zeros()).unwrap();
    assert_eq!(headers.len(), MAX_HEADERS_PER_MESSAGE);
    assert_eq!(headers[0], long.headers[101]);
    let stop = long.headers[105].block_hash();
    assert_eq!(long.headers_after(&locator, &stop).unwrap(), &long.headers[101..=105]);
    // No headers follow, whether the stop is unknown or lies before the locator.
    assert!(short.headers_after(&locator, &stop).unwrap().is_empty());
    assert!(long.headers_after(&long.locator(), &stop).unwrap().is_empty());
    // Without a locator, the stop is requested alone.
    assert_eq!(long.headers_after(&[], &stop).unwrap(), [long.headers[105]]);
    assert_eq!(short.headers_after(&[], &stop), None);
}

/// Returns a chain without proof of work, which serves only to compute the next difficulty.
fn unworked(network: Network, bits: u32, headers: usize) -> Chain {
    let mut chain = Chain::new(network);
    let bits = CompactTarget::from_consensus(bits);
    chain.headers.resize(headers, Header { bits, ..chain.headers[0] });
    for header in &chain.headers[1..] {
        chain.work.push(chain.work[chain.work.len() - 1] + header.work());
    }
    chain
}

thread_local! {
    /// How many headers this thread has computed the work of.
    pub(super) static COMPUTED: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn a_header_of_less_work_costs_the_same_in_a_long_chain() {
    let bits = genesis_block(Network::Regtest).header.bits.to_consensus();
    for length in [10, 10_000] {
        let mut chain = unworked(Network::Regtest, bits, length);
        let cheap = next(&chain.headers[0], 7);
        COMPUTED.set(0);
        assert_eq!(chain.add(&[cheap]), Ok(Added::LessWork));
        assert_eq!(COMPUTED.get(), 1, "only the new header's work is computed");
    }
}

fn required_bits(chain: &Chain, time: u32) -> u32 {
    Branch { chain, fork: chain.height(), headers: &[] }.required_bits(time).to_consensus()
}

#[test]
fn the_difficulty_changes_as_it_did_on_the_main_chain() {
    // The difficulty changed for the first time at height 32256.
    let mut chain = unworked(Network::Bitcoin, 0x1d00_ffff, 32_256);
    chain.headers[30_240].time = 1_261_130_161;
    chain.headers[32_255].time = 1_262_152_739;
    assert_eq!(required_bits(&chain, 1_262_153_464), 0x1d00_d86a);
    chain.headers.pop();
    assert_eq!(required_bits(&chain, 0), 0x1d00_ffff, "the difficulty changed within a period");
}

#[test]
fn test_networks_allow_the_lowest_difficulty_after_20_minutes() {
    let (real, lowest) = (0x1b00_ffff, 0x1d00_ffff);
    let mut chain = unworked(Network::Testnet4, real, 2016 + 100);
    let last = chain.headers[2115].time;
    assert_eq!(required_bits(&chain, last + 1200), real);
    assert_eq!(required_bits(&chain, last + 1201), lowest);
    // The block after blocks of the lowest difficulty needs the real difficulty again.
    chain.headers[2115].bits = CompactTarget::from_consensus(lowest);
    chain.headers[2114].bits = CompactTarget::from_consensus(lowest);
    assert_eq!(required_bits(&chain, last + 1), real);
}

#[test]
fn on_testnet4_the_exception_does_not_reach_the_next_period() {
    let real = 0x1b00_ffff;
    let mut chain = unworked(Network::Testnet4, real, 2016);
    chain.headers[0].bits = CompactTarget::from_consensus(real);
    // After exactly two weeks the difficulty stays, whatever the difficulty of the last block is.
    chain.headers[2015].time = chain.headers[0].time + 14 * 24 * 60 * 60;
    chain.headers[2015].bits = CompactTarget::from_consensus(0x1d00_ffff);
    assert_eq!(required_bits(&chain, 0), real);
}
