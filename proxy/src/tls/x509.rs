//! What the rest of the proxy wants to know of a certificate.

use std::fmt::Write;
use std::net::IpAddr;

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The parts of one certificate that matching, logging and `/certs` read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateFacts {
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    pub ip_sans: Vec<String>,
    pub email_sans: Vec<String>,
    /// What a server with this certificate is called: its DNS names, or its common name where it has no alternative names of any kind.
    pub server_names: Vec<String>,
    /// The curve of an ECDSA key.
    pub curve: Option<rustls::NamedGroup>,
    /// Values of `otherName`s that are texts.
    pub other_sans: Vec<String>,
    /// Of the same, their types as dotted numbers.
    pub other_san_types: Vec<String>,
    pub subject: String,
    pub issuer: String,
    /// Lower-case hex without leading zeros.
    pub serial: String,
    /// Of the DER, lower-case hex.
    pub sha256: String,
    /// SHA-256 of the subject public key info.
    pub spki_sha256: [u8; 32],
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
}

impl CertificateFacts {
    /// `None` when `der` is no certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut facts = Self {
            subject: rfc2253(certificate.subject()),
            issuer: rfc2253(certificate.issuer()),
            serial: hex(trim_zeros(certificate.raw_serial())),
            sha256: hex(&Sha256::digest(der)),
            spki_sha256: Sha256::digest(certificate.public_key().raw).into(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            curve: curve(&certificate),
            ..Self::default()
        };
        let common_names = certificate.subject().iter_common_name();
        facts.server_names = common_names
            .take(1)
            .filter_map(|name| name.as_str().ok())
            .map(str::to_owned)
            .collect();
        if let Ok(Some(extension)) = certificate.subject_alternative_name() {
            extension
                .value
                .general_names
                .iter()
                .for_each(|name| facts.add_san(name));
            facts.server_names.clone_from(&facts.dns_sans);
        }
        Some(facts)
    }

    /// Whether a certificate's key may sign handshakes: it has no key usage, or one with `digitalSignature` (RFC 5280, 4.2.1.3).
    pub fn may_sign(der: &[u8]) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return false;
        };
        match certificate.key_usage() {
            Ok(usage) => usage.is_none_or(|usage| usage.value.digital_signature()),
            Err(_) => false,
        }
    }

    /// All names that a certificate has, in its order.
    pub fn names(der: &[u8]) -> Vec<String> {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return Vec::new();
        };
        let Ok(Some(extension)) = certificate.subject_alternative_name() else {
            return Vec::new();
        };
        let mut names = Vec::new();
        for name in &extension.value.general_names {
            let mut one = Self::default();
            one.add_san(name);
            let kinds = [one.dns_sans, one.uri_sans, one.email_sans, one.ip_sans, one.other_sans];
            names.extend(kinds.into_iter().flatten());
        }
        names
    }

    fn add_san(&mut self, name: &GeneralName<'_>) {
        match name {
            GeneralName::URI(uri) => self.uri_sans.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => self.dns_sans.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => self.email_sans.push((*email).to_owned()),
            GeneralName::IPAddress(octets) => self.ip_sans.extend(ip(octets).map(|ip| ip.to_string())),
            GeneralName::OtherName(kind, value) => {
                if let Some(text) = other_name(value) {
                    self.other_sans.push(text);
                    self.other_san_types.push(kind.to_id_string());
                }
            }
            _ => {}
        }
    }
}

fn curve(certificate: &X509Certificate<'_>) -> Option<rustls::NamedGroup> {
    let parameters = certificate.public_key().algorithm.parameters.as_ref()?;
    match parameters.as_oid().ok()?.to_id_string().as_str() {
        "1.2.840.10045.3.1.7" => Some(rustls::NamedGroup::secp256r1),
        "1.3.132.0.34" => Some(rustls::NamedGroup::secp384r1),
        "1.3.132.0.35" => Some(rustls::NamedGroup::secp521r1),
        _ => None,
    }
}

/// The text inside an `otherName`'s value: `[0] EXPLICIT` some string.
fn other_name(value: &[u8]) -> Option<String> {
    let (_, explicit) = x509_parser::der_parser::der::parse_der(value).ok()?;
    let inner = explicit.content.as_slice().ok()?;
    let (_, text) = x509_parser::der_parser::der::parse_der(inner).ok()?;
    String::from_utf8(text.content.as_slice().ok()?.to_vec()).ok()
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn trim_zeros(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => bytes,
    }
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

/// A name as OpenSSL's `XN_FLAG_RFC2253` prints it: last component first.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for rdn in name.iter_rdn() {
        let attributes: Vec<String> = rdn
            .iter()
            .map(|attribute| {
                let oid = attribute.attr_type().to_id_string();
                let value = attribute.as_str().unwrap_or_default();
                format!("{}={}", short_name(&oid), escape(value))
            })
            .collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (index, character) in value.char_indices() {
        let edge = (index == 0 && matches!(character, ' ' | '#')) || (index == last && character == ' ');
        if edge || matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn short_name(oid: &str) -> &str {
    const NAMES: &[(&str, &str)] = &[
        ("2.5.4.3", "CN"),
        ("2.5.4.4", "SN"),
        ("2.5.4.5", "serialNumber"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "street"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("2.5.4.12", "title"),
        ("2.5.4.42", "GN"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("0.9.2342.19200300.100.1.25", "DC"),
        ("1.2.840.113549.1.9.1", "emailAddress"),
    ];
    NAMES
        .iter()
        .find(|(known, _)| *known == oid)
        .map_or(oid, |(_, name)| name)
}
