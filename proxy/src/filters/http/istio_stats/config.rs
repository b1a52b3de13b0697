//! `stats.PluginConfig`: which metrics there are, and what changes in their labels.

use std::time::Duration;

use prost::Message;
use remora_proto::istio::stats::{MetricConfig, PluginConfig};
use remora_proto::pb::envoy::config::core::v3::Node;

use super::attribute::Subject;
use super::expression::Expression;
use super::labels::{Label, UNKNOWN};
use crate::config::route::{Under, duration, each, refuse};
use crate::config::{Compiled, Problems};

/// Behind each value of a configured dimension; values lose it.
const SEPARATOR: &str = "\u{1}";

/// The changes, in their order.
pub(super) struct Metrics {
    changes: Vec<Change>,
}

struct Change {
    /// Without `istio_`; empty: every metric.
    metric: String,
    drop: bool,
    remove: Vec<String>,
    /// By label, sorted.
    dimensions: Vec<(String, Expression)>,
}

/// A compiled `PluginConfig`.
pub(super) struct Config {
    pub metrics: Metrics,
    /// Whether the host header may stand for a service.
    pub host_fallback: bool,
    /// How often what lasts is reported before its end.
    pub interval: Duration,
}

/// Istio's.
const INTERVAL: Duration = Duration::from_secs(5);

/// `node`: who we are, which expressions may ask for.
pub(super) fn compile(config: &[u8], node: &Node) -> Compiled<Config> {
    let config = PluginConfig::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    refuse("definitions", !config.definitions.is_empty(), "is not supported")?;
    refuse("reporter", config.reporter != 0, "only sidecars report")?;
    let changes = each("metrics", &config.metrics, |metric| Change::compile(metric, node))?;
    let interval = duration("tcp_reporting_duration", config.tcp_reporting_duration.as_ref())?;
    Ok(Config {
        metrics: Metrics { changes },
        host_fallback: !config.disable_host_header_fallback,
        interval: interval.filter(|interval| !interval.is_zero()).unwrap_or(INTERVAL),
    })
}

impl Change {
    fn compile(value: &MetricConfig, node: &Node) -> Compiled<Self> {
        refuse("match", !value.r#match.is_empty(), "conditions are not supported")?;
        let mut dimensions = Vec::with_capacity(value.dimensions.len());
        for (label, expression) in &value.dimensions {
            let expression = Expression::compile(expression, node).under(&format!("dimensions[{label:?}]"))?;
            dimensions.push((label.clone(), expression));
        }
        dimensions.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(Self {
            metric: value.name.clone(),
            drop: value.drop,
            remove: value.tags_to_remove.clone(),
            dimensions,
        })
    }

    fn concerns(&self, metric: &str) -> bool {
        self.metric.is_empty() || self.metric == metric
    }
}

impl Metrics {
    /// What the configured dimensions say, joined; empty without any.
    pub fn own_values<'a>(&self, subject: impl FnOnce() -> Subject<'a>) -> String {
        let mut values = String::new();
        let mut expressions = self.expressions().peekable();
        if expressions.peek().is_none() {
            return values;
        }
        let subject = subject();
        for expression in expressions {
            let start = values.len();
            if !expression.write(&subject, &mut values) {
                values.push_str(UNKNOWN);
            } else if values[start..].contains(SEPARATOR) {
                let clean = values.split_off(start).replace(SEPARATOR, "");
                values.push_str(&clean);
            }
            values.push_str(SEPARATOR);
        }
        values
    }

    /// Whether the response's headers have to be kept for them.
    pub fn needs_response(&self) -> bool {
        self.expressions().any(Expression::needs_response)
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let dimensions = self.changes.iter().flat_map(|change| &change.dimensions);
        dimensions.map(|(_, expression)| expression)
    }

    /// A metric's labels after every change. `None`: it is dropped. `own`: see [`own_values`](Self::own_values).
    pub fn labels<'a>(
        &'a self,
        metric: &str,
        standard: &'a [Label<'_>],
        own: &'a str,
    ) -> Option<Vec<(&'a str, &'a str)>> {
        let mut labels: Vec<(&str, &str)> = standard.iter().map(|(label, value)| (*label, &**value)).collect();
        let mut own = own.split(SEPARATOR);
        for change in &self.changes {
            // One value for each dimension, of this metric or not.
            let values: Vec<_> = change
                .dimensions
                .iter()
                .map(|_| own.next().unwrap_or_default())
                .collect();
            if !change.concerns(metric) {
                continue;
            }
            match change.drop {
                false => {}
                // Istio drops what has a name, one metric at a time; and of what is dropped nothing else is changed.
                true if change.metric.is_empty() => continue,
                true => return None,
            }
            labels.retain(|(label, _)| !change.remove.iter().any(|removed| removed == label));
            for ((label, _), value) in change.dimensions.iter().zip(values) {
                match labels.iter_mut().find(|(known, _)| known == label) {
                    Some(known) => known.1 = value,
                    None => labels.push((label, value)),
                }
            }
        }
        Some(labels)
    }
}
