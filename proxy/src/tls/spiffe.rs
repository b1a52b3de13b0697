//! `envoy.tls.cert_validator.spiffe`: a peer is verified by the trust bundle of its own trust domain.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::SpiffeCertValidatorConfig;
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error;
use super::verify::Trust;
use super::x509::CertificateFacts;
use crate::config::route::refuse;
use crate::config::{Compiled, Problems};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// A trust domain and its anchors.
#[derive(Debug)]
pub struct TrustDomain {
    name: String,
    pub trust: Arc<Trust>,
}

/// Compiles a `custom_validator_config`.
///
/// # Errors
/// Any other validator, and what is wrong with the bundles, by path.
pub fn compile(config: &TypedExtensionConfig) -> Compiled<Vec<TrustDomain>> {
    let any = config.typed_config.as_ref().filter(|any| any.type_url == TYPE_URL);
    let any = any.ok_or_else(|| Problems::one("typed_config", "only the SPIFFE validator is supported"))?;
    let config = SpiffeCertValidatorConfig::decode(any.value.as_slice())
        .map_err(|error| Problems::one("typed_config", error.to_string()))?;
    refuse(
        "typed_config.trust_bundles",
        config.trust_bundles.is_some(),
        "not supported",
    )?;
    refuse(
        "typed_config.trust_domains",
        config.trust_domains.is_empty(),
        "required",
    )?;
    let mut domains: Vec<TrustDomain> = Vec::new();
    for (index, domain) in config.trust_domains.iter().enumerate() {
        let path = |field: &str| format!("typed_config.trust_domains[{index}].{field}");
        refuse(
            &path("workload_trust_domain"),
            !domain.workload_trust_domain.is_empty(),
            "not supported",
        )?;
        let twice = domains.iter().any(|known| known.name == domain.name);
        refuse(
            &path("name"),
            twice,
            "multiple trust bundles are given for one trust domain",
        )?;
        let bundle = domain.trust_bundle.as_ref();
        let bundle = bundle.ok_or_else(|| Problems::one(path("trust_bundle"), "required"))?;
        domains.push(TrustDomain {
            name: domain.name.clone(),
            trust: Arc::new(Trust::read(bundle).map_err(|problems| problems.under(&path("trust_bundle")))?),
        });
    }
    Ok(domains)
}

/// The anchors for a leaf: those of the first of its URI names that is of a known trust domain.
///
/// # Errors
/// A leaf that is no X.509-SVID, or of no known trust domain.
pub fn trust_for<'a>(domains: &'a [TrustDomain], leaf: &CertificateDer<'_>) -> Result<&'a Trust, CertificateError> {
    let facts = CertificateFacts::parse(leaf).ok_or(CertificateError::BadEncoding)?;
    if !is_leaf(leaf) {
        return Err(CertificateError::InvalidPurpose);
    }
    let domain_of = |uri: &String| {
        let name = uri.strip_prefix("spiffe://")?.split('/').next()?.to_owned();
        domains.iter().find(|domain| domain.name == name)
    };
    let domain = facts.uri_sans.iter().find_map(domain_of);
    domain
        .map(|domain| &*domain.trust)
        .ok_or_else(|| error::other(error::NoTrustBundle))
}

/// No CA, and not allowed to sign certificates or revocation lists (X509-SVID, section 4); one that does not say what it may do (key usage) is
/// none to Envoy either.
fn is_leaf(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let is_ca = matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign() || usage.value.crl_sign(),
        Ok(None) | Err(_) => true,
    };
    !is_ca && !signs
}
