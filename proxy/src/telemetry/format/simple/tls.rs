//! Operators of handshakes and certificates. What few logs ask for is read from the certificate when a line is written.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use sha1::{Digest, Sha1};

use super::{LogView, MomentOf, Simple, millis, put};
use Simple::{Number, Text};

use crate::listener::detect::fingerprint::Fingerprints;
use crate::tls::PeerInfo;
use crate::tls::x509::{CertificateFacts, hex};

pub(super) const TABLE: &[(&str, Simple)] = &[
    // Of a stream's connection, whose handshake was over before the stream began: no time at all.
    ("DOWNSTREAM_HANDSHAKE_DURATION", Number(handshake)),
    (
        "TLS_JA3_FINGERPRINT",
        Text(|v, out| {
            put(
                out,
                fingerprints(v)
                    .and_then(|taken| taken.ja3.as_deref())
                    .map(str::as_bytes),
            )
        }),
    ),
    (
        "TLS_JA4_FINGERPRINT",
        Text(|v, out| {
            put(
                out,
                fingerprints(v)
                    .and_then(|taken| taken.ja4.as_deref())
                    .map(str::as_bytes),
            )
        }),
    ),
    (
        "DOWNSTREAM_PEER_URI_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.uri_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_PEER_DNS_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.dns_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_PEER_IP_SAN",
        Text(|v, out| list(out, leaf(down(v)).map(|leaf| leaf.ip_sans).as_deref())),
    ),
    (
        "DOWNSTREAM_PEER_SUBJECT",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.subject.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_ISSUER",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.issuer.as_ref()))),
    ),
    ("DOWNSTREAM_PEER_CERT", Text(|v, out| peer_cert(out, down(v)))),
    (
        "DOWNSTREAM_LOCAL_URI_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.local_uri_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_LOCAL_DNS_SAN",
        Text(|v, out| list(out, down(v).map(|tls| tls.local_dns_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_LOCAL_IP_SAN",
        Text(|v, out| list(out, own(down(v)).map(|own| own.ip_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_TLS_VERSION",
        Text(|v, out| put(out, down(v).map(|tls| tls.version.as_bytes()))),
    ),
    (
        "DOWNSTREAM_TLS_CIPHER",
        Text(|v, out| put(out, down(v).map(|tls| tls.cipher.as_bytes()))),
    ),
    (
        "DOWNSTREAM_TLS_GROUP",
        Text(|v, out| put(out, down(v).map(|tls| tls.group.as_bytes()))),
    ),
    (
        "UPSTREAM_PEER_URI_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.uri_sans.as_slice()))),
    ),
    (
        "UPSTREAM_PEER_DNS_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.dns_sans.as_slice()))),
    ),
    (
        "UPSTREAM_PEER_IP_SAN",
        Text(|v, out| list(out, leaf(up(v)).map(|leaf| leaf.ip_sans).as_deref())),
    ),
    (
        "UPSTREAM_PEER_SUBJECT",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.subject.as_ref()))),
    ),
    (
        "UPSTREAM_PEER_ISSUER",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.issuer.as_ref()))),
    ),
    ("UPSTREAM_PEER_CERT", Text(|v, out| peer_cert(out, up(v)))),
    (
        "UPSTREAM_LOCAL_URI_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.local_uri_sans.as_slice()))),
    ),
    (
        "UPSTREAM_LOCAL_DNS_SAN",
        Text(|v, out| list(out, up(v).map(|tls| tls.local_dns_sans.as_slice()))),
    ),
    (
        "UPSTREAM_LOCAL_IP_SAN",
        Text(|v, out| list(out, own(up(v)).map(|own| own.ip_sans.as_slice()))),
    ),
    (
        "UPSTREAM_TLS_VERSION",
        Text(|v, out| put(out, up(v).map(|tls| tls.version.as_bytes()))),
    ),
    (
        "UPSTREAM_TLS_CIPHER",
        Text(|v, out| put(out, up(v).map(|tls| tls.cipher.as_bytes()))),
    ),
    (
        "UPSTREAM_TLS_GROUP",
        Text(|v, out| put(out, up(v).map(|tls| tls.group.as_bytes()))),
    ),
    (
        "UPSTREAM_SERVER_NAME",
        Text(|v, out| text(out, up(v).and_then(|tls| tls.sni.as_ref()))),
    ),
    (
        "DOWNSTREAM_LOCAL_SUBJECT",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.local_subject.as_ref()))),
    ),
    (
        "DOWNSTREAM_LOCAL_EMAIL_SAN",
        Text(|v, out| list(out, own(down(v)).map(|own| own.email_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
        Text(|v, out| list(out, own(down(v)).map(|own| own.other_sans.as_slice()))),
    ),
    (
        "DOWNSTREAM_PEER_EMAIL_SAN",
        Text(|v, out| list(out, leaf(down(v)).map(|leaf| leaf.email_sans).as_deref())),
    ),
    (
        "DOWNSTREAM_PEER_OTHERNAME_SAN",
        Text(|v, out| list(out, leaf(down(v)).map(|leaf| leaf.other_sans).as_deref())),
    ),
    (
        "DOWNSTREAM_PEER_SERIAL",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.serial.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        Text(|v, out| text(out, down(v).and_then(|tls| tls.sha256.as_ref()))),
    ),
    (
        "DOWNSTREAM_PEER_FINGERPRINT_1",
        Text(|v, out| certificates(out, v, 0..1, sha1)),
    ),
    (
        "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
        Text(|v, out| certificates(out, v, 1..2, sha256)),
    ),
    (
        "DOWNSTREAM_PEER_ISSUER_SERIAL",
        Text(|v, out| certificates(out, v, 1..2, serial)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
        Text(|v, out| certificates(out, v, 0..usize::MAX, sha1)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
        Text(|v, out| certificates(out, v, 0..usize::MAX, sha256)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_SERIALS",
        Text(|v, out| certificates(out, v, 0..usize::MAX, serial)),
    ),
];

fn fingerprints<'a>(view: &LogView<'a>) -> Option<&'a Fingerprints> {
    view.connection.extensions.get()
}

/// `…_V_START` and `…_V_END` operators.
pub(in super::super) fn validity_of(name: &str) -> Option<MomentOf> {
    Some(match name {
        "DOWNSTREAM_PEER_CERT_V_START" => |v| moment(leaf(down(v))?.not_before),
        "DOWNSTREAM_PEER_CERT_V_END" => |v| moment(leaf(down(v))?.not_after),
        "UPSTREAM_PEER_CERT_V_START" => |v| moment(leaf(up(v))?.not_before),
        "UPSTREAM_PEER_CERT_V_END" => |v| moment(leaf(up(v))?.not_after),
        _ => return None,
    })
}

fn moment(seconds: i64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn handshake(view: &LogView<'_>) -> Option<u64> {
    let done = down(view)?.done?;
    Some(millis(done.saturating_duration_since(view.started)))
}

fn down<'a>(view: &LogView<'a>) -> Option<&'a PeerInfo> {
    view.connection.tls.as_deref()
}

fn up<'a>(view: &LogView<'a>) -> Option<&'a PeerInfo> {
    view.upstream.tls.as_deref()
}

fn leaf(tls: Option<&PeerInfo>) -> Option<CertificateFacts> {
    CertificateFacts::parse(tls?.certificate.as_ref()?)
}

fn own(tls: Option<&PeerInfo>) -> Option<&CertificateFacts> {
    tls?.local.as_deref()
}

/// What `print` makes of some certificates of the client's chain, the leaf first.
fn certificates(
    out: &mut Vec<u8>,
    view: &LogView<'_>,
    which: Range<usize>,
    print: fn(&[u8]) -> Option<String>,
) -> bool {
    let chain = down(view).map(|tls| tls.chain.as_slice()).unwrap_or_default();
    let chosen = chain.iter().skip(which.start).take(which.len());
    let printed: Vec<String> = chosen.filter_map(|der| print(der)).collect();
    put(out, Some(printed.join(",").as_bytes()))
}

fn sha1(der: &[u8]) -> Option<String> {
    Some(hex(&Sha1::digest(der)))
}

fn sha256(der: &[u8]) -> Option<String> {
    Some(CertificateFacts::parse(der)?.sha256)
}

fn serial(der: &[u8]) -> Option<String> {
    Some(CertificateFacts::parse(der)?.serial)
}

fn text(out: &mut Vec<u8>, value: Option<&String>) -> bool {
    put(out, value.map(String::as_bytes))
}

fn list(out: &mut Vec<u8>, values: Option<&[String]>) -> bool {
    put(out, values.map(|values| values.join(",")).as_deref().map(str::as_bytes))
}

fn peer_cert(out: &mut Vec<u8>, tls: Option<&PeerInfo>) -> bool {
    let certificate = tls.and_then(|tls| tls.certificate.as_ref());
    let pem = certificate.map(|der| crate::http::header_policy::xfcc::url_encoded_pem(der));
    put(out, pem.as_deref().map(str::as_bytes))
}
