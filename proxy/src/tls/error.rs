//! From rustls's errors to Envoy's words (`transport_failure_reason`) and stats.

use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error};

use super::TlsError;

/// What verification found wrong: each has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyFailure {
    NoCertificate,
    Chain,
    San,
    Hash,
}

/// None of the certificate's names is wanted.
#[derive(Debug, thiserror::Error)]
#[error("SAN matcher, certificate SANs are [{}]", .0.join(", "))]
pub struct SanMismatch(pub Vec<String>);

/// No name of the certificate is of a known trust domain.
#[derive(Debug, thiserror::Error)]
#[error("no trust bundle store")]
pub struct NoTrustBundle;

/// A chain that is refused, without an alert of its own.
#[derive(Debug, thiserror::Error)]
#[error("{}", verify_words(.0))]
pub struct Refused(pub CertificateError);

/// A peer signs with a key whose certificate does not let it.
#[derive(Debug, thiserror::Error)]
#[error("key usage bit incorrect")]
pub struct MayNotSign;

/// A reason of ours as rustls carries it; the peer hears `certificate_unknown`, as from Envoy.
pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> CertificateError {
    CertificateError::Other(rustls::OtherError(std::sync::Arc::new(error)))
}

/// The error of a handshake, out of what tokio-rustls reports.
pub fn from_io(error: std::io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(inner) => told(inner),
        None => TlsError::Io(error),
    }
}

pub fn from_rustls(error: Error) -> TlsError {
    told(&error)
}

fn told(error: &Error) -> TlsError {
    match error {
        Error::NoCertificatesPresented => TlsError::Verify(
            VerifyFailure::NoCertificate,
            openssl(
                192,
                "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate",
            ),
        ),
        Error::InvalidCertificate(CertificateError::Other(other)) if other.0.is::<MayNotSign>() => {
            TlsError::Handshake(openssl(287, "KEY_USAGE_BIT_INCORRECT"))
        }
        Error::InvalidCertificate(cause) => {
            let failure = match cause {
                CertificateError::NotValidForName => VerifyFailure::San,
                CertificateError::Other(other) if other.0.is::<SanMismatch>() => VerifyFailure::San,
                CertificateError::ApplicationVerificationFailure => VerifyFailure::Hash,
                _ => VerifyFailure::Chain,
            };
            let code = format!("CERTIFICATE_VERIFY_FAILED:verify cert failed: {}", verify_words(cause));
            TlsError::Verify(failure, openssl(125, &code))
        }
        Error::AlertReceived(alert) => TlsError::Handshake(alert_reason(*alert)),
        Error::InvalidMessage(_) => TlsError::Handshake(openssl(247, "WRONG_VERSION_NUMBER")),
        Error::PeerIncompatible(cause) => {
            use rustls::PeerIncompatible as P;
            TlsError::Handshake(match cause {
                P::NoCipherSuitesInCommon => openssl(184, "NO_SHARED_CIPHER"),
                P::NoKxGroupsInCommon => openssl(266, "NO_SHARED_GROUP"),
                P::ServerDoesNotSupportTls12Or13
                | P::Tls12NotOffered
                | P::Tls12NotOfferedOrEnabled
                | P::Tls13RequiredForQuic
                | P::SupportedVersionsExtensionRequired
                | P::ServerTlsVersionIsDisabledByOurConfig => openssl(240, "UNSUPPORTED_PROTOCOL"),
                other => format!("{other:?}:TLS_error_end"),
            })
        }
        other => TlsError::Handshake(format!("{other}:TLS_error_end")),
    }
}

/// BoringSSL's packed code (library 16) and text.
fn openssl(reason: u32, name: &str) -> String {
    let code = (16 << 24) | reason;
    format!("{code}:SSL routines:OPENSSL_internal:{name}:TLS_error_end")
}

fn alert_reason(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    let name = match number {
        40 => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        42 => "SSLV3_ALERT_BAD_CERTIFICATE",
        43 => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        44 => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        45 => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        46 => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        47 => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        48 => "TLSV1_ALERT_UNKNOWN_CA",
        49 => "TLSV1_ALERT_ACCESS_DENIED",
        50 => "TLSV1_ALERT_DECODE_ERROR",
        51 => "TLSV1_ALERT_DECRYPT_ERROR",
        70 => "TLSV1_ALERT_PROTOCOL_VERSION",
        71 => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        80 => "TLSV1_ALERT_INTERNAL_ERROR",
        112 => "TLSV1_ALERT_UNRECOGNIZED_NAME",
        116 => "TLSV1_ALERT_CERTIFICATE_REQUIRED",
        120 => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        _ => return openssl(1000 + u32::from(number), &format!("ALERT_{number}")),
    };
    openssl(1000 + u32::from(number), name)
}

fn verify_words(cause: &CertificateError) -> String {
    let chain = |text: &str| format!("X509_verify_cert: certificate verification error at depth 0: {text}");
    match cause {
        CertificateError::NotValidForName => "verify SAN list".to_owned(),
        CertificateError::ApplicationVerificationFailure => "cert hash and spki".to_owned(),
        CertificateError::UnknownIssuer => chain("unable to get local issuer certificate"),
        CertificateError::Expired => chain("certificate has expired"),
        CertificateError::NotValidYet => chain("certificate is not yet valid"),
        // See `from_webpki`.
        CertificateError::ExpiredContext { .. } => chain("CRL has expired"),
        CertificateError::NotValidYetContext { .. } => chain("CRL is not yet valid"),
        CertificateError::Revoked => {
            chain("certificate revocation check against provided CRLs failed: certificate revoked")
        }
        CertificateError::UnknownRevocationStatus => chain("unable to get certificate CRL"),
        CertificateError::BadSignature => chain("certificate signature failure"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            chain("unsupported certificate purpose")
        }
        CertificateError::Other(other) if is_ours(other) => other.0.to_string(),
        other => chain(&other.to_string()),
    }
}

fn is_ours(error: &rustls::OtherError) -> bool {
    error.0.is::<SanMismatch>() || error.0.is::<NoTrustBundle>() || error.0.is::<Refused>()
}

/// The reason for a certificate that has not the name that a request wants.
pub fn not_named() -> String {
    let words = verify_words(&CertificateError::NotValidForName);
    openssl(125, &format!("CERTIFICATE_VERIFY_FAILED:verify cert failed: {words}"))
}

/// The reason where there is nothing to verify a certificate by, and it has to be.
pub fn unverified() -> String {
    openssl(125, "CERTIFICATE_VERIFY_FAILED")
}

/// In rustls's words.
pub fn from_webpki(error: webpki::Error) -> CertificateError {
    match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::CertExpired { .. } | webpki::Error::InvalidCertValidity => CertificateError::Expired,
        // The peer hears the same alert of a list as of a certificate, as from BoringSSL: of lists alone we tell the context.
        webpki::Error::CrlExpired { time, next_update } if time < next_update => CertificateError::NotValidYetContext {
            time,
            not_before: next_update,
        },
        webpki::Error::CrlExpired { time, next_update } => CertificateError::ExpiredContext {
            time,
            not_after: next_update,
        },
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        webpki::Error::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(rustls::OtherError(Arc::new(other))),
    }
}
