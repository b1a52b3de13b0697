//! `/clusters?explain`: of each host whether it gets load now, and why.

use serde_json::{Value, json};

use super::view::{ClusterView, HostView};
use crate::admin::reply::{self, Reply};
use crate::cluster::explain::HostExplanation;
use crate::cluster::host::Health;
use crate::runtime::clock;

pub(super) fn page(clusters: &[ClusterView]) -> Reply {
    let clusters: Vec<_> = clusters.iter().map(cluster).collect();
    reply::tree(&json!({ "clusters": clusters }))
}

fn cluster(cluster: &ClusterView) -> Value {
    let hosts: Vec<_> = cluster.hosts.iter().map(host).collect();
    json!({
        "name": &*cluster.name,
        "used": cluster.built,
        "hosts": hosts,
    })
}

fn host(host: &HostView) -> Value {
    let endpoint = &host.endpoint;
    let (chosen, why) = match &host.explanation {
        Some(explanation) => verdict(explanation),
        None => (
            Value::Null,
            "the cluster has not been used yet; its balancer is built by the first request".to_owned(),
        ),
    };
    json!({
        "address": endpoint.address.to_string(),
        "chosen": chosen,
        "why": why,
        "health_flags": endpoint.state.flags_text(),
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "locality": [endpoint.locality.region, endpoint.locality.zone, endpoint.locality.sub_zone],
        "cx_active": host.counts.cx_active,
        "rq_active": host.counts.rq_active,
        "ejections": host.explanation.as_ref().map_or(0, |explanation| explanation.ejections),
    })
}

/// Whether the balancer considers the host now, and the rule that decides it.
fn verdict(host: &HostExplanation) -> (Value, String) {
    let priority = host.host.priority;
    let (healthy, degraded) = host.priority_load;
    let (chosen, why) = match host.health {
        _ if host.panic && healthy + degraded == 0 => (
            false,
            format!("priority {priority} is in panic, and other priorities take all load"),
        ),
        _ if host.panic => {
            let load = healthy + degraded;
            let reason = "too few of its hosts are healthy, so all are used whatever their health";
            (
                true,
                format!("priority {priority} is in panic: {reason}; it gets {load} % of the load"),
            )
        }
        Health::Unhealthy => (false, format!("unhealthy: {}{}", host.flags, ejection(host))),
        Health::Degraded if degraded == 0 => (
            false,
            format!("degraded ({}), and healthy hosts take all load", host.flags),
        ),
        Health::Degraded => {
            let among = format!("the degraded hosts of priority {priority} get {degraded} % of the load");
            (true, format!("degraded ({}): {among}", host.flags))
        }
        Health::Healthy if healthy == 0 => (
            false,
            format!("healthy, but priorities before {priority} take all load"),
        ),
        Health::Healthy if host.zone_share == Some(0) => (
            false,
            "healthy, but zone-aware routing sends nothing to its locality".to_owned(),
        ),
        Health::Healthy => {
            let weight = host.host.weight;
            (
                true,
                format!(
                    "healthy: priority {priority} gets {healthy} % of the load{}, this host by weight {weight}{}",
                    zone(host),
                    round_trip(host)
                ),
            )
        }
    };
    (Value::Bool(chosen), why)
}

fn zone(host: &HostExplanation) -> String {
    let Some(share) = host.zone_share else {
        return String::new();
    };
    format!(
        ", zone-aware routing gives {} % of that to its locality",
        share as f64 / 100.0
    )
}

fn round_trip(host: &HostExplanation) -> String {
    let Some(milliseconds) = host.round_trip else {
        return String::new();
    };
    format!("; it answers in {milliseconds:.1} ms (peak EWMA)")
}

fn ejection(host: &HostExplanation) -> String {
    let Some(until) = host.ejected_until else {
        return String::new();
    };
    let left = until.saturating_duration_since(clock::now());
    format!(
        "; ejected for another {:.1} s (ejection {} of this host)",
        left.as_secs_f64(),
        host.ejections
    )
}
