//! `/clusters`: every cluster with its hosts, as text, as JSON, or with the reason why each host is chosen or not.

mod explain;
mod message;
mod view;

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};
use view::{ClusterView, HostView};

pub(super) fn clusters(state: &AdminState, query: &Query) -> Reply {
    let filter = match query.regex("filter") {
        Ok(filter) => filter,
        Err(error) => return reply::bad_request(format!("Invalid re2 regex: {error}")),
    };
    let wanted = |name: &str| filter.as_ref().is_none_or(|filter| filter.is_match(name));
    let clusters = view::clusters(state, &wanted);
    let is_json = query.get("format") == Some("json");
    match (query.has("explain"), is_json) {
        (true, true) => explain::page(&clusters),
        (true, false) => reply::ok(clusters.iter().map(explain::text).collect::<String>()),
        (false, true) => message::page(&clusters),
        (false, false) => reply::ok(clusters.iter().map(text).collect::<String>()),
    }
}

fn text(cluster: &ClusterView) -> String {
    let name = &cluster.name;
    let mut page = format!("{name}::observability_name::{}\n", cluster.observability_name);
    if let Some(outlier) = &cluster.outlier {
        let figures = [
            ("success_rate_average", outlier.external.average),
            ("success_rate_ejection_threshold", outlier.external.threshold),
            ("local_origin_success_rate_average", outlier.local.average),
            ("local_origin_success_rate_ejection_threshold", outlier.local.threshold),
        ];
        for (figure, value) in figures {
            page += &format!("{name}::outlier::{figure}::{value}\n");
        }
    }
    for (priority, limits) in [("default", &cluster.default_limits), ("high", &cluster.high_limits)] {
        page += &format!(
            "{name}::{priority}_priority::max_connections::{}\n{name}::{priority}_priority::max_pending_requests::{}\n\
             {name}::{priority}_priority::max_requests::{}\n{name}::{priority}_priority::max_retries::{}\n",
            limits.connections, limits.pending_requests, limits.requests, limits.retries,
        );
    }
    page += &format!("{name}::added_via_api::{}\n", cluster.added_via_api);
    if !cluster.eds_service_name.is_empty() {
        page += &format!("{name}::eds_service_name::{}\n", cluster.eds_service_name);
    }
    for host in &cluster.hosts {
        host_text(&mut page, name, host);
    }
    page
}

/// Envoy's lines, in its order.
fn host_text(page: &mut String, cluster: &str, host: &HostView) {
    let endpoint = &host.endpoint;
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        *page += &format!("{cluster}::{}::{name}::{value}\n", endpoint.address);
    };
    let counts = &host.counts;
    line("cx_active", &counts.cx_active);
    line("cx_connect_fail", &counts.cx_connect_fail);
    line("cx_total", &counts.cx_total);
    line("rq_active", &counts.rq_active);
    line("rq_error", &counts.rq_error);
    line("rq_pending_active", &counts.rq_pending_active);
    line("rq_success", &counts.rq_success);
    line("rq_timeout", &counts.rq_timeout);
    line("rq_total", &counts.rq_total);
    line("hostname", &endpoint.hostname);
    line("health_flags", &endpoint.state.flags_text());
    line("weight", &endpoint.weight);
    line("region", &endpoint.locality.region);
    line("zone", &endpoint.locality.zone);
    line("sub_zone", &endpoint.locality.sub_zone);
    line("canary", &host.canary);
    line("priority", &endpoint.priority);
    line("success_rate", &host.success_rate.unwrap_or(-1.0));
    line(
        "local_origin_success_rate",
        &host.local_origin_success_rate.unwrap_or(-1.0),
    );
}
