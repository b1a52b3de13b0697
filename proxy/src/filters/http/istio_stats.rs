//! `istio.stats`: Istio's standard metrics.
//!
//! In: a finished request and what is known of both its ends. Out: counters and histograms under `istiocustom.`, which the Prometheus page
//! prints as `istio_requests_total` and so on. The labels of a request are compared as they lie about; only a combination that this thread has
//! not seen is formatted.

mod config;
mod key;
mod labels;
mod tcp;

pub use tcp::TcpObserver;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use remora_proto::pb::google::protobuf::value::Kind;

use super::grpc_call::GrpcCall;
use super::peer_metadata::Peer;
use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::config::{BuildContext, Compiled};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::telemetry::labelled::Labelled;
use crate::telemetry::stats::{Counter, Histogram};
use config::Metrics;
use key::{Facts, OwnedKey};

pub const REGISTRATION: Registration = Registration {
    type_name: "stats.PluginConfig",
    compile,
    per_route: &[],
};

/// The namespace that the Prometheus page takes off again.
const PREFIX: &str = "istiocustom.";
/// Combinations that a thread remembers before it starts over.
const REMEMBERED: usize = 4096;

/// The compiled filter, of HTTP and of TCP.
pub struct IstioStats {
    name: Box<str>,
    /// Unique in the process: threads remember combinations of many filters.
    id: u64,
    metrics: Metrics,
    /// Whether `host` stands for a service that the cluster does not name.
    host_fallback: bool,
    own: Peer,
    group: Arc<Labelled>,
    tcp_interval: Duration,
}

/// One combination's metrics; `None`: dropped by configuration.
struct Series {
    requests: Option<Arc<Counter>>,
    duration: Option<Arc<Histogram>>,
    request_bytes: Option<Arc<Histogram>>,
    response_bytes: Option<Arc<Histogram>>,
    request_messages: Option<Arc<Counter>>,
    response_messages: Option<Arc<Counter>>,
}

/// What a thread remembers of a combination. The peer is kept because keys compare it by address.
struct Known {
    series: Arc<Series>,
    _peer: Option<Arc<Peer>>,
}

thread_local! {
    static KNOWN: RefCell<HashMap<OwnedKey, Known>> = RefCell::default();
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    IstioStats::compile(config, cx.name, cx.build).map(|filter| Stage::Filter(Arc::new(filter)))
}

impl Filter for IstioStats {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        GrpcCall::watch_request(exchange);
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        GrpcCall::watch_response(exchange, response);
        Flow::Continue
    }

    fn log(&self, exchange: &mut Exchange) {
        let facts = Facts::of(exchange, self.host_fallback);
        let extra = self.metrics.own_values(exchange);
        let key = facts.key(self.id, &extra);
        KNOWN.with_borrow_mut(|known| {
            if let Some(known) = known.get(&key) {
                return known.series.record(exchange);
            }
            let series = self.series(&facts, &extra);
            series.record(exchange);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            let peer = facts.peer.cloned();
            known.insert(key.to_owned(), Known { series, _peer: peer });
        });
    }
}

impl IstioStats {
    /// Compiles the encoded configuration.
    ///
    /// # Errors
    /// What is wrong or not supported, by path.
    pub fn compile(config: &[u8], name: &str, build: &BuildContext) -> Compiled<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let config = config::compile(config)?;
        let node = &build.node;
        let group = build.stats.group::<Labelled>(PREFIX);
        let version = node
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.fields.get("ISTIO_VERSION"));
        let version = match version.and_then(|version| version.kind.as_ref()) {
            Some(Kind::StringValue(version)) => version,
            _ => "unknown",
        };
        group
            .gauge("istio_build", &[("component", "proxy"), ("tag", version)])
            .set(1);
        Ok(Self {
            name: name.into(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            metrics: config.metrics,
            host_fallback: config.host_fallback,
            own: Peer::of_node(node),
            group,
            tcp_interval: config.tcp_interval,
        })
    }

    /// The series of a combination; threads that meet the same labels share its metrics.
    fn series(&self, facts: &Facts<'_>, extra: &str) -> Arc<Series> {
        let labels = labels::of(facts, &self.own);
        let counter = |name: &str| {
            let labels = self.metrics.labels(name, &labels, extra)?;
            Some(self.group.counter(&format!("istio_{name}"), &labels))
        };
        let histogram = |name: &str| {
            let labels = self.metrics.labels(name, &labels, extra)?;
            Some(self.group.histogram(&format!("istio_{name}"), &labels))
        };
        let grpc = facts.grpc.is_some();
        Arc::new(Series {
            requests: counter("requests_total"),
            duration: histogram("request_duration_milliseconds"),
            request_bytes: histogram("request_bytes"),
            response_bytes: histogram("response_bytes"),
            request_messages: grpc.then(|| counter("request_messages_total")).flatten(),
            response_messages: grpc.then(|| counter("response_messages_total")).flatten(),
        })
    }
}

impl Series {
    fn record(&self, exchange: &Exchange) {
        let bytes = exchange.bytes;
        let took = exchange.timing.end.unwrap_or_else(|| exchange.elapsed());
        let count = |counter: &Option<Arc<Counter>>, by| {
            if let Some(counter) = counter {
                counter.add(by);
            }
        };
        let measure = |histogram: &Option<Arc<Histogram>>, value| {
            if let Some(histogram) = histogram {
                histogram.record(value);
            }
        };
        count(&self.requests, 1);
        measure(&self.duration, took.as_millis() as u64);
        measure(&self.request_bytes, bytes.request_headers + bytes.received);
        measure(&self.response_bytes, bytes.response_headers + bytes.sent);
        if let Some(call) = exchange.extensions.get::<GrpcCall>() {
            count(&self.request_messages, call.requests());
            count(&self.response_messages, call.responses());
        }
    }
}

#[cfg(test)]
mod tests;
