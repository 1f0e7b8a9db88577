//! One crypto library for the whole process.

/// Chooses ring for every TLS connection; calling it again changes nothing.
pub fn install() {
    // An error means that a provider was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
