//! Revocation lists: where they come from, and when they count.

use super::*;

/// On which a leaf of ours is, and another one is not.
const ITS_SERIAL: u8 = 0x2a;
const OTHER_SERIAL: u8 = 0x2b;

const NOW: (i32, i32) = (2020, 4000);
const PAST: (i32, i32) = (2020, 2021);
const FUTURE: (i32, i32) = (3000, 4000);

type Lists = pb::CertificateValidationContext;

fn in_bundle(ca: &Authority, lists: &[String]) -> Lists {
    Lists {
        trusted_ca: Some(inline(&format!("{}{}", ca.pem, lists.concat()))),
        ..Default::default()
    }
}

fn in_field(ca: &Authority, lists: &[String]) -> Lists {
    Lists {
        crl: Some(inline(&lists.concat())),
        ..trusting(ca)
    }
}

/// What both sides find of a peer with this certificate.
async fn judged(own: &Issued, validation: &Lists) -> [Result<(), String>; 2] {
    let reason = |outcome: Result<Handshaken, TlsError>| outcome.map(drop).map_err(|error| error.to_string());
    let server = downstream(common(Some(own), Some(validation.clone())), true);
    let (served, _) = shake(&server, &upstream(common(Some(own), None), "")).await;
    let server = downstream(common(Some(own), None), false);
    let (_, asked) = shake(&server, &upstream(common(None, Some(validation.clone())), "")).await;
    [reason(served), reason(asked)]
}

async fn expect(what: &str, own: &Issued, validation: &Lists, fault: Option<&str>) {
    for judgement in judged(own, validation).await {
        match (&judgement, fault) {
            (Ok(()), None) => {}
            (Err(reason), Some(words)) if reason.contains(words) => {}
            _ => unreachable!("{what}: {judgement:?}, expected {fault:?}"),
        }
    }
}

#[tokio::test]
async fn lists_count_wherever_they_are() {
    let ca = Authority::new();
    let (near, far) = (ca.issue(&Wish::uri(SERVER)), ca.issue_through(&Wish::uri(SERVER)));
    for place in [in_bundle, in_field] {
        let with = |serial: u8| place(&ca, &[ca.revoke(&[serial], NOW)]);
        expect("revoked", &near, &with(ITS_SERIAL), Some("certificate revoked")).await;
        expect("another", &near, &with(OTHER_SERIAL), None).await;
        // Its own issuer has no list.
        let fault = Some("unable to get certificate CRL");
        expect("through an intermediate", &far, &with(OTHER_SERIAL), fault).await;
        expect("a trusted leaf", &ca.own(), &with(OTHER_SERIAL), Some("")).await;
    }
}

#[tokio::test]
async fn a_list_counts_within_its_dates() {
    let ca = Authority::new();
    let own = ca.issue(&Wish::uri(SERVER));
    let old = Some("CRL has expired");
    let early = Some("CRL is not yet valid");
    for place in [in_bundle, in_field] {
        for (years, fault) in [(NOW, None), (PAST, old), (FUTURE, early)] {
            let lists = place(&ca, &[ca.revoke(&[OTHER_SERIAL], years)]);
            expect("strict", &own, &lists, fault).await;
            let lenient = |serial: u8| Lists {
                allow_expired_certificate: true,
                ..place(&ca, &[ca.revoke(&[serial], years)])
            };
            expect("lenient", &own, &lenient(OTHER_SERIAL), None).await;
            expect("revoked", &own, &lenient(ITS_SERIAL), Some("certificate revoked")).await;
        }
        // A list that counts now is found behind those that do not.
        let [old, early, now] = [PAST, FUTURE, NOW].map(|years| ca.revoke(&[OTHER_SERIAL], years));
        expect("several", &own, &place(&ca, &[old, early, now]), None).await;
    }
}

#[test]
fn a_bundle_with_a_list_that_is_none_is_refused() {
    let ca = Authority::new();
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned();
    let config = pb::UpstreamTlsContext {
        common_tls_context: Some(common(None, Some(in_bundle(&ca, &[broken])))),
        ..Default::default()
    };
    let problems = UpstreamTls::compile(&config, &BuildContext::default()).err().unwrap();
    assert!(problems.to_string().contains("trusted_ca: bad CRL"), "{problems}");
}
