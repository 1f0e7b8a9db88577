//! Certificates made for one test.

use ip2p_pipeline::spec::Tls;
use ip2p_worker::tls::ClientFiles;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A folder of PEM files: two authorities, and what they signed.
pub struct Pki(tempfile::TempDir);

impl Pki {
    pub fn new() -> Self {
        let pki = Pki(tempfile::tempdir().unwrap());
        let ca = pki.authority("ca");
        let other = pki.authority("other-ca");
        pki.signed("cert", "localhost", &ca);
        pki.signed("elsewhere", "elsewhere.example", &ca);
        pki.signed("worker", "worker.example", &ca);
        pki.signed("stranger", "worker.example", &other);
        pki.write("broken", "-----BEGIN PRIVATE KEY-----\nAAAA!\n-----END PRIVATE KEY-----\n");
        std::fs::copy(pki.path("cert-key"), pki.path("key")).unwrap();
        pki
    }

    fn authority(&self, name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        self.write(name, &issuer.pem());
        issuer
    }

    /// Writes `<name>.pem` and `<name>-key.pem`.
    fn signed(&self, name: &str, host: &str, by: &CertifiedIssuer<KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![host.to_string()]).unwrap().signed_by(&key, by).unwrap();
        self.write(name, &cert.pem());
        self.write(&format!("{name}-key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, pem: &str) {
        std::fs::write(self.path(name), pem).unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).with_extension("pem").display().to_string()
    }

    /// The coordinator's files.
    pub fn tls(&self, mutual: bool) -> Tls {
        Tls { cert: self.path("cert"), key: self.path("key"), client_ca: mutual.then(|| self.path("ca")) }
    }

    /// A worker that trusts this authority.
    pub fn trusting(&self, ca: &str) -> ClientFiles {
        ClientFiles { ca: Some(self.path(ca).into()), cert: None, key: None }
    }

    /// A worker that trusts the right authority and shows a certificate.
    pub fn showing(&self, name: &str) -> ClientFiles {
        let (cert, key) = (self.path(name).into(), self.path(&format!("{name}-key")).into());
        ClientFiles { cert: Some(cert), key: Some(key), ..self.trusting("ca") }
    }
}
