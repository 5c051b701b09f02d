//! Fuzzes the parsers of addresses. If a text parses, the value prints to a text that parses to the
//! same value.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockman::{
    Service,
    address::{Destination, NetAddr},
};

fuzz_target!(|text: &str| {
    if let Ok(service) = text.parse::<Service>() {
        let printed = service.to_string();
        assert_eq!(printed.parse::<Service>().as_ref(), Ok(&service));
        // A text that is an address must not parse as a host name.
        assert_eq!(text.parse(), Ok(Destination::Service(service)));
    }
    if let Ok(addr) = text.parse::<NetAddr>() {
        let printed = addr.to_string();
        assert_eq!(printed.parse::<NetAddr>().as_ref(), Ok(&addr));
    }
    match text.parse::<Destination>() {
        Ok(destination) => assert_eq!(destination.to_string().parse(), Ok(destination)),
        Err(error) => {
            assert!(error.to_string().len() < 1000, "the error message is too long: {error}")
        }
    }
});
