//! The stats pages: text and JSON, in Envoy's order (text readouts, then counters and gauges, then histograms; each by name).

use regex::Regex;
use serde_json::json;

use super::histogram::{Bin, QUANTILES, Recorded, Summary};
use super::labelled::plain;
use super::number::general;
use super::stats::{Stats, Value};

/// Which stats a page shows.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub filter: Option<Regex>,
    pub invert_filter: bool,
    /// Leaves out counters at zero, gauges that nobody has written, and histograms without values.
    pub used_only: bool,
    pub kind: Kind,
}

/// `type=` of `/stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    All,
    Counters,
    Gauges,
    Histograms,
    TextReadouts,
}

/// `histogram_buckets=` of `/stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramMode {
    #[default]
    Summary,
    Cumulative,
    Disjoint,
    Detailed,
}

/// One stat as a scrape found it.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Counter(u64),
    Gauge(u64),
    Histogram(Recorded),
    Text(String),
}

impl Selection {
    /// `written`: of a gauge; `touched`: of a counter at zero.
    fn wants(&self, name: &str, reading: &Reading, written: bool, touched: bool) -> bool {
        let kind = match reading {
            Reading::Counter(_) => Kind::Counters,
            Reading::Gauge(_) => Kind::Gauges,
            Reading::Histogram(_) => Kind::Histograms,
            Reading::Text(_) => Kind::TextReadouts,
        };
        let used = match reading {
            Reading::Counter(value) => *value > 0 || touched,
            Reading::Histogram(recorded) => recorded.total.count() > 0,
            Reading::Gauge(_) | Reading::Text(_) => written,
        };
        let named = self
            .filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(name) != self.invert_filter);
        named && (used || !self.used_only) && (self.kind == Kind::All || self.kind == kind)
    }
}

/// Reads every selected stat; sorted by name.
pub fn collect(stats: &Stats, selection: &Selection) -> Vec<(String, Reading)> {
    let mut readings = Vec::new();
    stats.visit(&mut |prefix, name, value| {
        let full = format!("{prefix}{name}");
        let written = !matches!(value, Value::UnwrittenGauge);
        let touched = matches!(value, Value::TouchedCounter);
        let reading = match value {
            Value::Counter(value) => Reading::Counter(value),
            Value::Gauge(value) => Reading::Gauge(value),
            Value::UnwrittenGauge => Reading::Gauge(0),
            Value::TouchedCounter => Reading::Counter(0),
            Value::Histogram(histogram) => Reading::Histogram(histogram.recorded()),
            Value::Text(text) => Reading::Text(text),
        };
        if selection.wants(&plain(&full), &reading, written, touched) {
            readings.push((full, reading));
        }
    });
    readings.sort_by(|left, right| left.0.cmp(&right.0));
    readings
}

/// `/stats`: `name: value` lines.
pub fn text(readings: &[(String, Reading)], mode: HistogramMode) -> String {
    let mut page = String::new();
    for (name, reading) in readings {
        if let Reading::Text(value) = reading {
            page += &format!("{name}: \"{value}\"\n");
        }
    }
    for (name, reading) in readings {
        if let Reading::Counter(value) | Reading::Gauge(value) = reading {
            page += &plain(name);
            page += ": ";
            page += itoa::Buffer::new().format(*value);
            page.push('\n');
        }
    }
    for (name, reading) in readings {
        if let Reading::Histogram(recorded) = reading {
            let text = histogram_text(recorded, mode);
            // What goes on below has nothing behind the colon.
            let space = if text.starts_with('\n') { "" } else { " " };
            page += &format!("{}:{space}{text}\n", plain(name));
        }
    }
    page
}

/// One histogram's line: of each value that of the last interval (`nan` if nothing came), then that of all time.
fn histogram_text(recorded: &Recorded, mode: HistogramMode) -> String {
    if recorded.total.count() == 0 {
        return "No recorded values".to_owned();
    }
    let quantiles = || {
        let value = |of: &Summary, percent| general(of.quantile(percent).unwrap_or(f64::NAN), 6);
        let print = |percent: &f64| {
            let (interval, total) = (value(&recorded.interval, *percent), value(&recorded.total, *percent));
            format!("P{}({interval},{total})", general(*percent, 6))
        };
        QUANTILES.iter().map(print).collect::<Vec<_>>().join(" ")
    };
    let buckets = |cumulative: bool| {
        let print = |(bound, interval, total): (f64, u64, u64)| format!("B{}({interval},{total})", general(bound, 6));
        buckets(recorded, cumulative).map(print).collect::<Vec<_>>().join(" ")
    };
    let bins = |of: &Summary| {
        let print = |bin: &Bin| format!("{},{}:{}", general(bin.lower, 6), general(bin.width, 6), bin.count);
        of.bins.iter().map(print).collect::<Vec<_>>().join(", ")
    };
    match mode {
        HistogramMode::Summary => quantiles(),
        HistogramMode::Cumulative => buckets(true),
        HistogramMode::Disjoint => buckets(false),
        HistogramMode::Detailed => format!(
            "\n  totals={}\n  intervals={}\n  summary={}",
            bins(&recorded.total),
            bins(&recorded.interval),
            quantiles()
        ),
    }
}

/// Bounds, and how many values the last interval and all time have in their buckets.
fn buckets(recorded: &Recorded, cumulative: bool) -> impl Iterator<Item = (f64, u64, u64)> + '_ {
    let mut before = (0, 0);
    recorded.bounds().iter().map(move |bound| {
        let below = (
            recorded.interval.count_up_to(*bound),
            recorded.total.count_up_to(*bound),
        );
        let own = (below.0 - before.0, below.1 - before.1);
        before = below;
        let (interval, total) = if cumulative { below } else { own };
        (*bound, interval, total)
    })
}

/// `/stats?format=json`.
pub fn json(readings: &[(String, Reading)], mode: HistogramMode) -> String {
    let mut stats = Vec::new();
    let mut histograms = Vec::new();
    for (name, reading) in readings {
        if let Reading::Text(value) = reading {
            stats.push(json!({"name": name, "value": value}));
        }
    }
    for (name, reading) in readings {
        match reading {
            Reading::Counter(value) | Reading::Gauge(value) => stats.push(json!({"name": name, "value": value})),
            Reading::Histogram(recorded) => histograms.push((name, recorded)),
            Reading::Text(_) => {}
        }
    }
    if !histograms.is_empty() {
        stats.push(json!({"histograms": histograms_json(&histograms, mode)}));
    }
    json!({"stats": stats}).to_string()
}

fn histograms_json(histograms: &[(&String, &Recorded)], mode: HistogramMode) -> serde_json::Value {
    match mode {
        HistogramMode::Summary => {
            let rows = histograms
                .iter()
                .map(|(name, recorded)| json!({"name": name, "values": percentiles(recorded)}));
            json!({"supported_quantiles": percents(), "computed_quantiles": rows.collect::<Vec<_>>()})
        }
        HistogramMode::Cumulative | HistogramMode::Disjoint => {
            let row = |(name, recorded): &(&String, &Recorded)| {
                let bucket = |(bound, interval, total)| json!({"upper_bound": number(bound), "interval": interval, "cumulative": total});
                let own: Vec<_> = buckets(recorded, mode == HistogramMode::Cumulative)
                    .map(bucket)
                    .collect();
                json!({"name": name, "buckets": own})
            };
            json!(histograms.iter().map(row).collect::<Vec<_>>())
        }
        HistogramMode::Detailed => {
            let bin =
                |bin: &Bin| json!({"lower_bound": number(bin.lower), "width": number(bin.width), "count": bin.count});
            let bins = |of: &Summary| of.bins.iter().map(bin).collect::<Vec<_>>();
            let row = |(name, recorded): &(&String, &Recorded)| {
                let (totals, intervals) = (bins(&recorded.total), bins(&recorded.interval));
                json!({"name": name, "totals": totals, "intervals": intervals, "percentiles": percentiles(recorded)})
            };
            json!({"supported_percentiles": percents(), "details": histograms.iter().map(row).collect::<Vec<_>>()})
        }
    }
}

fn percents() -> Vec<serde_json::Value> {
    QUANTILES.iter().map(|percent| number(*percent)).collect()
}

fn percentiles(recorded: &Recorded) -> Vec<serde_json::Value> {
    let of = |summary: &Summary, percent| summary.quantile(percent).map(number);
    let value = |percent: &f64| json!({"cumulative": of(&recorded.total, *percent), "interval": of(&recorded.interval, *percent)});
    QUANTILES.iter().map(value).collect()
}

/// Whole numbers without `.0`, others with 15 digits (floating-point dust removed).
fn number(value: f64) -> serde_json::Value {
    general(value, 15)
        .parse::<serde_json::Number>()
        .map_or(serde_json::Value::Null, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::stat_group! {
        /// For tests.
        pub struct Sample {
            counters: { hits, misses }
            gauges: { active }
            histograms: { took_ms, unused_ms }
        }
    }

    fn sample() -> Stats {
        let stats = Stats::new();
        let group = stats.group::<Sample>("a.");
        group.hits.add(3);
        [0, 1, 2].into_iter().for_each(|value| group.took_ms.record(value));
        stats
    }

    #[test]
    fn the_text_page_is_envoys() {
        let page = text(&collect(&sample(), &Selection::default()), HistogramMode::Summary);
        let expected = "a.active: 0\na.hits: 3\na.misses: 0\n\
            a.took_ms: P0(nan,0) P25(nan,0) P50(nan,1.05) P75(nan,2.05) P90(nan,2.05) P95(nan,2.05) P99(nan,2.05) P99.5(nan,2.05) P99.9(nan,2.05) P100(nan,2.05)\n\
            a.unused_ms: No recorded values\n";
        assert_eq!(page, expected);
    }

    #[test]
    fn a_selection_narrows() {
        let mut selection = Selection {
            used_only: true,
            ..Selection::default()
        };
        let names = |selection: &Selection| {
            collect(&sample(), selection)
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&selection), ["a.hits", "a.took_ms"]);
        selection.used_only = false;
        selection.filter = Regex::new("hits$").ok();
        assert_eq!(names(&selection), ["a.hits"]);
        selection.invert_filter = true;
        assert_eq!(names(&selection), ["a.active", "a.misses", "a.took_ms", "a.unused_ms"]);
        selection.kind = Kind::Gauges;
        assert_eq!(names(&selection), ["a.active"]);
    }

    #[test]
    fn the_json_page_is_envoys() {
        let selection = Selection {
            used_only: true,
            ..Selection::default()
        };
        let page = json(&collect(&sample(), &selection), HistogramMode::Detailed);
        assert!(page.starts_with(
            r#"{"stats":[{"name":"a.hits","value":3},{"histograms":{"supported_percentiles":[0,25,50,75,90,95,99,99.5,99.9,100],"details":[{"name":"a.took_ms","totals":[{"lower_bound":0,"width":0,"count":1},{"lower_bound":1,"width":0.1,"count":1}"#
        ), "{page}");
        let summary = json(&collect(&sample(), &selection), HistogramMode::Summary);
        assert!(
            summary.contains(r#""computed_quantiles":[{"name":"a.took_ms","values":[{"cumulative":0,"interval":null}"#),
            "{summary}"
        );
        let cumulative = json(&collect(&sample(), &selection), HistogramMode::Cumulative);
        assert!(
            cumulative.contains(r#"{"upper_bound":1,"interval":0,"cumulative":2}"#),
            "{cumulative}"
        );
    }

    #[test]
    fn a_flush_gives_the_interval_its_values() {
        let stats = sample();
        stats.flush();
        stats.group::<Sample>("a.").took_ms.record(2000);
        let selection = Selection {
            used_only: true,
            kind: Kind::Histograms,
            ..Selection::default()
        };
        let readings = collect(&stats, &selection);
        let page = text(&readings, HistogramMode::Summary);
        assert!(
            page.starts_with("a.took_ms: P0(0,0) P25(0,0) P50(1.05,1.05) P75(2.05,"),
            "{page}"
        );
        let page = text(&readings, HistogramMode::Cumulative);
        assert!(page.contains(" B1(2,2) ") && page.contains(" B2500(3,4) "), "{page}");
        let page = text(&readings, HistogramMode::Detailed);
        assert!(page.contains("\n  intervals=0,0:1, 1,0.1:1, 2,0.1:1\n"), "{page}");
        let page = json(&readings, HistogramMode::Disjoint);
        assert!(
            page.contains(r#"{"upper_bound":5,"interval":1,"cumulative":1}"#),
            "{page}"
        );
    }

    #[test]
    fn reset_clears_counters_and_histograms() {
        let stats = sample();
        stats.group::<Sample>("a.").active.set(2);
        stats.reset();
        let selection = Selection {
            used_only: true,
            ..Selection::default()
        };
        assert_eq!(
            collect(&stats, &selection),
            [("a.active".to_owned(), Reading::Gauge(2))]
        );
    }
}
