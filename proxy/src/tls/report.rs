//! What `/certs` shows of a TLS context.

use super::material::Certificate;
use super::verify::Trust;
use super::x509::CertificateFacts;

/// The certificates of one context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateReport {
    pub ca: Vec<CertificateDetails>,
    pub chain: Vec<CertificateDetails>,
}

/// `envoy.admin.v3.CertificateDetails`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateDetails {
    pub path: String,
    /// Lower-case hex.
    pub serial_number: String,
    pub dns_sans: Vec<String>,
    pub uri_sans: Vec<String>,
    pub ip_sans: Vec<String>,
    /// Seconds since the epoch.
    pub valid_from: i64,
    pub expiration_time: i64,
}

impl CertificateDetails {
    /// Whole days until expiry, 0 once expired; `now` in seconds since the epoch.
    pub fn days_until_expiration(&self, now: i64) -> u64 {
        u64::try_from((self.expiration_time - now) / 86_400).unwrap_or(0)
    }

    pub fn of_certificate(certificate: &Certificate) -> Self {
        Self::of(certificate.path.clone(), CertificateFacts::clone(&certificate.leaf))
    }

    /// Envoy shows the first certificate of a bundle.
    pub fn of_trust(trust: &Trust) -> Option<Self> {
        let facts = CertificateFacts::parse(trust.roots.first()?)?;
        Some(Self::of(trust.path.clone(), facts))
    }

    fn of(path: String, facts: CertificateFacts) -> Self {
        Self {
            path,
            serial_number: facts.serial,
            dns_sans: facts.dns_sans,
            uri_sans: facts.uri_sans,
            ip_sans: facts.ip_sans,
            valid_from: facts.not_before,
            expiration_time: facts.not_after,
        }
    }
}
