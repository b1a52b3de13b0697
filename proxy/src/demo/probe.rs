//! A TLS handshake of the demo's own, to see which certificate a listener shows to whoever comes now.

use std::net::SocketAddr;
use std::sync::Arc;

use control_plane_mock::pki::{Authority, Identity};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::mesh::SERVER_NAME;
use super::tour::DemoError;

/// The leaf (DER) shown at `address` to a client called `identity`; its chain is verified.
///
/// # Errors
/// No connection, or no handshake.
pub async fn server_certificate(
    address: SocketAddr,
    authority: &Authority,
    identity: &Identity,
) -> Result<Vec<u8>, DemoError> {
    let failed = |error: rustls::Error| DemoError::Io(std::io::Error::other(error));
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(authority.certificate_der().to_vec()))
        .map_err(failed)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from(identity.leaf_der.clone())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key_der.clone()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(failed)?;
    let name = ServerName::try_from(SERVER_NAME).map_err(|error| DemoError::Io(std::io::Error::other(error)))?;
    let socket = TcpStream::connect(address).await.map_err(DemoError::Io)?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .map_err(DemoError::Io)?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates.first().map(|leaf| leaf.to_vec()).unwrap_or_default())
}
