//! `vhost.<name>.vcluster.<name>.` and `vhost.<name>.route.<stat_prefix>.`: what requests of one kind or of one route came to.

use std::sync::Arc;

use super::headers::HeaderMatcher;
use super::view::RequestView;
use crate::cluster::stats::ResponseCodes;
use crate::telemetry::stats::{StatGroup, Stats, Value};

crate::stat_group! {
    /// Those that are not answers by code.
    pub struct RouteTraffic {
        counters: {
            upstream_rq_retry, upstream_rq_retry_limit_exceeded, upstream_rq_retry_overflow, upstream_rq_retry_success,
            upstream_rq_timeout, upstream_rq_total,
        }
        gauges: {}
        histograms: { upstream_rq_time }
    }
}

/// See the module.
#[derive(Default)]
pub struct RouteStats {
    pub traffic: RouteTraffic,
    pub codes: ResponseCodes,
}

impl RouteStats {
    /// `kind`: `vcluster` or `route`.
    pub fn of(stats: &Stats, virtual_host: &str, kind: &str, name: &str) -> Arc<Self> {
        let [virtual_host, name] = [virtual_host, name].map(|name| name.replace(':', "_"));
        stats.group(&format!("vhost.{virtual_host}.{kind}.{name}."))
    }
}

impl StatGroup for RouteStats {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        self.traffic.visit(visit);
        self.codes.visit_used("", visit);
    }

    fn reset(&self) {
        self.traffic.reset();
        self.codes.reset();
    }

    fn flush(&self) {
        self.traffic.flush();
    }
}

/// A kind of request, told by its headers, that is counted apart.
pub struct VirtualCluster {
    pub name: Arc<str>,
    pub(super) matchers: Vec<HeaderMatcher>,
    pub stats: Arc<RouteStats>,
}

impl VirtualCluster {
    /// Whether it is the one for what none of the others takes.
    pub fn is_rest(&self) -> bool {
        self.matchers.is_empty()
    }

    pub(super) fn matches(&self, view: &RequestView<'_>) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(view))
    }
}
