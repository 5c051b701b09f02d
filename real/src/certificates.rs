//! Certificates for the tests of TLS.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sockman_test_support::tools::TempDir;

/// Writes the certificates and keys of two authorities, `ours` and `strange`, into the folder. Each
/// has signed a server, `localhost`, and a client, `member`. The files are named as
/// `ours-authority.pem`, `ours-localhost.pem` and `ours-localhost.key`.
///
/// # Panics
///
/// A certificate cannot be made, or a file cannot be written.
pub fn write_certificates(directory: &TempDir) {
    for authority_name in ["ours", "strange"] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, authority_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let write = |name: &str, text: String| {
            fs::write(directory.path(&format!("{authority_name}-{name}")), text).unwrap();
        };
        write("authority.pem", authority.pem());
        for name in ["localhost", "member"] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
    }
}
