//! Virtual hosts and routes in their runtime form.

use std::sync::Arc;

use http::HeaderValue;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::clusters::{ClusterSpecifier, WeightedEntry};
use super::forward::{Forward, Inherited, Mirror, hedge_policy};
use super::headers::HeaderMatcher;
use super::matcher::{PathMatcher, RouteMatcher};
use super::per_filter::{PerFilter, PerFilterEntry};
use super::redirect::{DirectResponse, Redirect};
use super::retry::RetryPolicy;
use super::stats::{RouteStats, VirtualCluster};
use super::table::TableSettings;
use super::view::RequestView;
use crate::config::route::{Fraction, Under, each, optional, refuse, refuse_all};
use crate::config::{Compiled, Problems, gather};
use crate::http::header_policy::mutations::LevelMutations;
use crate::http::header_policy::request_id::Sampling;

/// A compiled virtual host.
pub struct VirtualHost {
    pub settings: Arc<HostSettings>,
    routes: Vec<Arc<Route>>,
    /// What `require_tls` answers with, if it is set.
    to_https: Option<(TlsRequirement, Arc<Route>)>,
}

/// What a virtual host's routes share.
pub struct HostSettings {
    pub name: Arc<str>,
    pub table: Arc<TableSettings>,
    pub mutations: LevelMutations,
    pub per_filter: PerFilter,
    pub include_request_attempt_count: bool,
    pub include_attempt_count_in_response: bool,
    pub include_is_timeout_retry_header: bool,
    /// Bytes; `request_body_buffer_limit`, else the deprecated `per_request_buffer_limit_bytes`.
    pub request_buffer_limit: Option<u64>,
    pub metadata: Option<Arc<Metadata>>,
    pub rate_limits: Vec<pbr::RateLimit>,
    /// In their order; the last one, `other`, takes the rest.
    virtual_clusters: Vec<Arc<VirtualCluster>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TlsRequirement {
    External,
    All,
}

impl TlsRequirement {
    /// `VirtualHost.require_tls`; `None`: no requirement.
    fn compile(value: i32) -> Compiled<Option<Self>> {
        match value {
            0 => Ok(None),
            1 => Ok(Some(Self::External)),
            2 => Ok(Some(Self::All)),
            other => Err(Problems::one("require_tls", format!("unknown value {other}"))),
        }
    }
}

/// A compiled route.
pub struct Route {
    pub name: Arc<str>,
    pub matcher: RouteMatcher,
    pub action: Action,
    pub virtual_host: Arc<HostSettings>,
    pub mutations: LevelMutations,
    pub per_filter: PerFilter,
    pub metadata: Option<Arc<Metadata>>,
    pub decorator: Option<Arc<Decorator>>,
    pub tracing: Option<Tracing>,
    /// With a `stat_prefix`.
    pub stats: Option<Arc<RouteStats>>,
    /// Bytes; the route's, else the virtual host's.
    pub request_buffer_limit: Option<u64>,
}

/// What a route does with a request.
pub enum Action {
    Forward(Box<Forward>),
    Redirect(Box<Redirect>),
    DirectResponse(DirectResponse),
    /// For gRPC servers only: a proxy answers 404.
    NonForwarding,
}

/// `Decorator`: what a route calls its operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decorator {
    pub operation: HeaderValue,
    /// The other side of the call is told.
    pub propagate: bool,
}

impl Decorator {
    fn compile(value: &pbr::Decorator) -> Compiled<Arc<Self>> {
        let operation = HeaderValue::from_bytes(value.operation.as_bytes())
            .map_err(|_| Problems::one("operation", "is not a header value"))?;
        Ok(Arc::new(Self {
            operation,
            propagate: value.propagate.is_none_or(|propagate| propagate.value),
        }))
    }
}

/// A route's own sampling; each overrides the connection manager's.
#[derive(Clone, Debug)]
pub struct Tracing {
    pub sampling: Sampling,
    pub custom_tags: Vec<remora_proto::pb::envoy::r#type::tracing::v3::CustomTag>,
}

impl VirtualHost {
    /// Builds the virtual host; the same function validates it when its table arrives.
    pub fn compile(value: &pbr::VirtualHost, table: &Arc<TableSettings>) -> Compiled<Self> {
        gather! {
            let _supported = refuse_unsupported(value);
            let settings = HostSettings::compile(value, table);
            let retry = optional("retry_policy", value.retry_policy.as_ref(), RetryPolicy::compile);
            let own_mirrors = each("request_mirror_policies", &value.request_mirror_policies, Mirror::compile);
            let hedge = optional("hedge_policy", value.hedge_policy.as_ref(), hedge_policy);
            let to_https = TlsRequirement::compile(value.require_tls);
        }
        let settings = Arc::new(settings);
        let retry = retry.map(Arc::new);
        let mirrors = if own_mirrors.is_empty() {
            table.mirrors.clone()
        } else {
            own_mirrors.into()
        };
        let inherited = Inherited {
            retry: retry.as_ref(),
            mirrors: &mirrors,
            hedge_on_per_try_timeout: hedge.unwrap_or(false),
        };
        let routes = each("routes", &value.routes, |route| {
            Route::compile(route, &settings, &inherited).map(Arc::new)
        })?;
        let to_https = to_https.map(|requirement| (requirement, Arc::new(Route::to_https(&settings))));
        Ok(Self {
            settings,
            routes,
            to_https,
        })
    }

    /// The first route that matches.
    pub fn select(&self, view: &RequestView<'_>) -> Option<Arc<Route>> {
        if let Some((requirement, route)) = &self.to_https {
            let applies = *requirement == TlsRequirement::All || !view.internal;
            let forwarded = view.headers.get("x-forwarded-proto").map(http::HeaderValue::as_bytes);
            if applies && forwarded.unwrap_or(view.scheme().as_bytes()) != b"https" {
                return Some(route.clone());
            }
        }
        let ignore_parameters = self.settings.table.ignore_path_parameters;
        self.routes
            .iter()
            .find(|route| route.matcher.matches(view, ignore_parameters))
            .cloned()
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The first virtual cluster whose headers match (`%VIRTUAL_CLUSTER_NAME%`, `vhost.<name>.vcluster.*`).
    pub fn virtual_cluster(&self, view: &RequestView<'_>) -> Option<&Arc<VirtualCluster>> {
        self.settings
            .virtual_clusters
            .iter()
            .find(|cluster| cluster.matches(view))
    }
}

#[allow(deprecated, reason = "deprecated fields are honoured or refused, never ignored")]
fn refuse_unsupported(value: &pbr::VirtualHost) -> Compiled<()> {
    let typed_retry = value.retry_policy_typed_config.is_some();
    refuse_all(&[
        ("matcher", value.matcher.is_some(), "match trees are not supported"),
        ("cors", value.cors.is_some(), "use typed_per_filter_config instead"),
        ("retry_policy_typed_config", typed_retry, "is not supported"),
        (
            "route_specifiers",
            !value.route_specifiers.is_empty(),
            "is not supported",
        ),
    ])
}

impl HostSettings {
    #[allow(deprecated, reason = "the older limit still counts")]
    fn compile(value: &pbr::VirtualHost, table: &Arc<TableSettings>) -> Compiled<Self> {
        let old_limit = value.per_request_buffer_limit_bytes.map(|limit| u64::from(limit.value));
        gather! {
            let mutations = LevelMutations::compile(
                &value.request_headers_to_add,
                &value.request_headers_to_remove,
                &value.response_headers_to_add,
                &value.response_headers_to_remove,
            );
            let per_filter = PerFilter::compile(&value.typed_per_filter_config);
            let virtual_clusters = virtual_clusters(value, table);
        }
        Ok(Self {
            name: value.name.as_str().into(),
            table: table.clone(),
            mutations,
            per_filter,
            include_request_attempt_count: value.include_request_attempt_count,
            include_attempt_count_in_response: value.include_attempt_count_in_response,
            include_is_timeout_retry_header: value.include_is_timeout_retry_header,
            request_buffer_limit: value.request_body_buffer_limit.map(|limit| limit.value).or(old_limit),
            metadata: value.metadata.clone().map(Arc::new),
            rate_limits: value.rate_limits.clone(),
            virtual_clusters,
        })
    }
}

fn virtual_clusters(value: &pbr::VirtualHost, table: &TableSettings) -> Compiled<Vec<Arc<VirtualCluster>>> {
    let make = |name: &str, matchers| {
        Arc::new(VirtualCluster {
            name: name.into(),
            matchers,
            stats: RouteStats::of(&table.stats, &value.name, "vcluster", name),
        })
    };
    let mut clusters = each("virtual_clusters", &value.virtual_clusters, |cluster| {
        let matchers = each("headers", &cluster.headers, HeaderMatcher::compile)?;
        Ok(make(&cluster.name, matchers))
    })?;
    if !clusters.is_empty() {
        clusters.push(make("other", Vec::new()));
    }
    Ok(clusters)
}

impl Route {
    #[allow(deprecated, reason = "the older limit still counts")]
    fn compile(value: &pbr::Route, host: &Arc<HostSettings>, inherited: &Inherited<'_>) -> Compiled<Self> {
        let matcher = match &value.r#match {
            Some(route_match) => RouteMatcher::compile(route_match).under("match"),
            None => Err(Problems::one("match", "is required")),
        };
        let path = matcher.as_ref().ok().map(|matcher| &matcher.path);
        let action = Action::compile(value, path, host, inherited);
        gather! {
            let _supported = refuse("route_specifiers", !value.route_specifiers.is_empty(), "is not supported");
            let matcher = matcher;
            let action = action;
            let mutations = LevelMutations::compile(
                &value.request_headers_to_add,
                &value.request_headers_to_remove,
                &value.response_headers_to_add,
                &value.response_headers_to_remove,
            );
            let per_filter = PerFilter::compile(&value.typed_per_filter_config);
            let tracing = optional("tracing", value.tracing.as_ref(), Tracing::compile);
            let decorator = optional("decorator", value.decorator.as_ref(), Decorator::compile);
        }
        let old_limit = value.per_request_buffer_limit_bytes.map(|limit| u64::from(limit.value));
        let own_limit = value.request_body_buffer_limit.map(|limit| limit.value).or(old_limit);
        Ok(Self {
            name: value.name.as_str().into(),
            action,
            matcher,
            virtual_host: host.clone(),
            mutations,
            per_filter,
            metadata: value.metadata.clone().map(Arc::new),
            decorator,
            tracing,
            stats: (!value.stat_prefix.is_empty())
                .then(|| RouteStats::of(&host.table.stats, &host.name, "route", &value.stat_prefix)),
            request_buffer_limit: own_limit.or(host.request_buffer_limit),
        })
    }

    fn to_https(host: &Arc<HostSettings>) -> Self {
        Self {
            name: "".into(),
            matcher: RouteMatcher::any(),
            action: Action::Redirect(Box::new(Redirect::to_https())),
            virtual_host: host.clone(),
            mutations: LevelMutations::default(),
            per_filter: PerFilter::default(),
            metadata: None,
            decorator: None,
            tracing: None,
            stats: None,
            request_buffer_limit: None,
        }
    }

    /// The filter's most specific configuration: weighted cluster, route, virtual host, table.
    pub fn per_filter(&self, filter: &str, weighted: Option<u32>) -> Option<&PerFilterEntry> {
        (self.weighted(weighted).and_then(|entry| entry.per_filter.find(filter)))
            .or_else(|| self.per_filter.find(filter))
            .or_else(|| self.virtual_host.per_filter.find(filter))
            .or_else(|| self.virtual_host.table.per_filter.find(filter))
    }

    /// Whether any level, or an entry of a weighted cluster, switches a filter off.
    pub fn switches_filters_off(&self) -> bool {
        let weighted = match self.forward().map(|forward| &forward.cluster) {
            Some(ClusterSpecifier::Weighted(weighted)) => weighted.entries.as_slice(),
            _ => &[],
        };
        self.per_filter.switches_off()
            || self.virtual_host.per_filter.switches_off()
            || self.virtual_host.table.per_filter.switches_off()
            || weighted.iter().any(|entry| entry.per_filter.switches_off())
    }

    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The chosen entry of a weighted cluster.
    pub fn weighted(&self, index: Option<u32>) -> Option<&WeightedEntry> {
        match &self.forward()?.cluster {
            ClusterSpecifier::Weighted(weighted) => weighted.entries.get(index? as usize),
            _ => None,
        }
    }

    /// Every level's mutations in the order in which they apply (spec D.5).
    pub fn mutation_levels(&self, weighted: Option<u32>) -> [Option<&LevelMutations>; 4] {
        let mut levels = [
            self.weighted(weighted).map(|entry| &entry.mutations),
            Some(&self.mutations),
            Some(&self.virtual_host.mutations),
            Some(&self.virtual_host.table.mutations),
        ];
        if self.virtual_host.table.most_specific_wins {
            levels.reverse();
        }
        levels
    }
}

impl Action {
    fn compile(
        value: &pbr::Route,
        matcher: Option<&PathMatcher>,
        host: &HostSettings,
        inherited: &Inherited<'_>,
    ) -> Compiled<Self> {
        use pbr::route::Action as A;
        Ok(match &value.action {
            Some(A::Route(route)) => {
                Self::Forward(Box::new(Forward::compile(route, matcher, inherited).under("route")?))
            }
            Some(A::Redirect(redirect)) => Self::Redirect(Box::new(Redirect::compile(redirect).under("redirect")?)),
            Some(A::DirectResponse(response)) => Self::DirectResponse(
                DirectResponse::compile(response, host.table.max_direct_response_body).under("direct_response")?,
            ),
            Some(A::NonForwardingAction(_)) => Self::NonForwarding,
            Some(A::FilterAction(_)) => return Err(Problems::one("filter_action", "is not supported")),
            None => return Err(Problems::one("action", "is required")),
        })
    }
}

impl Tracing {
    fn compile(value: &pbr::Tracing) -> Compiled<Self> {
        gather! {
            let _supported = refuse_all(&[
                ("operation", !value.operation.is_empty(), "is not supported"),
                ("upstream_operation", !value.upstream_operation.is_empty(), "is not supported"),
            ]);
            let client_sampling = optional("client_sampling", value.client_sampling.as_ref(), Fraction::compile);
            let random_sampling = optional("random_sampling", value.random_sampling.as_ref(), Fraction::compile);
            let overall_sampling = optional("overall_sampling", value.overall_sampling.as_ref(), Fraction::compile);
        }
        Ok(Self {
            sampling: Sampling {
                client: client_sampling,
                random: random_sampling,
                overall: overall_sampling,
            },
            custom_tags: value.custom_tags.clone(),
        })
    }
}
