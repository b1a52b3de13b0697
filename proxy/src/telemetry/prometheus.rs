//! Prometheus text, as Envoy's `/stats/prometheus` prints it.

use std::collections::BTreeMap;

use super::histogram::{QUANTILES, Recorded};
use super::number::general;
use super::render::Reading;
use super::tags::TagRules;

/// What is left of a metric of Envoy's custom namespace is not prefixed with `envoy_`.
const CUSTOM_NAMESPACE: &str = "istiocustom.";

/// How a page is rendered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Text readouts as gauges of value 0 with a `text_value` label.
    pub text_readouts: bool,
    /// `histogram_buckets=summary`: quantiles instead of buckets.
    pub summaries: bool,
}

/// One sample: its label text and value.
type Sample<'a> = (String, &'a Reading);

/// Families of counters, then of gauges, text readouts and histograms, each by name; samples by stat name.
pub fn render(readings: &[(String, Reading)], rules: &TagRules, options: Options) -> String {
    let mut kinds: [BTreeMap<String, Vec<Sample<'_>>>; 4] = Default::default();
    for (name, reading) in readings {
        let kind = match reading {
            Reading::Counter(_) => 0,
            Reading::Gauge(_) => 1,
            Reading::Text(_) if options.text_readouts => 2,
            Reading::Text(_) => continue,
            Reading::Histogram(_) => 3,
        };
        let mut tagged = super::labelled::split(name).unwrap_or_else(|| rules.extract(name));
        if let Reading::Text(value) = reading {
            tagged.tags.push(("text_value".to_owned(), value.clone()));
        }
        kinds[kind]
            .entry(metric_name(&tagged.name))
            .or_default()
            .push((labels(&tagged.tags), reading));
    }
    let mut page = String::new();
    let types = [
        "counter",
        "gauge",
        "gauge",
        if options.summaries { "summary" } else { "histogram" },
    ];
    for (families, kind) in kinds.iter().zip(types) {
        for (family, samples) in families {
            page += &format!("# TYPE {family} {kind}\n");
            samples
                .iter()
                .for_each(|(labels, reading)| sample(&mut page, family, labels, reading, options));
        }
    }
    page
}

fn sample(page: &mut String, family: &str, labels: &str, reading: &Reading, options: Options) {
    match reading {
        Reading::Counter(value) | Reading::Gauge(value) => {
            page.push_str(family);
            page.push('{');
            page.push_str(labels);
            page.push_str("} ");
            page.push_str(itoa::Buffer::new().format(*value));
            page.push('\n');
        }
        Reading::Text(_) => *page += &format!("{family}{{{labels}}} 0\n"),
        Reading::Histogram(recorded) => histogram(page, family, labels, recorded, options),
    }
}

fn histogram(page: &mut String, family: &str, labels: &str, recorded: &Recorded, options: Options) {
    let summary = &recorded.total;
    let comma = if labels.is_empty() { "" } else { "," };
    let count = summary.count();
    if options.summaries {
        for percent in QUANTILES {
            let value = summary.quantile(percent).unwrap_or(f64::NAN);
            let quantile = general(percent / 100.0, 6);
            *page += &format!(
                "{family}{{{labels}{comma}quantile=\"{quantile}\"}} {}\n",
                general(value, 32)
            );
        }
    } else {
        for bound in recorded.bounds() {
            let below = summary.count_up_to(*bound);
            *page += &format!(
                "{family}_bucket{{{labels}{comma}le=\"{}\"}} {below}\n",
                general(*bound, 32)
            );
        }
        *page += &format!("{family}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}\n");
    }
    *page += &format!("{family}_sum{{{labels}}} {}\n", general(summary.sum(), 32));
    *page += &format!("{family}_count{{{labels}}} {count}\n");
}

fn metric_name(name: &str) -> String {
    match name.strip_prefix(CUSTOM_NAMESPACE) {
        Some(own) => sanitised(own),
        None => format!("envoy_{}", sanitised(name)),
    }
}

fn sanitised(name: &str) -> String {
    name.chars()
        .map(|char| if char.is_ascii_alphanumeric() { char } else { '_' })
        .collect()
}

fn labels(tags: &[(String, String)]) -> String {
    let label = |(tag, value): &(String, String)| {
        let escaped = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        format!("{}=\"{escaped}\"", sanitised(tag))
    };
    tags.iter().map(label).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::histogram::Histogram;

    fn page(options: Options) -> String {
        let histogram = Histogram::default();
        histogram.record(14);
        let readings = [
            ("cluster.a.upstream_rq_200".to_owned(), Reading::Counter(3)),
            ("cluster.b\"c.upstream_rq_200".to_owned(), Reading::Counter(4)),
            ("control_plane.identifier".to_owned(), Reading::Text("x".to_owned())),
            ("istiocustom.istio_build".to_owned(), Reading::Gauge(1)),
            ("server.live".to_owned(), Reading::Gauge(1)),
            (
                "server.initialization_time_ms".to_owned(),
                Reading::Histogram(histogram.recorded()),
            ),
        ];
        render(&readings, &TagRules::default(), options)
    }

    #[test]
    fn families_labels_and_values_are_envoys() {
        let page = page(Options::default());
        assert!(
            page.starts_with(
                "# TYPE envoy_cluster_upstream_rq counter\n\
             envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"a\"} 3\n\
             envoy_cluster_upstream_rq{envoy_response_code=\"200\",envoy_cluster_name=\"b\\\"c\"} 4\n\
             # TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n\
             # TYPE istio_build gauge\nistio_build{} 1\n\
             # TYPE envoy_server_initialization_time_ms histogram\n\
             envoy_server_initialization_time_ms_bucket{le=\"0.5\"} 0\n"
            ),
            "{page}"
        );
        assert!(page.contains("_bucket{le=\"25\"} 1\n") && page.contains("_bucket{le=\"3600000\"} 1\n"));
        assert!(
            page.ends_with(
                "envoy_server_initialization_time_ms_bucket{le=\"+Inf\"} 1\n\
             envoy_server_initialization_time_ms_sum{} 14.482758620689654804891688399948\n\
             envoy_server_initialization_time_ms_count{} 1\n"
            ),
            "{page}"
        );
    }

    #[test]
    fn text_readouts_and_summaries_come_when_asked_for() {
        let page = page(Options {
            text_readouts: true,
            summaries: true,
        });
        assert!(page.contains("envoy_control_plane_identifier{text_value=\"x\"} 0\n"));
        assert!(page.contains("# TYPE envoy_server_initialization_time_ms summary\n"));
        assert!(
            page.contains("envoy_server_initialization_time_ms{quantile=\"0.995\"} 14.5\n"),
            "{page}"
        );
    }
}
