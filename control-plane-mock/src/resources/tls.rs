//! TLS contexts. Certificates and trust anchors come from SDS over the aggregated stream.

use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    UpstreamTlsContext,
};
use remora_proto::pb::envoy::r#type::matcher::v3::StringMatcher;
use remora_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use remora_proto::pb::google::protobuf::BoolValue;

use super::{builder, from_ads, strings};

builder! {
    /// TLS on a listener; see [`tls_downstream`].
    DownstreamTlsBuilder => DownstreamTlsContext
}

builder! {
    /// TLS to a cluster; see [`tls_upstream`].
    UpstreamTlsBuilder => UpstreamTlsContext
}

/// Serves the certificate of this SDS secret; asks for no client certificate.
pub fn tls_downstream(certificate: &str) -> DownstreamTlsBuilder {
    let common = CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds(certificate)],
        ..Default::default()
    };
    DownstreamTlsBuilder {
        message: DownstreamTlsContext {
            common_tls_context: Some(common),
            ..DownstreamTlsContext::default()
        },
    }
}

/// Presents the certificate of one SDS secret (none if empty) and trusts what another one says.
pub fn tls_upstream(certificate: &str, validation: &str) -> UpstreamTlsBuilder {
    let mut common = CommonTlsContext::default();
    if !certificate.is_empty() {
        common.tls_certificate_sds_secret_configs.push(sds(certificate));
    }
    validate(&mut common, validation);
    UpstreamTlsBuilder {
        message: UpstreamTlsContext {
            common_tls_context: Some(common),
            ..UpstreamTlsContext::default()
        },
    }
}

impl DownstreamTlsBuilder {
    /// Checks client certificates against the anchors of this SDS secret.
    pub fn validation(self, secret: &str) -> Self {
        self.edit(|context| validate(context.common_tls_context.get_or_insert_default(), secret))
    }

    /// Refuses clients without a certificate.
    pub fn require_client_certificate(self) -> Self {
        self.edit(|context| context.require_client_certificate = Some(BoolValue { value: true }))
    }

    /// Protocols offered in ALPN, best first.
    pub fn alpn<T: Into<String>>(self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.edit(|context| context.common_tls_context.get_or_insert_default().alpn_protocols = strings(protocols))
    }

    /// Accepts only client certificates with this URI SAN (a SPIFFE id).
    pub fn san_uri_exact(self, uri: &str) -> Self {
        self.edit(|context| match_uri(context.common_tls_context.get_or_insert_default(), exact(uri)))
    }

    /// Accepts only client certificates with a URI SAN that starts so.
    pub fn san_uri_prefix(self, prefix: &str) -> Self {
        self.edit(|context| match_uri(context.common_tls_context.get_or_insert_default(), starts_with(prefix)))
    }
}

impl UpstreamTlsBuilder {
    /// Server name sent.
    pub fn sni(self, name: &str) -> Self {
        self.edit(|context| name.clone_into(&mut context.sni))
    }

    /// Protocols offered in ALPN, best first.
    pub fn alpn<T: Into<String>>(self, protocols: impl IntoIterator<Item = T>) -> Self {
        self.edit(|context| context.common_tls_context.get_or_insert_default().alpn_protocols = strings(protocols))
    }

    /// Accepts only servers with this URI SAN (a SPIFFE id).
    pub fn san_uri_exact(self, uri: &str) -> Self {
        self.edit(|context| match_uri(context.common_tls_context.get_or_insert_default(), exact(uri)))
    }

    /// Accepts only servers with a URI SAN that starts so.
    pub fn san_uri_prefix(self, prefix: &str) -> Self {
        self.edit(|context| match_uri(context.common_tls_context.get_or_insert_default(), starts_with(prefix)))
    }
}

impl From<DownstreamTlsBuilder> for DownstreamTlsContext {
    fn from(builder: DownstreamTlsBuilder) -> Self {
        builder.message
    }
}

impl From<UpstreamTlsBuilder> for UpstreamTlsContext {
    fn from(builder: UpstreamTlsBuilder) -> Self {
        builder.message
    }
}

fn sds(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(from_ads()),
    }
}

fn validate(common: &mut CommonTlsContext, secret: &str) {
    common.validation_context_type = Some(ValidationContextType::ValidationContextSdsSecretConfig(sds(secret)));
}

/// Adds a matcher for URI SANs; with anchors from SDS this needs Envoy's combined context.
fn match_uri(common: &mut CommonTlsContext, matcher: StringMatcher) {
    let matcher = SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(matcher),
        ..Default::default()
    };
    let mut combined = match common.validation_context_type.take() {
        Some(ValidationContextType::CombinedValidationContext(combined)) => combined,
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => CombinedCertificateValidationContext {
            validation_context_sds_secret_config: Some(secret),
            ..Default::default()
        },
        _ => CombinedCertificateValidationContext::default(),
    };
    let default: &mut CertificateValidationContext = combined.default_validation_context.get_or_insert_default();
    default.match_typed_subject_alt_names.push(matcher);
    common.validation_context_type = Some(ValidationContextType::CombinedValidationContext(combined));
}

fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}

fn starts_with(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(text.to_owned())),
        ..StringMatcher::default()
    }
}
