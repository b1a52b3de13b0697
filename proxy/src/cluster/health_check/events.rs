//! The event log of active health checks (`event_logger`, `event_log_path`): JSON lines as Envoy writes them.

use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use remora_proto::json::to_json;
use serde_json::{Value, json};

use super::Outcome;
use crate::cluster::host::Host;
use crate::runtime::clock;
use crate::runtime::io::Address;
use crate::telemetry::access_log::Sink;
use crate::telemetry::format;

/// Where the events of one health check go, and which.
#[derive(Clone)]
pub struct EventLog {
    pub sinks: Vec<Arc<Sink>>,
    /// `always_log_health_check_failures`
    pub failures: bool,
    /// `always_log_health_check_success`
    pub successes: bool,
}

/// One check of one host: what was known before, and what came of it.
pub(super) struct Checked<'a> {
    pub cluster: &'a str,
    pub host: &'a Host,
    /// `HTTP`, `TCP` or `GRPC`.
    pub checker: &'static str,
    pub outcome: Outcome,
    /// Of an HTTP check's answer; 0 without one.
    pub status: u16,
    pub first: bool,
    /// Whether the host counted as failed and as degraded before, and does now.
    pub failed: [bool; 2],
    pub degraded: [bool; 2],
}

impl EventLog {
    pub(super) fn write(&self, checked: &Checked<'_>, now: Instant) {
        let events = self.events(checked);
        if events.is_empty() {
            return;
        }
        let time = format::timestamp(clock::wall_of(now));
        for event in events {
            let mut line = checked.render(&event, &time);
            line.push('\n');
            self.sinks.iter().for_each(|sink| sink.write(line.as_bytes()));
        }
    }

    /// The events of a check by their names, with what they hold.
    fn events(&self, checked: &Checked<'_>) -> Vec<(&'static str, Value)> {
        let mut events = Vec::new();
        let (first, status) = (checked.first, checked.status);
        match failure(checked.outcome) {
            None => {
                match checked.failed {
                    [true, false] => events.push(("add_healthy_event", json!({"first_check": first}))),
                    _ if self.successes => events.push(("successful_health_check_event", json!({}))),
                    _ => {}
                }
                match checked.degraded {
                    [false, true] => events.push(("degraded_healthy_host", json!({}))),
                    [true, false] => events.push(("no_longer_degraded_host", json!({}))),
                    _ => {}
                }
            }
            Some(kind) => {
                if checked.failed == [false, true] {
                    let what = json!({"failure_type": kind, "http_status_code": status});
                    events.push(("eject_unhealthy_event", what));
                }
                if self.failures || first {
                    let what = json!({"failure_type": kind, "first_check": first, "http_status_code": status});
                    events.push(("health_check_failure_event", what));
                }
            }
        }
        events
    }
}

/// Envoy's name for the failure; `None` for a success.
fn failure(outcome: Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Success | Outcome::Degraded => None,
        Outcome::Failure | Outcome::Retriable | Outcome::ImmediateFailure => Some("ACTIVE"),
        Outcome::PassiveFailure => Some("PASSIVE"),
        Outcome::NetworkFailure => Some("NETWORK"),
        Outcome::Timeout => Some("NETWORK_TIMEOUT"),
    }
}

impl Checked<'_> {
    /// Fields in Envoy's order, which a JSON object of ours would not keep.
    fn render(&self, (name, what): &(&'static str, Value), time: &str) -> String {
        let locality = &self.host.locality;
        let mut fields = vec![
            ("health_checker_type", json!(self.checker).to_string()),
            ("host", address(&self.host.address)),
            ("cluster_name", json!(self.cluster).to_string()),
        ];
        let is_early = matches!(*name, "eject_unhealthy_event" | "add_healthy_event");
        let is_late = *name == "successful_health_check_event";
        if is_early {
            fields.push((name, what.to_string()));
        }
        fields.push(("timestamp", json!(time).to_string()));
        if !is_early && !is_late {
            fields.push((name, what.to_string()));
        }
        if let Some(metadata) = self.host.metadata.as_deref() {
            let shown = to_json(&metadata.encode_to_vec(), "envoy.config.core.v3.Metadata").ok();
            let labels = shown.as_ref().and_then(|shown| shown.get("filter_metadata"));
            let labels = labels.map_or_else(|| "{}".to_owned(), Value::to_string);
            let shown = format!("{{\"filter_metadata\":{labels},\"typed_filter_metadata\":{{}}}}");
            fields.push(("metadata", shown));
        }
        let (region, zone, sub_zone) = (&locality.region, &locality.zone, &locality.sub_zone);
        let place = [("region", region), ("zone", zone), ("sub_zone", sub_zone)];
        let place: Vec<String> = place
            .iter()
            .map(|(name, value)| format!("\"{name}\":{}", json!(value)))
            .collect();
        fields.push(("locality", format!("{{{}}}", place.join(","))));
        if is_late {
            fields.push((name, what.to_string()));
        }
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

fn address(address: &Address) -> String {
    match address {
        Address::Ip(address) => format!(
            "{{\"socket_address\":{{\"protocol\":\"TCP\",\"address\":\"{}\",\"port_value\":{},\"resolver_name\":\"\",\
             \"ipv4_compat\":false,\"network_namespace_filepath\":\"\"}}}}",
            address.ip(),
            address.port()
        ),
        Address::Pipe(path) => format!("{{\"pipe\":{{\"path\":{},\"mode\":0}}}}", json!(&**path)),
        Address::Internal(internal) => format!(
            "{{\"envoy_internal_address\":{{\"server_listener_name\":{},\"endpoint_id\":{}}}}}",
            json!(internal.listener),
            json!(internal.endpoint)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::host::Locality;

    fn host() -> Host {
        let mut host = Host::new(Address::Ip(([127, 0, 0, 1], 19_911).into()));
        host.locality = Arc::new(Locality {
            region: "r".to_owned(),
            zone: "z".to_owned(),
            sub_zone: String::new(),
        });
        host
    }

    fn names(
        log: &EventLog,
        outcome: Outcome,
        first: bool,
        failed: [bool; 2],
        degraded: [bool; 2],
    ) -> Vec<&'static str> {
        let checked = Checked {
            cluster: "one",
            host: &host(),
            checker: "HTTP",
            outcome,
            status: 0,
            first,
            failed,
            degraded,
        };
        log.events(&checked).iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn what_is_logged_is_what_envoy_logs() {
        let quiet = EventLog {
            sinks: Vec::new(),
            failures: false,
            successes: false,
        };
        let loud = EventLog {
            failures: true,
            successes: true,
            ..quiet.clone()
        };
        let (fine, no) = ([false, false], [false, false]);
        let (eject, failure) = ("eject_unhealthy_event", "health_check_failure_event");
        let success = "successful_health_check_event";
        // (outcome, first, failed before and now, degraded before and now) → quiet, loud; seen in the log of Envoy 1.40.
        let table: [(Outcome, bool, [bool; 2], [bool; 2], &[&str], &[&str]); 8] = [
            (Outcome::NetworkFailure, true, [true, true], no, &[failure], &[failure]),
            (Outcome::NetworkFailure, false, [true, true], no, &[], &[failure]),
            (
                Outcome::Success,
                true,
                [true, false],
                no,
                &["add_healthy_event"],
                &["add_healthy_event"],
            ),
            (Outcome::Success, false, fine, no, &[], &[success]),
            (Outcome::Failure, false, [false, true], no, &[eject], &[eject, failure]),
            (Outcome::Success, false, [true, true], no, &[], &[success]),
            (
                Outcome::Degraded,
                false,
                fine,
                [false, true],
                &["degraded_healthy_host"],
                &[success, "degraded_healthy_host"],
            ),
            (
                Outcome::Success,
                false,
                fine,
                [true, false],
                &["no_longer_degraded_host"],
                &[success, "no_longer_degraded_host"],
            ),
        ];
        for (outcome, first, failed, degraded, few, all) in table {
            assert_eq!(names(&quiet, outcome, first, failed, degraded), few, "{outcome:?}");
            assert_eq!(names(&loud, outcome, first, failed, degraded), all, "{outcome:?}");
        }
    }

    #[test]
    fn lines_are_envoys() {
        let host = host();
        let checked = Checked {
            cluster: "one",
            host: &host,
            checker: "HTTP",
            outcome: Outcome::Failure,
            status: 503,
            first: false,
            failed: [false, true],
            degraded: [false, false],
        };
        let event = (
            "eject_unhealthy_event",
            json!({"failure_type": "ACTIVE", "http_status_code": 503}),
        );
        assert_eq!(
            checked.render(&event, "2026-11-28T14:07:11.148Z"),
            r#"{"health_checker_type":"HTTP","host":{"socket_address":{"protocol":"TCP","address":"127.0.0.1","port_value":19911,"resolver_name":"","ipv4_compat":false,"network_namespace_filepath":""}},"cluster_name":"one","eject_unhealthy_event":{"failure_type":"ACTIVE","http_status_code":503},"timestamp":"2026-11-28T14:07:11.148Z","locality":{"region":"r","zone":"z","sub_zone":""}}"#
        );
        let event = ("successful_health_check_event", json!({}));
        let line = checked.render(&event, "T");
        assert!(line.ends_with(r#""timestamp":"T","locality":{"region":"r","zone":"z","sub_zone":""},"successful_health_check_event":{}}"#), "{line}");
    }
}
