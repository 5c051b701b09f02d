//! The configuration of rustls: one provider, one version and one cipher suite for all.
use std::{error::Error, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName},
    version::TLS13,
};

const NAME: &str = "localhost";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    })
}

/// Returns the configuration of a server, and its certificate.
pub(super) fn server() -> Result<(ServerConfig, Vec<u8>), Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], made.signing_key.into())?;
    Ok((config, certificate.to_vec()))
}

/// Returns the configuration of clients of the server with this certificate.
pub(super) fn client(certificate: &[u8]) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(certificate.to_vec()))?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Returns a client of one connection.
pub(super) fn connection(config: &Arc<ClientConfig>) -> Result<ClientConnection, Box<dyn Error>> {
    Ok(ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?)
}
