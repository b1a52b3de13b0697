//! The policy of a context behind rustls's verifier traits.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::verify::{Policy, Role};
use super::x509::CertificateFacts;
use super::{error, signed};

/// Verifies peers of one context.
#[derive(Debug)]
pub struct PeerVerifier {
    pub policy: Policy,
    pub algorithms: WebPkiSupportedAlgorithms,
    /// A client without a certificate is refused.
    pub mandatory: bool,
    /// Names of accepted authorities, sent to clients.
    pub hints: Vec<DistinguishedName>,
    /// `auto_sni_san_validation`
    pub sni_is_san: bool,
}

impl PeerVerifier {
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<(), Error> {
        self.policy
            .check(leaf, intermediates, now, role, &self.algorithms)
            .map_err(Error::InvalidCertificate)
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, now, Role::Server)?;
        if self.sni_is_san && matches!(name, ServerName::DnsName(_)) {
            let facts = CertificateFacts::parse(leaf).ok_or(CertificateError::BadEncoding)?;
            if !super::san::names_host(&facts, &name.to_str()) {
                return Err(error::other(error::SanMismatch(CertificateFacts::names(leaf))).into());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed::note(|notes| notes.scheme = Some(signed.scheme));
        may_sign(certificate)?;
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed::note(|notes| notes.scheme = Some(signed.scheme));
        may_sign(certificate)?;
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        in_order(&self.algorithms)
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Err(error) = self.check(leaf, intermediates, now, Role::Client) {
            let chain = std::iter::once(leaf).chain(intermediates);
            let chain = chain.map(|certificate| Arc::from(certificate.as_ref())).collect();
            signed::note(|notes| notes.refused = chain);
            return Err(error);
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed::note(|notes| notes.scheme = Some(signed.scheme));
        may_sign(certificate)?;
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        signed::note(|notes| notes.scheme = Some(signed.scheme));
        may_sign(certificate)?;
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        in_order(&self.algorithms)
    }
}

fn may_sign(certificate: &CertificateDer<'_>) -> Result<(), Error> {
    match CertificateFacts::may_sign(certificate) {
        true => Ok(()),
        false => {
            signed::note(|notes| notes.refused = vec![Arc::from(certificate.as_ref())]);
            Err(error::other(error::MayNotSign).into())
        }
    }
}

/// What peers may sign with, in BoringSSL's order: the cheapest first. rustls would have the strongest first.
fn in_order(algorithms: &WebPkiSupportedAlgorithms) -> Vec<SignatureScheme> {
    let place = |scheme: &SignatureScheme| PREFERRED.iter().position(|known| known == scheme);
    let mut schemes = algorithms.supported_schemes();
    schemes.sort_by_key(|scheme| place(scheme).unwrap_or(PREFERRED.len()));
    schemes
}

const PREFERRED: [SignatureScheme; 8] = [
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PKCS1_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
    SignatureScheme::RSA_PKCS1_SHA512,
];
