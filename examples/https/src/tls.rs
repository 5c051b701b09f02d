//! The configuration of rustls, from PEM files.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

/// Which certificates the clients have.
#[derive(Debug, Clone, Default)]
pub enum Clients {
    /// None. The server does not ask.
    #[default]
    Anonymous,
    /// One that an authority in this file has signed, or none.
    Optional(PathBuf),
    /// One that an authority in this file has signed.
    Required(PathBuf),
}

/// What the server's configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// The certificate of the server, followed by those of its issuers.
    pub certificate: PathBuf,
    /// The private key of the server.
    pub key: PathBuf,
    /// The certificates of the clients.
    pub clients: Clients,
    /// Whether TLS 1.2 is refused.
    pub only_tls_1_3: bool,
}

/// Returns the configuration of a server that speaks HTTP/1.1 over TLS 1.3 and 1.2, and gives out
/// session tickets, whose key changes every six hours.
///
/// # Errors
///
/// A file cannot be read, or does not have what it should have.
pub fn configuration(files: &Files) -> Result<ServerConfig, TlsConfigError> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| TlsConfigError::of(&files.key, error))?;
    let versions = if files.only_tls_1_3 { &[&TLS13][..] } else { &[&TLS12, &TLS13] };
    let provider = Arc::new(ring::default_provider());
    let verifier = match &files.clients {
        Clients::Anonymous => WebPkiClientVerifier::no_client_auth(),
        Clients::Optional(path) => verifier(path, false)?,
        Clients::Required(path) => verifier(path, true)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsConfigError::new)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| TlsConfigError::of(&files.certificate, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(TlsConfigError::new)?;
    Ok(config)
}

fn verifier(path: &Path, is_required: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsConfigError::of(path, error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsConfigError::of(path, error))
}

/// Returns the certificates of a file, which has at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = certificates.map_err(|error| TlsConfigError::of(path, error))?;
    if certificates.is_empty() {
        return Err(TlsConfigError(format!("{}: there is no certificate in it", path.display())));
    }
    Ok(certificates)
}

/// The error returned by [`configuration`].
#[derive(Debug)]
pub struct TlsConfigError(String);

impl TlsConfigError {
    #[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
    fn new(error: impl Error) -> TlsConfigError {
        TlsConfigError(error.to_string())
    }

    fn of(path: &Path, error: impl Error) -> TlsConfigError {
        TlsConfigError(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for TlsConfigError {}
