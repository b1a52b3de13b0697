//! Handshakes in memory, both sides ours or one side a plain rustls peer.

mod agreed;
mod beside;
mod chosen;
mod pki;
mod revoked;
mod rotation;

use std::sync::Arc;

use pb::common_tls_context::ValidationContextType;
use pb::tls_parameters::TlsProtocol;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use remora_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use remora_proto::pb::google::protobuf::BoolValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::error::VerifyFailure;
use super::*;
use crate::config::BuildContext;
use pki::{Authority, Issued, Wish, inline};

const CLIENT: &str = "spiffe://td/ns/a/sa/client";
const SERVER: &str = "spiffe://td/ns/a/sa/server";

type Outcome = (Result<Handshaken, TlsError>, Result<Handshaken, TlsError>);

/// A handshake of these two, server first; one byte goes each way where both think that it is done.
async fn shake(server: &DownstreamTls, client: &UpstreamTls) -> Outcome {
    shake_with(server, client, None, None).await
}

async fn shake_with(
    server: &DownstreamTls,
    client: &UpstreamTls,
    alpn: Option<&[Vec<u8>]>,
    sni: Option<&str>,
) -> Outcome {
    let (near, far) = duplex(64 * 1024);
    let serving = async {
        let mut done = server.accept(Io::Duplex(near), &mut None).await?;
        // A client that refuses us under TLS 1.3 says so only after our side is done.
        let mut byte = [0];
        done.io.read_exact(&mut byte).await.map_err(error::from_io)?;
        done.io.write_all(&byte).await?;
        done.io.flush().await?;
        Ok(done)
    };
    let asking = async {
        let mut done = client.connect(Io::Duplex(far), alpn, sni).await?;
        done.io.write_all(b"x").await?;
        done.io.flush().await?;
        let mut byte = [0];
        done.io.read_exact(&mut byte).await.map_err(error::from_io)?;
        Ok(done)
    };
    tokio::join!(serving, asking)
}

fn certificate(issued: &Issued) -> pb::TlsCertificate {
    pb::TlsCertificate {
        certificate_chain: Some(inline(&issued.chain)),
        private_key: Some(inline(&issued.key)),
        ..Default::default()
    }
}

fn trusting(authority: &Authority) -> pb::CertificateValidationContext {
    pb::CertificateValidationContext {
        trusted_ca: Some(inline(&authority.pem)),
        ..Default::default()
    }
}

fn common(own: Option<&Issued>, validation: Option<pb::CertificateValidationContext>) -> pb::CommonTlsContext {
    pb::CommonTlsContext {
        tls_certificates: own.map(certificate).into_iter().collect(),
        validation_context_type: validation.map(ValidationContextType::ValidationContext),
        ..Default::default()
    }
}

fn downstream(common: pb::CommonTlsContext, require_client: bool) -> Arc<DownstreamTls> {
    let config = pb::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(BoolValue { value: require_client }),
        ..Default::default()
    };
    DownstreamTls::compile(&config, &BuildContext::default()).unwrap()
}

fn upstream(common: pb::CommonTlsContext, sni: &str) -> Arc<UpstreamTls> {
    let config = pb::UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.to_owned(),
        ..Default::default()
    };
    UpstreamTls::compile(&config, &BuildContext::default()).unwrap()
}

fn versions(mut common: pb::CommonTlsContext, min: TlsProtocol, max: TlsProtocol) -> pb::CommonTlsContext {
    common.tls_params = Some(pb::TlsParameters {
        tls_minimum_protocol_version: min.into(),
        tls_maximum_protocol_version: max.into(),
        ..Default::default()
    });
    common
}

fn untyped(pattern: MatchPattern) -> pb::CertificateValidationContext {
    #[allow(deprecated)]
    pb::CertificateValidationContext {
        match_subject_alt_names: vec![StringMatcher {
            match_pattern: Some(pattern),
            ignore_case: false,
        }],
        ..Default::default()
    }
}

fn failed_as(outcome: &Result<Handshaken, TlsError>, wanted: VerifyFailure) -> bool {
    matches!(outcome, Err(TlsError::Verify(failure, _)) if *failure == wanted)
}

#[tokio::test]
async fn versions_meet_in_the_middle_and_default_as_envoy() {
    use TlsProtocol::{TlSv12, TlSv13, TlsAuto};
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    for (server, client, expected) in [
        ((TlsAuto, TlsAuto), (TlsAuto, TlsAuto), Some("TLSv1.2")),
        ((TlsAuto, TlsAuto), (TlSv12, TlSv13), Some("TLSv1.3")),
        ((TlSv12, TlSv12), (TlSv12, TlSv13), Some("TLSv1.2")),
        ((TlSv13, TlSv13), (TlsAuto, TlsAuto), None),
    ] {
        let server = downstream(versions(common(Some(&own), None), server.0, server.1), false);
        let client = upstream(versions(common(None, Some(trusting(&ca))), client.0, client.1), "");
        let (served, asked) = shake(&server, &client).await;
        assert_eq!(asked.as_ref().ok().map(|done| done.peer.version), expected);
        match expected {
            Some(version) => assert_eq!(served.ok().map(|done| done.peer.version), Some(version)),
            None => {
                assert!(matches!(served, Err(TlsError::Handshake(reason)) if reason.contains("UNSUPPORTED_PROTOCOL")))
            }
        }
    }
}

#[tokio::test]
async fn mutual_tls_tells_each_side_who_the_other_is() {
    let ca = Authority::new();
    let (server_own, client_own) = (ca.issue(&Wish::uri(SERVER)), ca.issue(&Wish::uri(CLIENT)));
    let server = downstream(common(Some(&server_own), Some(trusting(&ca))), true);
    let client = upstream(
        common(Some(&client_own), Some(trusting(&ca))),
        "outbound_.80_._.web.default.svc",
    );
    let (served, asked) = shake(&server, &client).await;
    let (served, asked) = (served.unwrap().peer, asked.unwrap().peer);
    assert_eq!(
        (&served.uri_sans[..], &served.local_uri_sans[..]),
        (&[CLIENT.to_owned()][..], &[SERVER.to_owned()][..])
    );
    assert_eq!(asked.uri_sans, [SERVER]);
    assert_eq!(served.sni.as_deref(), Some("outbound_.80_._.web.default.svc"));
    assert_eq!(served.subject.as_deref(), Some("CN=leaf,O=mesh"));
    assert_eq!(served.issuer.as_deref(), Some("CN=root"));
    assert_eq!(served.sha256.as_ref().map(String::len), Some(64));
    assert_eq!(served.serial.as_deref(), Some("2a"));
    assert_eq!(served.cipher, "ECDHE-ECDSA-AES128-GCM-SHA256");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_only_where_one_is_required() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let client = upstream(common(None, Some(trusting(&ca))), "");
    for required in [true, false] {
        let server = downstream(common(Some(&own), Some(trusting(&ca))), required);
        let (served, _) = shake(&server, &client).await;
        assert_eq!(failed_as(&served, VerifyFailure::NoCertificate), required);
        assert_eq!(served.is_ok(), !required);
    }
}

#[tokio::test]
async fn chains_are_verified_and_each_fault_has_its_name() {
    let (ca, other) = (Authority::new(), Authority::named("other"));
    let cases = [
        ("good", ca.issue(&Wish::uri(SERVER)), None),
        ("through an intermediate", ca.issue_through(&Wish::uri(SERVER)), None),
        (
            "wrong authority",
            other.issue(&Wish::uri(SERVER)),
            Some("unable to get local issuer certificate"),
        ),
        (
            "expired",
            ca.issue(&Wish {
                expired: true,
                ..Wish::uri(SERVER)
            }),
            Some("certificate has expired"),
        ),
        (
            "for clients only",
            ca.issue(&Wish {
                client_only: true,
                ..Wish::uri(SERVER)
            }),
            Some("unsupported certificate purpose"),
        ),
        (
            "a CA as leaf",
            ca.issue(&Wish {
                is_ca: true,
                ..Wish::uri(SERVER)
            }),
            None,
        ),
        ("the anchor itself", ca.own(), None),
        (
            "a foreign CA as leaf",
            other.issue(&Wish {
                is_ca: true,
                ..Wish::uri(SERVER)
            }),
            Some("unable to get local issuer certificate"),
        ),
    ];
    for (what, own, fault) in cases {
        let server = downstream(common(Some(&own), None), false);
        let client = upstream(common(None, Some(trusting(&ca))), "");
        let (_, asked) = shake(&server, &client).await;
        match (asked, fault) {
            (Ok(_), None) => {}
            (Err(TlsError::Verify(VerifyFailure::Chain, reason)), Some(words)) => {
                assert!(reason.contains(words), "{what}: {reason}");
            }
            (asked, fault) => unreachable!("{what}: {:?}, expected {fault:?}", asked.err()),
        }
    }
}

#[tokio::test]
async fn verification_can_be_absent_lenient_or_pinned() {
    let (ca, other) = (Authority::new(), Authority::named("other"));
    let expired = ca.issue(&Wish {
        expired: true,
        ..Wish::uri(SERVER)
    });
    let foreign = other.issue(&Wish::uri(SERVER));
    let pin = |hash: &str| pb::CertificateValidationContext {
        verify_certificate_hash: vec![hash.to_owned()],
        ..Default::default()
    };
    let cases = [
        ("no validation context", &foreign, None, true),
        (
            "no trusted CA",
            &foreign,
            Some(pb::CertificateValidationContext::default()),
            true,
        ),
        (
            "expired allowed",
            &expired,
            Some(pb::CertificateValidationContext {
                allow_expired_certificate: true,
                ..trusting(&ca)
            }),
            true,
        ),
        (
            "expired and foreign",
            &foreign,
            Some(pb::CertificateValidationContext {
                allow_expired_certificate: true,
                ..trusting(&ca)
            }),
            false,
        ),
        (
            "untrusted accepted",
            &foreign,
            Some(pb::CertificateValidationContext {
                trust_chain_verification: 1,
                ..trusting(&ca)
            }),
            true,
        ),
        ("pinned", &foreign, Some(pin(&foreign.sha256)), true),
        ("pinned otherwise", &foreign, Some(pin(&expired.sha256)), false),
    ];
    for (what, own, validation, good) in cases {
        let server = downstream(common(Some(own), None), false);
        let (_, asked) = shake(&server, &upstream(common(None, validation), "")).await;
        assert_eq!(asked.is_ok(), good, "{what}: {:?}", asked.err());
    }
}

#[tokio::test]
async fn names_are_matched_by_kind_and_pattern() {
    let ca = Authority::new();
    let own = ca.issue(&Wish {
        dns: vec!["*.mesh.example"],
        ..Wish::uri(SERVER)
    });
    let server = downstream(common(Some(&own), None), false);
    let typed = |kind: i32, pattern: MatchPattern| pb::CertificateValidationContext {
        match_typed_subject_alt_names: vec![pb::SubjectAltNameMatcher {
            san_type: kind,
            matcher: Some(StringMatcher {
                match_pattern: Some(pattern),
                ignore_case: false,
            }),
            oid: String::new(),
        }],
        ..Default::default()
    };
    let (dns, uri) = (2, 3);
    let text = |text: &str| text.to_owned();
    for (validation, good) in [
        (untyped(MatchPattern::Prefix(text("spiffe://td/"))), true),
        (untyped(MatchPattern::Prefix(text("spiffe://other/"))), false),
        (untyped(MatchPattern::Exact(text(SERVER))), true),
        (typed(uri, MatchPattern::Suffix(text("/sa/server"))), true),
        (typed(dns, MatchPattern::Exact(text(SERVER))), false),
        (typed(dns, MatchPattern::Exact(text("web.mesh.example"))), true),
        (typed(dns, MatchPattern::Exact(text("a.web.mesh.example"))), false),
    ] {
        let what = format!("{validation:?}");
        let validation = pb::CertificateValidationContext {
            trusted_ca: Some(inline(&ca.pem)),
            ..validation
        };
        let (_, asked) = shake(&server, &upstream(common(None, Some(validation)), "")).await;
        assert_eq!(asked.is_ok(), good, "{what}");
        assert!(good || failed_as(&asked, VerifyFailure::San), "{what}");
    }
}

#[tokio::test]
async fn alpn_is_the_servers_choice_and_no_overlap_is_no_failure() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let alpn = |offer: &[&str]| offer.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>();
    let server = downstream(
        pb::CommonTlsContext {
            alpn_protocols: names(&["istio-peer-exchange", "h2", "http/1.1"]),
            ..common(Some(&own), None)
        },
        false,
    );
    let client = upstream(
        pb::CommonTlsContext {
            alpn_protocols: names(&["istio"]),
            ..common(None, None)
        },
        "",
    );
    for (offer, expected) in [
        (None, None),
        (Some(alpn(&["istio-http/1.1", "istio", "http/1.1"])), Some("http/1.1")),
        (Some(alpn(&["http/1.1", "h2"])), Some("h2")),
        (
            Some(alpn(&["istio-peer-exchange", "istio"])),
            Some("istio-peer-exchange"),
        ),
        (Some(alpn(&[])), None),
    ] {
        let (served, asked) = shake_with(&server, &client, offer.as_deref(), None).await;
        let expected = expected.map(|name: &str| name.as_bytes().to_vec());
        assert_eq!(served.unwrap().peer.alpn, expected, "{offer:?}");
        assert_eq!(asked.unwrap().peer.alpn, expected);
    }
}

#[tokio::test]
async fn the_certificate_follows_the_sni() {
    let ca = Authority::new();
    let (first, second) = (
        ca.issue(&Wish {
            dns: vec!["a.example"],
            ..Wish::default()
        }),
        ca.issue(&Wish {
            dns: vec!["*.b.example"],
            ..Wish::default()
        }),
    );
    let mut both = common(Some(&first), None);
    both.tls_certificates.push(certificate(&second));
    let server = downstream(both, false);
    let client = upstream(common(None, Some(trusting(&ca))), "");
    for (sni, expected) in [
        ("a.example", "a.example"),
        ("x.b.example", "*.b.example"),
        ("other.example", "a.example"),
    ] {
        let (_, asked) = shake_with(&server, &client, None, Some(sni)).await;
        let done = asked.unwrap();
        assert_eq!(done.peer.dns_sans, [expected], "{sni}");
        assert_eq!(client.check_name(done, sni).is_ok(), sni != "other.example");
    }
}

#[tokio::test]
async fn plaintext_where_tls_is_due_is_a_wrong_version() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let server = downstream(common(Some(&own), None), false);
    let (near, mut far) = duplex(1024);
    far.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let refused = server
        .accept(Io::Duplex(near), &mut None)
        .await
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        refused,
        "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end"
    );
}

#[test]
fn names_without_trust_are_refused_as_by_envoy() {
    let config = pb::UpstreamTlsContext {
        common_tls_context: Some(common(None, Some(untyped(MatchPattern::Exact(SERVER.to_owned()))))),
        ..Default::default()
    };
    let problems = UpstreamTls::compile(&config, &BuildContext::default()).err().unwrap();
    assert!(
        problems
            .to_string()
            .contains("SAN-based verification of peer certificates without trusted CA")
    );
}
