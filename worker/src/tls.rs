//! The one TLS provider of the process, and the worker's side of a coordinator behind TLS.

use crate::failure::{Result, failure};
use ip2p_pipeline::task::{Cause, Failure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, Error as TlsError, InvalidMessage, RootCertStore};
use std::error::Error;
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Uri};

/// Makes ring the provider of rustls; later calls change nothing.
pub fn install() {
    // An error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a server has to say what it has against a client.
const LISTENING: Duration = Duration::from_secs(2);

/// PEM files for a coordinator at an https:// address.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClientFiles {
    /// Authority that signed the coordinator's certificate [default: the public ones]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// This worker's certificate, for a coordinator with run.tls.client_ca
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Private key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

impl ClientFiles {
    /// Makes `endpoint` use TLS when `url` says https. Errors name flag and file, and show nothing of what is in it.
    pub fn apply(&self, endpoint: Endpoint, url: &str) -> Result<Endpoint> {
        if endpoint.uri().scheme_str() != Some("https") {
            return match self.ca.is_some() || self.cert.is_some() {
                true => Err(wrong(format!("--ca and --cert are for a coordinator at an https:// address, and {url} is none"))),
                false => Ok(endpoint),
            };
        }
        let mut config = ClientTlsConfig::new().timeout(HANDSHAKE);
        config = match &self.ca {
            Some(path) => config.ca_certificate(Certificate::from_pem(certificates("--ca", path)?)),
            None => config.with_webpki_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            let (chain, key_pem) = (certificates("--cert", cert)?, read("--key", key)?);
            PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| unusable("--key", key, e))?;
            config = config.identity(Identity::from_pem(chain, key_pem));
        }
        endpoint.tls_config(config).map_err(|e| wrong(format!("--ca, --cert and --key do not go together: {}", last(&e))))
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| wrong(format!("{flag}: cannot read {}: {e}", path.display())))
}

/// The text of a file in which there is a certificate.
fn certificates(flag: &str, path: &Path) -> Result<Vec<u8>> {
    let pem = read(flag, path)?;
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        certificate.map_err(|e| unusable(flag, path, e))?;
        found += 1;
    }
    if found == 0 { Err(unusable(flag, path, "no certificate is in it")) } else { Ok(pem) }
}

fn unusable(flag: &str, path: &Path, problem: impl std::fmt::Display) -> Failure {
    wrong(format!("{flag}: {} cannot be used: {problem}", path.display()))
}

fn wrong(message: String) -> Failure {
    failure(Cause::BadInput, message)
}

/// What is wrong between the two ends of a connection, when it is TLS and no new try can help.
///
/// A server that refuses a client closes the connection, and what it says can be lost when the client is writing. So it
/// is asked once more, by a client that only listens.
pub fn explain<'a>(
    url: &'a str,
    files: &'a ClientFiles,
    error: &(dyn Error + 'static),
) -> impl Future<Output = Option<Failure>> + Send + use<'a> {
    let known = causes(error).find_map(advice);
    async move {
        let advice = match known {
            Some(advice) => advice,
            None if url.starts_with("https://") => {
                let (url, files) = (url.to_string(), files.clone());
                tokio::task::spawn_blocking(move || listen(&url, &files)).await.ok()??
            }
            None if speaks_tls(url).await => "it speaks TLS: write https:// instead of http://".to_string(),
            None => return None,
        };
        Some(wrong(format!("no connection to the coordinator at {url}: {advice}")))
    }
}

/// HTTP/2 carries TLS errors of an open connection as text.
const ALERT: &str = "received fatal alert: ";

fn advice(error: &(dyn Error + 'static)) -> Option<String> {
    Some(match error.downcast_ref::<TlsError>() {
        None => return error.to_string().strip_prefix(ALERT).map(refused),
        Some(TlsError::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "it does not speak TLS: write http:// instead of https://".to_string()
        }
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "its certificate is not signed by an authority that this worker knows: give the authority's certificate with --ca".to_string()
        }
        Some(TlsError::InvalidCertificate(problem)) => format!("its certificate does not hold: {problem}"),
        Some(TlsError::AlertReceived(alert)) => refused(&format!("{alert:?}")),
        Some(error @ (TlsError::NoApplicationProtocol | TlsError::PeerIncompatible(_))) => {
            format!("it is no coordinator of this program: {error}")
        }
        Some(_) => return None,
    })
}

fn refused(alert: &str) -> String {
    match alert {
        "CertificateRequired" => "it wants a certificate of this worker: give --cert and --key, signed by run.tls.client_ca".to_string(),
        alert => format!("it refused this worker's certificate or TLS: {alert}"),
    }
}

/// What a server says against a TLS client that has just connected.
fn listen(url: &str, files: &ClientFiles) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?;
    let mut roots = RootCertStore::empty();
    match &files.ca {
        Some(path) => drop(roots.add_parsable_certificates(CertificateDer::pem_file_iter(path).ok()?.flatten())),
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let client = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert).ok()?.collect::<Result<_, _>>().ok()?;
            client.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).ok()?).ok()?
        }
        _ => client.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_string()).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let address = format!("{host}:{}", uri.port_u16().unwrap_or(443)).to_socket_addrs().ok()?.next()?;
    let mut socket = std::net::TcpStream::connect_timeout(&address, HANDSHAKE).ok()?;
    socket.set_read_timeout(Some(LISTENING)).ok()?;
    let said = rustls::Stream::new(&mut connection, &mut socket).read(&mut [0; 1]);
    causes(&said.err()?).find_map(advice)
}

/// Whether a server answers the beginning of HTTP/2 with a TLS alert.
async fn speaks_tls(url: &str) -> bool {
    let greet = async {
        let uri: Uri = url.parse().ok()?;
        let mut stream = TcpStream::connect(format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(80))).await.ok()?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.ok()?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.ok()?;
        Some(answer == [0x15, 0x03])
    };
    matches!(tokio::time::timeout(HANDSHAKE, greet).await, Ok(Some(true)))
}

/// The error and its sources. An [`io::Error`] hides the error it wraps from `source`.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|e| e as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// The innermost cause, which says most.
pub fn last(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
