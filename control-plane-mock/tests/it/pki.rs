//! Certificates, as the verifier that rustls uses sees them.

use std::time::Duration;

use control_plane_mock::pki::{Authority, Identity, Leaf};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

fn verify(root: &Authority, identity: &Identity, usage: KeyUsage) -> Result<(), Error> {
    let root = CertificateDer::from_pem_slice(root.root_pem().as_bytes()).unwrap();
    let anchors = [anchor_from_trusted_cert(&root)?];
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(identity.chain_pem.as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let leaf = EndEntityCert::try_from(&chain[0])?;
    let now = UnixTime::since_unix_epoch(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    );
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &chain[1..],
        now,
        usage,
        None,
        None,
    )
    .map(|_| ())
}

#[test]
fn leaves_serve_both_sides_through_intermediates() {
    let root = Authority::new("root").unwrap();
    let issuing = root.intermediate("one").unwrap().intermediate("two").unwrap();
    let identity = issuing.issue(&Leaf::spiffe("td", "ns", "web").dns("web.ns")).unwrap();
    assert_eq!(identity.chain_pem.matches("BEGIN CERTIFICATE").count(), 3);
    verify(&root, &identity, KeyUsage::server_auth()).unwrap();
    verify(&root, &identity, KeyUsage::client_auth()).unwrap();
    let leaf = CertificateDer::from(identity.leaf_der.as_slice());
    let leaf = EndEntityCert::try_from(&leaf).unwrap();
    assert_eq!(leaf.valid_uri_names().collect::<Vec<_>>(), ["spiffe://td/ns/ns/sa/web"]);
    assert_eq!(leaf.valid_dns_names().collect::<Vec<_>>(), ["web.ns"]);
}

#[test]
fn wrong_ones_are_wrong() {
    let (root, other) = (Authority::new("root").unwrap(), Authority::new("root").unwrap());
    let web = || Leaf::spiffe("td", "ns", "web");
    let check = |leaf: &Leaf| verify(&root, &root.issue(leaf).unwrap(), KeyUsage::server_auth()).unwrap_err();
    assert!(matches!(check(&web().expired()), Error::CertExpired { .. }));
    assert!(matches!(check(&web().not_yet_valid()), Error::CertNotValidYet { .. }));
    assert!(verify(&root, &other.issue(&web()).unwrap(), KeyUsage::server_auth()).is_err());
}

#[test]
fn rotation_raises_the_serial_and_changes_the_key() {
    let root = Authority::new("root").unwrap();
    let (old, new) = (root.issue(&Leaf::new()).unwrap(), root.issue(&Leaf::new()).unwrap());
    assert!(new.serial > old.serial);
    assert_ne!(new.key_pem, old.key_pem);
    assert!(old.secret("cert").name == "cert" && root.secret("ca").name == "ca");
}
