//! TLS to the source: whose word is trusted, and the first exchange. Knows no RESP.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fmt;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

/// The authorities of one source are at most so many bytes of PEM.
const AUTHORITIES_BYTES_MAX: usize = 1 << 20;

/// How TLS is spoken with a source: which authorities may have signed its certificate.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Trusts the certificates in `pem`; if it is empty, those this machine trusts. The error is a sentence.
    pub fn trusting(pem: &[u8]) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        if pem.is_empty() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err("this machine trusts no authority: name one for the source".to_owned());
            }
        } else if pem.len() > AUTHORITIES_BYTES_MAX {
            return Err(format!("the authorities of the source are more than {AUTHORITIES_BYTES_MAX} bytes"));
        } else {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let added = certificate.map_err(|error| error.to_string());
                let added = added.and_then(|der| roots.add(der).map_err(|error| error.to_string()));
                added.map_err(|error| format!("the authorities of the source are no certificates in PEM: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the authorities of the source are no certificates in PEM".to_owned());
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS cannot be spoken here: {error}"))?;
        Ok(Tls(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
    }

    /// The first exchange with `host` on `stream`, whose reads end after a moment, until `until`. The error is a sentence.
    pub(super) fn begin(
        &self,
        host: &str,
        mut stream: TcpStream,
        until: Instant,
    ) -> Result<Box<StreamOwned<ClientConnection, TcpStream>>, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).map_err(|error| error.to_string())?;
        while connection.is_handshaking() {
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(error) if Instant::now() > until => return Err(format!("no TLS in time: {error}")),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(format!("no TLS: {error}")),
            }
        }
        Ok(Box::new(StreamOwned::new(connection, stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_authority_is_refused_in_a_sentence() {
        for wrong in ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let refused = Tls::trusting(wrong.as_bytes()).unwrap_err();
            assert!(refused.starts_with("the authorities of the source are no certificates in PEM"), "{refused}");
        }
        assert!(Tls::trusting(&vec![b'x'; AUTHORITIES_BYTES_MAX + 1]).is_err());
    }
}
