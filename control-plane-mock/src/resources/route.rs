//! Route configurations, virtual hosts and routes.

use std::time::Duration;

use remora_proto::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use remora_proto::pb::envoy::config::route::v3::route::Action;
use remora_proto::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use remora_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use remora_proto::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use remora_proto::pb::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster, redirect_action,
};

use super::{builder, duration, inline, number, strings};

builder! {
    /// A route configuration; see [`route_config`].
    RouteConfigBuilder => RouteConfiguration
}

builder! {
    /// A route configuration whose last virtual host takes routes; see [`RouteConfigBuilder::vhost`].
    VhostBuilder => RouteConfiguration
}

builder! {
    /// One route; see [`prefix`] and [`exact`].
    RouteBuilder => Route
}

/// A route configuration without virtual hosts.
pub fn route_config(name: &str) -> RouteConfigBuilder {
    RouteConfigBuilder {
        message: RouteConfiguration {
            name: name.to_owned(),
            ..RouteConfiguration::default()
        },
    }
}

/// A route for paths that start so.
pub fn prefix(prefix: &str) -> RouteBuilder {
    matching(PathSpecifier::Prefix(prefix.to_owned()))
}

/// A route for this path alone.
pub fn exact(path: &str) -> RouteBuilder {
    matching(PathSpecifier::Path(path.to_owned()))
}

impl RouteConfigBuilder {
    /// Adds a virtual host, named after its first domain; routes go into it from here on.
    pub fn vhost<T: Into<String>>(self, domains: impl IntoIterator<Item = T>) -> VhostBuilder {
        VhostBuilder { message: self.message }.vhost(domains)
    }
}

impl VhostBuilder {
    /// Adds another virtual host.
    pub fn vhost<T: Into<String>>(mut self, domains: impl IntoIterator<Item = T>) -> Self {
        let domains = strings(domains);
        let name = domains.first().cloned().unwrap_or_default();
        self.message.virtual_hosts.push(VirtualHost {
            name,
            domains,
            ..VirtualHost::default()
        });
        self
    }

    /// Adds a route from a path prefix to a cluster.
    pub fn route(self, path_prefix: &str, cluster: &str) -> Self {
        self.with_route(prefix(path_prefix).cluster(cluster))
    }

    /// Adds a route.
    pub fn with_route(mut self, route: impl Into<Route>) -> Self {
        if let Some(vhost) = self.message.virtual_hosts.last_mut() {
            vhost.routes.push(route.into());
        }
        self
    }

    /// Retries of the virtual host: on these conditions, this often.
    pub fn retry(mut self, retry_on: &str, retries: u32) -> Self {
        if let Some(vhost) = self.message.virtual_hosts.last_mut() {
            vhost.retry_policy = Some(retry_policy(retry_on, retries));
        }
        self
    }
}

impl RouteBuilder {
    /// To one cluster.
    pub fn cluster(self, cluster: &str) -> Self {
        self.forward(ClusterSpecifier::Cluster(cluster.to_owned()))
    }

    /// To several clusters, by weight.
    pub fn weighted<T: Into<String>>(self, clusters: impl IntoIterator<Item = (T, u32)>) -> Self {
        let clusters = clusters
            .into_iter()
            .map(|(name, weight)| ClusterWeight {
                name: name.into(),
                weight: number(weight),
                ..ClusterWeight::default()
            })
            .collect();
        self.forward(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters,
            ..WeightedCluster::default()
        }))
    }

    /// To the cluster named by a request header.
    pub fn cluster_header(self, header: &str) -> Self {
        self.forward(ClusterSpecifier::ClusterHeader(header.to_owned()))
    }

    /// Answered by the proxy itself.
    pub fn direct_response(mut self, status: u32, body: &str) -> Self {
        let body = (!body.is_empty()).then(|| inline(body));
        self.message.action = Some(Action::DirectResponse(DirectResponseAction {
            status,
            body,
            ..DirectResponseAction::default()
        }));
        self
    }

    /// Redirected (301) to another path.
    pub fn redirect_path(mut self, path: &str) -> Self {
        self.message.action = Some(Action::Redirect(RedirectAction {
            path_rewrite_specifier: Some(redirect_action::PathRewriteSpecifier::PathRedirect(path.to_owned())),
            ..RedirectAction::default()
        }));
        self
    }

    /// Redirected (301) to https.
    pub fn redirect_https(mut self) -> Self {
        self.message.action = Some(Action::Redirect(RedirectAction {
            scheme_rewrite_specifier: Some(redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true)),
            ..RedirectAction::default()
        }));
        self
    }

    /// Time for the whole request, retries included; zero for no limit.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.edit_action(|action| action.timeout = duration(timeout))
    }

    /// Retries on these conditions (`5xx`, `connect-failure` ...), this often.
    pub fn retry(self, retry_on: &str, retries: u32) -> Self {
        self.edit_action(|action| action.retry_policy = Some(retry_policy(retry_on, retries)))
    }

    /// Time for each try.
    pub fn per_try_timeout(self, timeout: Duration) -> Self {
        self.edit_action(|action| {
            action.retry_policy.get_or_insert_default().per_try_timeout = duration(timeout);
        })
    }

    /// First and longest pause between tries.
    pub fn retry_back_off(self, base: Duration, max: Duration) -> Self {
        self.edit_action(|action| {
            action.retry_policy.get_or_insert_default().retry_back_off = Some(RetryBackOff {
                base_interval: duration(base),
                max_interval: duration(max),
            });
        })
    }

    /// Replaces the matched prefix.
    pub fn prefix_rewrite(self, new: &str) -> Self {
        self.edit_action(|action| new.clone_into(&mut action.prefix_rewrite))
    }

    /// Changes any field of the forwarding action (which it makes one, if it was none).
    pub fn edit_action(mut self, change: impl FnOnce(&mut RouteAction)) -> Self {
        let mut action = match self.message.action.take() {
            Some(Action::Route(action)) => action,
            _ => RouteAction::default(),
        };
        change(&mut action);
        self.message.action = Some(Action::Route(action));
        self
    }

    fn forward(self, specifier: ClusterSpecifier) -> Self {
        self.edit_action(|action| action.cluster_specifier = Some(specifier))
    }
}

impl From<RouteConfigBuilder> for RouteConfiguration {
    fn from(builder: RouteConfigBuilder) -> Self {
        builder.message
    }
}

impl From<VhostBuilder> for RouteConfiguration {
    fn from(builder: VhostBuilder) -> Self {
        builder.message
    }
}

impl From<RouteBuilder> for Route {
    fn from(builder: RouteBuilder) -> Self {
        builder.message
    }
}

fn matching(path: PathSpecifier) -> RouteBuilder {
    RouteBuilder {
        message: Route {
            r#match: Some(RouteMatch {
                path_specifier: Some(path),
                ..RouteMatch::default()
            }),
            ..Route::default()
        },
    }
}

fn retry_policy(retry_on: &str, retries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: retry_on.to_owned(),
        num_retries: number(retries),
        ..RetryPolicy::default()
    }
}
