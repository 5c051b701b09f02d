//! `examples/chat.rs` as a program: who gets a line, who is dropped, and the end.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    process::Command,
};

use socket2::{Domain, Socket, Type};
use sockman_test_support::{
    child::in_child,
    limits::make_room_for,
    program::{Program, assert_lack_of_threads_is_told, example, signal, with_default_signals},
    tools::deadlines,
};

fn start() -> (Program, SocketAddr) {
    let mut command = Command::new(example("chat"));
    let mut program = Program::start(&mut with_default_signals(command.arg("0")));
    let line = program.wait_for_line("listening");
    (program, line.rsplit(' ').next().unwrap().parse().unwrap())
}

struct Member(BufReader<TcpStream>);

impl Member {
    fn connect(address: SocketAddr) -> Member {
        let stream = TcpStream::connect(address).unwrap();
        deadlines(&stream);
        Member(BufReader::new(stream))
    }

    /// Connects a member with a name, and waits until an older member has received a line of it.
    fn named(address: SocketAddr, name: &str, older: &mut [&mut Member]) -> Member {
        let mut member = Member::connect(address);
        member.say(&format!("/nick {name}\nhi\n"));
        for other in older {
            assert_eq!(other.hears(), format!("{name}: hi\n"));
        }
        member
    }

    fn say(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Returns the next line, or an empty text at the end.
    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

/// Lines come in pieces and several at once. Nobody gets its own line, and no line carries control
/// sequences.
#[test]
fn each_line_goes_to_everyone_else() {
    let (_program, address) = start();
    let mut anna = Member::connect(address);
    let mut ben = Member::named(address, "ben", &mut [&mut anna]);
    let mut carl = Member::named(address, "carl", &mut [&mut anna, &mut ben]);
    anna.say("/nick anna\none li");
    ben.say("from ben\n");
    assert_eq!(anna.hears(), "ben: from ben\n");
    assert_eq!(carl.hears(), "ben: from ben\n");
    anna.say("ne\ntwo\n\n\r\nth");
    anna.say("ree \u{1b}[2J\u{7}\r\n/nick a name that is too long\nfour\n");
    for other in [&mut ben, &mut carl] {
        let lines = [(); 4].map(|()| other.hears());
        let expected = ["one line", "two", "three [2J"].map(|line| format!("anna: {line}\n"));
        assert_eq!(lines[..3], expected);
        assert_eq!(lines[3], "a name that is t: four\n");
    }
    carl.say("bye\n");
    carl.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!((anna.hears(), ben.hears()), ("carl: bye\n".into(), "carl: bye\n".into()));
    assert_eq!(carl.hears(), "");
}

#[test]
fn a_member_whose_line_does_not_end_is_dropped() {
    let (_program, address) = start();
    let mut anna = Member::connect(address);
    let mut ben = Member::named(address, "ben", &mut [&mut anna]);
    ben.say(&"x".repeat(4097));
    assert_eq!(ben.hears(), "");
    let mut carl = Member::named(address, "carl", &mut [&mut anna]);
    anna.say(&format!("{}\n", "y".repeat(4096)));
    assert_eq!(carl.hears().len(), "0: ".len() + 4097);
}

/// The queue of a member that reads nothing fills, and the member is dropped. The others get each
/// line.
#[test]
fn a_member_that_does_not_read_is_dropped() {
    const ROUND: usize = 100_000;
    let (_program, address) = start();
    let mut anna = Member::connect(address);
    let slow = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(4096).unwrap();
    slow.connect(&address.into()).unwrap();
    let mut slow = TcpStream::from(slow);
    deadlines(&slow);
    let mut ben = Member::named(address, "ben", &mut [&mut anna]);
    let line = "x".repeat(ROUND / 25 - "ben: \n".len());
    // Twenty megabytes: more than the kernel's buffers and the queue together.
    for _ in 0..200 {
        ben.say(&format!("{line}\n").repeat(25));
        anna.0.read_exact(&mut [0; ROUND]).unwrap();
    }
    let (mut received, mut buffer) = (0, [0; 65_536]);
    let end = loop {
        match slow.read(&mut buffer) {
            Ok(length @ 1..) => received += length,
            end => break end,
        }
    };
    let is_closed = end.is_ok() || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset);
    assert!(is_closed && received < 200 * ROUND, "the member was not dropped");
}

/// A line that one of 2,000 members writes reaches the 1,999 others.
#[test]
fn a_line_reaches_two_thousand_members() {
    in_child(a_line_reaches_two_thousand_members, || {
        make_room_for(2200); // For this process and for the program.
        let (_program, address) = start();
        let mut members: Vec<_> = (0..2000).map(|_| Member::connect(address)).collect();
        // The last one is a member when the first one has heard it.
        members[1999].say("hello\n");
        for round in ["hello", "long", "end"] {
            let text = if round == "long" { "l".repeat(3000) } else { round.to_owned() };
            if round != "hello" {
                members[1999].say(&format!("{text}\n"));
            }
            for member in &mut members[..1999] {
                let line = member.hears();
                assert_eq!(line.split_once(": ").unwrap().1, format!("{text}\n"));
            }
        }
    });
}

/// Ctrl-C sends what is queued and a last line, and ends the program when the members are gone.
#[test]
fn ctrl_c_ends_the_chat_in_order() {
    for name in ["INT", "TERM"] {
        let (mut program, address) = start();
        let mut anna = Member::connect(address);
        let mut ben = Member::named(address, "ben", &mut [&mut anna]);
        anna.say(&"word\n".repeat(800)); // The chat receives and sends them as one piece.
        assert_eq!(ben.hears(), "0: word\n");
        signal(program.child.id(), name);
        let mut rest = String::new();
        ben.0.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "0: word\n".repeat(799) + "the chat ends\n");
        assert_eq!((anna.hears(), anna.hears()), ("the chat ends\n".to_owned(), String::new()));
        drop((anna, ben));
        assert_eq!(program.child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_missing_port_and_a_lack_of_threads_are_one_line_and_an_exit_code() {
    let output = Command::new(example("chat")).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "chat: usage: chat PORT\n");
    assert_lack_of_threads_is_told(&example("chat"), &["0"]);
}
