//! Tests of the server with misbehaving clients. The server disconnects each misbehaving client
//! with a reason, and continues to serve the other clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{collections::HashMap, io::Write, time::Duration};

use binary_sv2::{B016M, B064K, Str0255};
use common_messages_sv2::Protocol;
use sockman_sv2_server::{Config, Event};
use support::{
    Client, Running, Transactions, assert_closed, constraints, every, honest_setup, quiet, setup,
    start,
};
use template_distribution_sv2::{RequestTransactionData, SubmitSolution};

/// The size of a frame's encrypted header.
const HEADER: usize = 22;
/// The most bytes that the decoder asks for at once.
const CHUNK: usize = 65_535;
/// After this many templates, the server must have noticed a client that reads nothing. This limit
/// is more than ten times the number of templates that the kernel keeps with the server's small
/// send buffer. It is a fraction of the number that the kernel keeps without this setting.
const FAR_TOO_MANY: usize = 2000;

#[test]
fn messages_out_of_turn_disconnect_the_client() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.subscribe();
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("0x70 out of turn"));

    let mut client = Client::connect(&running);
    client.set_up();
    client.send(honest_setup(), 0x00);
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("0x00 out of turn"));
}

#[test]
fn a_truncated_message_disconnects_the_client() {
    let running = start(&quiet());
    let payload = binary_sv2::to_bytes(honest_setup()).unwrap();
    for length in [0, 1, payload.len() - 1] {
        let mut client = Client::connect(&running);
        client.send_payload(&payload[..length], 0x00);
        client.assert_closed();
        assert!(running.wait_for_disconnect().contains("malformed"), "{length} bytes");
    }
    let mut client = Client::connect(&running);
    client.set_up();
    client.subscribe();
    client.send_payload(&[0; 7], 0x73);
    client.assert_closed();
    assert!(running.wait_for_disconnect().contains("malformed message of type 0x73"));
}

/// Extensions append fields that the server does not know.
#[test]
fn messages_that_have_grown_are_accepted() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let more = [1, 2, 3, 4, 5];
    let setup = binary_sv2::to_bytes(honest_setup()).unwrap();
    client.send_payload(&[&setup[..], &more].concat(), 0x00);
    client.receive_success();
    let constraints = binary_sv2::to_bytes(constraints()).unwrap();
    client.send_payload(&[&constraints[..], &more].concat(), 0x70);
    assert_eq!(client.receive_template(), 1);
    let request = binary_sv2::to_bytes(RequestTransactionData { template_id: 1 }).unwrap();
    client.send_payload(&[&request[..], &more].concat(), 0x73);
    assert_eq!(client.receive_transactions(), Transactions::None(1));
    running.server.stop().unwrap();
}

#[test]
fn a_refused_client_gets_the_answer_and_the_end_whatever_it_sends_next() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    // The three messages arrive in one piece. The first message is refused, so the server must
    // ignore the other two: the second is no message out of turn, and the third is no second setup.
    let mut bytes = client.encode(setup(Protocol::MiningProtocol, 2, 0), 0x00);
    bytes.extend(client.encode(constraints(), 0x70));
    bytes.extend(client.encode(honest_setup(), 0x00));
    client.stream.write_all(&bytes).unwrap();
    assert_eq!(client.receive_refusal(), (0, "unsupported-protocol".to_owned()));
    client.assert_ended();
    drop(client);
    assert!(running.wait_for_disconnect().contains("refused"));
}

/// The client sends much more than the kernel can keep before it reads anything.
#[test]
fn a_refused_client_is_read_from_until_it_closes() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.send(setup(Protocol::MiningProtocol, 2, 0), 0x00);
    client.stream.write_all(&vec![0x55; 50_000_000]).unwrap();
    assert_eq!(client.receive_refusal(), (0, "unsupported-protocol".to_owned()));
    client.assert_ended();
    client.stream.write_all(&[0x55; 1000]).unwrap();
    drop(client);
    assert!(running.wait_for_disconnect().contains("refused"));
}

#[test]
fn the_header_of_a_huge_setup_disconnects_the_client() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let huge = B016M::try_from(&[0; 1_000_000][..]).unwrap();
    let bytes = client.encode(huge, 0x00);
    client.stream.write_all(&bytes[..HEADER]).unwrap();
    assert!(running.wait_for_disconnect().contains("more than 1329"));
    client.assert_closed();
}

#[test]
fn the_longest_setup_is_accepted() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    let letters = "x".repeat(255);
    let text = || Str0255::try_from(&letters[..]).unwrap();
    let mut message = honest_setup();
    message.endpoint_host = text();
    (message.vendor, message.hardware_version) = (text(), text());
    (message.firmware, message.device_id) = (text(), text());
    let bytes = client.encode(message, 0x00);
    assert_eq!(bytes.len(), 1329);
    client.stream.write_all(&bytes).unwrap();
    client.receive_success();
}

#[test]
fn the_longest_solution_is_accepted() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    let solution = SubmitSolution {
        template_id: 1,
        version: 2,
        header_timestamp: 3,
        header_nonce: 4,
        coinbase_tx: B064K::try_from(&[0; 65_535][..]).unwrap(),
    };
    let bytes = client.encode(solution, 0x76);
    assert_eq!(bytes.len(), 65_611);
    client.stream.write_all(&bytes).unwrap();
    client.subscribe();
    client.receive_template();
}

#[test]
fn the_first_chunk_of_a_frame_that_is_too_long_disconnects_the_client() {
    let running = start(&quiet());
    let mut client = Client::connect(&running);
    client.set_up();
    let huge = B016M::try_from(&[0; 1_000_000][..]).unwrap();
    let bytes = client.encode(huge, 0x76);
    client.stream.write_all(&bytes[..HEADER + CHUNK]).unwrap();
    assert!(running.wait_for_disconnect().contains("more than 65611"));
    client.assert_closed();
}

#[test]
fn damaged_and_meaningless_bytes_disconnect_only_their_client() {
    let running = start(&quiet());
    let mut bystander = Client::connect(&running);
    bystander.set_up();
    for at in [0, 5, 21, 22, 30] {
        let mut client = Client::connect(&running);
        let mut bytes = client.encode(honest_setup(), 0x00);
        bytes[at] ^= 1;
        client.stream.write_all(&bytes).unwrap();
        assert!(running.wait_for_disconnect().contains("decrypted"), "byte {at}");
        client.assert_closed();
    }
    let mut nonsense = running.stream();
    let _ = nonsense.write_all(&[0x55; 4096]);
    let reason = running.wait_for_disconnect();
    assert!(reason.contains("handshake") || reason.contains("decrypted"), "{reason}");
    bystander.subscribe();
    bystander.receive_template();
}

/// The clients stop at each stage before the subscription. The time-out is long enough for a
/// handshake on a busy machine, and each client has its own.
#[test]
fn a_client_that_does_not_subscribe_in_time_is_disconnected_and_a_subscriber_stays() {
    let running = start(&Config { setup_timeout: Duration::from_secs(5), ..every(20) });
    let mut subscribed = Client::connect(&running);
    subscribed.set_up();
    subscribed.subscribe();
    subscribed.receive_template();

    let mut silent = running.stream();
    let mut half_a_key = running.stream();
    half_a_key.write_all(&[0x55; 32]).unwrap();
    let mut with_keys = Client::connect(&running);
    let mut truncated = Client::connect(&running);
    let bytes = truncated.encode(honest_setup(), 0x00);
    truncated.stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    let mut set_up = Client::connect(&running);
    set_up.set_up();
    let mut refused = Client::connect(&running);
    refused.send(setup(Protocol::MiningProtocol, 2, 0), 0x00);
    refused.receive_refusal();

    let mut reasons: Vec<String> = (0..6).map(|_| running.wait_for_disconnect()).collect();
    reasons.sort_unstable();
    assert!(reasons[..5].iter().all(|reason| reason.contains("in time")), "{reasons:?}");
    assert!(reasons[5].contains("refused"), "{reasons:?}");
    assert_closed(&mut silent);
    assert_closed(&mut half_a_key);
    for client in [&mut with_keys, &mut truncated, &mut set_up, &mut refused] {
        client.assert_closed();
    }

    // The subscriber connected first, so its time-out would have expired before the time-outs of
    // the other clients.
    let Event::Pushed { template: now, .. } = running.event() else { panic!("no template") };
    while subscribed.receive_template() <= now {}
}

/// Returns a client that has subscribed and reads nothing.
fn lazy_client(running: &Running) -> Client {
    let stream = running.stream_with_small_buffer();
    let mut lazy = Client::on(stream, running.keys.public()).unwrap();
    lazy.set_up();
    lazy.subscribe();
    lazy
}

#[test]
fn a_client_that_does_not_take_its_templates_is_disconnected_and_the_others_go_on() {
    let running = start(&Config { max_missed: 3, ..every(1) });
    let _lazy = lazy_client(&running);
    // The number of clients to which each template was pushed, since the subscription.
    let mut pushed = Vec::new();
    let reason = loop {
        match running.event() {
            Event::Subscribed { .. } => pushed.clear(),
            Event::Pushed { clients, .. } => pushed.push(clients),
            Event::Disconnected { reason, .. } => break reason,
            _ => {}
        }
        assert!(pushed.len() < FAR_TOO_MANY, "the client is still connected");
    };
    assert!(reason.contains("does not read"), "{reason}");
    // The client missed three templates while one was unsent. The disconnect came before the event
    // of the fourth.
    assert!(pushed.contains(&1), "{pushed:?}");
    assert!(pushed.ends_with(&[0, 0, 0]), "{pushed:?}");

    let mut other = Client::connect(&running);
    other.set_up();
    other.subscribe();
    other.receive_template();
    running.server.stop().unwrap();
}

/// The server stops reading from the client long before the answers fill the send queue. Then the
/// server disconnects the client, because the client misses templates.
#[test]
fn a_client_that_does_not_take_its_answers_is_disconnected() {
    let running = start(&Config { max_missed: 3, ..every(20) });
    let mut lazy = lazy_client(&running);
    loop {
        let request = RequestTransactionData { template_id: u64::MAX };
        let requests: Vec<u8> = (0..1000).flat_map(|_| lazy.encode(request, 0x73)).collect();
        if lazy.stream.write_all(&requests).is_err() {
            break;
        }
    }
    let reason = running.wait_for_disconnect();
    assert!(reason.contains("does not read"), "{reason}");
}

/// A client that catches up gets the newest template at once, and not only together with the next
/// template. If the next template is made at just that moment, both are the same, and the client
/// falls behind once more.
#[test]
fn a_client_that_falls_behind_gets_the_newest_template_next() {
    let running = start(&every(4));
    let mut lazy = lazy_client(&running);
    while !matches!(running.event(), Event::Subscribed { .. }) {}
    let mut clients = HashMap::new();
    let got_it_at_once = (0..20).any(|_| {
        fall_behind(&running, &mut clients);
        let next = first_after_a_gap(&mut lazy);
        while !clients.contains_key(&next) {
            note_push(&running, &mut clients);
        }
        clients[&next] == 0
    });
    assert!(got_it_at_once, "a client that caught up waited for another template");
    // From here on, the client gets each template again.
    lazy.receive_template();
}

/// Waits for the next push, and notes the number of clients that got the template immediately.
fn note_push(running: &Running, clients: &mut HashMap<u64, usize>) -> usize {
    loop {
        match running.event() {
            Event::Pushed { template, clients: count } => {
                clients.insert(template, count);
                return count;
            }
            Event::Disconnected { reason, .. } => panic!("{reason}"),
            _ => {}
        }
    }
}

/// Waits until the client has missed twenty templates in a row.
fn fall_behind(running: &Running, clients: &mut HashMap<u64, usize>) {
    let mut missed = 0;
    for _ in 0..FAR_TOO_MANY {
        missed = if note_push(running, clients) == 0 { missed + 1 } else { 0 };
        if missed == 20 {
            return;
        }
    }
    panic!("the kernel took all templates");
}

/// Receives up to the first template that does not follow the one before.
fn first_after_a_gap(lazy: &mut Client) -> u64 {
    let mut before = lazy.receive_template();
    for _ in 0..FAR_TOO_MANY {
        let id = lazy.receive_template();
        if id != before + 1 {
            return id;
        }
        before = id;
    }
    panic!("the client got every template, although it missed some");
}
