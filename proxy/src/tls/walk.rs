//! The chain walk for leaves that webpki will not look at: CA certificates presented as a leaf (Envoy accepts them).

use std::time::Duration;

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verify::{Role, Trust};

/// One verification.
pub struct Walk<'a> {
    pub trust: &'a Trust,
    pub intermediates: &'a [CertificateDer<'a>],
    pub now: UnixTime,
    pub algorithms: &'a WebPkiSupportedAlgorithms,
    pub allow_expired: bool,
    /// `max_verify_depth`: certificates above the leaf, the anchor among them.
    pub max_depth: Option<u32>,
}

/// As deep as webpki goes.
const MAX_DEPTH: usize = 6;

impl Walk<'_> {
    /// Whether a path leads from `leaf` to an anchor. Stricter than a full path validation: name constraints anywhere end the walk.
    pub fn check(&self, leaf: &CertificateDer<'_>, role: Role) -> Result<(), CertificateError> {
        let certificate = parse(leaf)?;
        if let Ok(Some(usage)) = certificate.extended_key_usage() {
            let right = match role {
                Role::Server => usage.value.server_auth,
                Role::Client => usage.value.client_auth,
            };
            if !right && !usage.value.any {
                return Err(CertificateError::InvalidPurpose);
            }
        }
        self.step(leaf, 0)
    }

    fn step(&self, der: &CertificateDer<'_>, depth: usize) -> Result<(), CertificateError> {
        check_validity(der, self.now, self.allow_expired)?;
        if self.max_depth.is_some_and(|limit| depth + 1 > limit as usize) {
            return Err(CertificateError::UnknownIssuer);
        }
        let certificate = parse(der)?;
        if matches!(certificate.name_constraints(), Ok(Some(_)) | Err(_)) {
            return Err(CertificateError::UnknownIssuer);
        }
        if self
            .trust
            .roots
            .iter()
            .any(|root| self.issued(root, &certificate, depth))
        {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(CertificateError::UnknownIssuer);
        }
        for issuer in self.intermediates {
            if self.issued(issuer, &certificate, depth) && self.step(issuer, depth + 1).is_ok() {
                return Ok(());
            }
        }
        Err(CertificateError::UnknownIssuer)
    }

    /// Whether the certificate `issuer` may have signed `subject`, and has; `depth` certificates stand below `subject`.
    fn issued(&self, issuer: &CertificateDer<'_>, subject: &X509Certificate<'_>, depth: usize) -> bool {
        let (Ok(parsed), Ok(key)) = (parse(issuer), webpki::EndEntityCert::try_from(issuer)) else {
            return false;
        };
        if parsed.subject().as_raw() != subject.issuer().as_raw() {
            return false;
        }
        let may_sign = match parsed.basic_constraints() {
            Ok(Some(constraints)) => {
                let limit = constraints.value.path_len_constraint;
                constraints.value.ca && limit.is_none_or(|limit| limit as usize >= depth)
            }
            _ => false,
        };
        let key_usage = match parsed.key_usage() {
            Ok(Some(usage)) => usage.value.key_cert_sign(),
            Ok(None) => true,
            Err(_) => false,
        };
        let message = subject.tbs_certificate.as_ref();
        let signature = subject.signature_value.as_ref();
        may_sign
            && key_usage
            && check_validity(issuer, self.now, self.allow_expired).is_ok()
            && self
                .algorithms
                .all
                .iter()
                .any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
    }
}

/// Whether `now` lies in the certificate's validity.
pub fn check_validity(der: &CertificateDer<'_>, now: UnixTime, allow_expired: bool) -> Result<(), CertificateError> {
    let certificate = parse(der)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if allow_expired {
        return Ok(());
    }
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    match now > validity.not_after.timestamp() {
        true => Err(CertificateError::Expired),
        false => Ok(()),
    }
}

/// A moment at which all these certificates were valid, to check an expired chain at.
pub fn common_validity(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<UnixTime> {
    let starts = std::iter::once(leaf).chain(intermediates).filter_map(|der| {
        parse(der)
            .ok()
            .map(|certificate| certificate.validity().not_before.timestamp())
    });
    let latest = u64::try_from(starts.max()?).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(latest)))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|_| CertificateError::BadEncoding)
}
