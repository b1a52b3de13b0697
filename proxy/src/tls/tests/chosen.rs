//! Which of several certificates a server shows, and what it knows of a client that it refuses.

use remora_proto::pb::google::protobuf::BoolValue;

use super::*;

fn named(ca: &Authority, common_name: &'static str, dns: &[&'static str], rsa: bool) -> Issued {
    ca.issue(&Wish {
        common_name,
        dns: dns.to_vec(),
        rsa,
        ..Wish::default()
    })
}

fn showing(certificates: &[&Issued], scans: bool) -> Arc<DownstreamTls> {
    let config = pb::DownstreamTlsContext {
        common_tls_context: Some(pb::CommonTlsContext {
            tls_certificates: certificates.iter().map(|issued| certificate(issued)).collect(),
            ..Default::default()
        }),
        full_scan_certs_on_sni_mismatch: Some(BoolValue { value: scans }),
        ..Default::default()
    };
    DownstreamTls::compile(&config, &BuildContext::default()).unwrap()
}

/// Who may be asked: everybody, or a client of TLS 1.2 that has only this suite.
fn client(suite: &str) -> Arc<UpstreamTls> {
    let mut common = common(None, None);
    let max = match suite {
        "1.3" => TlsProtocol::TlSv13,
        _ => TlsProtocol::TlSv12,
    };
    let suites = Some(suite.to_owned()).filter(|suite| suite.starts_with("ECDHE"));
    common.tls_params = Some(pb::TlsParameters {
        tls_maximum_protocol_version: max.into(),
        cipher_suites: suites.into_iter().collect(),
        ..Default::default()
    });
    upstream(common, "")
}

const ECDSA: &str = "ECDHE-ECDSA-AES128-GCM-SHA256";
const RSA: &str = "ECDHE-RSA-AES128-GCM-SHA256";

#[tokio::test]
async fn a_name_counts_first_and_then_the_kind_of_key() {
    let ca = Authority::new();
    let ec = named(&ca, "ec", &["a.test"], false);
    let rsa = named(&ca, "rsa", &["a.test", "*.wild.test"], true);
    let b = named(&ca, "b", &["b.test"], false);
    let plain = named(&ca, "cn.test", &[], false);
    let many = showing(&[&ec, &rsa, &b, &plain], false);
    let rsa_first = showing(&[&rsa, &ec], false);
    let scanning = showing(&[&rsa, &ec], true);
    for (server, sni, suite, shown) in [
        (&many, "a.test", "1.2", Some("ec")),
        (&many, "a.test", RSA, Some("rsa")),
        (&many, "b.test", "1.3", Some("b")),
        (&many, "b.test", RSA, None),
        (&many, "x.wild.test", "1.3", Some("rsa")),
        (&many, "x.wild.test", ECDSA, None),
        (&many, "x.y.wild.test", "1.2", Some("ec")),
        (&many, "wild.test", "1.2", Some("ec")),
        (&many, "cn.test", "1.2", Some("cn.test")),
        (&many, "b", "1.2", Some("ec")),
        (&many, "zzz.test", RSA, None),
        (&many, "", RSA, Some("rsa")),
        (&rsa_first, "a.test", "1.2", Some("ec")),
        (&rsa_first, "a.test", "1.3", Some("ec")),
        (&rsa_first, "", "1.3", Some("ec")),
        (&rsa_first, "", RSA, Some("rsa")),
        (&rsa_first, "zzz.test", "1.2", Some("rsa")),
        (&rsa_first, "zzz.test", ECDSA, None),
        (&scanning, "zzz.test", "1.2", Some("ec")),
        (&scanning, "zzz.test", RSA, Some("rsa")),
    ] {
        let sni_override = Some(sni).filter(|sni| !sni.is_empty());
        let (served, asked) = shake_with(server, &client(suite), None, sni_override).await;
        let subject = shown.map(|name| format!("CN={name},O=mesh"));
        // What was shown is what the log says.
        let local = served.ok().and_then(|done| done.peer.local_subject.clone());
        assert_eq!(local, subject, "{sni} {suite}");
        let seen = asked.ok().and_then(|done| done.peer.subject.clone());
        assert_eq!(seen, subject, "{sni} {suite}");
    }
}

#[tokio::test]
async fn who_is_refused_is_known_by_what_was_shown() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let foreign = Authority::named("other").issue(&Wish::uri(CLIENT));
    let server = downstream(common(Some(&own), Some(trusting(&ca))), true);
    for (maximum, version, cipher) in [
        (TlsProtocol::TlSv12, "TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (TlsProtocol::TlSv13, "TLSv1.3", "TLS_AES_128_GCM_SHA256"),
    ] {
        for presented in [Some(&foreign), None] {
            let asking = versions(common(presented, None), TlsProtocol::TlSv12, maximum);
            let client = upstream(asking, "a.test");
            let (near, far) = duplex(64 * 1024);
            let mut known = None;
            let serving = server.accept(Io::Duplex(near), &mut known);
            let (served, _asked) = tokio::join!(serving, client.connect(Io::Duplex(far), None, None));
            assert!(matches!(served, Err(TlsError::Verify(..))));
            let known = known.unwrap();
            assert_eq!((known.version, known.cipher), (version, cipher));
            assert_eq!(known.sni.as_deref(), Some("a.test"));
            assert_eq!(known.local_uri_sans, [SERVER]);
            let uris: &[&str] = if presented.is_some() { &[CLIENT] } else { &[] };
            assert_eq!(known.uri_sans, uris);
            let issuer = presented.map(|_| "CN=other");
            assert_eq!(known.issuer.as_deref(), issuer);
        }
    }
}

#[tokio::test]
async fn before_anything_is_agreed_on_only_the_certificate_is_known() {
    let ca = Authority::new();
    let own = named(&ca, "own", &["a.test"], true);
    let server = showing(&[&own], false);
    let (near, far) = duplex(64 * 1024);
    let mut known = None;
    let client = client(ECDSA);
    let serving = server.accept(Io::Duplex(near), &mut known);
    let (served, _asked) = tokio::join!(serving, client.connect(Io::Duplex(far), None, None));
    assert!(matches!(served, Err(TlsError::Handshake(reason)) if reason.contains("NO_SHARED_CIPHER")));
    let known = known.unwrap();
    assert_eq!((known.version, known.cipher), ("", ""));
    assert_eq!(known.local_subject.as_deref(), Some("CN=own,O=mesh"));
}
