//! G13: texts that are no addresses: the error names the wrong part, and shows hostile text
//! escaped. Values that cannot exist cannot be built.

use sockman::error::ParseAddrErrorKind as Kind;
use sockman::{
    Service,
    address::{CjdnsAddr, NetAddr, UnixAddr},
    error::{InvalidAddrError, ParseAddrError},
};

#[cfg(feature = "socks5")]
const ONION: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
#[cfg(feature = "i2p")]
const I2P: &str = "ukeu3k5oycgaauneqgtnvselmt4yemvoilkln7jpvamvfx7dnkdq.b32.i2p";

fn kind(text: &str) -> Kind {
    text.parse::<Service>().unwrap_err().kind()
}

fn addr_kind(text: &str) -> Kind {
    text.parse::<NetAddr>().unwrap_err().kind()
}

fn message(text: &str) -> String {
    text.parse::<Service>().unwrap_err().to_string()
}

#[cfg(feature = "socks5")]
#[test]
fn a_wrong_onion_address_says_which_part_is_wrong() {
    assert_eq!(kind("6hzph5hv6337r6p2.onion:80"), Kind::OnionV2);
    assert!(message("6hzph5hv6337r6p2.onion:80").contains("no longer supported"));
    assert_eq!(kind(".onion:80"), Kind::OnionLength { found: 0 });
    assert_eq!(kind(&format!("a{ONION}:80")), Kind::OnionLength { found: 57 });
    assert_eq!(kind(&format!("www.{ONION}:80")), Kind::OnionSymbol { found: '.', at: 4 });
    let one = ONION.replacen('g', "1", 1);
    assert_eq!(kind(&format!("{one}:80")), Kind::OnionSymbol { found: '1', at: 2 });
    assert!(message(&format!("{one}:80")).contains("'1' at position 2"));
    let umlaut = ONION.replacen('g', "ü", 1);
    assert_eq!(kind(&format!("{umlaut}:80")), Kind::OnionSymbol { found: 'ü', at: 2 });
    let flipped = ONION.replacen('g', "h", 1);
    assert_eq!(kind(&format!("{flipped}:80")), Kind::OnionChecksum);
    // An address of version 4, with the checksum that it would have.
    let version_4 = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pwaqae.onion:80";
    assert_eq!(kind(version_4), Kind::OnionVersion { found: 4 });
}

#[cfg(feature = "socks5")]
#[test]
fn every_single_wrong_character_in_an_onion_address_is_noticed() {
    // By design, a checksum of 16 bits misses one of 2^16 errors. The checksum misses none of these
    // 56 * 31 errors.
    let label = &ONION[..56];
    for at in 0..label.len() {
        for other in "abcdefghijklmnopqrstuvwxyz234567".chars() {
            if label[at..].starts_with(other) {
                continue;
            }
            let text = format!("{}{other}{}.onion", &label[..at], &label[at + 1..]);
            assert!(text.parse::<NetAddr>().is_err(), "{text}");
        }
    }
}

#[cfg(feature = "i2p")]
#[test]
fn a_wrong_i2p_address_says_which_part_is_wrong() {
    assert_eq!(kind(&format!("a{I2P}:0")), Kind::I2pLength { found: 53 });
    let nine = I2P.replacen('k', "9", 1);
    assert_eq!(kind(&format!("{nine}:0")), Kind::I2pSymbol { found: '9', at: 2 });
    // This text has the same hash, but other unused bits. If it were accepted, one value would have
    // two texts.
    let trailing = I2P.replace("dnkdq.", "dnkdr.");
    assert_eq!(kind(&format!("{trailing}:0")), Kind::I2pTrailingBits);
}

/// RFC 7686: a name that ends in .onion or .i2p is never taken for a host name, which would go to a
/// resolver.
#[cfg(all(feature = "socks5", feature = "i2p"))]
#[test]
fn a_name_of_an_anonymity_network_is_no_host_name_in_any_spelling() {
    use sockman::address::Destination;

    let of = |text: &str| text.parse::<Destination>();
    for address in [format!("{ONION}:8333"), format!("{I2P}:0")] {
        let expected = of(&address).unwrap();
        assert!(expected.service().is_some());
        let (host, port) = address.split_once(':').unwrap();
        for text in [
            format!("{host}.:{port}"),
            format!("{}.:{port}", host.to_uppercase()),
            address.to_uppercase(),
        ] {
            assert_eq!(of(&text), Ok(expected.clone()), "{text}");
        }
        assert_eq!(format!("{host}.").parse(), Ok(expected.service().unwrap().addr().clone()));
    }
    for ending in ["onion", "OnIoN", "i2p", "I2P", "xn--onion-", "XN--i2p-"] {
        for name in ["", ".", "a.", "www.a-b.", "b32.", "www.node.b32.", "a..", "xn--a."] {
            for dots in ["", ".", "..", "..."] {
                let text = format!("{name}{ending}{dots}:8333");
                let outcome = of(&text);
                assert!(outcome.is_err(), "{text}: {outcome:?}");
            }
        }
    }
    for text in [
        "a.oni\u{ad}on:1",
        "a\u{ff0e}onion:1",
        "a\u{3002}onion:1",
        "a.\u{ff4f}nion:1",
        "a.onion\u{3002}:1",
    ] {
        assert!(of(text).is_err(), "{text}");
    }
    // Other names only look similar.
    for text in
        ["onion.example:1", "a.onions:1", "a-onion:1", "i2p.example:1", "ai2p:1", "a.example.:1"]
    {
        assert_eq!(of(text).unwrap().service(), None, "{text}");
    }
    assert_eq!(kind("stats.i2p:0"), Kind::I2pName);
    assert_eq!(kind("stats.i2p.:0"), Kind::I2pName);
}

#[test]
fn a_host_name_is_distinguished_from_an_address() {
    for text in ["example.com:8333", "example.com", "localhost:1", "seed_1.example:1", "fe80:1"] {
        assert_eq!(kind(text), Kind::HostName, "{text}");
    }
    assert_eq!(addr_kind("example.com"), Kind::HostName);
    assert!(message("example.com:1").contains("this is a name, not an address"));
}

#[test]
fn wrong_brackets_are_reported() {
    for text in ["[::1:8333", "::1]:8333", "::1:8333", "::1", "[::1]8333", "cjdns:fc00::1"] {
        assert_eq!(kind(text), Kind::Brackets, "{text}");
    }
    for text in ["[::1", "[::1]x", "cjdns:[fc00::1"] {
        assert_eq!(addr_kind(text), Kind::Brackets, "{text}");
    }
}

#[test]
fn a_wrong_port_says_what_is_wrong_with_it() {
    for (port, wrong) in [
        ("", Kind::MissingPort),
        (":", Kind::EmptyPort),
        (":+1", Kind::PortNotDecimal),
        (":-1", Kind::PortNotDecimal),
        (": 1", Kind::PortNotDecimal),
        (":0x1", Kind::PortNotDecimal),
        (":١", Kind::PortNotDecimal),
        (":http", Kind::PortNotDecimal),
        (":00", Kind::PortLeadingZero),
        (":08333", Kind::PortLeadingZero),
        (":65536", Kind::PortTooLarge),
        (":99999999999999999999999999", Kind::PortTooLarge),
    ] {
        for host in [
            "1.2.3.4",
            "[::1]",
            "cjdns:[fc00::1]",
            #[cfg(feature = "socks5")]
            ONION,
            #[cfg(feature = "i2p")]
            I2P,
        ] {
            assert_eq!(kind(&format!("{host}{port}")), wrong, "{host}{port}");
        }
    }
}

#[test]
fn an_unexpected_port_is_reported() {
    for text in ["1.2.3.4:1", "[::1]:1", "cjdns:[fc00::1]:1"] {
        assert_eq!(addr_kind(text), Kind::UnexpectedPort, "{text}");
    }
}

#[test]
fn wrong_ip_addresses_are_reported() {
    for text in ["1.2.3:1", "1.2.3.4.5:1", "256.1.1.1:1", "01.2.3.4:1", "1:1", "1.2.3.:1"] {
        assert_eq!(kind(text), Kind::Ipv4, "{text}");
    }
    for text in ["[]:1", "[1.2.3.4]:1", "[:::]:1", "[::g]:1", "[[::1]]:1", "cjdns:[fc00::1%2]:1"] {
        assert_eq!(kind(text), Kind::Ipv6, "{text}");
    }
    for scope in ["", "eth0", "-1", "+1", "01", "4294967296", "2%2"] {
        assert_eq!(kind(&format!("[fe80::1%{scope}]:1")), Kind::Scope, "{scope}");
    }
}

#[test]
fn text_that_resembles_no_address_is_reported() {
    assert_eq!(kind(""), Kind::Empty);
    assert_eq!(kind(":8333"), Kind::Empty);
    assert_eq!(addr_kind(""), Kind::Empty);
    for text in ["http://1.2.3.4:80", " 1.2.3.4:1", "1.2.3.4 :1", "é:1", "1.2.3.4,5:1"] {
        assert_eq!(kind(text), Kind::Unrecognized, "{text}");
    }
    assert_eq!(addr_kind("http://1.2.3.4:80"), Kind::Unrecognized);
}

#[test]
fn a_wrong_unix_address_says_what_is_wrong() {
    for text in [r"unix:\", r"unix:/\n", r"unix:\x", r"unix:\x4", r"unix:\xg0", r"unix:@\x+1"] {
        assert_eq!(kind(text), Kind::UnixEscape, "{text}");
    }
    for text in ["unix:/a\0b", r"unix:/a\x00"] {
        assert_eq!(kind(text), Kind::Invalid(InvalidAddrError::UnixPathHasNul), "{text}");
    }
    let len = UnixAddr::MAX_BYTES + 1;
    let too_long = InvalidAddrError::UnixTooLong { len, max: UnixAddr::MAX_BYTES };
    assert_eq!(kind(&format!("unix:{}", "p".repeat(len))), Kind::Invalid(too_long));
    assert_eq!(kind(&format!("unix:@{}", "p".repeat(len - 1))), Kind::Invalid(too_long));
    assert!(message(&format!("unix:{}", "p".repeat(len))).contains(&len.to_string()));
}

#[test]
fn messages_show_hostile_text_cut_and_escaped() {
    let text = format!("\u{1b}[2J'\n\u{202e}é{}", "x".repeat(1000));
    let message = message(&text);
    assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{message}");
    let shown = message.strip_prefix("cannot parse address '").unwrap();
    let shown = shown.split("': ").next().unwrap();
    assert!(shown.starts_with(r"\u{1b}[2J\'\n\u{202e}\u{e9}xxx"), "{shown}");
    assert!(shown.ends_with("xxx..."));
    assert_eq!(shown.len(), 100);

    let fits = "x".repeat(100);
    assert!(fits.parse::<Service>().unwrap_err().to_string().contains(&format!("'{fits}'")));
    let hostile: ParseAddrError = "\u{1f980}".repeat(1000).parse::<Service>().unwrap_err();
    assert!(hostile.to_string().contains(r"\u{1f980}...'"));
}

#[test]
fn megabytes_of_hostile_text_are_refused_quickly() {
    for piece in ["[", ":", "a", "1", "\\", "\u{202e}", "unix:\\x00", "[::1]:0", ".onion", "1."] {
        let text = piece.repeat(1 << 20);
        let error = text.parse::<Service>().unwrap_err();
        assert!(error.to_string().len() < 400);
        for prefix in ["unix:", "unix:@", "cjdns:", "cjdns:[", "[::1%", "1.2.3.4:"] {
            assert!(format!("{prefix}{text}").parse::<Service>().is_err());
        }
        for suffix in [".onion:1", ".b32.i2p:1"] {
            assert!(format!("{text}{suffix}").parse::<Service>().is_err());
        }
    }
}

#[test]
fn cjdns_outside_its_range_cannot_be_built() {
    let addr = "fd00::1".parse().unwrap();
    let refused = InvalidAddrError::NotCjdns { addr };
    assert_eq!(CjdnsAddr::new(addr), Err(refused));
    assert_eq!(NetAddr::cjdns(addr), Err(refused));
    assert_eq!(kind("cjdns:[fd00::1]:1"), Kind::Invalid(refused));
    assert!(refused.to_string().contains("fc00::/8"));
}

#[test]
fn unix_names_that_the_kernel_cannot_hold_cannot_be_built() {
    let max = UnixAddr::MAX_BYTES;
    assert_eq!(UnixAddr::from_path(""), Err(InvalidAddrError::UnixPathEmpty));
    assert_eq!(UnixAddr::from_path("a\0"), Err(InvalidAddrError::UnixPathHasNul));
    assert!(UnixAddr::from_path("p".repeat(max)).is_ok());
    let too_long = Err(InvalidAddrError::UnixTooLong { len: max + 1, max });
    assert_eq!(UnixAddr::from_path("p".repeat(max + 1)), too_long);
    assert!(UnixAddr::from_abstract_name("n".repeat(max - 1)).is_ok());
    assert_eq!(UnixAddr::from_abstract_name("n".repeat(max)), too_long);
    assert!(Service::unix("").is_err());
}
