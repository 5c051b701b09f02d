//! What the node serves from its blocks: headers, blocks, compact filters (BIP 157), and the limits
//! of requests. Each peer is a plain socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    io::Write,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bitcoin::{
    Block, BlockHash, Txid, Wtxid,
    bip158::{FilterHash, FilterHeader},
    block::Header,
    blockdata::constants::genesis_block,
    consensus::encode::serialize,
    hashes::Hash,
    p2p::{
        ServiceFlags,
        message::NetworkMessage,
        message_blockdata::{GetBlocksMessage, GetHeadersMessage, Inventory},
        message_filter::{CFCheckpt, CFHeaders, GetCFCheckpt, GetCFHeaders, GetCFilters},
    },
};
use sockman_node::{
    BlockStore, Config, Event, Node,
    testing::{DEADLINE, Events, mine_blocks, start, write_blocks},
};
use sockman_test_support::tools::TempDir;
use support::{Client, NETWORK, config, encode, get_headers, start_with, version};

/// A node that serves blocks, and the folder of the blocks.
struct Serving {
    node: Node,
    events: Arc<Events>,
    blocks: Vec<Block>,
    _folder: TempDir,
}

impl Serving {
    /// Starts a node with `count` blocks, whose output scripts have about `script` bytes.
    fn new(count: usize, script: usize, config: Config) -> Serving {
        let blocks = mine_blocks(count, script);
        let folder = TempDir::new();
        write_blocks(&folder.path(""), &blocks);
        let store = BlockStore::open(&folder.path(""), NETWORK).unwrap();
        let chain = store.chain().clone();
        let config = Config { blocks: Some(Arc::new(store)), ..config };
        let (node, events) = start(config, chain);
        Serving { node, events, blocks, _folder: folder }
    }

    /// Returns the hash of the block at a height.
    fn hash(&self, height: usize) -> BlockHash {
        match height.checked_sub(1) {
            Some(index) => self.blocks[index].block_hash(),
            None => genesis_block(NETWORK).block_hash(),
        }
    }

    /// Returns the headers of the blocks.
    fn headers(&self) -> Vec<Header> {
        self.blocks.iter().map(|block| block.header).collect()
    }

    /// Asserts that the node disconnects a peer that sends `request`, and serves another one.
    fn assert_disconnects(&self, request: NetworkMessage, reason: &str) {
        let before = self.reasons().len();
        let mut client = Client::established(&self.node);
        client.send(request);
        client.assert_closed();
        let deadline = Instant::now() + DEADLINE;
        while self.reasons().len() == before {
            assert!(Instant::now() < deadline, "no disconnect is reported");
            thread::yield_now();
        }
        let reasons = self.reasons();
        assert!(reasons[before].contains(reason), "{reasons:?}");
        Client::established(&self.node).assert_served();
    }

    /// Returns the reasons of the node's disconnects.
    fn reasons(&self) -> Vec<String> {
        let is_of_node = |reason: &String| !reason.contains("the peer closed");
        let reason = |event| match event {
            Event::Disconnected { reason, .. } => Some(reason).filter(is_of_node),
            _ => None,
        };
        self.events.all().into_iter().filter_map(reason).collect()
    }
}

/// Returns the first message for which `found` returns a value.
fn next<T>(client: &mut Client, what: &str, found: impl Fn(NetworkMessage) -> Option<T>) -> T {
    client.wait_for(what, |message| found(message.clone()))
}

fn headers_of(client: &mut Client, locator: Vec<BlockHash>, stop: BlockHash) -> Vec<Header> {
    client.send(NetworkMessage::GetHeaders(GetHeadersMessage::new(locator, stop)));
    next(client, "headers", |message| match message {
        NetworkMessage::Headers(headers) => Some(headers),
        _ => None,
    })
}

/// Receives an answer to `getdata`: the payload of a block, or the items that the node does not have.
fn item(client: &mut Client) -> Result<Block, Vec<Inventory>> {
    next(client, "an item", |message| match message {
        NetworkMessage::Block(block) => Some(Ok(block)),
        NetworkMessage::NotFound(items) => Some(Err(items)),
        _ => None,
    })
}

fn get_filters(start: usize, stop: BlockHash) -> NetworkMessage {
    let start_height = u32::try_from(start).unwrap();
    NetworkMessage::GetCFilters(GetCFilters { filter_type: 0, start_height, stop_hash: stop })
}

fn get_filter_headers(start: usize, stop: BlockHash) -> NetworkMessage {
    let start_height = u32::try_from(start).unwrap();
    NetworkMessage::GetCFHeaders(GetCFHeaders { filter_type: 0, start_height, stop_hash: stop })
}

fn get_checkpoints(filter_type: u8, stop_hash: BlockHash) -> NetworkMessage {
    NetworkMessage::GetCFCheckpt(GetCFCheckpt { filter_type, stop_hash })
}

/// Receives filters up to the one of `stop`. Returns their blocks and hashes.
fn filters(client: &mut Client, stop: BlockHash) -> Vec<(BlockHash, FilterHash)> {
    let mut received = Vec::new();
    while received.last().is_none_or(|(block, _)| *block != stop) {
        received.push(next(client, "a filter", |message| match message {
            NetworkMessage::CFilter(filter) => {
                Some((filter.block_hash, FilterHash::hash(&filter.filter)))
            }
            _ => None,
        }));
    }
    received
}

fn filter_headers(client: &mut Client, start: usize, stop: BlockHash) -> CFHeaders {
    client.send(get_filter_headers(start, stop));
    next(client, "filter headers", |message| match message {
        NetworkMessage::CFHeaders(headers) => Some(headers),
        _ => None,
    })
}

fn checkpoints(client: &mut Client, stop: BlockHash) -> CFCheckpt {
    client.send(get_checkpoints(0, stop));
    next(client, "checkpoints", |message| match message {
        NetworkMessage::CFCheckpt(checkpoints) => Some(checkpoints),
        _ => None,
    })
}

#[test]
fn only_a_node_with_blocks_offers_them_and_their_filters() {
    let of_blocks = ServiceFlags::NETWORK | ServiceFlags::WITNESS | ServiceFlags::COMPACT_FILTERS;
    let serving = Serving::new(3, 0, config());
    let (without, _) = start_with(config());
    for (node, services, height) in
        [(&serving.node, of_blocks, 3), (&without, ServiceFlags::NONE, 0)]
    {
        let mut client = Client::connect(node);
        client.send(version());
        let told = next(&mut client, "version", |message| match message {
            NetworkMessage::Version(version) => Some(version),
            _ => None,
        });
        assert_eq!(told.services, services | ServiceFlags::P2P_V2);
        assert_eq!(told.start_height, height);
    }
    serving.node.stop().unwrap();
    without.stop().unwrap();
}

#[test]
fn headers_are_served_up_to_the_last_block_and_not_further() {
    let serving = Serving::new(10, 0, config());
    let (known, zeros) = (serving.hash(4), BlockHash::all_zeros());
    let mut client = Client::established(&serving.node);
    assert_eq!(headers_of(&mut client, vec![serving.hash(0)], zeros), serving.headers());
    assert_eq!(headers_of(&mut client, vec![zeros, known], zeros), serving.headers()[4..]);
    assert_eq!(headers_of(&mut client, vec![known], serving.hash(6)), serving.headers()[4..6]);
    assert_eq!(headers_of(&mut client, vec![zeros], zeros), serving.headers());
    // Without a locator, the header of the stop is requested alone. One that is unknown has no answer.
    assert_eq!(headers_of(&mut client, vec![], serving.hash(7)), serving.headers()[6..7]);
    client.send(NetworkMessage::GetHeaders(GetHeadersMessage::new(vec![], zeros)));
    client.assert_served();

    // The node learns headers whose blocks it does not have.
    let longer: Vec<Header> = mine_blocks(12, 0).iter().map(|block| block.header).collect();
    assert_eq!(longer[9], serving.headers()[9]);
    client.send(NetworkMessage::Headers(longer));
    client.assert_served();
    assert_eq!(serving.node.height(), 12);
    assert_eq!(headers_of(&mut client, vec![known], zeros), serving.headers()[4..]);
    serving.node.stop().unwrap();
}

#[test]
fn blocks_are_served_with_and_without_witnesses_and_other_items_are_not_found() {
    let serving = Serving::new(3, 0, config());
    let mut client = Client::established(&serving.node);
    client.send(NetworkMessage::GetData(vec![Inventory::WitnessBlock(serving.hash(2))]));
    assert_eq!(item(&mut client).unwrap(), serving.blocks[1]);
    client.send(NetworkMessage::GetData(vec![Inventory::Block(serving.hash(2))]));
    let stripped = item(&mut client).unwrap();
    assert_eq!(stripped.block_hash(), serving.hash(2));
    assert!(serialize(&stripped).len() < serialize(&serving.blocks[1]).len());

    // Items that the node does not have do not hold up the others.
    let hash = [7; 32];
    let unknown = vec![
        Inventory::Unknown { inv_type: 0, hash },
        Inventory::Transaction(Txid::from_byte_array(hash)),
        Inventory::WitnessTransaction(Txid::from_byte_array(hash)),
        Inventory::WTx(Wtxid::from_byte_array(hash)),
        Inventory::Block(BlockHash::from_byte_array(hash)),
        Inventory::WitnessBlock(BlockHash::from_byte_array(hash)),
        // No compact or filtered blocks, also of blocks that the node has.
        Inventory::CompactBlock(serving.hash(1)),
        Inventory::Unknown { inv_type: 3, hash: serving.hash(1).to_byte_array() },
        Inventory::Unknown { inv_type: u32::MAX, hash: serving.hash(1).to_byte_array() },
    ];
    let blocks = [0, 3, 1].map(|height| Inventory::WitnessBlock(serving.hash(height)));
    client.send(NetworkMessage::GetData([&unknown[..], &blocks, &unknown[..1]].concat()));
    assert_eq!(item(&mut client), Err(unknown.clone()));
    assert_eq!(item(&mut client), Ok(genesis_block(NETWORK)));
    assert_eq!(item(&mut client), Ok(serving.blocks[2].clone()));
    assert_eq!(item(&mut client), Ok(serving.blocks[0].clone()));
    assert_eq!(item(&mut client), Err(unknown[..1].to_vec()));
    client.send(NetworkMessage::GetData(Vec::new()));
    client.assert_served();
    serving.node.stop().unwrap();
}

#[test]
fn older_peers_learn_by_getblocks_what_to_request() {
    let serving = Serving::new(510, 0, config());
    let mut client = Client::established(&serving.node);
    let mut hashes = |locator, stop| {
        client.send(NetworkMessage::GetBlocks(GetBlocksMessage::new(locator, stop)));
        next(&mut client, "an inv", |message| match message {
            NetworkMessage::Inv(items) => Some(items),
            _ => None,
        })
    };
    let items = |from: usize, to: usize| -> Vec<Inventory> {
        (from..=to).map(|height| Inventory::Block(serving.hash(height))).collect()
    };
    let zeros = BlockHash::all_zeros();
    assert_eq!(hashes(vec![serving.hash(3)], serving.hash(5)), items(4, 5));
    assert_eq!(hashes(vec![serving.hash(505)], zeros), items(506, 510));
    assert_eq!(hashes(vec![], zeros), items(1, 500));
    // The last of a full answer is followed by the announcement of the last block.
    client.send(NetworkMessage::GetData(vec![Inventory::WitnessBlock(serving.hash(500))]));
    assert_eq!(item(&mut client).unwrap(), serving.blocks[499]);
    let tip = next(&mut client, "an inv", |message| match message {
        NetworkMessage::Inv(items) => Some(items),
        _ => None,
    });
    assert_eq!(tip, items(510, 510));
    serving.node.stop().unwrap();
}

/// BIP 157: "Node Operation".
#[test]
fn filters_are_served_and_lead_to_the_filter_headers() {
    let serving = Serving::new(30, 0, config());
    let mut client = Client::established(&serving.node);
    let stop = serving.hash(30);
    client.send(get_filters(0, stop));
    let filters = filters(&mut client, stop);
    let blocks: Vec<BlockHash> = (0..=30).map(|height| serving.hash(height)).collect();
    assert_eq!(filters.iter().map(|(block, _)| *block).collect::<Vec<_>>(), blocks);
    let hashes: Vec<FilterHash> = filters.iter().map(|(_, hash)| *hash).collect();

    let all = filter_headers(&mut client, 0, stop);
    assert_eq!((all.filter_type, all.stop_hash), (0, stop));
    assert_eq!(all.previous_filter_header, FilterHeader::all_zeros());
    assert_eq!(all.filter_hashes, hashes);
    let later = filter_headers(&mut client, 11, serving.hash(20));
    let header = hashes[..11]
        .iter()
        .fold(FilterHeader::all_zeros(), |previous, hash| hash.filter_header(&previous));
    assert_eq!(later.previous_filter_header, header);
    assert_eq!(later.filter_hashes, hashes[11..=20]);
    assert!(checkpoints(&mut client, stop).filter_headers.is_empty());
    serving.node.stop().unwrap();
}

/// BIP 157: at most 1,000 filters, 2,000 filter headers, and one checkpoint for each 1,000 blocks.
/// Bitcoin Core: at most 2,000 headers.
#[test]
fn requests_within_the_limits_are_answered_and_others_disconnect_the_peer() {
    let serving = Serving::new(2010, 0, config());
    let mut client = Client::established(&serving.node);
    let zeros = BlockHash::all_zeros();
    let headers = headers_of(&mut client, vec![serving.hash(0)], zeros);
    assert_eq!(headers, serving.headers()[..2000]);
    let headers = headers_of(&mut client, vec![serving.hash(2000)], zeros);
    assert_eq!(headers, serving.headers()[2000..]);
    client.send(get_filters(1001, serving.hash(2000)));
    assert_eq!(filters(&mut client, serving.hash(2000)).len(), 1000);
    let headers = filter_headers(&mut client, 1, serving.hash(2000));
    assert_eq!(headers.filter_hashes.len(), 2000);
    let header_at = |height: usize| {
        let hashes = &headers.filter_hashes[..height];
        let first = headers.previous_filter_header;
        hashes.iter().fold(first, |previous, hash| hash.filter_header(&previous))
    };
    let points = checkpoints(&mut client, serving.hash(2010));
    assert_eq!(points.filter_headers, [header_at(1000), header_at(2000)]);
    let points = checkpoints(&mut client, serving.hash(1999));
    assert_eq!(points.filter_headers, [header_at(1000)]);

    let unknown = BlockHash::from_byte_array([7; 32]);
    for (request, reason) in [
        (get_filters(1000, serving.hash(2000)), "1001 filters"),
        (get_filter_headers(0, serving.hash(2000)), "2001 filters"),
        (get_filters(1001, serving.hash(1000)), "from 1001 to 1000"),
        (get_filters(usize::try_from(u32::MAX).unwrap(), serving.hash(1000)), "to 1000"),
        (get_filter_headers(1, unknown), "unknown block"),
        (get_filters(1, unknown), "unknown block"),
        (get_checkpoints(0, unknown), "unknown block"),
        (get_checkpoints(255, serving.hash(1)), "type 255"),
    ] {
        serving.assert_disconnects(request, reason);
    }
    serving.node.stop().unwrap();
}

/// BIP 157: a node that does not offer filters disconnects whoever requests them, as Bitcoin Core.
#[test]
fn a_node_without_blocks_has_no_answer_to_requests_for_filters() {
    let genesis = genesis_block(NETWORK).block_hash();
    for request in
        [get_filters(0, genesis), get_filter_headers(0, genesis), get_checkpoints(0, genesis)]
    {
        support::assert_disconnects(true, &encode(request), "are not offered");
    }
    let (node, _) = start_with(config());
    let mut client = Client::established(&node);
    let items = vec![Inventory::Block(genesis), Inventory::WitnessBlock(genesis)];
    client.send(NetworkMessage::GetData(items.clone()));
    assert_eq!(item(&mut client), Err(items));
    client.send(NetworkMessage::GetBlocks(GetBlocksMessage::new(vec![genesis], genesis)));
    client.assert_served();
    node.stop().unwrap();
}

/// The bytes of a block in the two tests below, at least.
const BLOCK: usize = 200_000;
/// The unsent bytes from which on the node does not answer.
const MAX_SEND: usize = 300_000;
const MAX_ITEMS: usize = 50_000;

/// Returns a request for `count` blocks of `serving` and for items that it does not have.
fn items(serving: &Serving, count: usize) -> Vec<Inventory> {
    let hashes = (1..=serving.blocks.len()).cycle().map(|height| serving.hash(height));
    let mut items: Vec<_> = hashes.take(count).map(Inventory::WitnessBlock).collect();
    items.resize(MAX_ITEMS, Inventory::Transaction(Txid::all_zeros()));
    items
}

/// Asserts over 200 rounds with a bystander that a peer's memory is bounded, once its queue is full.
fn assert_bounded(serving: &Serving, bystander: &mut Client) {
    let deadline = Instant::now() + DEADLINE;
    let mut full = 0;
    while full < 200 {
        bystander.assert_served();
        let peer = &serving.node.peers()[1];
        assert!(Instant::now() < deadline, "the queue does not fill: {} unsent", peer.unsent);
        assert!(peer.unsent <= MAX_SEND + BLOCK + 1000, "{} unsent bytes", peer.unsent);
        // The items, and the next message.
        assert!(peer.unprocessed <= MAX_ITEMS * 40 + 1000, "{} unprocessed", peer.unprocessed);
        full += usize::from(peer.unsent >= MAX_SEND);
    }
}

/// Without the sweep, only the end of a pause continues the answer.
#[test]
fn a_request_for_fifty_thousand_items_is_answered_piece_by_piece_without_the_sweep() {
    const BLOCKS: usize = 100;
    let limits = Config { max_send_buffer: MAX_SEND, sweep: None, ..config() };
    // Two scripts in each block but the first.
    let serving = Serving::new(3, BLOCK / 2, limits);
    let mut bystander = Client::established(&serving.node);
    let mut client = Client::established(&serving.node);
    // The client answers the node's ping here, and not during the pause.
    client.assert_served();
    client.send(NetworkMessage::GetData(items(&serving, BLOCKS)));
    assert_bounded(&serving, &mut bystander);
    for number in 0..BLOCKS {
        // While the node pauses, no message waits that could end the pause.
        if number == BLOCKS - 1 {
            client.send(NetworkMessage::Ping(1));
        }
        let block = item(&mut client).unwrap();
        assert_eq!(block.block_hash(), serving.hash(number % 3 + 1));
    }
    let (mut missing, mut largest) = (0, 0);
    loop {
        match client.receive() {
            NetworkMessage::NotFound(items) => {
                missing += items.len();
                largest = largest.max(items.len());
            }
            // The next message has its answer after the last item.
            NetworkMessage::Pong(1) => break,
            _ => {}
        }
    }
    assert_eq!(missing, MAX_ITEMS - BLOCKS);
    assert!(largest <= 1000, "one notfound of {largest} items");
    assert_eq!(serving.node.peers()[1].unprocessed, 0);
    serving.node.stop().unwrap();
}

#[test]
fn a_peer_that_requests_all_blocks_and_never_reads_takes_bounded_memory() {
    let limits = Config { max_send_buffer: MAX_SEND, max_receive_buffer: 10_000, ..config() };
    let serving = Serving::new(3, BLOCK / 2, limits);
    let mut bystander = Client::established(&serving.node);
    let mut client = Client::established(&serving.node);
    let request = encode(NetworkMessage::GetData(items(&serving, MAX_ITEMS)));
    client.send(NetworkMessage::GetData(items(&serving, MAX_ITEMS)));
    // Writes more requests than the node reads, until the node closes the connection.
    let mut stream = client.stream.try_clone().unwrap();
    let writing = thread::spawn(move || while stream.write_all(&request).is_ok() {});
    let deadline = Instant::now() + DEADLINE;
    let mut full = 0;
    while full < 200 {
        bystander.assert_served();
        let peer = &serving.node.peers()[1];
        assert!(Instant::now() < deadline, "the queue does not fill: {} unsent", peer.unsent);
        assert!(peer.unsent <= MAX_SEND + BLOCK + 1000, "{} unsent bytes", peer.unsent);
        // The items of one request, and another one that came in whole.
        assert!(peer.unprocessed <= 2 * MAX_ITEMS * 40, "{} unprocessed", peer.unprocessed);
        full += usize::from(peer.unsent >= MAX_SEND);
    }
    serving.node.stop().unwrap();
    writing.join().unwrap();
}

#[test]
fn many_requests_for_filters_are_answered_in_order_to_a_slow_reader() {
    const REQUESTS: usize = 20;
    let limits = Config { max_send_buffer: 20_000, sweep: None, ..config() };
    let serving = Serving::new(300, 0, limits);
    let stop = serving.hash(300);
    let mut client = Client::established(&serving.node);
    for _ in 0..REQUESTS {
        client.send(get_filters(1, stop));
    }
    let first = filters(&mut client, stop);
    assert_eq!(first.len(), 300);
    for _ in 1..REQUESTS {
        assert_eq!(filters(&mut client, stop), first);
    }
    client.assert_served();
    serving.node.stop().unwrap();
}

#[test]
fn a_peer_that_requests_blocks_and_never_reads_is_disconnected_in_the_end() {
    let limits = Config {
        max_send_buffer: MAX_SEND,
        inactivity_timeout: Duration::from_secs(1),
        ..config()
    };
    let serving = Serving::new(3, BLOCK / 2, limits);
    let request = encode(NetworkMessage::GetData(items(&serving, MAX_ITEMS)));
    let mut client = Client::established(&serving.node);
    client.stream.write_all(&request).unwrap();
    let reason = serving.events.wait_for_disconnect();
    // The peer is silent too, and answers no ping. Each of the time-outs may expire first.
    let reasons = ["does not receive", "answer a ping", "silent for too long"];
    assert!(reasons.iter().any(|expected| reason.contains(expected)), "{reason}");
    serving.node.stop().unwrap();
}

/// A node without blocks syncs the headers of one with blocks, over version 2 of the transport.
#[test]
fn another_node_syncs_the_headers() {
    let serving = Serving::new(20, 0, config());
    let mut config = Config::new(NETWORK);
    config.connect.push(serving.node.listening()[0].clone().into());
    let (other, events) = start_with(config);
    let tip = events.wait_for("the headers", |event| match event {
        Event::Headers { height: 20, tip, .. } => Some(*tip),
        _ => None,
    });
    assert_eq!(tip, serving.hash(20));
    let mut client = Client::established(&serving.node);
    client.send(get_headers());
    client.assert_served();
    other.stop().unwrap();
    serving.node.stop().unwrap();
}
