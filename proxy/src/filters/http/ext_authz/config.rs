//! The filter's configuration, checked and compiled.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;
use remora_proto::pb::envoy::r#type::matcher::v3::ListStringMatcher;

use super::grpc::GrpcService;
use super::http_service::HttpService;
use crate::config::live::{Share, Switch};
use crate::config::route::{Under, duration, each, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::filters::http::FilterContext;
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::route::strings::{MetadataMatcher, StringMatcher};

pub(super) struct ExtAuthz {
    pub service: Service,
    pub failure_mode_allow: bool,
    pub failure_mode_header: bool,
    pub buffering: Option<Buffering>,
    pub clear_route_cache: bool,
    pub status_on_error: StatusCode,
    pub validate: bool,
    pub charge_cluster: bool,
    pub stat_prefix: String,
    /// Which headers a check carries.
    pub headers: HeaderChoice,
    pub raw_headers: bool,
    pub certificate: bool,
    pub tls_session: bool,
    /// Namespaces of dynamic metadata that a check carries.
    pub metadata: Vec<String>,
    enabled: Option<Share>,
    enabled_by: Option<MetadataMatcher>,
    pub deny_at_disable: Switch,
}

pub(super) enum Service {
    Grpc(GrpcService),
    Http(Box<HttpService>),
}

/// `with_request_body`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffering {
    /// Bytes.
    pub limit: usize,
    pub partial: bool,
    pub as_bytes: bool,
}

/// A list of matchers for header names; an absent list is `None`.
pub(super) struct HeaderChoice {
    pub allowed: Option<Vec<StringMatcher>>,
    pub disallowed: Vec<StringMatcher>,
}

impl HeaderChoice {
    /// `otherwise`: whether a header goes along where no list of allowed ones is given.
    pub fn takes(&self, name: &str, otherwise: bool) -> bool {
        let allowed = match &self.allowed {
            Some(allowed) => any(allowed, name),
            None => otherwise,
        };
        allowed && !any(&self.disallowed, name)
    }
}

pub(super) fn any(matchers: &[StringMatcher], name: &str) -> bool {
    matchers.iter().any(|matcher| matcher.matches(name.as_bytes()))
}

pub(super) fn names(list: &ListStringMatcher) -> Compiled<Vec<StringMatcher>> {
    each("patterns", &list.patterns, StringMatcher::compile)
}

impl ExtAuthz {
    #[allow(
        deprecated,
        reason = "istiod still sends headers for HTTP services in the older field"
    )]
    pub fn compile(bytes: &[u8], cx: &FilterContext<'_>) -> Compiled<Self> {
        let config = pb::ExtAuthz::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
        let mut allowed = optional("allowed_headers", config.allowed_headers.as_ref(), names)?;
        let service = match &config.services {
            Some(pb::ext_authz::Services::GrpcService(service)) => {
                Service::Grpc(GrpcService::compile(service, cx.build).under("grpc_service")?)
            }
            Some(pb::ext_authz::Services::HttpService(service)) => {
                let request = service.authorization_request.as_ref();
                let older = request.and_then(|request| request.allowed_headers.as_ref());
                let path = "http_service.authorization_request.allowed_headers";
                allowed = allowed.or(optional(path, older, names)?);
                Service::Http(Box::new(HttpService::compile(service, cx).under("http_service")?))
            }
            None => return Err(Problems::one("services", "a gRPC or HTTP service is required")),
        };
        let enabled = config.filter_enabled.as_ref();
        Ok(Self {
            service,
            failure_mode_allow: config.failure_mode_allow,
            failure_mode_header: config.failure_mode_allow_header_add,
            buffering: optional(
                "with_request_body",
                config.with_request_body.as_ref(),
                Buffering::compile,
            )?,
            clear_route_cache: config.clear_route_cache,
            status_on_error: status(config.status_on_error.as_ref())?,
            validate: config.validate_mutations,
            charge_cluster: config.charge_cluster_response_stats.is_none_or(|charge| charge.value),
            stat_prefix: config.stat_prefix.clone(),
            headers: HeaderChoice {
                allowed,
                disallowed: optional("disallowed_headers", config.disallowed_headers.as_ref(), names)?
                    .unwrap_or_default(),
            },
            raw_headers: config.encode_raw_headers,
            certificate: config.include_peer_certificate,
            tls_session: config.include_tls_session,
            metadata: config.metadata_context_namespaces.clone(),
            enabled: optional("filter_enabled", enabled, Share::compile)?,
            enabled_by: optional(
                "filter_enabled_metadata",
                config.filter_enabled_metadata.as_ref(),
                MetadataMatcher::compile,
            )?,
            deny_at_disable: Switch::compile(config.deny_at_disable.as_ref(), false),
        })
    }

    pub fn is_enabled(&self, exchange: &Exchange) -> bool {
        let by_chance = self
            .enabled
            .as_ref()
            .is_none_or(|share| share.contains(exchange.random));
        let metadata = exchange.extensions.get::<DynamicMetadata>();
        by_chance && self.enabled_by.as_ref().is_none_or(|matcher| matcher.matches(metadata))
    }
}

impl Buffering {
    fn compile(value: &pb::BufferSettings) -> Compiled<Self> {
        Ok(Self {
            limit: value.max_request_bytes as usize,
            partial: value.allow_partial_message,
            as_bytes: value.pack_as_bytes,
        })
    }
}

fn status(value: Option<&remora_proto::pb::envoy::r#type::v3::HttpStatus>) -> Compiled<StatusCode> {
    let Some(value) = value else {
        return Ok(StatusCode::FORBIDDEN);
    };
    let code = u16::try_from(value.code).ok();
    code.and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Problems::one("status_on_error.code", format!("{} is no status", value.code)))
}

/// The timeout of a call: Envoy's default for both kinds of service is 200 ms.
pub(super) fn call_timeout(
    field: &str,
    value: Option<&remora_proto::pb::google::protobuf::Duration>,
) -> Compiled<Duration> {
    const DEFAULT: Duration = Duration::from_millis(200);
    Ok(duration(field, value)?.unwrap_or(DEFAULT))
}

/// `ExtAuthzPerRoute`
#[derive(Default)]
pub(super) struct RouteRule {
    pub disabled: bool,
    pub context_extensions: HashMap<String, String>,
    pub unbuffered: bool,
    pub buffering: Option<Buffering>,
}

impl RouteRule {
    pub fn compile(bytes: &[u8]) -> Compiled<Self> {
        use pb::ext_authz_per_route::Override;
        let config = pb::ExtAuthzPerRoute::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
        match &config.r#override {
            Some(Override::Disabled(disabled)) => Ok(Self {
                disabled: *disabled,
                ..Self::default()
            }),
            Some(Override::CheckSettings(settings)) => {
                refuse(
                    "check_settings.service_override",
                    settings.service_override.is_some(),
                    "is not supported",
                )?;
                Ok(Self {
                    disabled: false,
                    context_extensions: settings.context_extensions.clone(),
                    unbuffered: settings.disable_request_body_buffering,
                    buffering: optional(
                        "check_settings.with_request_body",
                        settings.with_request_body.as_ref(),
                        Buffering::compile,
                    )?,
                })
            }
            None => Err(Problems::one("override", "is required")),
        }
    }
}
