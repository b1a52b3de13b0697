//! Where rustls and webpki would let in what Envoy does not, or choose otherwise.

use rcgen::KeyUsagePurpose;
use remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    SpiffeCertValidatorConfig, spiffe_cert_validator_config,
};
use remora_proto::pb::google::protobuf::Any;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite};

use super::*;

/// A client of rustls's own, which presents `own` whatever that may be used for.
fn plain_client(
    ca: &Authority,
    own: Option<&Issued>,
    suites: &[SupportedCipherSuite],
    groups: &[&'static dyn SupportedKxGroup],
) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = CryptoProvider {
        cipher_suites: suites.to_vec(),
        kx_groups: groups.to_vec(),
        ..default_provider()
    };
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(own.chain.as_bytes()).collect();
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain.unwrap(), key).unwrap()
        }
    };
    Arc::new(config)
}

/// What the server says of the client, and the suite and group they agreed on.
async fn meet(
    server: &DownstreamTls,
    client: Arc<rustls::ClientConfig>,
) -> (Result<Handshaken, TlsError>, Option<(CipherSuite, NamedGroup)>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let connect = async {
        let name = "server.test".try_into().unwrap();
        let stream = tokio_rustls::TlsConnector::from(client).connect(name, far).await.ok()?;
        let (_, session) = stream.get_ref();
        let agreed = session.negotiated_cipher_suite()?.suite();
        let group = session.negotiated_key_exchange_group()?.name();
        Some((agreed, group, stream))
    };
    // The client stays until the server has judged its certificate.
    let mut known = None;
    let (told, client) = tokio::join!(server.accept(Io::Duplex(near), &mut known), connect);
    (told, client.map(|(suite, group, _)| (suite, group)))
}

fn served() -> (Authority, Issued) {
    let ca = Authority::new();
    let own = ca.issue(&Wish {
        dns: vec!["server.test"],
        ..Wish::default()
    });
    (ca, own)
}

const TLS13: &[SupportedCipherSuite] = &[cipher_suite::TLS13_AES_128_GCM_SHA256];
const TLS12: &[SupportedCipherSuite] = &[cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
const X25519: &[&dyn SupportedKxGroup] = &[kx_group::X25519];

#[tokio::test]
async fn a_certificate_that_nobody_verifies_is_nobodys_identity() {
    let (ca, own) = served();
    let stranger = Authority::named("stranger").issue(&Wish::uri(CLIENT));
    for validation in [None, Some(pb::CertificateValidationContext::default())] {
        for required in [false, true] {
            let server = downstream(common(Some(&own), validation.clone()), required);
            let (told, _) = meet(&server, plain_client(&ca, Some(&stranger), TLS13, X25519)).await;
            assert_eq!(told.unwrap().peer.certificate, None);
        }
    }
}

#[tokio::test]
async fn a_key_signs_only_what_its_certificate_says() {
    let (ca, own) = served();
    let certifies = ca.issue(&Wish {
        usages: vec![KeyUsagePurpose::KeyCertSign],
        ..Wish::uri(CLIENT)
    });
    let signs = ca.issue(&Wish {
        usages: vec![KeyUsagePurpose::DigitalSignature],
        ..Wish::uri(CLIENT)
    });
    let server = downstream(common(Some(&own), Some(trusting(&ca))), true);
    for suites in [TLS12, TLS13] {
        let (told, _) = meet(&server, plain_client(&ca, Some(&signs), suites, X25519)).await;
        assert!(told.is_ok());
        let (told, _) = meet(&server, plain_client(&ca, Some(&certifies), suites, X25519)).await;
        let reason = told.err().unwrap().to_string();
        assert!(reason.contains("KEY_USAGE_BIT_INCORRECT"), "{reason}");
    }
    let refused = DownstreamTls::compile(
        &pb::DownstreamTlsContext {
            common_tls_context: Some(common(Some(&certifies), None)),
            ..Default::default()
        },
        &BuildContext::default(),
    );
    let reason = refused.err().unwrap().to_string();
    assert!(reason.contains("certificate_chain: failed to load"), "{reason}");
}

#[tokio::test]
async fn the_spiffe_validator_wants_a_certificate_that_says_it_is_a_leaf() {
    let (ca, own) = served();
    let config = SpiffeCertValidatorConfig {
        trust_domains: vec![spiffe_cert_validator_config::TrustDomain {
            name: "cluster.local".to_owned(),
            trust_bundle: Some(inline(&ca.pem)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let validation = pb::CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: "envoy.tls.cert_validator.spiffe".to_owned(),
            typed_config: Some(Any {
                type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
                    .to_owned(),
                value: prost::Message::encode_to_vec(&config),
            }),
        }),
        ..Default::default()
    };
    let server = downstream(common(Some(&own), Some(validation)), false);
    let leaf = |usages: Vec<KeyUsagePurpose>| {
        ca.issue(&Wish {
            usages,
            ..Wish::uri("spiffe://cluster.local/ns/a/sa/b")
        })
    };
    let (says, silent) = (leaf(vec![KeyUsagePurpose::DigitalSignature]), leaf(Vec::new()));
    for (own, is_let_in) in [(Some(&says), true), (Some(&silent), false), (None, false)] {
        let (told, _) = meet(&server, plain_client(&ca, own, TLS13, X25519)).await;
        assert_eq!(told.is_ok(), is_let_in);
    }
}

#[tokio::test]
async fn the_anchor_counts_for_the_depth_of_a_chain() {
    let (ca, own) = served();
    let (near, far) = (ca.issue(&Wish::uri(CLIENT)), ca.issue_through(&Wish::uri(CLIENT)));
    for (limit, near_is_in, far_is_in) in [(0, false, false), (1, true, false), (2, true, true)] {
        let validation = pb::CertificateValidationContext {
            max_verify_depth: Some(remora_proto::pb::google::protobuf::UInt32Value { value: limit }),
            ..trusting(&ca)
        };
        let server = downstream(common(Some(&own), Some(validation)), true);
        for (own, is_in) in [(&near, near_is_in), (&far, far_is_in)] {
            let (told, _) = meet(&server, plain_client(&ca, Some(own), TLS13, X25519)).await;
            assert_eq!(told.is_ok(), is_in, "{limit}");
        }
    }
}

#[tokio::test]
async fn clients_order_suites_of_equal_preference_and_the_server_groups() {
    let (ca, own) = served();
    let aes = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    let chacha = cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
    let both: &[&dyn SupportedKxGroup] = &[kx_group::SECP256R1, kx_group::X25519];
    let mut listed = common(Some(&own), None);
    let params = listed.tls_params.get_or_insert_default();
    params.cipher_suites = vec!["ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305".to_owned()];
    params.ecdh_curves = vec!["P-256".to_owned(), "X25519".to_owned()];
    let (tied, listed) = (downstream(common(Some(&own), None), false), downstream(listed, false));
    let cases = [
        (&tied, [aes, chacha], aes, NamedGroup::X25519),
        (&tied, [chacha, aes], chacha, NamedGroup::X25519),
        (&listed, [chacha, aes], aes, NamedGroup::secp256r1),
    ];
    for (server, offered, suite, group) in cases {
        for _ in 0..2 {
            let (told, agreed) = meet(server, plain_client(&ca, None, &offered, both)).await;
            assert!(told.is_ok());
            assert_eq!(agreed, Some((suite.suite(), group)));
        }
    }
    let (_, agreed) = meet(&tied, plain_client(&ca, None, TLS13, both)).await;
    assert_eq!(agreed, Some((TLS13[0].suite(), NamedGroup::X25519)));
}
