//! Checks that a server keeps its contract, byte by byte, before it is measured.
use std::{
    error::Error,
    io::{Read, Write},
    net::TcpStream,
};

use rustls::StreamOwned;

use super::{CONFIRMED, config};
use crate::{cases::Case, load::PATIENCE, pattern, server_process::ServerProcess};

/// The sizes of the messages to an echo: less than a record, a record, and more.
const ECHOES: [usize; 5] = [1, 64, 16 * 1024 - 1, 16 * 1024, 40_000];

/// Exchanges some bytes with a server that was started as checked.
pub fn check(server: &ServerProcess, case: Case) -> Result<(), Box<dyn Error>> {
    let client = config::connection(&config::client(&server.identity)?)?;
    let stream = TcpStream::connect(server.address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(client, stream);
    let mut position = 0;
    match case {
        Case::TlsEcho => {
            let mut buffer = vec![0; pattern::LONGEST];
            for size in ECHOES.repeat(10) {
                let message = pattern::at(position, size);
                stream.write_all(message)?;
                stream.read_exact(&mut buffer[..size])?;
                if buffer[..size] != *message {
                    return Err("an echo differs from what was sent".into());
                }
                position += size as u64;
            }
        }
        Case::TlsDownload => {
            let mut buffer = vec![0; pattern::LONGEST];
            while position < 4 * CONFIRMED {
                let length = stream.read(&mut buffer)?;
                if length == 0 || !pattern::is_at(position, &buffer[..length]) {
                    return Err("the server sent other bytes than it should".into());
                }
                position += length as u64;
            }
        }
        _ => {
            while position < 4 * CONFIRMED {
                stream.write_all(pattern::at(position, pattern::LONGEST))?;
                position += pattern::LONGEST as u64;
            }
            let mut confirmed = [0; 4];
            stream.read_exact(&mut confirmed)?;
        }
    }
    Ok(())
}
