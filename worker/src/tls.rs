//! The one TLS provider of the process.

/// Makes ring the provider of rustls; later calls change nothing.
pub fn install() {
    // An error says that a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
