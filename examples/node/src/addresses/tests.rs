//! What the book takes, from whom, and what it tells to whom.

use super::*;

fn to(text: &str) -> Destination {
    text.parse().unwrap()
}

/// Returns different routable addresses.
fn routable(first: u8, count: u16) -> impl Iterator<Item = Service> {
    (0..count).map(move |number| {
        let [high, low] = number.to_be_bytes();
        Service::new(NetAddr::Ipv4([first, 7, high, low].into()), 8333)
    })
}

#[test]
fn only_routable_addresses_with_a_port_are_learnt() {
    let mut book = AddressBook::default();
    let loopback = (0..1000)
        .map(|number: u32| Service::new(NetAddr::Ipv4((0x7f00_0001 + number).into()), 8333));
    assert_eq!(book.learn(&to("1.2.3.4:8333"), loopback), 0);
    let others = ["10.0.0.1:1", "[fe80::1]:1", "[2001:db8::1]:1", "8.8.8.8:0", "0.0.0.0:1"];
    assert_eq!(book.learn(&to("1.2.3.4:8333"), others.map(|text| text.parse().unwrap())), 0);
    assert_eq!(book.len(), 0);
    let i2p = Service::new(NetAddr::i2p([7; 32]), 0);
    assert_eq!(book.learn(&to("1.2.3.4:8333"), [i2p.with_port(8333)]), 0);
    assert_eq!(book.learn(&to("1.2.3.4:8333"), [i2p]), 1);
}

#[test]
fn no_source_fills_the_book_alone() {
    let mut book = AddressBook::default();
    assert_eq!(book.learn(&to("1.2.3.4:8333"), routable(8, 1000)), MAX_PER_SOURCE);
    // A neighbour of the peer is the same source, another port too.
    assert_eq!(book.learn(&to("1.2.9.9:1"), routable(9, 1000)), MAX_PER_SOURCE);
    assert_eq!(book.len(), MAX_PER_SOURCE);
    assert_eq!(book.learn(&to("5.6.7.8:8333"), routable(11, 10)), 10);
    assert_eq!(book.len(), MAX_PER_SOURCE + 10);
}

#[test]
fn a_full_book_takes_addresses_of_another_source() {
    let mut book = AddressBook::default();
    for source in 11..=20 {
        book.learn(&to(&format!("{source}.1.1.1:8333")), routable(100 + source, 1000));
    }
    assert_eq!(book.len(), MAX_ADDRESSES);
    assert_eq!(book.learn(&to("5.6.7.8:8333"), routable(9, 50)), 50);
    let known = &book.books[&PeerNetwork::Clear];
    assert!(routable(9, 50).all(|service| known.known.contains(&service)));
    assert_eq!(known.known.len(), MAX_ADDRESSES);
    assert_eq!(known.by_source.values().map(VecDeque::len).sum::<usize>(), MAX_ADDRESSES);
    assert!(known.by_source.values().all(|services| services.len() <= MAX_PER_SOURCE));
}

/// Returns the networks of the addresses in the answer to a peer, sorted.
fn told(book: &AddressBook, them: &str, own: &[&str]) -> Vec<String> {
    let own: Vec<Service> = own.iter().map(|text| text.parse().unwrap()).collect();
    let Some(NetworkMessage::AddrV2(list)) = book.answer(&to(them), &own, ServiceFlags::NONE, true)
    else {
        return Vec::new();
    };
    let mut told: Vec<_> =
        list.iter().filter_map(from_addr_v2).map(|service| service.to_string()).collect();
    told.sort();
    told
}

#[test]
fn own_addresses_are_told_on_their_own_network_only() {
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:8333";
    let i2p = format!("{}.b32.i2p:0", "a".repeat(52));
    let own = ["127.0.0.1:8333", "8.8.8.8:8333", onion, &i2p];
    let book = AddressBook::default();
    assert_eq!(told(&book, "1.2.3.4:8333", &own), ["8.8.8.8:8333"]);
    assert_eq!(told(&book, "[2600::1]:8333", &own), ["8.8.8.8:8333"]);
    assert_eq!(told(&book, "example.org:8333", &own), ["8.8.8.8:8333"]);
    assert_eq!(told(&book, "127.0.0.1:8333", &own), ["127.0.0.1:8333"]);
    assert_eq!(told(&book, "192.168.1.1:8333", &own), ["127.0.0.1:8333"]);
    assert_eq!(told(&book, onion, &own), [onion]);
    assert_eq!(told(&book, &i2p, &own), [&*i2p]);
}

/// By an address that it made up, a peer could find out that two addresses belong to one node.
#[test]
fn addresses_are_told_on_the_network_that_they_came_from_only() {
    let mut book = AddressBook::default();
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion:8333";
    let i2p = format!("{}.b32.i2p:0", "a".repeat(52));
    let peers = [
        ("1.2.3.4:8333", "9.9.9.1:1"),
        (onion, "9.9.9.2:1"),
        (&i2p, "9.9.9.3:1"),
        ("127.0.0.1:8333", "9.9.9.4:1"),
    ];
    for (them, mark) in peers {
        assert_eq!(book.learn(&to(them), [mark.parse().unwrap()]), 1);
        assert_eq!(told(&book, them, &[]), [mark]);
    }
    // Its own address on another network, which a peer sent, is left out too.
    assert_eq!(book.learn(&to("1.2.3.4:8333"), [i2p.parse().unwrap()]), 1);
    assert_eq!(told(&book, "1.2.3.4:8333", &[&i2p]), ["9.9.9.1:1"]);
}
