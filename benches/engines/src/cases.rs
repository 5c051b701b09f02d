//! What is measured: the cases, and the peers that take part in each.
use std::fmt;

/// What one measurement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// The server answers small messages with large ones.
    LdkServes,
    /// The server answers large messages with small ones.
    LdkReceives,
    TlsEcho,
    /// The server discards what it receives.
    TlsUpload,
    /// The server sends without end.
    TlsDownload,
}

/// How a server is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Sockman,
    /// tokio on its current-thread runtime.
    Tokio,
    /// tokio on the runtime that `#[tokio::main]` makes. On one core it has one worker.
    TokioDefault,
    /// tokio on its current-thread runtime, with a buffer between the socket and rustls.
    TokioBuffered,
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    Messages,
    Bytes,
}

impl Case {
    pub const ALL: [Case; 5] =
        [Case::LdkServes, Case::LdkReceives, Case::TlsEcho, Case::TlsUpload, Case::TlsDownload];

    /// The cases of one table.
    pub const LDK: &[Case] = &[Case::LdkServes, Case::LdkReceives];
    pub const TLS: &[Case] = &[Case::TlsEcho, Case::TlsUpload, Case::TlsDownload];

    pub fn is_ldk(self) -> bool {
        Case::LDK.contains(&self)
    }

    /// Returns the peers of this case. The first one is compared with all others.
    pub fn peers(self) -> &'static [Peer] {
        if self.is_ldk() {
            &[Peer::Sockman, Peer::Tokio, Peer::TokioDefault]
        } else {
            &[Peer::Sockman, Peer::Tokio, Peer::TokioBuffered]
        }
    }

    pub fn command_name(self) -> &'static str {
        match self {
            Case::LdkServes => "ldk-serves",
            Case::LdkReceives => "ldk-receives",
            Case::TlsEcho => "tls-echo",
            Case::TlsUpload => "tls-upload",
            Case::TlsDownload => "tls-download",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Case::LdkServes => "The server sends messages of 60 kB",
            Case::LdkReceives => "The server receives messages of 60 kB",
            Case::TlsEcho => "Echo, 64 connections",
            Case::TlsUpload => "Upload, 4 connections",
            Case::TlsDownload => "Download, 4 connections",
        }
    }

    pub fn counted(self) -> Counted {
        if self == Case::TlsEcho { Counted::Messages } else { Counted::Bytes }
    }
}

impl Peer {
    pub const ALL: [Peer; 4] =
        [Peer::Sockman, Peer::Tokio, Peer::TokioDefault, Peer::TokioBuffered];

    pub fn command_name(self) -> &'static str {
        match self {
            Peer::Sockman => "sockman",
            Peer::Tokio => "tokio",
            Peer::TokioDefault => "tokio-default",
            Peer::TokioBuffered => "tokio-buffered",
        }
    }

    pub fn title(self, case: Case) -> &'static str {
        match (self, case.is_ldk()) {
            (Peer::Sockman, true) => "lightning-net-sockman",
            (Peer::Tokio, true) => "lightning-net-tokio, current-thread runtime",
            (Peer::Sockman, false) => "sockman-rustls",
            (Peer::Tokio, false) => "tokio-rustls",
            (Peer::TokioDefault, _) => "lightning-net-tokio, default runtime",
            (Peer::TokioBuffered, _) => "tokio-rustls, BufReader",
        }
    }
}

impl Counted {
    pub fn unit(self) -> &'static str {
        match self {
            Counted::Messages => "server CPU for one message, µs",
            Counted::Bytes => "server CPU for a megabyte, µs",
        }
    }
}

/// Returns the value of this name on the command line.
pub fn named<T: Copy>(all: &[T], name: &str, name_of: fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|&one| name_of(one) == name)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.command_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_in_one_table_whose_cases_have_the_same_peers() {
        let tables = [Case::LDK, Case::TLS].concat();
        assert_eq!(tables, Case::ALL);
        for table in [Case::LDK, Case::TLS] {
            assert!(table.iter().all(|case| case.peers() == table[0].peers()));
        }
    }
}
