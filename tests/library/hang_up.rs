//! `ConnectionInfo::hung_up`: an error and an end in order are two values, while reading is paused
//! and after it resumes. The sweep is off.

#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::{
    io::{ErrorKind, Write},
    net::Shutdown,
    sync::Arc,
};

use sockman::{
    ConnectionId, EventHandler, Options, Service, SockMan,
    error::SendError,
    stats::HangUp,
    testing::{Network, Script, SocketThreadByHand},
};
use sockman_test_support::{
    DEADLINE, Event, RESET_AFTER_END, Recorder, Running, read_to_end, reset,
    tools::{TempDir, run_passes, wait_until_hung_up},
    without_sweep,
};

const RESET: Option<HangUp> = Some(HangUp::Error(ErrorKind::ConnectionReset));
const RESET_AFTER_FIN: Option<HangUp> = Some(HangUp::Error(RESET_AFTER_END));

fn hung_up(sockman: &SockMan, id: ConnectionId) -> Option<HangUp> {
    sockman.connection_info(id).unwrap().hung_up
}

/// Returns the bytes that were reported for `id`, and the events after them.
fn reported(recorder: &Recorder, id: ConnectionId) -> (Vec<u8>, Vec<Event>) {
    let ends = |event: &Event| matches!(event, Event::Eof(_) | Event::ReadError(..));
    (recorder.received(id), recorder.events_of(id).into_iter().filter(ends).collect())
}

fn pause(recorder: &Recorder, sockman: &SockMan, id: ConnectionId) {
    recorder.pause_recv(id, true);
    sockman.wake(id);
    run_passes(sockman, 1);
}

fn resume(recorder: &Recorder, sockman: &SockMan, id: ConnectionId) {
    recorder.pause_recv(id, false);
    sockman.wake(id);
}

/// G5, G6: a relay that waits for room. This side's end of the stream and the peer's meet while
/// bytes are unread. This is no reset: all bytes are read afterwards.
#[test]
fn two_ends_that_meet_while_bytes_are_unread_are_no_error() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let sockman = &running.sockman;
    for (round, this_side_first) in [false, true].into_iter().cycle().take(20).enumerate() {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(round);
        pause(&recorder, sockman, id);
        assert_eq!(hung_up(sockman, id), None);
        client.write_all(&[7; 100_000]).unwrap();
        if this_side_first {
            sockman.shutdown_write(id).unwrap();
            assert_eq!(read_to_end(&mut client), b"");
            assert_eq!(hung_up(sockman, id), None, "one direction is still open");
            client.shutdown(Shutdown::Write).unwrap();
        } else {
            client.shutdown(Shutdown::Write).unwrap();
            run_passes(sockman, 2);
            assert_eq!(hung_up(sockman, id), None, "one direction is still open");
            sockman.shutdown_write(id).unwrap();
        }
        wait_until_hung_up(sockman, id);
        assert_eq!(hung_up(sockman, id), Some(HangUp::InOrder));
        assert_eq!(recorder.received(id), b"");
        resume(&recorder, sockman, id);
        recorder.wait_for_eof(id);
        run_passes(sockman, 1);
        assert_eq!(reported(&recorder, id), (vec![7; 100_000], vec![Event::Eof(id)]));
        assert_eq!(hung_up(sockman, id), Some(HangUp::InOrder));
        sockman.close_connection(id);
    }
}

/// G5, G6: a question for the state takes no error away. The data, the end and the error are
/// reported as without the question.
#[test]
fn a_reset_is_an_error_however_often_it_is_asked_for() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let sockman = &running.sockman;
    for (round, after_fin) in [false, true].into_iter().cycle().take(20).enumerate() {
        let mut client = running.client();
        let id = recorder.wait_for_accepted(round);
        pause(&recorder, sockman, id);
        client.write_all(b"before").unwrap();
        if after_fin {
            client.shutdown(Shutdown::Write).unwrap();
            run_passes(sockman, 2);
        }
        reset(client);
        wait_until_hung_up(sockman, id);
        let expected = if after_fin { RESET_AFTER_FIN } else { RESET };
        for _ in 0..3 {
            assert_eq!(hung_up(sockman, id), expected);
        }
        if round % 4 < 2 {
            let failed = sockman.send_bytes(id, b"x");
            assert!(matches!(failed, Err(SendError::Socket { .. })), "{failed:?}");
        }
        resume(&recorder, sockman, id);
        recorder.wait_for_read_error(id);
        run_passes(sockman, 1);
        let ends = if after_fin {
            vec![Event::Eof(id), Event::ReadError(id, RESET_AFTER_END)]
        } else {
            vec![Event::ReadError(id, ErrorKind::ConnectionReset)]
        };
        assert_eq!(reported(&recorder, id), (b"before".to_vec(), ends));
        assert_eq!(hung_up(sockman, id), expected, "also after it was reported");
        sockman.close_connection(id);
    }
}

/// The error stays known if a send or a receive has taken it from the socket before the question.
#[test]
fn an_error_that_another_call_took_is_still_an_error() {
    let recorder = Recorder::new();
    let running = Running::start(recorder.clone(), without_sweep());
    let sockman = &running.sockman;
    for round in 0..20 {
        let client = running.client();
        let id = recorder.wait_for_accepted(round);
        let takes_by_send = round % 2 == 0;
        if takes_by_send {
            pause(&recorder, sockman, id);
        }
        reset(client);
        if takes_by_send {
            while sockman.send_bytes(id, b"x").is_ok() {}
        } else {
            recorder.wait_for_read_error(id);
        }
        assert_eq!(hung_up(sockman, id), RESET);
        wait_until_hung_up(sockman, id);
        run_passes(sockman, 1);
        assert_eq!(hung_up(sockman, id), RESET);
        sockman.close_connection(id);
    }
}

/// The same facts on unix-domain sockets.
#[cfg(unix)]
#[test]
fn a_unix_domain_peer_that_closes_is_no_error_unless_it_left_bytes_unread() {
    let (recorder, dir) = (Recorder::new(), TempDir::new());
    let running = Running::start(recorder.clone(), without_sweep());
    let (sockman, path) = (&running.sockman, dir.path("sock"));
    sockman.bind_and_start_listening(Service::unix(&path).unwrap()).unwrap();
    for (round, leaves_unread) in [false, true].into_iter().cycle().take(20).enumerate() {
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_write_timeout(Some(DEADLINE)).unwrap();
        let id = recorder.wait_for_accepted(round);
        pause(&recorder, sockman, id);
        client.write_all(b"before").unwrap();
        if leaves_unread {
            assert_eq!(sockman.send_bytes(id, b"unread").unwrap(), 6);
        }
        drop(client);
        wait_until_hung_up(sockman, id);
        let expected = if leaves_unread { RESET } else { Some(HangUp::InOrder) };
        for _ in 0..2 {
            assert_eq!(hung_up(sockman, id), expected);
        }
        resume(&recorder, sockman, id);
        let end = if leaves_unread {
            recorder.wait_for_read_error(id);
            Event::ReadError(id, ErrorKind::ConnectionReset)
        } else {
            recorder.wait_for_eof(id);
            Event::Eof(id)
        };
        run_passes(sockman, 1);
        assert_eq!(reported(&recorder, id), (b"before".to_vec(), vec![end]));
        assert_eq!(hung_up(sockman, id), expected);
        sockman.close_connection(id);
    }
}

/// The doubles tell the two facts apart, too.
#[test]
fn over_the_doubles_a_reset_and_an_end_in_order_differ() {
    let (network, recorder) = (Network::new(), Recorder::new());
    let options = Options::default().sweep(None).sock_factory(network.factory());
    let sockman = SockMan::new(Arc::clone(&recorder) as Arc<dyn EventHandler>, options).unwrap();
    let at = sockman.bind_and_start_listening("10.0.0.1:1").unwrap();
    let mut thread = SocketThreadByHand::start(&sockman, &network).unwrap();
    for (round, resets) in [false, true].into_iter().enumerate() {
        let peer = network.connect(&at).unwrap();
        thread.run_until_idle().unwrap();
        let id = recorder.wait_for_accepted(round);
        recorder.pause_recv(id, true);
        sockman.wake(id);
        peer.send(b"before").unwrap();
        thread.run_until_idle().unwrap();
        if resets {
            peer.reset();
        } else {
            sockman.shutdown_write(id).unwrap();
            peer.shutdown_write();
        }
        thread.run_until_idle().unwrap();
        assert_eq!(hung_up(&sockman, id), if resets { RESET } else { Some(HangUp::InOrder) });
        recorder.pause_recv(id, false);
        sockman.wake(id);
        thread.run_until_idle().unwrap();
        let end =
            if resets { Event::ReadError(id, ErrorKind::ConnectionReset) } else { Event::Eof(id) };
        assert_eq!(reported(&recorder, id), (b"before".to_vec(), vec![end]));
    }
    let sock =
        network.scripted(Script::new().then_error(sockman::sys::errors::ECONNRESET)).unwrap();
    let id = sockman.add_existing_connection(sock, &at, &at).unwrap().activate();
    recorder.pause_recv(id, true);
    thread.run_until_idle().unwrap();
    assert_eq!(hung_up(&sockman, id), RESET);
}
