//! `/clusters?explain`: of each host whether it gets load now, and why; as text, or with `format=json`.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::view::{ClusterView, HostView};
use crate::admin::reply::{self, Reply};
use crate::cluster::explain::{BreakerState, HostExplanation};
use crate::cluster::host::Health;
use crate::runtime::clock;
use crate::telemetry::format;

pub(super) fn page(clusters: &[ClusterView]) -> Reply {
    let clusters: Vec<_> = clusters.iter().map(cluster).collect();
    reply::tree(&json!({ "clusters": clusters }))
}

/// The same facts, one a line, in the manner of the page without explanations.
pub(super) fn text(cluster: &ClusterView) -> String {
    let name = &cluster.name;
    let mut page = format!("{name}::used::{}\n", cluster.built);
    if let Some(percent) = cluster.drop_overload {
        page += &format!("{name}::drop_overload::{percent} %\n");
    }
    for breaker in &cluster.breakers {
        let BreakerState {
            priority, used, limit, ..
        } = breaker;
        let state = if breaker.is_open() { "open" } else { "closed" };
        let left = limit.saturating_sub(*used);
        page += &format!(
            "{name}::{priority}_priority::{}::{state}, {used} of {limit} in use, {left} remaining\n",
            breaker.name
        );
    }
    for view in &cluster.hosts {
        let address = &view.endpoint.address;
        for (field, value) in host(cluster, view) {
            let value = match value {
                Value::Null => "unknown".to_owned(),
                Value::String(text) => text,
                Value::Array(parts) => {
                    let parts: Vec<_> = parts.iter().filter_map(Value::as_str).collect();
                    parts.join("/")
                }
                other => other.to_string(),
            };
            page += &format!("{name}::{address}::{field}::{value}\n");
        }
    }
    page
}

fn cluster(cluster: &ClusterView) -> Value {
    let hosts: Vec<_> = cluster
        .hosts
        .iter()
        .map(|view| {
            let address = ("address", view.endpoint.address.to_string().into());
            let fields = std::iter::once(address).chain(host(cluster, view));
            Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
        })
        .collect();
    let breakers: Vec<_> = cluster.breakers.iter().map(breaker).collect();
    let mut object = Map::new();
    object.insert("name".to_owned(), json!(&*cluster.name));
    object.insert("used".to_owned(), json!(cluster.built));
    if let Some(percent) = cluster.drop_overload {
        object.insert("drop_overload".to_owned(), json!(percent));
    }
    object.insert("circuit_breakers".to_owned(), breakers.into());
    object.insert("hosts".to_owned(), hosts.into());
    Value::Object(object)
}

fn breaker(breaker: &BreakerState) -> Value {
    json!({
        "priority": breaker.priority,
        "name": breaker.name,
        "open": breaker.is_open(),
        "used": breaker.used,
        "limit": breaker.limit,
        "remaining": breaker.limit.saturating_sub(breaker.used),
    })
}

fn host(cluster: &ClusterView, host: &HostView) -> Vec<(&'static str, Value)> {
    let endpoint = &host.endpoint;
    let (chosen, why) = match &host.explanation {
        Some(explanation) => {
            let (chosen, why) = verdict(explanation);
            let (admitted, limits) = limits(cluster, explanation);
            ((chosen && admitted).into(), why + &limits)
        }
        None => (
            Value::Null,
            "the cluster has not been used yet; its balancer is built by the first request".to_owned(),
        ),
    };
    let locality = &endpoint.locality;
    let mut fields = vec![
        ("chosen", chosen),
        ("why", why.into()),
        ("health_flags", endpoint.state.flags_text().into()),
        ("priority", endpoint.priority.into()),
    ];
    if let Some(explanation) = &host.explanation {
        let (healthy, degraded) = explanation.priority_load;
        fields.extend([
            ("priority_load_healthy", Value::from(healthy)),
            ("priority_load_degraded", degraded.into()),
            ("panic", explanation.panic.into()),
            ("ejections", explanation.ejections.into()),
        ]);
        for (name, until) in [
            ("ejected_until", explanation.ejected_until),
            ("degraded_until", explanation.degraded_until),
        ] {
            fields.extend(until.map(|until| (name, Value::from(moment(until)))));
        }
    }
    fields.extend([
        ("weight", endpoint.weight.into()),
        ("locality", json!([locality.region, locality.zone, locality.sub_zone])),
        ("cx_active", host.counts.cx_active.into()),
        ("rq_active", host.counts.rq_active.into()),
        ("rq_pending_active", host.counts.rq_pending_active.into()),
    ]);
    fields
}

/// Whether the balancer considers the host now, and the rule that decides it.
fn verdict(host: &HostExplanation) -> (bool, String) {
    let priority = host.host.priority;
    let (healthy, degraded) = host.priority_load;
    match host.health {
        _ if host.in_subset == Some(false) => (
            false,
            format!(
                "{}, but in no subset that a request could ask for (lb_subset_config)",
                host.flags
            ),
        ),
        _ if host.passed_over => (
            false,
            format!(
                "{}, but its locality has no weight (locality_weighted_lb_config)",
                host.flags
            ),
        ),
        _ if host.panic && healthy + degraded == 0 => (
            false,
            format!("priority {priority} is in panic, and other priorities take all load"),
        ),
        _ if host.panic && host.fails_in_panic => (
            false,
            format!("priority {priority} is in panic, and requests rather fail then (fail_traffic_on_panic)"),
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
            format!(
                "degraded ({}{}), and healthy hosts take all load",
                host.flags,
                degradation(host)
            ),
        ),
        Health::Degraded => {
            let among = format!("the degraded hosts of priority {priority} get {degraded} % of the load");
            (true, format!("degraded ({}{}): {among}", host.flags, degradation(host)))
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
    }
}

/// Whether the breakers let a request of the default priority through to the host, and what they have to say.
fn limits(cluster: &ClusterView, host: &HostExplanation) -> (bool, String) {
    let mut admitted = true;
    let mut text = String::new();
    let open = cluster.breakers.iter().filter(|breaker| breaker.is_open());
    for breaker in open {
        let is_default = breaker.priority == "default";
        let effect = match breaker.name {
            "max_requests" => {
                admitted &= !is_default;
                "requests are turned away"
            }
            "max_pending_requests" => "requests that find no free connection are turned away",
            "max_connections" => "requests that find no free connection wait for one",
            "max_connection_pools" => "hosts without a connection get none",
            _ => "nothing is retried",
        };
        let of = if is_default { "" } else { "of high priority, " };
        text += &format!("; {of}{effect}: {} is reached ({})", breaker.name, breaker.limit);
    }
    if let Some((used, limit)) = host.connections.filter(|(used, limit)| used >= limit) {
        text += &format!("; it has {used} of its {limit} connections");
    }
    if let Some(percent) = cluster.drop_overload.filter(|percent| *percent > 0.0) {
        text += &format!("; drop_overloads turns {percent} % of the requests away");
        admitted &= percent < 100.0;
    }
    (admitted, text)
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
    format!(
        "; ejected for another {:.1} s (ejection {} of this host)",
        left(until).as_secs_f64(),
        host.ejections
    )
}

fn degradation(host: &HostExplanation) -> String {
    let Some(until) = host.degraded_until else {
        return String::new();
    };
    format!("; as it said itself, for another {:.1} s", left(until).as_secs_f64())
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(clock::now())
}

/// When that will be, by the calendar.
fn moment(until: Instant) -> String {
    format::timestamp(clock::system_now() + left(until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::host::HealthFlag;
    use crate::cluster::{Cluster, PickContext};

    /// Three hosts, of which the first, or all, have failed as often as it takes.
    fn explained(fields: &str, ill: usize) -> (Cluster, Vec<(bool, String)>) {
        let endpoint = |last: u8| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 10.0.0.{last}, port_value: 80}}}}}}}}")
        };
        let endpoints: Vec<String> = (1..=3).map(endpoint).collect();
        let yaml = format!(
            "{{name: c, load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}, {fields}}}",
            endpoints.join(", ")
        );
        let name = "envoy.config.cluster.v3.Cluster";
        let encoded = remora_proto::json::encode_text(&yaml, name, &Default::default()).unwrap();
        let cx = crate::config::BuildContext::default();
        let cluster =
            crate::config::cluster::compile(&encoded.bytes, &cx).unwrap_or_else(|problems| panic!("{problems}"));
        let now = clock::now();
        for host in cluster.all_hosts().iter().take(ill) {
            for _ in 0..5 {
                cluster.observe_response(host, 503.into(), now);
            }
        }
        let verdicts = cluster.explain().iter().map(verdict).collect();
        (cluster, verdicts)
    }

    #[test]
    fn an_ejection_has_an_end() {
        let outlier = "outlier_detection: {max_ejection_percent: 100, base_ejection_time: 30s}";
        let (cluster, verdicts) = explained(outlier, 1);
        assert!(!verdicts[0].0 && verdicts[1].0 && verdicts[2].0, "{verdicts:?}");
        assert!(
            verdicts[0]
                .1
                .starts_with("unhealthy: /failed_outlier_check; ejected for another "),
            "{verdicts:?}"
        );
        assert!(verdicts[0].1.ends_with(" s (ejection 1 of this host)"));
        let until = cluster.explain()[0].ejected_until.expect("it is ejected");
        let seconds = left(until).as_secs();
        assert!((28..=30).contains(&seconds), "{seconds}");
        assert!(moment(until) > format::timestamp(clock::system_now()));
    }

    #[test]
    fn panic_uses_all_or_none() {
        let outlier = "outlier_detection: {max_ejection_percent: 100}";
        let (cluster, verdicts) = explained(outlier, 3);
        assert!(
            verdicts
                .iter()
                .all(|(chosen, why)| *chosen && why.contains("is in panic")),
            "{verdicts:?}"
        );
        assert!(cluster.pick(&PickContext::default()).is_ok());
        let fails = "common_lb_config: {zone_aware_lb_config: {fail_traffic_on_panic: true}}";
        let (cluster, verdicts) = explained(&format!("{outlier}, {fails}"), 3);
        assert!(
            verdicts
                .iter()
                .all(|(chosen, why)| !chosen && why.ends_with("(fail_traffic_on_panic)")),
            "{verdicts:?}"
        );
        assert!(cluster.pick(&PickContext::default()).is_err());
    }

    #[test]
    fn a_degraded_host_gets_what_the_others_cannot_take() {
        let (cluster, _) = explained("outlier_detection: {detect_degraded_hosts: true}", 0);
        let headers = [(
            http::HeaderName::from_static("x-envoy-degraded"),
            http::HeaderValue::from_static("1"),
        )];
        let host = cluster.all_hosts().remove(0);
        cluster.observe_headers(&host, 200, &headers.into_iter().collect(), clock::now());
        // 140 % of two thirds are healthy.
        let (chosen, why) = verdict(&cluster.explain()[0]);
        assert!(
            why.starts_with("degraded (/degraded_outlier_detection; as it said itself, for another "),
            "{why}"
        );
        assert!(
            chosen && why.ends_with("the degraded hosts of priority 0 get 7 % of the load"),
            "{why}"
        );
        for other in &cluster.all_hosts()[1..] {
            other.state.set(HealthFlag::FailedActiveHc, true);
        }
        cluster.refresh(clock::now());
        let explanation = &cluster.explain()[0];
        let (chosen, why) = verdict(explanation);
        assert!(chosen, "{why}");
        // Nobody else is left: the panic of a third that is fit.
        assert_eq!(explanation.priority_load.0 + explanation.priority_load.1, 100, "{why}");
    }

    #[test]
    fn a_host_may_be_full() {
        let fields = "circuit_breakers: {per_host_thresholds: [{max_connections: 1}]}";
        let (cluster, _) = explained(fields, 0);
        let host = cluster.all_hosts().remove(0);
        host.state.cx_claimed.store(1, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(cluster.explain()[0].connections, Some((1, 1)));
        assert_eq!(cluster.explain()[1].connections, Some((0, 1)));
    }

    fn compiled(yaml: &str) -> Cluster {
        let name = "envoy.config.cluster.v3.Cluster";
        let encoded = remora_proto::json::encode_text(yaml, name, &Default::default()).unwrap();
        let cx = crate::config::BuildContext::default();
        crate::config::cluster::compile(&encoded.bytes, &cx).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn a_host_may_be_passed_over() {
        let zone = |last: u8, weight: &str| {
            format!(
                "{{locality: {{zone: z{last}}}, {weight}lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 10.0.0.{last}, \
                 port_value: 80}}}}}}}}]}}"
            )
        };
        let weighted = "load_balancing_weight: 3, ";
        let of = |zones: [String; 2]| {
            compiled(&format!(
                "{{name: c, common_lb_config: {{locality_weighted_lb_config: {{}}}}, load_assignment: {{cluster_name: c, endpoints: [{}]}}}}",
                zones.join(", ")
            ))
        };
        let cluster = of([zone(1, ""), zone(2, weighted)]);
        let [first, second] = &cluster.explain()[..] else {
            panic!("two hosts");
        };
        let (chosen, why) = verdict(first);
        assert!(!chosen && why.contains("its locality has no weight"), "{why}");
        assert!(verdict(second).0);
        let nobody_is = of([zone(1, ""), zone(2, "")]);
        assert!(nobody_is.explain().iter().all(|host| verdict(host).0));
    }

    #[test]
    fn a_host_may_be_in_no_subset() {
        let endpoint = |last: u8, more: &str| {
            format!("{{endpoint: {{address: {{socket_address: {{address: 10.0.0.{last}, port_value: 80}}}}}}{more}}}")
        };
        let endpoints = [
            endpoint(1, ""),
            endpoint(2, ", metadata: {filter_metadata: {envoy.lb: {version: one}}}"),
        ];
        let of = |fallback: &str| {
            let cluster = compiled(&format!(
                "{{name: c, lb_subset_config: {{fallback_policy: {fallback}, subset_selectors: [{{keys: [version]}}]}}, load_assignment: \
                 {{cluster_name: c, endpoints: [{{lb_endpoints: [{}]}}]}}}}",
                endpoints.join(", ")
            ));
            cluster.explain().iter().map(verdict).collect::<Vec<_>>()
        };
        let verdicts = of("NO_FALLBACK");
        assert!(!verdicts[0].0 && verdicts[0].1.contains("in no subset"), "{verdicts:?}");
        assert!(verdicts[1].0, "{verdicts:?}");
        assert!(of("ANY_ENDPOINT").iter().all(|(chosen, _)| *chosen));
    }
}
