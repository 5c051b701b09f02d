//! No log line of any level, no error and no `Debug` text contains credentials of a proxy, whatever
//! the outcome. Runs in a process of its own, because the logger belongs to the process.

use std::{
    io::Write,
    sync::{Mutex, mpsc},
};

use sockman::{
    ConnectOptions,
    error::ConnectErrorKind,
    proxy::{Credentials, Proxy},
};
use sockman_test_support::{
    DEADLINE,
    child::in_child,
    drivers::DRIVERS,
    socks5::{
        AUTHENTICATED, CONNECTED, Dialling, METHOD_PASSWORD, name, proxy, read_credentials,
        read_greeting, read_request, stall,
    },
};

use crate::log_lines::{logged, start_logging};

const USERNAME: &str = "the-user-is-secret";
const PASSWORD: &str = "the-password-is-secret";

/// A proxy that answers the credentials and then the request with these bytes, and reports the
/// credentials on the channel.
fn answering(
    credentials_with: &'static [u8],
    request_with: &'static [u8],
    received: mpsc::Sender<(Vec<u8>, Vec<u8>)>,
) -> Proxy {
    let received = Mutex::new(received);
    proxy(move |mut stream| {
        read_greeting(&mut stream).unwrap();
        stream.write_all(METHOD_PASSWORD).unwrap();
        received.lock().unwrap().send(read_credentials(&mut stream).unwrap()).unwrap();
        let _ = stream.write_all(credentials_with);
        if read_request(&mut stream).is_some() {
            let _ = stream.write_all(request_with);
            stall(&mut stream);
        }
    })
}

#[test]
fn credentials_are_in_no_log_line_no_error_and_no_debug_text() {
    in_child(credentials_are_in_no_log_line_no_error_and_no_debug_text, || {
        start_logging();
        let dialling = Dialling::start();
        let (sender, received) = mpsc::channel();
        let answers: [(&[u8], &[u8]); 4] = [
            (AUTHENTICATED, CONNECTED),
            (AUTHENTICATED, b"\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"),
            (b"\x01\x01", b""),
            (b"\x05\x00", b""),
        ];
        let mut secrets = vec![USERNAME.to_owned(), PASSWORD.to_owned()];
        let mut texts = Vec::new();
        let mut failed = 0;
        for driver in DRIVERS {
            for (credentials_with, request_with) in answers {
                let plain = answering(credentials_with, request_with, sender.clone());
                let given =
                    plain.clone().credentials(Credentials::new(USERNAME, PASSWORD).unwrap());
                for proxy in [given, plain.tor_stream_isolation()] {
                    let options = ConnectOptions::default()
                        .proxy(proxy.clone())
                        .timeout(DEADLINE)
                        .is_important(true);
                    let outcome = dialling.connect(driver, &name(), &options);
                    let (username, password) = received.recv_timeout(DEADLINE).unwrap();
                    secrets.push(String::from_utf8(username).unwrap());
                    secrets.push(String::from_utf8(password).unwrap());
                    texts.push(format!("{proxy:?} {options:?} {outcome:?}"));
                    if let Err(error) = outcome {
                        failed += 1;
                        let mut cause: Option<&dyn std::error::Error> = Some(&error);
                        while let Some(error) = cause {
                            texts.push(format!("{error}"));
                            cause = error.source();
                        }
                        let is_expected = matches!(
                            error.kind(),
                            ConnectErrorKind::ProxyFailed { .. }
                                | ConnectErrorKind::ProxyReplied { .. }
                        );
                        assert!(is_expected, "{error:?}");
                    }
                }
            }
        }
        assert_eq!(failed, 2 * 3 * 2);
        let lines = logged();
        // Failures of important attempts are logged, at `info`, with the target of proxies.
        let reported =
            lines.iter().filter(|line| line.starts_with("INFO sockman::proxy: ")).count();
        assert_eq!(reported, failed, "{lines:#?}");
        assert!(
            lines.iter().any(|line| line.starts_with("DEBUG sockman::proxy: connected to name"))
        );
        for secret in &secrets {
            for text in lines.iter().chain(&texts) {
                assert!(!text.contains(secret.as_str()), "this text contains {secret}: {text}");
            }
        }
    });
}
