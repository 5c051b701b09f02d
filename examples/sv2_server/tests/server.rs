//! Tests of the server with well-behaved clients (handshake, setup, templates), and of the key
//! file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::Barrier,
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use common_messages_sv2::Protocol;
use sockman_sv2_server::{AuthorityKeys, Config, Event, Server};
use sockman_test_support::tools::TempDir;
use support::{
    Client, DEADLINE, Transactions, constraints, every, honest_setup, quiet, setup, start,
};
use template_distribution_sv2::RequestTransactionData;

#[test]
fn every_subscribed_client_gets_each_template() {
    let running = start(&every(20));
    let (mut one, mut two) = (Client::connect(&running), Client::connect(&running));
    for client in [&mut one, &mut two] {
        client.set_up();
        client.subscribe();
    }
    for client in [&mut one, &mut two] {
        let first = client.receive_template();
        for next in 1..5 {
            assert_eq!(client.receive_template(), first + next);
        }
    }
    running.server.stop().unwrap();
}

#[test]
fn a_client_whose_clock_is_wrong_by_hours_accepts_the_certificate() {
    const HOUR: i64 = 3600;
    let running = start(&quiet());
    let connect = |ahead| Client::with_clock(running.stream(), running.keys.public(), ahead);
    for ahead in [-23 * HOUR, -12, 0, 12, 23 * HOUR] {
        let mut client = connect(ahead).unwrap();
        client.set_up();
        client.subscribe();
        assert_eq!(client.receive_template(), 1, "{ahead} s ahead");
    }
    // The certificate has an end all the same.
    assert!(connect(-25 * HOUR).is_err() && connect(25 * HOUR).is_err());
    running.server.stop().unwrap();
}

#[test]
fn templates_are_complete_and_activated_at_once() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    client.receive_template_with(|template, prev_hash| {
        assert_eq!(template.template_id, 1);
        assert!(template.future_template);
        assert_eq!((template.version, template.coinbase_tx_version), (0x2000_0000, 2));
        assert_eq!(template.coinbase_tx_input_sequence, u32::MAX);
        assert_eq!(template.coinbase_tx_value_remaining, 312_500_000);
        assert_eq!(template.coinbase_tx_outputs_count, 0);
        assert_eq!(template.coinbase_tx_outputs.as_bytes(), b"");
        assert_eq!(template.coinbase_tx_locktime, 0);
        assert!(template.merkle_path.is_empty());

        assert_eq!(prev_hash.template_id, template.template_id);
        let mut hash = [0; 32];
        hash[0] = 1;
        assert_eq!(prev_hash.prev_hash.as_bytes(), hash);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(now - u64::from(prev_hash.header_timestamp) < 3600);
        // 0x7fffff << 8 * (0x20 - 3), the least significant byte first.
        assert_eq!(prev_hash.n_bits, 0x207f_ffff);
        let mut target = [0; 32];
        target[29..].copy_from_slice(&[0xff, 0xff, 0x7f]);
        assert_eq!(prev_hash.target.as_bytes(), target);
    });
}

/// Small numbers have an opcode each. From 17 on, a number takes the fewest bytes that leave its
/// highest bit 0.
#[test]
fn heights_are_encoded_as_bip_34_requires() {
    let running = start(&every(1));
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    loop {
        let (id, prefix) = client.receive_template_with(|template, _| {
            (template.template_id, template.coinbase_prefix.as_bytes().to_vec())
        });
        let low = id.to_le_bytes()[0];
        let expected = match id {
            0..=16 => vec![0x50 + low],
            17..=127 => vec![1, low],
            128..=255 => vec![2, low, 0],
            _ => break,
        };
        assert_eq!(prefix, expected, "{id}");
    }
}

#[test]
fn a_client_that_has_not_subscribed_gets_no_template() {
    let running = start(&every(5));
    let mut client = Client::connect(&running);
    client.set_up();
    let mut pushed = 0;
    while pushed < 3 {
        if let Event::Pushed { clients, .. } = running.event() {
            assert_eq!(clients, 0);
            pushed += 1;
        }
    }
    running.server.stop().unwrap();
    client.assert_ended();
}

#[test]
fn a_client_that_subscribes_again_is_sent_the_template_once() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    for _ in 0..100 {
        client.subscribe();
    }
    client.receive_template();
    // This message is out of turn, so the server ends the connection after it has sent all answers.
    client.send(honest_setup(), 0x00);
    client.assert_ended();
    let mut subscribed = 0;
    loop {
        match running.event() {
            Event::Subscribed { .. } => subscribed += 1,
            Event::Disconnected { .. } => break,
            _ => {}
        }
    }
    assert_eq!(subscribed, 1);
}

#[test]
fn a_setup_that_does_not_fit_is_refused_with_the_reason() {
    let running = start(&quiet());
    let cases = [
        (setup(Protocol::MiningProtocol, 2, 5), 0, "unsupported-protocol"),
        (setup(Protocol::TemplateDistributionProtocol, 3, 5), 0, "protocol-version-mismatch"),
        (setup(Protocol::TemplateDistributionProtocol, 2, 5), 5, "unsupported-feature-flags"),
    ];
    for (message, flags, reason) in cases {
        let mut client = Client::connect(&running);
        client.send(message, 0x00);
        assert_eq!(client.receive_refusal(), (flags, reason.to_owned()));
        client.assert_ended();
        drop(client);
        assert!(running.wait_for_disconnect().contains("refused"));
    }
}

#[test]
fn a_request_for_transactions_is_not_found_before_the_first_template_and_stale_before_the_last() {
    let running = start(&every(20));
    let mut early = Client::connect(&running);
    early.set_up();
    early.subscribe();
    // The first template of the second client must have an id above 1, so the first client waits
    // for template 2.
    while early.receive_template() < 2 {}
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    let first = client.receive_template();
    client.receive_template();
    let unknown = [0, first - 1, u64::MAX];
    for id in unknown {
        client.ask_for_transactions(id);
        assert_eq!(client.receive_transactions(), Transactions::not_found(id));
    }
    client.ask_for_transactions(first);
    assert_eq!(client.receive_transactions(), Transactions::stale(first));
}

#[test]
fn the_last_pushed_template_has_no_transactions() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    let id = client.receive_template();
    client.ask_for_transactions(id);
    assert_eq!(client.receive_transactions(), Transactions::None(id));
    client.ask_for_transactions(id + 1);
    assert_eq!(client.receive_transactions(), Transactions::not_found(id + 1));
}

/// The requests have many more bytes than the server reads at once, and their answers have many
/// more bytes than the server queues.
#[test]
fn each_of_many_requests_in_a_row_is_answered() {
    const REQUESTS: u64 = 20_000;

    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    let newest = client.receive_template();
    let mut bytes = Vec::new();
    for id in 0..REQUESTS {
        bytes.extend(client.encode(RequestTransactionData { template_id: id }, 0x73));
    }
    let mut stream = client.stream.try_clone().unwrap();
    let writer = thread::spawn(move || stream.write_all(&bytes).unwrap());
    for id in 0..REQUESTS {
        let expected =
            if id == newest { Transactions::None(id) } else { Transactions::not_found(id) };
        assert_eq!(client.receive_transactions(), expected);
    }
    writer.join().unwrap();
}

#[test]
fn a_request_for_transactions_before_the_subscription_is_ignored() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    client.ask_for_transactions(1);
    client.subscribe();
    // The template is the first message that arrives.
    client.receive_template();
}

#[test]
fn an_unknown_protocol_is_refused_with_the_reason() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let mut payload = binary_sv2::to_bytes(honest_setup()).unwrap();
    payload[0] = 9;
    client.send_payload(&payload, 0x00);
    assert_eq!(client.receive_refusal(), (0, "unsupported-protocol".to_owned()));
    client.assert_ended();
}

#[test]
fn a_client_with_another_authority_key_fails_the_handshake() {
    let running = start(&quiet());
    let other = AuthorityKeys::generate().unwrap();
    assert!(Client::on(running.stream(), other.public()).is_err());
    // The right key still works.
    Client::connect(&running).set_up();
}

#[test]
fn messages_of_extensions_are_ignored() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let bytes = client.encode_for_extension(constraints(), 0x70, 7);
    client.stream.write_all(&bytes).unwrap();
    client.set_up();
}

#[test]
fn a_conversation_may_come_in_single_bytes() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.stream.set_nodelay(true).unwrap();
    let mut bytes = client.encode(honest_setup(), 0x00);
    bytes.extend(client.encode(constraints(), 0x70));
    for byte in bytes {
        client.stream.write_all(&[byte]).unwrap();
    }
    client.receive_success();
    client.receive_template();
}

#[test]
fn at_the_limit_a_client_waits_until_another_one_leaves() {
    let running = start(&Config { max_connections: 2, ..quiet() });
    let (first, mut second) = (Client::connect(&running), Client::connect(&running));
    let (stream, key) = (running.stream(), running.keys.public());
    let third = thread::spawn(move || Client::on(stream, key).unwrap());
    // These requests take passes in which the third client could have been accepted.
    second.set_up();
    second.subscribe();
    second.receive_template();
    let events: Vec<Event> = running.events.try_iter().collect();
    let connected = events.iter().filter(|event| matches!(event, Event::Connected { .. }));
    assert_eq!(connected.count(), 2, "{events:?}");
    drop(first);
    third.join().unwrap().set_up();
}

#[test]
fn a_failed_server_is_not_running_and_returns_the_reason() {
    let config = Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..quiet() };
    let keys = AuthorityKeys::generate().unwrap();
    let server = Server::start(config, keys, |event| panic!("on purpose: {event:?}")).unwrap();
    assert!(server.is_running());
    let to = server.listening()[0].to_socket_addr().unwrap();
    let _client = TcpStream::connect(to).unwrap();
    let deadline = Instant::now() + DEADLINE;
    while server.is_running() {
        assert!(Instant::now() < deadline, "the failed server still runs");
        thread::yield_now();
    }
    assert!(server.stop().unwrap_err().to_string().contains("on purpose"));
}

#[test]
fn a_key_file_is_made_for_the_owner_alone_and_keeps_the_key() {
    let directory = TempDir::new();
    let path = directory.path("authority.key");
    let made = AuthorityKeys::of_file(&path).unwrap();
    #[cfg(unix)]
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = AuthorityKeys::of_file(&path).unwrap();
    assert_eq!(again.public(), made.public());
    assert_eq!(again.to_text(), made.to_text());
    // No temporary file is left.
    assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), 1);
    assert_ne!(AuthorityKeys::generate().unwrap().public(), made.public());
}

/// The calls run in one process, so that they have the same process id.
#[test]
fn simultaneous_calls_that_create_a_key_file_return_the_same_key() {
    const STARTS: usize = 8;

    let directory = TempDir::new();
    for round in 0..20 {
        let path = directory.path(&round.to_string());
        let barrier = Barrier::new(STARTS);
        let start = || {
            barrier.wait();
            AuthorityKeys::of_file(&path).unwrap().public()
        };
        let keys: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let kept = AuthorityKeys::of_file(&path).unwrap().public();
        assert_eq!(keys, [kept; STARTS], "round {round}");
        assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), round + 1);
    }
}

#[test]
fn a_key_file_that_holds_no_key_is_refused_and_left_as_it_is() {
    let directory = TempDir::new();
    let path = directory.path("authority.key");
    AuthorityKeys::of_file(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut other_letter = whole.clone();
    other_letter[20] = if whole[20] == b'2' { b'3' } else { b'2' };
    let zero = bitcoin::base58::encode_check(&[0; 32]).into_bytes();
    let long = [&whole[..], &[b'\n'; 5000], b"2"].concat();
    let contents =
        [Vec::new(), whole[..40].to_vec(), other_letter, zero, long, b"\xff\xfe".to_vec()];
    for (number, content) in contents.into_iter().enumerate() {
        fs::write(&path, &content).unwrap();
        let Err(error) = AuthorityKeys::of_file(&path) else { panic!("{number} was taken") };
        assert!(error.to_string().contains("left as it is"), "{error}");
        assert!(fs::read(&path).unwrap() == content, "{number} was changed");
        assert_eq!(fs::read_dir(directory.path("")).unwrap().count(), 1);
    }
    // A path that cannot be read is not replaced either.
    assert!(AuthorityKeys::of_file(&directory.path("")).is_err());
    assert!(AuthorityKeys::of_file(&path.join("below")).is_err());
}
