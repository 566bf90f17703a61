//! Servers that speak TLS, with certificates made for the test.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::server::{Server, free_port};
use super::text;

/// Certificates of an authority of our own, in files.
pub(crate) struct Certificates {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) tls_port: u16,
}

impl Certificates {
    pub(crate) fn make() -> Certificates {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: String| {
            std::fs::write(dir.path().join(name), text).expect("a file of PEM");
        };
        for name in ["ca", "other-ca"] {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::new(Vec::new()).expect("parameters");
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            write(
                &format!("{name}.crt"),
                params.self_signed(&key).expect("a certificate").pem(),
            );
            let issuer = Issuer::from_params(&params, &key);
            for (leaf, year) in [("server", 2999), ("client", 2999), ("expired", 2001)] {
                let key = KeyPair::generate().expect("a key");
                let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
                let mut params = CertificateParams::new(names).expect("parameters");
                params.distinguished_name.push(DnType::CommonName, leaf);
                params.not_before = rcgen::date_time_ymd(2000, 1, 1);
                params.not_after = rcgen::date_time_ymd(year, 1, 1);
                let certificate = params.signed_by(&key, &issuer).expect("a certificate");
                write(&format!("{name}-{leaf}.crt"), certificate.pem());
                write(&format!("{name}-{leaf}.key"), key.serialize_pem());
            }
        }
        Certificates {
            dir,
            tls_port: free_port(),
        }
    }

    /// A file of PEM: `ca.crt`, `other-ca.crt`, `ca-client.key` and the like.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A server with a port for TLS beside the plain one.
pub(crate) fn tls_server(options: &[&str]) -> (Server, Certificates) {
    tls_server_as("ca-server", options)
}

/// As [`tls_server`], with this certificate of its own.
pub(crate) fn tls_server_as(leaf: &str, options: &[&str]) -> (Server, Certificates) {
    let certificates = Certificates::make();
    let file = |name: &str| text(&certificates.path(name)).to_owned();
    let port = certificates.tls_port.to_string();
    let (ca, cert, key) = (
        file("ca.crt"),
        file(&format!("{leaf}.crt")),
        file(&format!("{leaf}.key")),
    );
    let tls = [
        "--tls-port",
        &port,
        "--tls-ca-cert-file",
        &ca,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
    ];
    let without_clients = ["--tls-auth-clients", "no"];
    let options = match options {
        [] => &without_clients[..],
        options => options,
    };
    let server = Server::with("redis-7.0", &[&tls, options].concat());
    (server, certificates)
}
