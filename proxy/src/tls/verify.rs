//! Certificate verification: chains, pinned hashes, SANs.
//!
//! webpki builds and checks chains. Around it stands what Envoy accepts and webpki does not: a certificate that is itself trusted, a CA
//! certificate used as a leaf, no trust anchors at all (nothing is verified then, unless hashes are pinned).

use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};

use super::error::VerifyFailure;
use super::revocation::{Crl, Revocation};
use super::san::SanMatcher;
use super::spiffe::{self, TrustDomain};
use super::walk;
use super::x509::CertificateFacts;
use super::{error, material, signed};
use crate::config::route::{each, optional, refuse_all};
use crate::config::{Compiled, Problems, gather};

/// Trust anchors, parsed once per secret and shared by the contexts that use it.
#[derive(Debug)]
pub struct Trust {
    pub roots: Vec<CertificateDer<'static>>,
    pub anchors: Vec<TrustAnchor<'static>>,
    /// Lists that stand among the certificates.
    crls: Vec<Crl>,
    /// For `/certs`.
    pub path: String,
    /// See [`material::unnamed`].
    pub unnamed: String,
    /// `system_root_certs`
    pub is_system: bool,
    /// When the first one expires, in seconds since the epoch.
    pub not_after: i64,
}

/// What a peer's certificate must satisfy.
#[derive(Debug, Default)]
pub struct Policy {
    pub trust: Option<Arc<Trust>>,
    /// Of a SPIFFE validator: anchors by trust domain stand in for `trust`.
    pub domains: Vec<TrustDomain>,
    crls: Vec<Crl>,
    sans: Vec<SanMatcher>,
    hashes: Vec<[u8; 32]>,
    spkis: Vec<[u8; 32]>,
    allow_expired: bool,
    accept_untrusted: bool,
    leaf_crl_only: bool,
    max_depth: Option<u32>,
}

/// A validation context out of a secret.
#[derive(Debug)]
pub struct ValidationSecret {
    pub config: pb::CertificateValidationContext,
    pub trust: Option<Arc<Trust>>,
}

/// See [`Policy::unnamed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unnamed {
    Refused,
    /// `ACCEPT_UNTRUSTED`
    Counted,
    /// There is nothing to verify a name by: to Envoy's TLS library, which is asked to all the same, nobody has any.
    NobodyIsNamed,
}

/// What the peer is checked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Server,
    Client,
}

const TYPED_SANS: &str = "match_typed_subject_alt_names";

impl Trust {
    /// The anchors of `context`, if it has any.
    pub fn compile(context: &pb::CertificateValidationContext) -> Compiled<Option<Arc<Self>>> {
        let system = DataSource {
            specifier: Some(Specifier::Filename(SYSTEM_ROOTS.to_owned())),
            ..DataSource::default()
        };
        let source = match (&context.trusted_ca, &context.system_root_certs) {
            (Some(source), _) => source,
            (None, Some(_)) => &system,
            (None, None) => return Ok(None),
        };
        let mut trust = Self::read(source).map_err(|problems| problems.under("trusted_ca"))?;
        trust.is_system = context.trusted_ca.is_none();
        Ok(Some(Arc::new(trust)))
    }

    /// The anchors of a bundle.
    ///
    /// # Errors
    /// What cannot be read, or is no certificate.
    pub fn read(source: &DataSource) -> Compiled<Self> {
        let pem = material::read(source)?;
        let roots = material::certificates(&pem)?;
        let mut anchors = Vec::with_capacity(roots.len());
        for root in &roots {
            // A root of X.509 version 1 is no anchor for webpki; it may still be trusted as itself.
            if let Ok(anchor) = webpki::anchor_from_trusted_cert(root) {
                anchors.push(anchor.to_owned());
            } else if CertificateFacts::parse(root).is_none() {
                return Err(Problems::one("", "not an X.509 certificate"));
            }
        }
        let first = roots.first().and_then(|root| CertificateFacts::parse(root));
        Ok(Self {
            not_after: first.map_or(i64::MAX, |first| first.not_after),
            roots,
            anchors,
            crls: Crl::read(&pem)?,
            path: material::describe(Some(source)),
            unnamed: material::unnamed(Some(source)),
            is_system: false,
        })
    }
}

impl ValidationSecret {
    pub fn compile(config: pb::CertificateValidationContext) -> Compiled<Self> {
        gather! {
            let trust = Trust::compile(&config);
            let _fields = Policy::check_fields(Some(&config));
        }
        // The same checks as the contexts that will merge it, so that a bad secret is refused where it arrives.
        Policy::merged(
            None,
            Some(&Self {
                config: config.clone(),
                trust: trust.clone(),
            }),
        )?;
        let config = pb::CertificateValidationContext {
            trusted_ca: None,
            ..config
        };
        Ok(Self { config, trust })
    }
}

impl Policy {
    /// Merges an inline context with one out of a secret as `combined_validation_context` does: the secret's fields win, lists add up.
    ///
    /// # Errors
    /// What is wrong with a field, or with all of them together, by path.
    pub fn compile(
        inline: Option<&pb::CertificateValidationContext>,
        secret: Option<&ValidationSecret>,
    ) -> Compiled<Self> {
        let policy = Self::merged(inline, secret)?;
        if policy.anchors().next().is_none() && !policy.crls.is_empty() {
            return Err(Problems::one("crl", "failed to load CRL without trusted CA"));
        }
        Ok(policy)
    }

    /// As [`compile`](Self::compile), of a secret alone too, whose anchors may be another one's.
    fn merged(inline: Option<&pb::CertificateValidationContext>, secret: Option<&ValidationSecret>) -> Compiled<Self> {
        let mut policy = Self::default();
        let mut problems = Problems::default();
        for config in inline.into_iter().chain(secret.map(|secret| &secret.config)) {
            problems.keep(policy.merge(config));
        }
        policy.trust = match secret.and_then(|secret| secret.trust.clone()) {
            Some(trust) => Some(trust),
            None => problems.keep(inline.map_or(Ok(None), Trust::compile)).flatten(),
        };
        problems.into_result()?;
        if policy.anchors().next().is_none() && !policy.sans.is_empty() && !policy.pins() {
            return Err(Problems::one(
                TYPED_SANS,
                "SAN-based verification of peer certificates without trusted CA is insecure and not allowed",
            ));
        }
        Ok(policy)
    }

    /// Checks an inline context that a secret will complete.
    pub fn check_fields(inline: Option<&pb::CertificateValidationContext>) -> Compiled<()> {
        match inline {
            Some(config) => Self::default().merge(config),
            None => Ok(()),
        }
    }

    fn merge(&mut self, config: &pb::CertificateValidationContext) -> Compiled<()> {
        let refused = [
            (
                "ca_certificate_provider_instance",
                config.ca_certificate_provider_instance.is_some(),
            ),
            (
                "require_signed_certificate_timestamp",
                config
                    .require_signed_certificate_timestamp
                    .is_some_and(|wrapped| wrapped.value),
            ),
        ];
        #[allow(deprecated)]
        let untyped = &config.match_subject_alt_names;
        let validator = config.custom_validator_config.as_ref();
        gather! {
            let _supported = refuse_all(&refused.map(|(field, set)| (field, set, "not supported")));
            let domains = optional("custom_validator_config", validator, spiffe::compile);
            let typed = each(TYPED_SANS, &config.match_typed_subject_alt_names, SanMatcher::typed);
            let untyped = each("match_subject_alt_names", untyped, SanMatcher::untyped);
            let hashes = each("verify_certificate_hash", &config.verify_certificate_hash, |text| {
                hash_from_hex(text).ok_or_else(|| Problems::one("", "not a SHA-256 in hex"))
            });
            let spkis = each("verify_certificate_spki", &config.verify_certificate_spki, |text| {
                hash_from_base64(text).ok_or_else(|| Problems::one("", "not a SHA-256 in base64"))
            });
            let crls = optional("crl", config.crl.as_ref(), revocation_lists);
        }
        if let Some(domains) = domains {
            self.domains = domains;
        }
        self.sans.extend(typed.into_iter().chain(untyped));
        self.hashes.extend(hashes);
        self.spkis.extend(spkis);
        self.crls.extend(crls.into_iter().flatten());
        self.allow_expired |= config.allow_expired_certificate;
        self.accept_untrusted |= config.trust_chain_verification == 1;
        self.leaf_crl_only |= config.only_verify_leaf_cert_crl;
        self.max_depth = config.max_verify_depth.map(|wrapped| wrapped.value).or(self.max_depth);
        Ok(())
    }

    fn pins(&self) -> bool {
        !self.hashes.is_empty() || !self.spkis.is_empty()
    }

    /// Every set of anchors that a peer may be verified by.
    pub fn anchors(&self) -> impl Iterator<Item = &Trust> {
        let domains = self.domains.iter().map(|domain| &*domain.trust);
        let trust = self.trust.as_deref().filter(|_| self.domains.is_empty());
        domains.chain(trust)
    }

    /// A peer has to show who it is, whether or not it is asked to: names, pins or trust domains are configured, and nobody is let in untrusted.
    pub fn names_peers(&self) -> bool {
        !self.domains.is_empty() || (!self.accept_untrusted && (!self.sans.is_empty() || self.pins()))
    }

    /// Whether a server asks clients for certificates: only where it has something of its own to verify them by, as Envoy. What nobody has
    /// verified is nobody's identity.
    pub fn asks_clients(&self) -> bool {
        let own_anchors = self.anchors().any(|trust| !trust.is_system);
        self.accept_untrusted || own_anchors || !self.sans.is_empty() || self.pins()
    }

    /// What becomes of a peer whose certificate has not the name that a request wants.
    pub fn unnamed(&self) -> Unnamed {
        let verifies = self.anchors().next().is_some() || !self.sans.is_empty() || self.pins();
        match (verifies, self.accept_untrusted) {
            (false, _) => Unnamed::NobodyIsNamed,
            (true, true) => Unnamed::Counted,
            (true, false) => Unnamed::Refused,
        }
    }

    /// Checks a presented chain.
    ///
    /// # Errors
    /// [`error::SanMismatch`] for SANs, `ApplicationVerificationFailure` for pinned hashes, the chain's own errors otherwise.
    pub fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateError> {
        if !self.accept_untrusted {
            self.check_trust(leaf, intermediates, now, role, algorithms)?;
            return self.check_names(leaf);
        }
        // Whoever it is is let in, and what is wrong is counted; the SPIFFE validator does not look.
        if self.domains.is_empty() {
            let chain = self.check_trust(leaf, intermediates, now, role, algorithms);
            let names = chain.is_ok().then(|| self.check_names(leaf));
            let overlooked = match (chain, names) {
                (Err(_), _) => Some(VerifyFailure::Chain),
                (_, Some(Err(CertificateError::ApplicationVerificationFailure))) => Some(VerifyFailure::Hash),
                (_, Some(Err(_))) => Some(VerifyFailure::San),
                _ => None,
            };
            signed::note(|notes| notes.overlooked = overlooked);
        }
        Ok(())
    }

    fn check_trust(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateError> {
        let trust = match self.domains.is_empty() {
            true => self.trust.as_deref(),
            false => Some(spiffe::trust_for(&self.domains, leaf)?),
        };
        if let Some(trust) = trust {
            let checked = self.check_chain(trust, leaf, intermediates, now, role, algorithms);
            // Envoy's SPIFFE validator has one alert for everything.
            checked.map_err(|cause| match self.domains.is_empty() {
                true => cause,
                false => error::other(error::Refused(cause)),
            })?;
        }
        Ok(())
    }

    fn check_names(&self, leaf: &CertificateDer<'_>) -> Result<(), CertificateError> {
        if !self.pins() && self.sans.is_empty() {
            return Ok(());
        }
        let facts = CertificateFacts::parse(leaf).ok_or(CertificateError::BadEncoding)?;
        if self.pins() {
            let hash = hash_from_hex(&facts.sha256);
            let pinned =
                hash.is_some_and(|hash| self.hashes.contains(&hash)) || self.spkis.contains(&facts.spki_sha256);
            if !pinned {
                return Err(CertificateError::ApplicationVerificationFailure);
            }
        }
        if !self.sans.is_empty() && !self.sans.iter().any(|matcher| matcher.matches(&facts)) {
            return Err(error::other(error::SanMismatch(CertificateFacts::names(leaf))));
        }
        Ok(())
    }

    fn check_chain(
        &self,
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Result<(), CertificateError> {
        let lists = self.crls.iter().chain(&trust.crls);
        let revocation = Revocation::new(lists, now, self.leaf_crl_only, self.allow_expired);
        let is_anchor = trust.roots.iter().any(|root| root.as_ref() == leaf.as_ref());
        if is_anchor && revocation.is_empty() {
            return walk::check_validity(leaf, now, self.allow_expired);
        }
        let verify = |now| self.webpki(trust, leaf, intermediates, now, role, algorithms, &revocation);
        match verify(now) {
            Err(webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. }) if self.allow_expired => {
                let then = walk::common_validity(leaf, intermediates).unwrap_or(now);
                verify(then).map_err(error::from_webpki)
            }
            Err(webpki::Error::CaUsedAsEndEntity) if revocation.is_empty() => {
                let walk = walk::Walk {
                    trust,
                    intermediates,
                    now,
                    algorithms,
                    allow_expired: self.allow_expired,
                    max_depth: self.max_depth,
                };
                walk.check(leaf, role)
            }
            other => other.map_err(error::from_webpki),
        }
    }

    fn webpki(
        &self,
        trust: &Trust,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
        algorithms: &WebPkiSupportedAlgorithms,
        revocation: &Revocation<'_>,
    ) -> Result<(), webpki::Error> {
        let certificate = webpki::EndEntityCert::try_from(leaf)?;
        let usage = match role {
            Role::Server => webpki::KeyUsage::server_auth(),
            Role::Client => webpki::KeyUsage::client_auth(),
        };
        let path = certificate.verify_for_usage(
            algorithms.all,
            &trust.anchors,
            intermediates,
            now,
            usage,
            revocation.options(),
            None,
        )?;
        revocation.check_begun(&path)?;
        // The anchor counts, the leaf does not (`X509_VERIFY_PARAM_set_depth`, as BoringSSL reads it).
        let depth = path.intermediate_certificates().count() + 1;
        match self.max_depth {
            Some(limit) if depth > limit as usize => Err(webpki::Error::MaximumPathDepthExceeded),
            _ => Ok(()),
        }
    }
}

/// The lists of a `crl` field: at least one.
fn revocation_lists(source: &DataSource) -> Compiled<Vec<Crl>> {
    let lists = Crl::read(&material::read(source)?)?;
    match lists.is_empty() {
        true => Err(Problems::one("", "no revocation list in PEM")),
        false => Ok(lists),
    }
}

/// Envoy takes `openssl x509 -fingerprint`'s form too, with colons.
fn hash_from_hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(hash)
}

fn hash_from_base64(text: &str) -> Option<[u8; 32]> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    bytes.try_into().ok()
}

/// Debian's and Alpine's bundle; what `system_root_certs` means in a container.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
