//! The event log of outlier detection (`cluster_manager.outlier_detection.event_log_path`): one JSON line per decision, as Envoy writes them.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::EjectionType;
use crate::cluster::host::Host;
use crate::runtime::clock;
use crate::telemetry::access_log::Sink;
use crate::telemetry::format;

/// One cluster's view of the log.
#[derive(Clone)]
pub struct EventLog {
    pub sink: Arc<Sink>,
    pub cluster: Arc<str>,
}

/// What an ejection was decided on.
#[derive(Clone, Copy, Debug)]
pub enum Evidence {
    Consecutive,
    /// A host's rate, the average of all, and the threshold that follows from it; percent.
    SuccessRate {
        host: f64,
        average: f64,
        threshold: f64,
    },
    FailurePercentage {
        host: f64,
    },
}

/// One line of the log.
pub(super) struct Event {
    /// [`EjectionType::name`], or `DEGRADED`.
    pub kind: &'static str,
    pub ejections: u32,
    pub since_last: Option<u64>,
    /// `None`: the host is let in again.
    pub evidence: Option<Evidence>,
    pub enforced: bool,
}

impl EventLog {
    pub(super) fn write(&self, host: &Host, event: &Event, now: Instant) {
        let mut line = self.render(host, event, &format::timestamp(clock::wall_of(now)));
        line.push('\n');
        self.sink.write(line.as_bytes());
    }

    /// Fields in Envoy's order, which a JSON object of ours would not keep.
    fn render(&self, host: &Host, event: &Event, time: &str) -> String {
        let mut fields = vec![("type", json!(event.kind)), ("timestamp", json!(time))];
        if let Some(seconds) = event.since_last {
            // A 64-bit number is text in protobuf's JSON.
            fields.push(("secs_since_last_action", json!(seconds.to_string())));
        }
        let action = if event.evidence.is_some() { "EJECT" } else { "UNEJECT" };
        fields.extend([
            ("cluster_name", json!(&*self.cluster)),
            ("upstream_url", json!(host.address.to_string())),
            ("action", json!(action)),
            ("num_ejections", json!(event.ejections)),
            ("enforced", json!(event.enforced)),
        ]);
        fields.extend(event.evidence.map(Evidence::field));
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value}"))
            .collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl Evidence {
    fn field(self) -> (&'static str, Value) {
        // Envoy's rates here are whole.
        let whole = |rate: f64| rate.max(0.0) as u32;
        match self {
            Self::Consecutive => ("eject_consecutive_event", json!({})),
            Self::SuccessRate {
                host,
                average,
                threshold,
            } => (
                "eject_success_rate_event",
                json!({
                    "host_success_rate": whole(host),
                    "cluster_average_success_rate": whole(average),
                    "cluster_success_rate_ejection_threshold": whole(threshold),
                }),
            ),
            Self::FailurePercentage { host } => (
                "eject_failure_percentage_event",
                json!({"host_success_rate": whole(host)}),
            ),
        }
    }
}

impl EjectionType {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "CONSECUTIVE_5XX",
            Self::ConsecutiveGatewayFailure => "CONSECUTIVE_GATEWAY_FAILURE",
            Self::ConsecutiveLocalOriginFailure => "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
            Self::SuccessRate => "SUCCESS_RATE",
            Self::SuccessRateLocalOrigin => "SUCCESS_RATE_LOCAL_ORIGIN",
            Self::FailurePercentage => "FAILURE_PERCENTAGE",
            Self::FailurePercentageLocalOrigin => "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::io::Address;

    #[test]
    fn lines_are_envoys() {
        let stats = crate::telemetry::stats::Stats::default();
        let file = tempfile::NamedTempFile::new().unwrap();
        let sinks = crate::telemetry::access_log::Sinks::default();
        let log = EventLog {
            sink: sinks.open(&file.path().display().to_string(), &stats).unwrap(),
            cluster: Arc::from("b"),
        };
        let host = Host::new(Address::Ip(([127, 0, 0, 1], 18480).into()));
        let line = |kind: EjectionType, ejections, since_last, evidence, enforced| {
            let event = Event {
                kind: kind.name(),
                ejections,
                since_last,
                evidence,
                enforced,
            };
            log.render(&host, &event, "2026-11-28T11:03:46.844Z")
        };
        // As a real Envoy 1.40 wrote them.
        assert_eq!(
            line(EjectionType::Consecutive5xx, 1, None, Some(Evidence::Consecutive), true),
            r#"{"type":"CONSECUTIVE_5XX","timestamp":"2026-11-28T11:03:46.844Z","cluster_name":"b","upstream_url":"127.0.0.1:18480","action":"EJECT","num_ejections":1,"enforced":true,"eject_consecutive_event":{}}"#
        );
        assert_eq!(
            line(EjectionType::Consecutive5xx, 1, Some(1), None, false),
            r#"{"type":"CONSECUTIVE_5XX","timestamp":"2026-11-28T11:03:46.844Z","secs_since_last_action":"1","cluster_name":"b","upstream_url":"127.0.0.1:18480","action":"UNEJECT","num_ejections":1,"enforced":false}"#
        );
        assert_eq!(
            line(
                EjectionType::FailurePercentage,
                2,
                Some(1),
                Some(Evidence::FailurePercentage { host: 0.0 }),
                true
            ),
            r#"{"type":"FAILURE_PERCENTAGE","timestamp":"2026-11-28T11:03:46.844Z","secs_since_last_action":"1","cluster_name":"b","upstream_url":"127.0.0.1:18480","action":"EJECT","num_ejections":2,"enforced":true,"eject_failure_percentage_event":{"host_success_rate":0}}"#
        );
    }
}
