//! Metrics whose labels are known when they are made, instead of being cut out of their names.
//!
//! In: a metric's name and labels, once for each set of labels; a handle comes back, and a request touches nothing else. Out: names that the
//! pages can take apart again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::stats::{Counter, Gauge, Histogram, StatGroup, Value};
use super::tags::Tagged;

/// Before each label.
const LABEL: char = '\u{1f}';
/// Between a label's name and its value.
const IS: char = '\u{1e}';

/// Metrics with labels, under one prefix.
#[derive(Default)]
pub struct Labelled {
    counters: Mutex<BTreeMap<String, Arc<Counter>>>,
    gauges: Mutex<BTreeMap<String, Arc<Gauge>>>,
    histograms: Mutex<BTreeMap<String, Arc<Histogram>>>,
}

impl Labelled {
    /// The counter with this name and these labels, made if need be. Not for the request path: keep the handle.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Counter> {
        self.counters.lock().entry(joined(name, labels)).or_default().clone()
    }

    /// As [`counter`](Self::counter).
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Gauge> {
        self.gauges.lock().entry(joined(name, labels)).or_default().clone()
    }

    /// As [`counter`](Self::counter).
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Arc<Histogram> {
        self.histograms.lock().entry(joined(name, labels)).or_default().clone()
    }
}

impl StatGroup for Labelled {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        for (name, counter) in self.counters.lock().iter() {
            visit(name, Value::Counter(counter.value()));
        }
        for (name, gauge) in self.gauges.lock().iter() {
            visit(name, gauge.reading());
        }
        for (name, histogram) in self.histograms.lock().iter() {
            visit(name, Value::Histogram(histogram));
        }
    }

    fn reset(&self) {
        self.counters.lock().values().for_each(|counter| counter.reset());
        self.histograms.lock().values().for_each(|histogram| histogram.reset());
    }

    fn flush(&self) {
        self.histograms.lock().values().for_each(|histogram| histogram.flush());
    }
}

fn joined(name: &str, labels: &[(&str, &str)]) -> String {
    let mut out = name.to_owned();
    for (label, value) in labels {
        out.push(LABEL);
        out.push_str(label);
        out.push(IS);
        // A value may come from a peer: it must not look like a label.
        out.extend(
            value
                .chars()
                .map(|char| if matches!(char, LABEL | IS) { '_' } else { char }),
        );
    }
    out
}

/// Whether this is the name of such a metric.
pub fn is_labelled(name: &str) -> bool {
    name.contains(LABEL)
}

/// The name and the labels of a metric of this kind. `None`: its labels are in its name, if anywhere.
pub fn split(name: &str) -> Option<Tagged> {
    let (name, labels) = name.split_once(LABEL)?;
    let label = |label: &str| {
        let (label, value) = label.split_once(IS).unwrap_or((label, ""));
        (label.to_owned(), value.to_owned())
    };
    Some(Tagged {
        name: name.to_owned(),
        tags: labels.split(LABEL).map(label).collect(),
    })
}

/// The name as `/stats` prints it: labels and values are further parts.
pub fn plain(name: &str) -> Cow<'_, str> {
    if name.contains(LABEL) {
        Cow::Owned(name.replace([LABEL, IS], "."))
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_the_name_and_no_value_forges_one() {
        let group = Labelled::default();
        let labels = [("reporter", "source"), ("app", "a.b\u{1f}reporter\u{1e}destination")];
        group.counter("requests_total", &labels).inc();
        group.counter("requests_total", &labels).inc();
        let mut seen = Vec::new();
        group.visit(&mut |name, value| {
            if let Value::Counter(value) = value {
                seen.push((name.to_owned(), value));
            }
        });
        let [(name, 2)] = seen.as_slice() else {
            panic!("one counter: {seen:?}");
        };
        let tagged = split(name).expect("labels");
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(tagged.name, "requests_total");
        assert_eq!(
            tagged.tags,
            [tag("reporter", "source"), tag("app", "a.b_reporter_destination")]
        );
        assert_eq!(
            plain(name),
            "requests_total.reporter.source.app.a.b_reporter_destination"
        );
        assert_eq!(
            (split("cluster.a.b"), plain("cluster.a.b")),
            (None, "cluster.a.b".into())
        );
    }
}
