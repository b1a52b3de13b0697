//! What both sides share of a TLS context: where certificates and trust come from, and whether they are there.

use std::sync::Arc;

use pb::common_tls_context::ValidationContextType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::keys::{Entry, Keys};
use super::material::Certificate;
use super::params::{Params, Side};
use super::report::{CertificateDetails, CertificateReport};
use super::secret::{SecretCell, SecretValue};
use super::verify::Policy;
use super::x509::CertificateFacts;
use crate::config::route::{Under, each, refuse, refuse_all};
use crate::config::sources::ResourceKey;
use crate::config::{BuildContext, Compiled, Problems, gather};

/// A compiled `CommonTlsContext`.
pub struct Common {
    pub params: Params,
    pub alpn: Vec<Vec<u8>>,
    certificates: Vec<CertificateSource>,
    validation: Validation,
}

enum CertificateSource {
    Inline(Certificate),
    Secret(Arc<SecretCell>),
}

#[derive(Default)]
struct Validation {
    configured: bool,
    inline: Option<pb::CertificateValidationContext>,
    secret: Option<Arc<SecretCell>>,
    /// Of inline anchors: when each bundle's first certificate expires.
    expirations: Vec<(String, i64)>,
}

/// All that a rustls configuration is built from, at one moment.
pub struct Material {
    pub keys: Keys,
    /// The first certificate's, for `%DOWNSTREAM_LOCAL_…%`.
    pub local: Option<Arc<CertificateFacts>>,
    pub policy: Policy,
}

impl Common {
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(config: &pb::CommonTlsContext, side: Side, cx: &BuildContext) -> Compiled<Self> {
        #[allow(deprecated)]
        let refused = [
            (
                "tls_certificate_provider_instance",
                config.tls_certificate_provider_instance.is_some(),
            ),
            (
                "custom_tls_certificate_selector",
                config.custom_tls_certificate_selector.is_some(),
            ),
            (
                "tls_certificate_certificate_provider",
                config.tls_certificate_certificate_provider.is_some(),
            ),
            (
                "tls_certificate_certificate_provider_instance",
                config.tls_certificate_certificate_provider_instance.is_some(),
            ),
            ("custom_handshaker", config.custom_handshaker.is_some()),
            ("key_log", config.key_log.is_some()),
        ];
        gather! {
            let _supported = refuse_all(&refused.map(|(field, set)| (field, set, "not supported")));
            let alpn = alpn(&config.alpn_protocols);
            let params = Params::compile(config.tls_params.as_ref(), side).under("tls_params");
            let certificates = each("tls_certificates", &config.tls_certificates, Certificate::compile);
            let validation = Validation::compile(config.validation_context_type.as_ref(), cx);
        }
        let named = config.tls_certificate_sds_secret_configs.iter();
        let named = named.map(|secret| CertificateSource::Secret(cx.secrets.cell(key(secret, cx))));
        let inline = certificates.into_iter().map(CertificateSource::Inline);
        Ok(Self {
            params,
            alpn,
            certificates: inline.chain(named).collect(),
            validation,
        })
    }

    /// The secrets that the context depends on.
    pub fn cells(&self) -> impl Iterator<Item = &Arc<SecretCell>> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Secret(cell) => Some(cell),
            CertificateSource::Inline(_) => None,
        });
        certificates.chain(&self.validation.secret)
    }

    /// How many of them have been delivered.
    pub fn arrived(&self) -> u64 {
        self.cells().filter(|cell| cell.has_arrived()).count() as u64
    }

    /// Whether the peer's certificate is to be asked for at all.
    pub fn has_validation(&self) -> bool {
        self.validation.configured
    }

    /// `validation_context.suppress_client_ca_list`
    pub fn suppresses_client_ca_list(&self) -> bool {
        let inline = self.validation.inline.as_ref();
        inline.is_some_and(|context| context.suppress_client_ca_list)
    }

    /// What is there now; `None` while a secret is missing.
    pub fn material(&self) -> Option<Compiled<Material>> {
        let mut entries = Vec::new();
        let mut local = None;
        for source in &self.certificates {
            let mut take = |certificate: &Certificate| {
                entries.push(Entry::of(certificate));
                local.get_or_insert_with(|| certificate.leaf.clone());
            };
            match source {
                CertificateSource::Inline(certificate) => take(certificate),
                CertificateSource::Secret(cell) => match &*cell.value()? {
                    SecretValue::Certificate(certificate) => take(certificate),
                    SecretValue::Validation(_) => return Some(Err(wrong_kind(cell, "a certificate"))),
                },
            }
        }
        let secret = match &self.validation.secret {
            Some(cell) => Some((cell, cell.value()?)),
            None => None,
        };
        let inline = self.validation.inline.as_ref();
        let policy = match secret.as_ref().map(|(cell, value)| (cell, &**value)) {
            None => Policy::compile(inline, None),
            Some((_, SecretValue::Validation(context))) => Policy::compile(inline, Some(context)),
            Some((cell, SecretValue::Certificate(_))) => Err(wrong_kind(cell, "a validation context")),
        };
        Some(policy.map(|policy| Material {
            keys: Keys::new(entries),
            local,
            policy,
        }))
    }

    /// Each certificate's name in stats, and when it expires.
    pub fn expirations(&self, visit: &mut dyn FnMut(&str, i64)) {
        for source in &self.certificates {
            match source {
                CertificateSource::Inline(certificate) => {
                    visit(
                        &format!("unnamed_cert_{}", certificate.unnamed),
                        certificate.leaf.not_after,
                    );
                }
                CertificateSource::Secret(cell) => {
                    if let Some(SecretValue::Certificate(certificate)) = cell.value().as_deref() {
                        visit(cell.name(), certificate.leaf.not_after);
                    }
                }
            }
        }
        for (name, not_after) in &self.validation.expirations {
            visit(name, *not_after);
        }
        let secret = self.validation.secret.as_ref().map(|cell| (cell, cell.value()));
        if let Some((cell, Some(value))) = secret
            && let SecretValue::Validation(context) = &*value
            && let Some(trust) = &context.trust
        {
            visit(cell.name(), trust.not_after);
        }
    }

    /// For `/certs`.
    pub fn report(&self) -> CertificateReport {
        let mut report = CertificateReport::default();
        for source in &self.certificates {
            match source {
                CertificateSource::Inline(certificate) => {
                    report.chain.push(CertificateDetails::of_certificate(certificate));
                }
                CertificateSource::Secret(cell) => {
                    if let Some(SecretValue::Certificate(certificate)) = cell.value().as_deref() {
                        report.chain.push(CertificateDetails::of_certificate(certificate));
                    }
                }
            }
        }
        if let Some(Ok(material)) = self.material() {
            let trusted = material.policy.anchors().filter_map(CertificateDetails::of_trust);
            report.ca.extend(trusted);
        }
        report
    }
}

/// A comma separates names as the next entry does: Envoy joins all entries with commas and splits them again.
fn alpn(entries: &[String]) -> Compiled<Vec<Vec<u8>>> {
    let names: Vec<&str> = match entries {
        [only] if only.is_empty() => Vec::new(),
        _ => entries.iter().flat_map(|entry| entry.split(',')).collect(),
    };
    let is_long = names.iter().any(|name| name.len() > 255);
    let is_empty = names.iter().any(|name| name.is_empty());
    refuse("alpn_protocols", is_long, "a name has at most 255 bytes")?;
    refuse("alpn_protocols", is_empty, "a name has no bytes")?;
    Ok(names.iter().map(|name| name.as_bytes().to_vec()).collect())
}

fn key(secret: &pb::SdsSecretConfig, cx: &BuildContext) -> ResourceKey {
    cx.sources.key(&secret.name, secret.sds_config.as_ref())
}

impl Validation {
    fn compile(config: Option<&ValidationContextType>, cx: &BuildContext) -> Compiled<Self> {
        let cell = |secret: &pb::SdsSecretConfig| cx.secrets.cell(key(secret, cx));
        let (inline, secret, path) = match config {
            None => return Ok(Self::default()),
            Some(ValidationContextType::ValidationContext(context)) => {
                (Some(context.clone()), None, "validation_context")
            }
            Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
                (None, Some(cell(secret)), "validation_context_sds_secret_config")
            }
            Some(ValidationContextType::CombinedValidationContext(combined)) => (
                combined.default_validation_context.clone(),
                combined.validation_context_sds_secret_config.as_ref().map(cell),
                "combined_validation_context.default_validation_context",
            ),
            Some(_) => {
                return Err(Problems::one(
                    "validation_context_type",
                    "certificate providers are not supported",
                ));
            }
        };
        // A SAN list alone is fine where a secret brings the anchors; everything else can be checked now.
        let mut expirations = Vec::new();
        if secret.is_none() {
            let policy = Policy::compile(inline.as_ref(), None).map_err(|problems| problems.under(path))?;
            let trust = policy
                .trust
                .iter()
                .map(|trust| (format!("unnamed_ca_cert_{}", trust.unnamed), trust.not_after));
            let domains = policy.domains.iter().enumerate();
            let domains = domains.map(|(index, domain)| (format!("unnamed_ca_cert_{index}"), domain.trust.not_after));
            expirations = trust.chain(domains).collect();
        } else {
            Policy::check_fields(inline.as_ref()).map_err(|problems| problems.under(path))?;
        }
        Ok(Self {
            configured: true,
            inline,
            secret,
            expirations,
        })
    }
}

fn wrong_kind(cell: &SecretCell, wanted: &str) -> Problems {
    Problems::one("", format!("secret {} is not {wanted}", cell.name()))
}
