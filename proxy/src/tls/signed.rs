//! By which algorithm a peer has proven that its certificate is its own. rustls tells that only to a verifier, which is a context's and knows
//! no connection: within one poll of a handshake no other handshake runs on its thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

thread_local! {
    static SEEN: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// A verifier has seen this.
pub fn note(scheme: SignatureScheme) {
    SEEN.set(Some(scheme));
}

/// Runs a handshake; also yields what its verifier noted.
///
/// # Cancel safety
/// As the handshake.
pub async fn noting<F: Future>(handshake: F) -> (F::Output, Option<SignatureScheme>) {
    let mut handshake = pin!(handshake);
    let mut seen = None;
    let output = poll_fn(|cx| {
        let polled = handshake.as_mut().poll(cx);
        seen = SEEN.take().or(seen);
        polled
    })
    .await;
    (output, seen)
}

/// A key that signs by the first of BoringSSL's algorithms that the peer takes; rustls alone begins with the longest digest.
#[derive(Debug)]
pub struct InOrder(pub Arc<dyn SigningKey>);

/// BoringSSL's own order.
const ORDER: [SignatureScheme; 10] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA512,
];

impl SigningKey for InOrder {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let mut wanted = ORDER.iter().filter(|scheme| offered.contains(scheme));
        wanted
            .find_map(|scheme| self.0.choose_scheme(&[*scheme]))
            .or_else(|| self.0.choose_scheme(offered))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

/// BoringSSL's name, as Envoy counts it.
pub fn name(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::RSA_PKCS1_SHA1 => "rsa_pkcs1_sha1",
        SignatureScheme::ECDSA_SHA1_Legacy => "ecdsa_sha1",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::ED25519 => "ed25519",
        _ => "unknown",
    }
}
