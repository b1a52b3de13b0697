//! `stats.PluginConfig`: which metrics there are, and what changes in their labels.

use std::fmt::Write as _;
use std::time::Duration;

use prost::Message;
use remora_proto::istio::stats::{MetricConfig, PluginConfig};

use super::labels::Label;
use crate::config::route::{Under, duration, each, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::route::RequestView;

/// Between the values of configured dimensions; no header value and no path can hold it.
const SEPARATOR: char = '\u{1}';

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

/// The CEL expressions that dimensions are commonly made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expression {
    Literal(String),
    Host,
    Method,
    Path,
    UrlPath,
    Header(http::HeaderName),
}

/// A compiled `PluginConfig`.
pub(super) struct Config {
    pub metrics: Metrics,
    /// Whether the host header may stand for a service.
    pub host_fallback: bool,
    /// How often a connection without HTTP is reported while it lasts.
    pub tcp_interval: Duration,
}

const TCP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn compile(config: &[u8]) -> Compiled<Config> {
    let config = PluginConfig::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    refuse("definitions", !config.definitions.is_empty(), "is not supported")?;
    refuse("reporter", config.reporter != 0, "only sidecars report")?;
    let changes = each("metrics", &config.metrics, Change::compile)?;
    let interval = duration("tcp_reporting_duration", config.tcp_reporting_duration.as_ref())?;
    Ok(Config {
        metrics: Metrics { changes },
        host_fallback: !config.disable_host_header_fallback,
        tcp_interval: interval.filter(|interval| !interval.is_zero()).unwrap_or(TCP_INTERVAL),
    })
}

impl Change {
    fn compile(value: &MetricConfig) -> Compiled<Self> {
        refuse("match", !value.r#match.is_empty(), "conditions are not supported")?;
        let mut dimensions = Vec::with_capacity(value.dimensions.len());
        for (label, expression) in &value.dimensions {
            let expression = Expression::compile(expression).under(&format!("dimensions[{label:?}]"))?;
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
    /// What the configured dimensions say of a request, joined; empty without any.
    pub fn own_values(&self, exchange: &Exchange) -> String {
        let mut values = String::new();
        for (_, expression) in self.changes.iter().flat_map(|change| &change.dimensions) {
            expression.write(exchange, &mut values);
            values.push(SEPARATOR);
        }
        values
    }

    /// As [`own_values`](Self::own_values), of a connection without requests: only what asks for none has a value.
    pub fn values_of_connection(&self) -> String {
        let mut values = String::new();
        for (_, expression) in self.changes.iter().flat_map(|change| &change.dimensions) {
            if let Expression::Literal(text) = expression {
                values.push_str(text);
            }
            values.push(SEPARATOR);
        }
        values
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
            if change.drop {
                return None;
            }
            labels.retain(|(label, _)| !change.remove.iter().any(|removed| removed == label));
            for ((label, _), value) in change.dimensions.iter().zip(values) {
                let value = if value.is_empty() { "unknown" } else { value };
                match labels.iter_mut().find(|(known, _)| known == label) {
                    Some(known) => known.1 = value,
                    None => labels.push((label, value)),
                }
            }
        }
        Some(labels)
    }
}

impl Expression {
    fn compile(text: &str) -> Compiled<Self> {
        let text = text.trim();
        let quoted = |text: &str| {
            let inner = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
            inner('"')
                .or_else(|| inner('\''))
                .filter(|inner| !inner.contains(['"', '\'', '\\']))
                .map(str::to_owned)
        };
        if let Some(literal) = quoted(text) {
            return Ok(Self::Literal(literal));
        }
        let header = text
            .strip_prefix("request.headers[")
            .and_then(|rest| quoted(rest.strip_suffix(']')?));
        if let Some(name) = header {
            return crate::config::route::header_name("", &name).map(Self::Header);
        }
        Ok(match text {
            "request.host" => Self::Host,
            "request.method" => Self::Method,
            "request.path" => Self::Path,
            "request.url_path" => Self::UrlPath,
            other => return Err(Problems::one("", format!("the expression {other:?} is not supported"))),
        })
    }

    fn write(&self, exchange: &Exchange, out: &mut String) {
        let view = RequestView::of(exchange);
        match self {
            Self::Literal(text) => out.push_str(text),
            Self::Host => out.push_str(&String::from_utf8_lossy(view.authority.unwrap_or_default())),
            Self::Method => {
                let _ = write!(out, "{}", view.method);
            }
            Self::Path => out.push_str(view.path_and_query().unwrap_or_default()),
            Self::UrlPath => out.push_str(view.path().unwrap_or_default()),
            Self::Header(name) => {
                let value = view.headers.get(name).map(http::HeaderValue::as_bytes);
                out.push_str(&String::from_utf8_lossy(value.unwrap_or_default()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_expressions_compile_and_others_are_refused() {
        let compile = |text: &str| Expression::compile(text).ok();
        assert_eq!(compile("\"a b\""), Some(Expression::Literal("a b".into())));
        assert_eq!(compile("request.url_path"), Some(Expression::UrlPath));
        let header = http::HeaderName::from_static("x-a");
        assert_eq!(compile("request.headers['x-a']"), Some(Expression::Header(header)));
        assert_eq!(compile("request.size > 3"), None);
        assert_eq!(compile("\"a\" + \"b\""), None);
    }
}
