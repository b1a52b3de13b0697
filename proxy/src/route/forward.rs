//! `RouteAction`: everything about sending a request to a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::clusters::ClusterSpecifier;
use super::hash::HashPolicy;
use super::headers::HeaderKey;
use super::matcher::PathMatcher;
use super::retry::RetryPolicy;
use super::rewrite::{HostRewrite, PathRewrite, Substitution};
use super::uri_template;
use crate::config::live::Share;
use crate::config::route::{Under, duration, each, header_name, optional, refuse, refuse_all};
use crate::config::{Compiled, Problems, gather};

/// A compiled `envoy.config.route.v3.RouteAction`.
pub struct Forward {
    pub cluster: ClusterSpecifier,
    pub cluster_not_found: StatusCode,
    /// 15 s by default; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Overrides the connection manager's; `Some(None)`: no limit.
    pub idle_timeout: Option<Option<Duration>>,
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// The deprecated pair: `max_grpc_timeout` (zero: no cap) and `grpc_timeout_offset`.
    pub grpc_timeout: Option<(Duration, Option<Duration>)>,
    /// The route's, else the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    pub hedge_on_per_try_timeout: bool,
    pub high_priority: bool,
    pub hash_policies: Vec<HashPolicy>,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HostRewrite>,
    pub append_x_forwarded_host: bool,
    /// The most specific level that has any.
    pub mirrors: Arc<[Mirror]>,
    pub metadata_match: Option<Arc<Metadata>>,
    pub upgrades: Vec<RouteUpgrade>,
    pub internal_redirect: Option<InternalRedirect>,
    pub rate_limits: Vec<pbr::RateLimit>,
    /// `include_vh_rate_limits`
    pub include_vh_rate_limits: bool,
}

/// `RouteAction.max_stream_duration`; zero means no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaxStreamDuration {
    pub max: Option<Duration>,
    pub grpc_header_max: Option<Duration>,
    pub grpc_header_offset: Option<Duration>,
}

/// `RequestMirrorPolicy`
pub struct Mirror {
    pub cluster: MirrorTarget,
    /// `None`: always.
    pub fraction: Option<Share>,
    /// Whether the host gets `-shadow` in front of its port.
    pub shadow_suffix: bool,
    pub host_rewrite: Option<HeaderValue>,
    pub trace_sampled: Option<bool>,
}

pub enum MirrorTarget {
    Name(Arc<str>),
    Header(HeaderKey),
}

/// `RouteAction.UpgradeConfig`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteUpgrade {
    /// Lower-case.
    pub kind: String,
    pub enabled: bool,
    /// CONNECT is terminated here: its payload goes to the cluster as raw TCP.
    pub connect: Option<ConnectConfig>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectConfig {
    pub allow_post: bool,
}

/// `InternalRedirectPolicy`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalRedirect {
    pub max: u32,
    pub codes: Vec<u16>,
    pub allow_cross_scheme: bool,
    pub headers_to_copy: Vec<http::HeaderName>,
    pub predicates: Vec<RedirectPredicate>,
}

/// What an internal redirect must hold for beside its policy's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Only to routes of these names.
    AllowListed(Vec<Box<str>>),
    /// No route twice from the same one.
    PreviousRoutes,
    /// Never from plaintext to TLS: who asked in the clear was not authenticated.
    SafeCrossScheme,
}

/// What outer levels give a route that says nothing itself.
pub struct Inherited<'a> {
    pub retry: Option<&'a Arc<RetryPolicy>>,
    pub mirrors: &'a Arc<[Mirror]>,
    pub hedge_on_per_try_timeout: bool,
}

/// `RouteAction.timeout` when unset.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

impl Forward {
    /// Whether the request ends here, and its payload goes on over a connection without HTTP (`connect_config`).
    pub fn terminates<B>(&self, request: &http::Request<B>) -> bool {
        let upgrade = self.upgrades.iter().find(|upgrade| upgrade.kind == "connect");
        let Some(config) = upgrade.and_then(|upgrade| upgrade.connect.filter(|_| upgrade.enabled)) else {
            return false;
        };
        *request.method() == http::Method::CONNECT || (config.allow_post && *request.method() == http::Method::POST)
    }

    /// Straight to a cluster, with nothing of a route's own.
    pub fn plain() -> Self {
        Self {
            cluster: ClusterSpecifier::Name("".into()),
            cluster_not_found: StatusCode::SERVICE_UNAVAILABLE,
            timeout: None,
            idle_timeout: None,
            max_stream_duration: None,
            grpc_timeout: None,
            retry: None,
            hedge_on_per_try_timeout: false,
            high_priority: false,
            hash_policies: Vec::new(),
            path_rewrite: None,
            host_rewrite: None,
            append_x_forwarded_host: false,
            mirrors: Arc::default(),
            metadata_match: None,
            upgrades: Vec::new(),
            internal_redirect: None,
            rate_limits: Vec::new(),
            include_vh_rate_limits: false,
        }
    }

    #[allow(deprecated, reason = "deprecated fields are honoured or refused, never ignored")]
    pub fn compile(
        value: &pbr::RouteAction,
        matcher: Option<&PathMatcher>,
        inherited: &Inherited<'_>,
    ) -> Compiled<Self> {
        let max_stream = value.max_stream_duration.as_ref();
        let redirect = value.internal_redirect_policy.as_ref();
        gather! {
            let _supported = refuse_unsupported(value);
            let cluster = ClusterSpecifier::compile(value);
            let cluster_not_found = cluster_not_found(value.cluster_not_found_response_code);
            let own_retry = optional("retry_policy", value.retry_policy.as_ref(), RetryPolicy::compile);
            let own_mirrors = each("request_mirror_policies", &value.request_mirror_policies, Mirror::compile);
            let timeout = duration("timeout", value.timeout.as_ref());
            let idle_timeout = duration("idle_timeout", value.idle_timeout.as_ref());
            let max_grpc = duration("max_grpc_timeout", value.max_grpc_timeout.as_ref());
            let grpc_offset = duration("grpc_timeout_offset", value.grpc_timeout_offset.as_ref());
            let max_stream_duration = optional("max_stream_duration", max_stream, MaxStreamDuration::compile);
            let hedge = optional("hedge_policy", value.hedge_policy.as_ref(), hedge_policy);
            let hash_policies = each("hash_policy", &value.hash_policy, HashPolicy::compile);
            let path_rewrite = path_rewrite(value, matcher);
            let host_rewrite = host_rewrite(value);
            let upgrades = each("upgrade_configs", &value.upgrade_configs, RouteUpgrade::compile);
            let internal_redirect = optional("internal_redirect_policy", redirect, InternalRedirect::compile);
        }
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        Ok(Self {
            cluster,
            cluster_not_found,
            timeout: (!timeout.is_zero()).then_some(timeout),
            idle_timeout: idle_timeout.map(|timeout| (!timeout.is_zero()).then_some(timeout)),
            max_stream_duration,
            grpc_timeout: max_grpc.map(|max| (max, grpc_offset)),
            retry: own_retry.map(Arc::new).or_else(|| inherited.retry.cloned()),
            hedge_on_per_try_timeout: hedge.unwrap_or(inherited.hedge_on_per_try_timeout),
            high_priority: value.priority == 1,
            hash_policies,
            path_rewrite,
            host_rewrite,
            append_x_forwarded_host: value.append_x_forwarded_host,
            mirrors: if own_mirrors.is_empty() {
                inherited.mirrors.clone()
            } else {
                own_mirrors.into()
            },
            metadata_match: value.metadata_match.clone().map(Arc::new),
            upgrades,
            internal_redirect,
            rate_limits: value.rate_limits.clone(),
            include_vh_rate_limits: value.include_vh_rate_limits.is_some_and(|flag| flag.value),
        })
    }
}

#[allow(deprecated, reason = "deprecated fields are honoured or refused, never ignored")]
fn refuse_unsupported(value: &pbr::RouteAction) -> Compiled<()> {
    let unsupported = "is not supported";
    let use_policy = "use internal_redirect_policy instead";
    let typed_retry = value.retry_policy_typed_config.is_some();
    refuse_all(&[
        ("path_rewrite", !value.path_rewrite.is_empty(), unsupported),
        ("early_data_policy", value.early_data_policy.is_some(), unsupported),
        ("flush_timeout", value.flush_timeout.is_some(), unsupported),
        ("retry_policy_typed_config", typed_retry, unsupported),
        ("cors", value.cors.is_some(), "use typed_per_filter_config instead"),
        (
            "internal_redirect_action",
            value.internal_redirect_action != 0,
            use_policy,
        ),
        (
            "max_internal_redirects",
            value.max_internal_redirects.is_some(),
            use_policy,
        ),
    ])
}

/// `hedge_on_per_try_timeout`; the rest of the message is implemented by nobody.
pub(super) fn hedge_policy(value: &pbr::HedgePolicy) -> Compiled<bool> {
    let is_more = value.initial_requests.is_some_and(|requests| requests.value > 1);
    refuse("initial_requests", is_more, "is not supported")?;
    refuse(
        "additional_request_chance",
        value.additional_request_chance.is_some(),
        "is not supported",
    )?;
    Ok(value.hedge_on_per_try_timeout)
}

fn cluster_not_found(code: i32) -> Compiled<StatusCode> {
    match code {
        0 => Ok(StatusCode::SERVICE_UNAVAILABLE),
        1 => Ok(StatusCode::NOT_FOUND),
        2 => Ok(StatusCode::INTERNAL_SERVER_ERROR),
        other => {
            let reason = format!("unknown value {other}");
            Err(Problems::one("cluster_not_found_response_code", reason))
        }
    }
}

/// `matcher`: none if what the route matches is itself wrong.
fn path_rewrite(value: &pbr::RouteAction, matcher: Option<&PathMatcher>) -> Compiled<Option<PathRewrite>> {
    let set = [
        !value.prefix_rewrite.is_empty(),
        value.regex_rewrite.is_some(),
        value.path_rewrite_policy.is_some(),
    ];
    let both = set.into_iter().filter(|set| *set).count() > 1;
    refuse(
        "prefix_rewrite",
        both,
        "only one of prefix_rewrite, regex_rewrite and path_rewrite_policy may be set",
    )?;
    if !value.prefix_rewrite.is_empty() {
        return Ok(Some(PathRewrite::Prefix(value.prefix_rewrite.as_str().into())));
    }
    if let Some(regex) = &value.regex_rewrite {
        return Ok(Some(PathRewrite::Regex(
            Substitution::compile(regex).under("regex_rewrite")?,
        )));
    }
    let (Some(policy), Some(matcher)) = (&value.path_rewrite_policy, matcher) else {
        return Ok(None);
    };
    let PathMatcher::Template(template) = matcher else {
        return Err(Problems::one(
            "path_rewrite_policy",
            "needs a path_match_policy with a URI template",
        ));
    };
    let rewrite = uri_template::Rewrite::of_policy(policy, template).under("path_rewrite_policy")?;
    Ok(Some(PathRewrite::Template(rewrite)))
}

fn host_rewrite(value: &pbr::RouteAction) -> Compiled<Option<HostRewrite>> {
    use pbr::route_action::HostRewriteSpecifier as H;
    Ok(match &value.host_rewrite_specifier {
        // Empty, it rewrites nothing.
        Some(H::HostRewriteLiteral(host)) if host.is_empty() => None,
        Some(H::HostRewriteLiteral(host)) => {
            Some(HostRewrite::Literal(HeaderValue::from_str(host).map_err(|_| {
                Problems::one("host_rewrite_literal", "is not a header value")
            })?))
        }
        Some(H::AutoHostRewrite(auto)) => auto.value.then_some(HostRewrite::Auto),
        Some(H::HostRewriteHeader(name)) => Some(HostRewrite::Header(header_name("host_rewrite_header", name)?)),
        Some(H::HostRewritePathRegex(regex)) => Some(HostRewrite::PathRegex(
            Substitution::compile(regex).under("host_rewrite_path_regex")?,
        )),
        Some(H::HostRewrite(_)) => return Err(Problems::one("host_rewrite", "is not supported")),
        None => None,
    })
}

impl MaxStreamDuration {
    fn compile(value: &pbr::route_action::MaxStreamDuration) -> Compiled<Self> {
        Ok(Self {
            max: duration("max_stream_duration", value.max_stream_duration.as_ref())?,
            grpc_header_max: duration("grpc_timeout_header_max", value.grpc_timeout_header_max.as_ref())?,
            grpc_header_offset: duration("grpc_timeout_header_offset", value.grpc_timeout_header_offset.as_ref())?,
        })
    }
}

impl Mirror {
    pub(super) fn compile(value: &pbr::route_action::RequestMirrorPolicy) -> Compiled<Self> {
        refuse(
            "request_headers_mutations",
            !value.request_headers_mutations.is_empty(),
            "is not supported",
        )?;
        let cluster = match (value.cluster.is_empty(), value.cluster_header.is_empty()) {
            (false, true) => MirrorTarget::Name(value.cluster.as_str().into()),
            (true, false) => MirrorTarget::Header(HeaderKey::compile("cluster_header", &value.cluster_header)?),
            _ => {
                return Err(Problems::one(
                    "cluster",
                    "exactly one of cluster and cluster_header is needed",
                ));
            }
        };
        let host_rewrite = (!value.host_rewrite_literal.is_empty())
            .then(|| HeaderValue::from_str(&value.host_rewrite_literal))
            .transpose()
            .map_err(|_| Problems::one("host_rewrite_literal", "is not a header value"))?;
        Ok(Self {
            cluster,
            fraction: optional("runtime_fraction", value.runtime_fraction.as_ref(), Share::compile)?,
            shadow_suffix: !value.disable_shadow_host_suffix_append && host_rewrite.is_none(),
            host_rewrite,
            trace_sampled: value.trace_sampled.map(|sampled| sampled.value),
        })
    }
}

impl RouteUpgrade {
    fn compile(value: &pbr::route_action::UpgradeConfig) -> Compiled<Self> {
        let connect = value.connect_config.as_ref();
        let proxy_protocol = connect.is_some_and(|connect| connect.proxy_protocol_config.is_some());
        refuse(
            "connect_config.proxy_protocol_config",
            proxy_protocol,
            "is not supported",
        )?;
        Ok(Self {
            kind: value.upgrade_type.to_ascii_lowercase(),
            enabled: value.enabled.is_none_or(|enabled| enabled.value),
            connect: connect.map(|connect| ConnectConfig {
                allow_post: connect.allow_post,
            }),
        })
    }
}

impl InternalRedirect {
    fn compile(value: &pbr::InternalRedirectPolicy) -> Compiled<Self> {
        let allowed = |code: &u32| matches!(code, 301 | 302 | 303 | 307 | 308);
        // Envoy ignores codes that are no redirects.
        let codes: Vec<u16> = value
            .redirect_response_codes
            .iter()
            .filter(|code| allowed(code))
            .map(|code| *code as u16)
            .collect();
        Ok(Self {
            max: value.max_internal_redirects.map_or(1, |max| max.value),
            codes: if value.redirect_response_codes.is_empty() {
                vec![302]
            } else {
                codes
            },
            allow_cross_scheme: value.allow_cross_scheme_redirect,
            headers_to_copy: each("response_headers_to_copy", &value.response_headers_to_copy, |name| {
                header_name("", name)
            })?,
            predicates: each("predicates", &value.predicates, RedirectPredicate::compile)?,
        })
    }
}

impl RedirectPredicate {
    fn compile(value: &remora_proto::pb::envoy::config::core::v3::TypedExtensionConfig) -> Compiled<Self> {
        use remora_proto::pb::envoy::extensions::internal_redirect::allow_listed_routes::v3::AllowListedRoutesConfig;
        let any = value.typed_config.as_ref();
        let any = any.ok_or_else(|| Problems::one("typed_config", "is required"))?;
        match remora_proto::type_url::full_name(&any.type_url) {
            "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
                let config = AllowListedRoutesConfig::decode(any.value.as_slice())
                    .map_err(|error| Problems::one("typed_config", error.to_string()))?;
                let names = config.allowed_route_names.into_iter().map(Into::into);
                Ok(Self::AllowListed(names.collect()))
            }
            "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => Ok(Self::PreviousRoutes),
            "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
                Ok(Self::SafeCrossScheme)
            }
            other => Err(Problems::one("typed_config", format!("{other} is not supported"))),
        }
    }
}
