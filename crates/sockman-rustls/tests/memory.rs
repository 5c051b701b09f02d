//! A reader that stalls costs little memory, however long its answer is.
//!
//! This is a test binary of its own because it counts the allocations of the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::{
    alloc::System,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned, crypto::ring,
    pki_types::ServerName,
};
use sockman::{Options, SockMan};
use sockman_rustls::{Tls, TlsHandler, TlsLink, TlsSettings};
use sockman_test_support::tools::{deadlines, run_passes};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ANSWER: usize = 20_000_000;
/// The send buffer is 64 KiB, and a record more may be in the buffers of each side. The rest is for
/// the kernel's interfaces and the test itself.
const ALLOWED: usize = 300_000;

/// Answers the first byte with [`ANSWER`] bytes, which are made as there is room.
#[derive(Default)]
struct Source {
    taken: AtomicUsize,
}

impl TlsHandler for Source {
    type Connection = usize;

    fn secured(&self, _: &mut TlsLink<'_, usize>) -> Option<usize> {
        Some(0)
    }
    fn got_data(&self, link: &mut TlsLink<'_, usize>, taken: &mut usize) {
        self.got_room(link, taken);
        link.finish(Duration::from_secs(600));
    }
    fn got_room(&self, link: &mut TlsLink<'_, usize>, taken: &mut usize) {
        static BLOCK: [u8; 100_000] = [7; 100_000];
        while *taken < ANSWER {
            let block = &BLOCK[..BLOCK.len().min(ANSWER - *taken)];
            let more = link.write(block).unwrap();
            *taken += more;
            self.taken.store(*taken, Ordering::SeqCst);
            if more < block.len() {
                return;
            }
        }
    }
}

/// G10: neither this crate nor rustls stores the answer.
#[test]
fn a_reader_that_stalls_costs_little_memory() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], made.signing_key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let source = Arc::<Source>::default();
    let tls = Tls::server(Arc::clone(&source), Arc::new(config), TlsSettings::default()).unwrap();
    let sockman = SockMan::with_state(Arc::new(tls), Options::default().sweep(None)).unwrap();
    let bound = sockman.bind_and_start_listening("127.0.0.1:0").unwrap();
    let threads = sockman.start_sockets_threads().unwrap();

    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(client), name).unwrap();
    let stream = TcpStream::connect(bound.to_socket_addr().unwrap()).unwrap();
    deadlines(&stream);
    // So that the kernel does not take the whole answer.
    socket2::SockRef::from(&stream).set_recv_buffer_size(65536).unwrap();
    let mut client = StreamOwned::new(client, stream);
    client.conn.complete_io(&mut client.sock).unwrap();
    run_passes(&sockman, 3);

    let region = Region::new(ALLOCATOR);
    let in_use = || {
        let change = region.change();
        change.bytes_allocated.saturating_sub(change.bytes_deallocated)
    };
    client.write_all(b"x").unwrap();
    sockman_test_support::eventually("the server stalls", || {
        let before = source.taken.load(Ordering::SeqCst);
        run_passes(&sockman, 3);
        before > 0 && source.taken.load(Ordering::SeqCst) == before
    });
    let (taken, stalled) = (source.taken.load(Ordering::SeqCst), in_use());
    assert!(taken < ANSWER, "{taken} bytes were taken");
    assert!(stalled <= ALLOWED, "{stalled} bytes are in use while the reader stalls");

    let (mut buffer, mut received) = ([0; 16_384], 0);
    loop {
        let bytes = client.read(&mut buffer).unwrap(); // Fails at a truncation.
        received += bytes;
        assert!(in_use() <= ALLOWED, "{} bytes are in use after {received}", in_use());
        if bytes == 0 {
            break;
        }
    }
    assert_eq!(received, ANSWER);
    drop(client);
    sockman.drain_and_stop(Duration::from_secs(1));
    threads.join().unwrap();
}
