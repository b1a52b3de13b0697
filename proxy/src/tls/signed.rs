//! What rustls tells in the middle of a handshake, and only to what belongs to a context and knows no connection: by which algorithm a peer has
//! proven that its certificate is its own, what a policy has overlooked, what an earlier handshake of a resumed session was like. Within one
//! poll of a handshake no other handshake runs on its thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::server::{ProducesTickets, StoresServerSessions};
use rustls::sign::{Signer, SigningKey};
use rustls::{NamedGroup, SignatureAlgorithm, SignatureScheme};

use super::error::VerifyFailure;

/// What is known of one handshake beside what rustls says of it in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Which of its context's certificates a server shows.
    pub chosen: usize,
    /// Of a server: whether the handshake has keys of TLS 1.3.
    pub is_tls13: bool,
    /// The chain that a peer has presented and was refused for, as DER.
    pub refused: Vec<Arc<[u8]>>,
    /// How the peer has proven its certificate.
    pub scheme: Option<SignatureScheme>,
    /// The group that the handshake is going to have, unless it is a resumed one.
    pub group: Option<NamedGroup>,
    /// Why the peer would have been refused, but for `ACCEPT_UNTRUSTED`.
    pub overlooked: Option<VerifyFailure>,
    /// Of the handshake whose session may be resumed.
    earlier: Option<Earlier>,
}

/// What a session remembers of its handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    pub scheme: Option<SignatureScheme>,
    pub group: Option<NamedGroup>,
}

impl Notes {
    /// Of a server's handshake that is going to have this group and this certificate.
    pub fn of_choices(group: Option<NamedGroup>, chosen: usize) -> Self {
        Self {
            chosen,
            group,
            ..Self::default()
        }
    }

    /// The signature and the group of the session: of this handshake, or of the one that it was made in.
    pub fn of_session(&self, resumed: bool) -> Earlier {
        match self.earlier.filter(|_| resumed) {
            Some(earlier) => earlier,
            None => Earlier {
                scheme: self.scheme,
                group: self.group,
            },
        }
    }
}

thread_local! {
    static NOTES: Cell<Notes> = const {
        Cell::new(Notes { chosen: 0, is_tls13: false, refused: Vec::new(), scheme: None, group: None, overlooked: None, earlier: None })
    };
}

/// Of the handshake that runs on this thread: which certificate its server shows.
pub fn chosen() -> usize {
    let mut chosen = 0;
    note(|notes| chosen = notes.chosen);
    chosen
}

/// Adds to the notes of the handshake that runs on this thread.
pub fn note(add: impl FnOnce(&mut Notes)) {
    let mut notes = NOTES.take();
    add(&mut notes);
    NOTES.set(notes);
}

/// Runs the handshake that `make` begins, which may answer the first message already; also yields what was noted meanwhile, beside `notes`.
///
/// # Cancel safety
/// As the handshake.
pub async fn noting<F: Future>(notes: Notes, make: impl FnOnce() -> F) -> (F::Output, Notes) {
    NOTES.set(notes);
    let mut handshake = pin!(make());
    let mut notes = NOTES.take();
    let output = poll_fn(|cx| {
        NOTES.set(std::mem::take(&mut notes));
        let polled = handshake.as_mut().poll(cx);
        notes = NOTES.take();
        polled
    })
    .await;
    (output, notes)
}

/// Notes that a handshake is one of TLS 1.3, by the keys that it could log; it logs none.
#[derive(Debug)]
pub struct VersionNote;

impl rustls::KeyLog for VersionNote {
    fn log(&self, _label: &str, _client_random: &[u8], _secret: &[u8]) {}

    fn will_log(&self, label: &str) -> bool {
        note(|notes| notes.is_tls13 |= label == "CLIENT_HANDSHAKE_TRAFFIC_SECRET");
        false
    }
}

/// Tickets or sessions that remember the handshake they come from: two numbers behind what rustls has in them, 0 for none.
#[derive(Debug)]
pub struct Remembering<T: ?Sized>(pub Arc<T>);

/// Bytes of the two numbers.
const LENGTH: usize = 4;

fn with_memory(session: &[u8]) -> Vec<u8> {
    let mut of = Earlier::default();
    // A session that was resumed is passed on with what it is known for.
    note(|notes| of = notes.of_session(notes.earlier.is_some()));
    let [a, b] = of.scheme.map_or(0, u16::from).to_be_bytes();
    let [c, d] = of.group.map_or(0, u16::from).to_be_bytes();
    [session, &[a, b, c, d]].concat()
}

fn without_memory(mut session: Vec<u8>) -> Option<Vec<u8>> {
    let memory = session.split_off(session.len().checked_sub(LENGTH)?);
    let number = |bytes: &[u8]| {
        bytes
            .first_chunk()
            .map(|bytes| u16::from_be_bytes(*bytes))
            .filter(|number| *number != 0)
    };
    let (scheme, group) = memory.split_at_checked(2)?;
    let earlier = Earlier {
        scheme: number(scheme).map(SignatureScheme::from),
        group: number(group).map(NamedGroup::from),
    };
    note(|notes| notes.earlier = Some(earlier));
    Some(session)
}

impl ProducesTickets for Remembering<dyn ProducesTickets> {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(&with_memory(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher).and_then(without_memory)
    }
}

impl StoresServerSessions for Remembering<dyn StoresServerSessions> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.put(key, with_memory(&value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).and_then(without_memory)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.take(key).and_then(without_memory)
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
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
