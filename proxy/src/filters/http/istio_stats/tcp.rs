//! Connections without HTTP: opened, closed, and their bytes, reported while they last.

use std::sync::Arc;
use std::time::Duration;

use super::IstioStats;
use super::attribute::Subject;
use super::key::Facts;
use crate::filters::network::{Observer, Watch};
use crate::telemetry::format::TcpRecord;
use crate::telemetry::stats::Counter;

/// One combination's metrics; `None`: dropped by configuration.
struct Series {
    opened: Option<Arc<Counter>>,
    closed: Option<Arc<Counter>>,
    sent: Option<Arc<Counter>>,
    received: Option<Arc<Counter>>,
}

/// What was reported of a connection so far.
struct Reports {
    stats: Arc<IstioStats>,
    /// Known from the first report on: labels do not change while a connection lasts.
    series: Option<Series>,
    sent: u64,
    received: u64,
}

/// An [`Observer`] of connections for a filter.
pub struct TcpObserver(pub Arc<IstioStats>);

impl Observer for TcpObserver {
    fn watch(&self) -> Box<dyn Watch> {
        Box::new(Reports {
            stats: self.0.clone(),
            series: None,
            sent: 0,
            received: 0,
        })
    }
}

impl Watch for Reports {
    fn interval(&self) -> Duration {
        self.stats.interval
    }

    fn look(&mut self, record: &TcpRecord) {
        // Labels do not change any more once there are some.
        if self.series.is_some() || Facts::are_known(record) {
            self.report(record);
        }
    }

    fn end(&mut self, record: &TcpRecord) {
        self.report(record);
        if let Some(series) = &self.series {
            add(&series.closed, 1);
        }
    }
}

impl Reports {
    fn report(&mut self, record: &TcpRecord) {
        let Self {
            stats,
            series,
            sent,
            received,
        } = self;
        let series = series.get_or_insert_with(|| {
            let series = Series::of(stats, record);
            add(&series.opened, 1);
            series
        });
        let bytes = record.bytes;
        add(&series.sent, bytes.sent.saturating_sub(*sent));
        add(&series.received, bytes.received.saturating_sub(*received));
        (*sent, *received) = (bytes.sent, bytes.received);
    }
}

impl Series {
    fn of(stats: &IstioStats, record: &TcpRecord) -> Self {
        let facts = Facts::of_tcp(record);
        let labels = super::labels::of(&facts, &stats.own);
        let values = stats.metrics.own_values(|| Subject::of_tcp(record));
        let counter = |name: &str| {
            let labels = stats.metrics.labels(name, &labels, &values)?;
            Some(stats.group.counter(&format!("istio_{name}"), &labels))
        };
        Self {
            opened: counter("tcp_connections_opened_total"),
            closed: counter("tcp_connections_closed_total"),
            sent: counter("tcp_sent_bytes_total"),
            received: counter("tcp_received_bytes_total"),
        }
    }
}

fn add(counter: &Option<Arc<Counter>>, by: u64) {
    if let Some(counter) = counter {
        counter.add(by);
    }
}
