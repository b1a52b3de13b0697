//! [`PeerInfo`]: formatted once, when a handshake is done.

use std::sync::Arc;

use rustls::{CommonState, SupportedCipherSuite};

use super::PeerInfo;
use super::params::{group_name, openssl_name, version_name};
use super::signed::Earlier;
use super::x509::CertificateFacts;

/// What `state` knows of the peer after its handshake, and `session` of a resumed one.
pub fn info(
    state: &CommonState,
    local: Option<&Arc<CertificateFacts>>,
    sni: Option<String>,
    session: Earlier,
) -> PeerInfo {
    let mut peer = PeerInfo {
        version: version_name(state.protocol_version()),
        cipher: state
            .negotiated_cipher_suite()
            .map_or("", |suite| openssl_name(suite.suite())),
        group: state
            .negotiated_key_exchange_group()
            .map(|group| group.name())
            .or(session.group)
            .map_or("", group_name),
        alpn: state.alpn_protocol().map(<[u8]>::to_vec),
        sni,
        local: local.cloned(),
        done: Some(crate::runtime::clock::now()),
        ..PeerInfo::default()
    };
    let chain = state.peer_certificates().unwrap_or_default();
    add(
        &mut peer,
        chain.iter().map(|der| Arc::from(der.as_ref())).collect(),
        local,
    );
    peer
}

/// What is known of a client that is refused: the suite, if one was agreed on, and the chain that it has presented.
pub fn refused(
    suite: Option<SupportedCipherSuite>,
    chain: Vec<Arc<[u8]>>,
    local: Option<&Arc<CertificateFacts>>,
    sni: Option<String>,
) -> PeerInfo {
    let mut peer = PeerInfo {
        version: suite.map_or("", |suite| version_name(Some(suite.version().version))),
        cipher: suite.map_or("", |suite| openssl_name(suite.suite())),
        sni,
        local: local.cloned(),
        ..PeerInfo::default()
    };
    add(&mut peer, chain, local);
    peer
}

/// What the certificates of both sides say.
fn add(peer: &mut PeerInfo, chain: Vec<Arc<[u8]>>, local: Option<&Arc<CertificateFacts>>) {
    if let Some(local) = local {
        peer.local_uri_sans = local.uri_sans.clone();
        peer.local_dns_sans = local.dns_sans.clone();
        peer.local_subject = Some(local.subject.clone());
    }
    let Some(facts) = chain.first().and_then(|leaf| CertificateFacts::parse(leaf)) else {
        return;
    };
    peer.chain = chain;
    peer.certificate = peer.chain.first().cloned();
    peer.uri_sans = facts.uri_sans;
    peer.dns_sans = facts.dns_sans;
    peer.subject = Some(facts.subject);
    peer.issuer = Some(facts.issuer);
    peer.serial = Some(facts.serial);
    peer.sha256 = Some(facts.sha256);
}
