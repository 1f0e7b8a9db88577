//! One crypto library for the whole process, and the server's side of TLS.

use ip2p_pipeline::spec::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsAcceptor;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Chooses ring for every TLS connection; calling it again changes nothing.
pub fn install() {
    // An error means that a provider was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Reads the files of `run.tls`. The error names key and file, and shows nothing of what is in it.
pub fn server(tls: &Tls) -> Result<ServerTlsConfig, String> {
    install();
    let cert = read("cert", &tls.cert)?;
    let key = read("key", &tls.key)?;
    let client_ca = tls.client_ca.as_ref().map(|path| Ok::<_, String>((path, read("client_ca", path)?))).transpose()?;
    certified(tls, &cert, &key)?;
    let mut config = ServerTlsConfig::new().identity(Identity::from_pem(cert, key)).timeout(HANDSHAKE);
    if let Some((path, pem)) = client_ca {
        let mut roots = RootCertStore::empty();
        for authority in certificates("client_ca", path, &pem)? {
            roots.add(authority).map_err(|e| wrong("client_ca", path, e))?;
        }
        WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| wrong("client_ca", path, e))?;
        config = config.client_ca_root(Certificate::from_pem(pem));
    }
    Ok(config)
}

/// The same certificate for the page. Browsers show none of their own: who looks signs in with the token.
pub fn page(tls: &Tls) -> Result<TlsAcceptor, String> {
    install();
    let (cert, key) = (read("cert", &tls.cert)?, read("key", &tls.key)?);
    let mut config = certified(tls, &cert, &key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certified(tls: &Tls, cert: &[u8], key: &[u8]) -> Result<ServerConfig, String> {
    let chain = certificates("cert", &tls.cert, cert)?;
    let private = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong("key", &tls.key, e))?;
    let pair = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private);
    pair.map_err(|e| format!("run.tls: the certificate in {} and the key in {} do not go together: {e}", tls.cert, tls.key))
}

fn read(key: &str, path: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("run.tls.{key}: cannot read {path}: {e}"))
}

fn certificates(key: &str, path: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| wrong(key, path, e))?;
    if found.is_empty() { Err(wrong(key, path, "no certificate is in it")) } else { Ok(found) }
}

fn wrong(key: &str, path: &str, problem: impl std::fmt::Display) -> String {
    format!("run.tls.{key}: {path} cannot be used: {problem}; docs/security.md says how certificates are made")
}
