//! What both sides agree on: groups, suites, signatures, pins; and when it all expires.

use base64::Engine as _;
use rustls::SignatureScheme;

use super::*;
use crate::telemetry::stats::{Stats, Value};

fn groups(mut common: pb::CommonTlsContext, names: &[&str]) -> pb::CommonTlsContext {
    let params = common.tls_params.get_or_insert_default();
    params.ecdh_curves = names.iter().map(|name| (*name).to_owned()).collect();
    common
}

#[tokio::test]
async fn the_post_quantum_group_is_used_where_it_is_configured() {
    use TlsProtocol::TlSv13;
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let server = |names: &[&str]| downstream(groups(versions(common(Some(&own), None), TlSv13, TlSv13), names), false);
    let client = |names: &[&str]| {
        let common = versions(common(None, Some(trusting(&ca))), TlSv13, TlSv13);
        upstream(groups(common, names), "")
    };
    let hybrid = ["X25519MLKEM768", "X25519"];
    let cases: [(&[&str], &[&str], &str); 3] = [
        (&hybrid, &hybrid, "X25519MLKEM768"),
        // Neither side offers it unasked.
        (&hybrid, &[], "X25519"),
        (&[], &hybrid, "X25519"),
    ];
    for (ours, theirs, expected) in cases {
        let (served, asked) = shake(&server(ours), &client(theirs)).await;
        assert_eq!(served.unwrap().peer.group, expected);
        assert_eq!(asked.unwrap().peer.group, expected);
    }
    let (_, asked) = shake(&server(&["X25519MLKEM768"]), &client(&["X25519"])).await;
    assert!(asked.is_err());
}

#[tokio::test]
async fn keys_are_pinned_by_their_public_half() {
    let ca = Authority::new();
    let (own, other) = (ca.issue(&Wish::uri(SERVER)), ca.issue(&Wish::uri(SERVER)));
    let pin = |issued: &Issued| {
        let facts = crate::tls::x509::CertificateFacts::parse(&pem(&issued.chain)).unwrap();
        pb::CertificateValidationContext {
            verify_certificate_spki: vec![base64::engine::general_purpose::STANDARD.encode(facts.spki_sha256)],
            ..trusting(&ca)
        }
    };
    let server = downstream(common(Some(&own), None), false);
    let (_, asked) = shake(&server, &upstream(common(None, Some(pin(&own))), "")).await;
    assert!(asked.is_ok());
    let (_, asked) = shake(&server, &upstream(common(None, Some(pin(&other))), "")).await;
    assert!(failed_as(&asked, VerifyFailure::Hash));
}

fn pem(chain: &str) -> Vec<u8> {
    crate::tls::material::certificates(chain.as_bytes()).unwrap()[0].to_vec()
}

#[tokio::test]
async fn each_side_learns_how_the_other_has_proven_itself() {
    let ca = Authority::new();
    let (server_own, client_own) = (ca.issue(&Wish::uri(SERVER)), ca.issue(&Wish::uri(CLIENT)));
    let server = downstream(common(Some(&server_own), Some(trusting(&ca))), false);
    for (own, expected) in [
        (Some(&client_own), Some(SignatureScheme::ECDSA_NISTP256_SHA256)),
        (None, None),
    ] {
        let client = upstream(common(own, Some(trusting(&ca))), "");
        let (served, asked) = shake(&server, &client).await;
        assert_eq!(served.unwrap().signature, expected);
        let shown = asked.unwrap().signature;
        assert_eq!(shown, Some(SignatureScheme::ECDSA_NISTP256_SHA256));
    }
}

#[tokio::test]
async fn handshakes_and_certificates_of_a_cluster_are_counted() {
    let ca = Authority::new();
    let (own, foreign) = (
        ca.issue(&Wish::uri(SERVER)),
        Authority::named("other").issue(&Wish::uri(SERVER)),
    );
    let stats = Stats::new();
    let client = upstream(common(Some(&own), Some(trusting(&ca))), "");
    client.count_into(&stats, "cluster.c.");
    for server in [&own, &own, &foreign] {
        let (_, asked) = shake(&downstream(common(Some(server), None), false), &client).await;
        client.record(&asked);
    }
    let mut seen = std::collections::BTreeMap::new();
    stats.visit(&mut |prefix, name, value| {
        if let Value::Counter(value) | Value::Gauge(value) = value {
            seen.insert(format!("{prefix}{name}"), value);
        }
    });
    assert_eq!(seen["cluster.c.ssl.handshake"], 2);
    assert_eq!(seen["cluster.c.ssl.fail_verify_error"], 1);
    assert_eq!(seen["cluster.c.ssl.versions.TLSv1.2"], 2);
    assert_eq!(seen["cluster.c.ssl.sigalgs.ecdsa_secp256r1_sha256"], 2);
    let expiry = crate::tls::x509::CertificateFacts::parse(&pem(&own.chain))
        .unwrap()
        .not_after;
    let gauge = "cluster.c.ssl.certificate.unnamed_cert_e3b0c442.expiration_unix_time_seconds";
    assert_eq!(i64::try_from(seen[gauge]), Ok(expiry));
    drop(client);
    let mut gone = true;
    stats.visit(&mut |prefix, name, _| gone &= format!("{prefix}{name}") != gauge);
    assert!(gone, "a context that is gone shows no certificates");
}

#[tokio::test]
async fn a_comma_separates_protocols_as_the_next_entry_does() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let speaking = |own: Option<&Issued>, entries: &[&str]| pb::CommonTlsContext {
        alpn_protocols: entries.iter().map(|entry| (*entry).to_owned()).collect(),
        ..common(own, None)
    };
    for (served, asked, agreed) in [
        (&["h2,http/1.1"], &["http/1.1"], Some("http/1.1")),
        (&["http/1.1"], &["h2,http/1.1"], Some("http/1.1")),
        (&["h2"], &["istio,h2"], Some("h2")),
        (&["h2,http/1.1"], &[""], None),
    ] {
        let server = downstream(speaking(Some(&own), served), false);
        let (told, _) = shake(&server, &upstream(speaking(None, asked), "")).await;
        let agreed = agreed.map(|name: &str| name.as_bytes().to_vec());
        assert_eq!(told.unwrap().peer.alpn, agreed, "{served:?} {asked:?}");
    }
    let config = pb::UpstreamTlsContext {
        common_tls_context: Some(speaking(None, &["h2,"])),
        ..Default::default()
    };
    let problems = UpstreamTls::compile(&config, &BuildContext::default()).err().unwrap();
    assert!(problems.to_string().contains("alpn_protocols"), "{problems}");
}
