//! What the tests share: certificates, a server, a client.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use sockman_http_rpc::HttpService;
use sockman_https::{
    Config, HttpsServer,
    tls::{Clients, Files, configuration},
};
use sockman_test_support::tools::{TempDir, deadlines};

/// An authority, and the PEM files of a server and of a client that it has signed.
pub(crate) struct Pki {
    directory: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Pki {
        let directory = TempDir::new();
        let mut params = CertificateParams::new(vec!["authority".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.path("authority.pem"), authority.pem()).unwrap();
        for (file, name) in [("server", "localhost"), ("client", "member")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(directory.path(&format!("{file}.pem")), certificate.pem()).unwrap();
            fs::write(directory.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        }
        Pki { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    pub(crate) fn files(&self) -> Files {
        Files {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            clients: Clients::Anonymous,
            only_tls_1_3: false,
        }
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("authority.pem")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

pub(crate) fn config() -> Config {
    Config { listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() }
}

pub(crate) fn start(pki: &Pki, config: &Config, service: Arc<dyn HttpService>) -> HttpsServer {
    let tls = configuration(&pki.files()).unwrap();
    HttpsServer::start(config, Arc::new(tls), service).unwrap()
}

/// A client, with the answers that it has read ahead.
pub(crate) struct Client(pub(crate) Buffered);

/// A buffered reader that is also a writer.
pub(crate) struct Buffered(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Buffered {
    pub(crate) fn get_mut(&mut self) -> &mut StreamOwned<ClientConnection, TcpStream> {
        self.0.get_mut()
    }
}

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl BufRead for Buffered {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill_buf()
    }
    fn consume(&mut self, amount: usize) {
        self.0.consume(amount);
    }
}

impl Write for Buffered {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(data)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

impl Client {
    pub(crate) fn new(pki: &Pki, server: &HttpsServer) -> Client {
        let stream = TcpStream::connect(server.listening()[0].to_socket_addr().unwrap()).unwrap();
        deadlines(&stream);
        let name = ServerName::try_from("localhost").unwrap();
        let tls = ClientConnection::new(pki.client(), name).unwrap();
        Client(Buffered(BufReader::new(StreamOwned::new(tls, stream))))
    }

    pub(crate) fn get(&mut self, path: &str) -> (String, Vec<u8>) {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        answer(&mut self.0)
    }
}

/// Reads one answer: its head and its body.
pub(crate) fn answer(reader: &mut impl BufRead) -> (String, Vec<u8>) {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the end comes after {head:?}");
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, body)
}
