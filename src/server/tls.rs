//! What TLS trusts and shows, read from the files that an endpoint names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use super::endpoint::{Address, Endpoint, Tls, Ways};
use crate::error::{Error, ErrorKind, Result};

/// Ciphertext that waits for the socket. Without a limit a slow server would have all that is meant for it pile up.
const BUFFERED_BYTES: usize = 256 << 10;

/// The TLS side of a connection that is about to shake hands. Errors are of the files, or of a name that no
/// certificate could bear.
pub(super) fn client(endpoint: &Endpoint, tls: &Tls) -> Result<ClientConnection> {
    let refuse = |why: String| {
        Error::plain(ErrorKind::Unreachable {
            server: endpoint.address.to_string(),
            why,
        })
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(format!("TLS cannot be set up: {error}")))?;
    let builder = if tls.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
    } else {
        builder.with_root_certificates(trusted(tls, endpoint.ways, &refuse)?)
    };
    let config = match &tls.cert {
        Some(cert) => {
            let key = tls.key.as_deref().unwrap_or(cert);
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| bad_file(key, "private key", error))?;
            builder
                .with_client_auth_cert(certificates(cert)?, private)
                .map_err(|error| {
                    refuse(format!(
                        "the key in {} does not fit the certificate in {}: {error}",
                        key.display(),
                        cert.display()
                    ))
                })?
        }
        None => builder.with_no_client_auth(),
    };
    let name = match (&tls.sni, &endpoint.address) {
        (Some(name), _) => name.as_str(),
        (None, Address::Tcp { host, .. }) => host,
        // There is no host; certificates of sockets are made for this name if for any.
        (None, Address::Unix(_)) => "localhost",
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|_| {
        refuse(format!(
            "{name:?} is no name that a certificate could bear; {} gives another",
            endpoint.ways.sni
        ))
    })?;
    let mut client = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| refuse(format!("TLS cannot be set up: {error}")))?;
    client.set_buffer_limit(Some(BUFFERED_BYTES));
    Ok(client)
}

fn trusted(tls: &Tls, ways: &Ways, refuse: &dyn Fn(String) -> Error) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_cert {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| {
                    refuse(format!("{} cannot be trusted: {error}", path.display()))
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            // Systems hold some that nothing can read; the others do.
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(refuse(format!(
                    "the system has no certificates to trust; name a file of them with {}",
                    ways.ca_cert
                )));
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bad = |error| bad_file(path, "certificate", error);
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(bad)?
        .collect::<std::result::Result<_, _>>()
        .map_err(bad)?;
    if found.is_empty() {
        return Err(bad(pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// The decoder's own words may hold a line of the file, which may be one of a key.
fn bad_file(path: &Path, what: &str, error: pem::Error) -> Error {
    let source = match error {
        pem::Error::Io(source) => source,
        pem::Error::NoItemsFound => io::Error::new(
            io::ErrorKind::InvalidData,
            "there is none in PEM form, or a passphrase protects it",
        ),
        _ => io::Error::new(io::ErrorKind::InvalidData, "the PEM form is broken"),
    };
    Error::io(format!("{}: no {what} can be read", path.display()), source)
}

/// Why a handshake failed, and what can be done about it.
pub(super) fn describe(error: &rustls::Error, endpoint: &Endpoint) -> String {
    use rustls::AlertDescription as Alert;
    let has_cert = endpoint.tls.as_ref().is_some_and(|tls| tls.cert.is_some());
    let Ways {
        tls,
        ca_cert,
        cert,
        key,
        sni,
        insecure,
        ..
    } = endpoint.ways;
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            // A bad signature is one by another authority of the same name: one that was made anew, mostly.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                format!(
                    "its certificate is signed by nobody who is trusted; name the certificate of its authority with {ca_cert}"
                )
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "its certificate is for another name ({certificate}); {sni} gives the name it has to bear"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; check the clocks".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; check the clocks".to_owned()
            }
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                format!(
                    "its certificate is that of an authority (CA:TRUE) and no server's; give it one that the authority has \
                     signed, or take any with {insecure}"
                )
            }
            other => format!("its certificate cannot be trusted: {other}"),
        },
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            format!("it asks for a certificate of ours: {cert} and {key}")
        }
        rustls::Error::AlertReceived(alert) if has_cert => {
            format!(
                "it refused the TLS handshake ({alert:?}); check that it trusts the certificate of {cert}"
            )
        }
        // Before TLS 1.3 that is also how a certificate of ours is asked for.
        rustls::Error::AlertReceived(alert) => format!(
            "it refused the TLS handshake ({alert:?}); if it asks for a certificate of ours, {cert} and {key} are missing"
        ),
        rustls::Error::InvalidMessage(_) => {
            format!(
                "what it answers is not TLS; check the port, or leave out {tls} to speak to it in plain"
            )
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

/// Takes any certificate, but still wants proof that the server has its key.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
