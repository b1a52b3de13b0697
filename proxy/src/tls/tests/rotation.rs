//! Secrets: late, rotated, refused; and the sessions that outlive a connection.

use pb::common_tls_context::CombinedCertificateValidationContext;
use prost::Message;

use super::*;
use crate::config::sources::ResourceKey;

fn secret(kind: pb::secret::Type) -> Vec<u8> {
    pb::Secret {
        name: String::new(),
        r#type: Some(kind),
    }
    .encode_to_vec()
}

fn by_sds(validation: pb::CertificateValidationContext) -> pb::CommonTlsContext {
    let named = |name: &str| pb::SdsSecretConfig {
        name: name.to_owned(),
        sds_config: None,
    };
    pb::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![named("default")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(validation),
                validation_context_sds_secret_config: Some(named("ROOTCA")),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

#[tokio::test]
async fn secrets_come_late_rotate_and_reach_new_handshakes_only() {
    let cx = BuildContext::default();
    let (ca, next) = (Authority::new(), Authority::new());
    let config = pb::DownstreamTlsContext {
        common_tls_context: Some(by_sds(untyped(MatchPattern::Prefix("spiffe://td/".to_owned())))),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    let server = DownstreamTls::compile(&config, &cx).unwrap();
    let client_own = ca.issue(&Wish::uri(CLIENT));
    let client = upstream(common(Some(&client_own), None), "");
    let (served, _) = shake(&server, &client).await;
    assert!(matches!(served, Err(TlsError::SecretNotReady)));

    let update = |authority: &Authority| {
        let own = authority.issue(&Wish::uri(SERVER));
        cx.secrets
            .update(
                &ResourceKey::fixed("default"),
                Some(&secret(pb::secret::Type::TlsCertificate(certificate(&own)))),
            )
            .unwrap();
        cx.secrets
            .update(
                &ResourceKey::fixed("ROOTCA"),
                Some(&secret(pb::secret::Type::ValidationContext(trusting(authority)))),
            )
            .unwrap();
    };
    update(&ca);
    assert!(server.is_ready());
    let (served, asked) = shake(&server, &client).await;
    let (mut near, mut far) = (served.unwrap().io, asked.unwrap().io);

    // Mid-traffic: another authority. The open connection goes on, a new one of the old client fails, resumption included.
    update(&next);
    near.write_all(b"still").await.unwrap();
    near.flush().await.unwrap();
    let mut got = [0; 5];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still");
    let (served, _) = shake(&server, &client).await;
    assert!(failed_as(&served, VerifyFailure::Chain), "{:?}", served.err());
    let next_own = next.issue(&Wish::uri(CLIENT));
    let (served, _) = shake(&server, &upstream(common(Some(&next_own), None), "")).await;
    assert!(served.is_ok());
    // The trust domain still counts, though the secret knows nothing of it.
    let stranger = next.issue(&Wish::uri("spiffe://other/ns/a/sa/client"));
    let (served, _) = shake(&server, &upstream(common(Some(&stranger), None), "")).await;
    assert!(failed_as(&served, VerifyFailure::San));

    let mixed = pb::TlsCertificate {
        private_key: Some(inline(&next_own.key)),
        ..certificate(&client_own)
    };
    let refused = cx.secrets.update(
        &ResourceKey::fixed("default"),
        Some(&secret(pb::secret::Type::TlsCertificate(mixed))),
    );
    assert_eq!(refused.unwrap_err().0[0].path, "tls_certificate.private_key");
    assert!(server.is_ready());
    let reports = cx.secrets.reports();
    assert_eq!(
        (reports[0].chain[0].uri_sans.as_slice(), reports[0].ca.len()),
        (&[SERVER.to_owned()][..], 1)
    );
}

#[tokio::test]
async fn a_session_is_resumed_under_the_same_secrets() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let server = downstream(common(Some(&own), None), false);
    let client = upstream(common(None, Some(trusting(&ca))), "a.example");
    let resumed = |outcome: Outcome| outcome.0.unwrap().resumed;
    assert!(!resumed(shake(&server, &client).await));
    assert!(resumed(shake(&server, &client).await));
}

#[tokio::test]
async fn a_session_remembers_how_its_peers_have_proven_themselves() {
    use pb::tls_parameters::TlsProtocol;
    let ca = Authority::new();
    let (server_own, client_own) = (ca.issue(&Wish::uri(SERVER)), ca.issue(&Wish::uri(CLIENT)));
    for version in [TlsProtocol::TlSv12, TlsProtocol::TlSv13] {
        let of_version = |own| pb::CommonTlsContext {
            tls_params: Some(pb::TlsParameters {
                tls_minimum_protocol_version: version as i32,
                tls_maximum_protocol_version: version as i32,
                ..Default::default()
            }),
            ..common(Some(own), Some(trusting(&ca)))
        };
        let server = downstream(of_version(&server_own), true);
        let client = upstream(of_version(&client_own), "a.example");
        let mut first = None;
        // A session that was resumed is resumed again.
        for resumed in [false, true, true] {
            let (served, asked) = shake(&server, &client).await;
            let (served, asked) = (served.unwrap(), asked.unwrap());
            assert_eq!((served.resumed, asked.resumed), (resumed, resumed), "{version:?}");
            let told = [served, asked].map(|side| (side.signature, side.peer.group));
            assert!(
                told.iter()
                    .all(|(signature, group)| signature.is_some() && !group.is_empty()),
                "{told:?}"
            );
            assert_eq!(told, *first.get_or_insert(told), "{version:?}");
        }
    }
}
