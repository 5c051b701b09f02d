//! G13: addresses as users see them: the text forms, test vectors of other projects, the
//! conversions. `address_errors.rs` tests the errors.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use sockman::{
    Service,
    address::{NetAddr, Network, UnixAddr},
};

const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
const I2P: &str = "ukeu3k5oycgaauneqgtnvselmt4yemvoilkln7jpvamvfx7dnkdq.b32.i2p";

#[cfg(any(feature = "socks5", feature = "i2p"))]
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// ---- round trip ----

#[test]
fn canonical_service_text_is_printed_as_it_was_parsed() {
    for text in [
        "0.0.0.0:0",
        "1.2.3.4:8333",
        "255.255.255.255:65535",
        "[::]:0",
        "[::1]:8333",
        "[2001:db8::1]:1",
        "[fe80::1%2]:8333",
        "[fe80::1%4294967295]:8333",
        "[fc00::1]:8333",
        "cjdns:[fc00::1]:8333",
        #[cfg(feature = "socks5")]
        &format!("{ONION}:8333"),
        #[cfg(feature = "i2p")]
        &format!("{I2P}:0"),
        "unix:",
        "unix:/path/to/sock",
        "unix:relative",
        "unix:/with:colon:8333",
        "unix:/späce and ünicode",
        "unix:@",
        "unix:@name",
        r"unix:@\x00a\\b",
        r"unix:\x40not-abstract",
        r"unix:/\xff\x0a\\x\x7f",
        r"unix:/\xe2\x80\xae",
    ] {
        let service: Service = text.parse().unwrap();
        assert_eq!(service.to_string(), text);
    }
}

#[test]
fn canonical_address_text_is_printed_as_it_was_parsed() {
    for text in ["1.2.3.4", "::", "::1", "fe80::1%2", "fc00::1", "cjdns:fc00::1"] {
        assert_eq!(text.parse::<NetAddr>().unwrap().to_string(), text);
    }
    for text in [
        #[cfg(feature = "socks5")]
        ONION,
        #[cfg(feature = "i2p")]
        I2P,
        "unix:",
        "unix:/a",
        "unix:@a",
    ] {
        assert_eq!(text.parse::<NetAddr>().unwrap().to_string(), text);
    }
}

#[test]
fn other_spellings_are_accepted_and_printed_canonically() {
    for (typed, printed) in [
        #[cfg(feature = "socks5")]
        (format!("{}:1", ONION.to_uppercase()), format!("{ONION}:1")),
        #[cfg(feature = "i2p")]
        (format!("{}:0", I2P.to_uppercase()), format!("{I2P}:0")),
        ("[0:0:0:0:0:0:0:1]:1".to_owned(), "[::1]:1".to_owned()),
        ("[FE80::A%0]:1".into(), "[fe80::a]:1".into()),
        ("[::ffff:1.2.3.4]:1".into(), "1.2.3.4:1".into()),
        (r"unix:\x2Fa\x41".into(), "unix:/aA".into()),
        ("unix:/a\tb".into(), r"unix:/a\x09b".into()),
    ] {
        assert_eq!(typed.parse::<Service>().unwrap().to_string(), printed);
    }
    assert_eq!("[::1]".parse::<NetAddr>().unwrap().to_string(), "::1");
    assert_eq!("cjdns:[fc00::1]".parse::<NetAddr>().unwrap().to_string(), "cjdns:fc00::1");
}

#[test]
fn every_value_parses_back_from_what_it_prints() {
    let mut random = Random(1);
    for _ in 0..20_000 {
        let addr = random.addr();
        assert_eq!(addr.to_string().parse(), Ok(addr.clone()));
        let service = Service::new(addr, random.next() as u16);
        assert_eq!(service.to_string().parse(), Ok(service));
    }
}

#[test]
fn any_text_parses_or_fails_without_a_panic_and_parsed_text_is_stable() {
    let pieces = [
        "[",
        "]",
        ":",
        "::",
        "%",
        "1",
        "0",
        "65536",
        "255.",
        "1.2.3.4",
        "fe80",
        "cjdns:",
        "unix:",
        "@",
        "\\",
        "\\x",
        "\\x4",
        "ff",
        ".onion",
        ".b32.i2p",
        "a",
        "é",
        "\u{202e}",
        "\0",
        "/",
        "-",
        &ONION[..56],
        &I2P[..52],
        &ONION[..55],
        "\u{1f980}",
        " ",
    ];
    let mut random = Random(2);
    let mut parsed = 0;
    for _ in 0..200_000 {
        let count = random.next() % 7;
        let text: String = (0..count).map(|_| pieces[random.below(pieces.len())]).collect();
        if let Ok(service) = text.parse::<Service>() {
            assert_eq!(service.to_string().parse(), Ok(service));
            parsed += 1;
        }
        if let Ok(addr) = text.parse::<NetAddr>() {
            assert_eq!(addr.to_string().parse(), Ok(addr));
        }
    }
    assert!(parsed > 1000, "only {parsed} texts were addresses, too few to prove anything");
}

// ---- vectors of other projects ----

#[cfg(feature = "socks5")]
#[test]
fn onion_addresses_agree_with_the_tor_specification_and_bip_155() {
    for (text, public_key) in [
        // The three examples of the Tor rendezvous specification; the first is BIP 155's in
        // Bitcoin Core's tests. Keys: tor-dev, "onion address encoding", January 2017.
        (ONION, "79bcc625184b05194975c28b66b66b0469f7f6556fb1ac3189a79b40dda32f1f"),
        (
            "sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd.onion",
            "93f6ad7b54b6391d2b78147a0b2e808e143780de07f1bda6ee7f052d2e9da67b",
        ),
        (
            "xa4r2iadxm55fbnqgwwi5mymqdcofiu3w6rpbtqn7b2dyn7mgwj64jyd.onion",
            "b8391d2003bb3bd285b035ac8eb30c80c4e2a29bb7a2f0ce0df8743c37ec3593",
        ),
        (
            "6k5ddm2zotlkkikdmdgdbgh4nhhquuozsrdhfkeqjsl4xidmhfc6ntqd.onion",
            "f2ba31b35974d6a5214360cc3098fc69cf0a51d9944672a8904c97cba06c3945",
        ),
        // Tor's own unit test (test_hs_common.c); the key is the first of RFC 8032's vectors.
        (
            "25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid.onion",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
    ] {
        let NetAddr::TorV3(onion) = text.parse().unwrap() else { unreachable!() };
        assert_eq!(hex(onion.public_key()), public_key);
        assert_eq!(NetAddr::tor_v3(*onion.public_key()).to_string(), text);
    }
}

#[cfg(feature = "socks5")]
#[test]
fn onion_addresses_that_tor_refuses_for_their_checksum_are_refused() {
    use sockman::error::ParseAddrErrorKind as Kind;

    // These texts are from Tor's test_hs_common.c, which has them from an early draft.
    for text in [
        "l5satjgud6gucryazcyvyvhuxhr74u6ygigiuyixe3a6ysis67ororad.onion",
        "btojiu7nu5y5iwut64eufevogqdw4wmqzugnoluw232r4t3ecsfv37ad.onion",
    ] {
        assert_eq!(text.parse::<NetAddr>().unwrap_err().kind(), Kind::OnionChecksum);
    }
}

#[cfg(feature = "i2p")]
#[test]
fn i2p_addresses_agree_with_bitcoin_core() {
    let NetAddr::I2p(i2p) = I2P.parse().unwrap() else { unreachable!() };
    let hash = "a2894dabaec08c0051a481a6dac88b64f98232ae42d4b6fd2fa81952dfe36a87";
    assert_eq!(hex(i2p.as_bytes()), hash);
    assert_eq!(NetAddr::i2p(*i2p.as_bytes()).to_string(), I2P);
}

#[test]
fn cjdns_addresses_agree_with_bitcoin_core() {
    let addr = NetAddr::cjdns(Ipv6Addr::new(0xfc00, 1, 2, 3, 4, 5, 6, 7)).unwrap();
    assert_eq!(addr.to_string(), "cjdns:fc00:1:2:3:4:5:6:7");
    assert_eq!(addr.network(), Network::Cjdns);
}

// ---- conversions and queries ----

#[test]
fn a_unix_address_ignores_the_port() {
    let unix = Service::unix("/a").unwrap();
    assert_eq!(Service::new(unix.addr().clone(), 8333), unix);
    assert_eq!(unix.with_port(8333).port(), 0);
}

#[test]
fn path_abstract_name_and_unnamed_are_distinct() {
    let path = UnixAddr::from_path("@a").unwrap();
    let name = UnixAddr::from_abstract_name("a").unwrap();
    let empty_name = UnixAddr::from_abstract_name("").unwrap();
    assert_eq!(path.as_path(), Some(Path::new("@a")));
    assert_eq!(path.as_abstract_name(), None);
    assert_eq!(name.as_abstract_name().unwrap(), b"a");
    assert_eq!(name.as_path(), None);
    assert_eq!(empty_name.as_abstract_name().unwrap(), b"");
    assert!(UnixAddr::unnamed().is_unnamed() && !empty_name.is_unnamed());
    let all = HashSet::from([path, name, empty_name, UnixAddr::unnamed()]);
    assert_eq!(all.len(), 4);
}

#[test]
fn ipv4_mapped_ipv6_becomes_ipv4_in_every_conversion() {
    let mapped: Ipv6Addr = "::ffff:1.2.3.4".parse().unwrap();
    let plain = NetAddr::from(Ipv4Addr::new(1, 2, 3, 4));
    assert_eq!(NetAddr::from(mapped), plain);
    assert_eq!(NetAddr::from(IpAddr::V6(mapped)), plain);
    assert_eq!(NetAddr::ipv6(mapped, 3), plain);
    assert_eq!("::ffff:1.2.3.4".parse::<NetAddr>(), Ok(plain.clone()));
    assert_eq!(*Service::from(SocketAddr::from((mapped, 1))).addr(), plain);
}

#[test]
fn std_addresses_convert_both_ways_unchanged() {
    for text in ["1.2.3.4:5", "[::1]:5", "[fe80::1%7]:5", "[fc00::1]:5"] {
        let std: SocketAddr = text.parse().unwrap();
        let service = Service::from(std);
        assert_eq!(service.to_socket_addr(), Some(std));
        assert_eq!(service, text.parse().unwrap());
    }
    let cjdns: Service = "cjdns:[fc00::1]:5".parse().unwrap();
    assert_eq!(cjdns.to_socket_addr(), Some("[fc00::1]:5".parse().unwrap()));
    let flow = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 5, 9, 0);
    assert_eq!(Service::from(flow).to_string(), "[::1]:5");
    let of_other_networks = [
        #[cfg(feature = "socks5")]
        format!("{ONION}:1"),
        #[cfg(feature = "i2p")]
        format!("{I2P}:0"),
        "unix:/a".to_owned(),
    ];
    for text in of_other_networks {
        assert_eq!(text.parse::<Service>().unwrap().to_socket_addr(), None);
    }
}

#[test]
fn networks_have_the_names_that_bitcoin_core_gives_them() {
    for (text, name) in [
        ("1.2.3.4", "ipv4"),
        ("fc00::1", "ipv6"),
        ("cjdns:fc00::1", "cjdns"),
        #[cfg(feature = "socks5")]
        (ONION, "onion"),
        #[cfg(feature = "i2p")]
        (I2P, "i2p"),
        ("unix:", "unix"),
    ] {
        assert_eq!(text.parse::<NetAddr>().unwrap().network().to_string(), name);
    }
}

#[test]
fn loopback_and_wildcard_are_recognised() {
    let is = |text: &str| {
        let addr: NetAddr = text.parse().unwrap();
        (addr.is_loopback(), addr.is_unspecified(), addr.is_unix())
    };
    for text in ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(is(text), (true, false, false), "{text}");
    }
    for text in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
        assert_eq!(is(text), (false, true, false), "{text}");
    }
    for text in [
        "1.2.3.4",
        "::2",
        "cjdns:fc00::1",
        #[cfg(feature = "socks5")]
        ONION,
        #[cfg(feature = "i2p")]
        I2P,
    ] {
        assert_eq!(is(text), (false, false, false), "{text}");
    }
    for text in ["unix:", "unix:/a", "unix:@a"] {
        assert_eq!(is(text), (false, false, true), "{text}");
    }
}

#[test]
fn addresses_are_printed_in_columns_and_for_debugging() {
    let service: Service = "1.2.3.4:5".parse().unwrap();
    assert_eq!(format!("{service:>12}|"), "   1.2.3.4:5|");
    assert_eq!(format!("{:9}|", service.addr()), "1.2.3.4  |");
    assert_eq!(format!("{service:?}"), "Service(1.2.3.4:5)");
    assert_eq!(format!("{:?}", service.addr()), "NetAddr(1.2.3.4)");
    #[cfg(feature = "socks5")]
    {
        let onion = sockman::address::OnionV3::from_public_key([0; 32]);
        assert_eq!(format!("{onion:?}").len(), "OnionV3()".len() + 62);
    }
    #[cfg(feature = "i2p")]
    {
        let i2p = sockman::address::I2pHash::new([0; 32]);
        assert_eq!(format!("{i2p:?}").len(), "I2pHash()".len() + 60);
    }
}

// ---- helpers ----

/// Returns a path of any bytes. A path of Windows is text.
fn path_of(bytes: &[u8]) -> &Path {
    #[cfg(unix)]
    return Path::new(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes));
    #[cfg(windows)]
    return Path::new(std::str::from_utf8(bytes).unwrap_or(""));
}

/// Splitmix64 with a fixed seed, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    fn addr(&mut self) -> NetAddr {
        let mut sparse: [u8; 16] = self.bytes();
        if self.next() % 2 == 0 {
            sparse[2..14].fill(0);
        }
        match self.next() % 7 {
            0 => NetAddr::Ipv4(self.bytes().into()),
            1 => NetAddr::ipv6(sparse.into(), (self.next() as u32) >> (self.next() % 32)),
            2 => {
                sparse[0] = 0xfc;
                NetAddr::cjdns(sparse.into()).unwrap()
            }
            #[cfg(feature = "socks5")]
            3 => NetAddr::tor_v3(self.bytes()),
            #[cfg(feature = "i2p")]
            4 => NetAddr::i2p(self.bytes()),
            5 => NetAddr::unix_abstract(self.name(UnixAddr::MAX_BYTES)).unwrap(),
            _ => {
                let mut path = self.name(UnixAddr::MAX_BYTES + 1);
                path.retain(|byte| *byte != 0);
                NetAddr::unix(path_of(&path)).unwrap_or(NetAddr::unix_unnamed())
            }
        }
    }

    /// Returns bytes that resemble text, escapes, UTF-8, or nothing.
    fn name(&mut self, end: usize) -> Vec<u8> {
        let pieces: [&[u8]; 8] =
            [b"@", b"\\", b"\\x41", b"/a", "é".as_bytes(), b"\xe2\x80", b"\n", b"\0"];
        let len = self.below(end);
        let mut name = Vec::new();
        while name.len() < len {
            match self.below(9) {
                8 => name.push(self.next() as u8),
                piece => name.extend_from_slice(pieces[piece]),
            }
        }
        name.truncate(len);
        name
    }
}
