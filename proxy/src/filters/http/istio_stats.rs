//! `istio.stats`: Istio's standard metrics.
//!
//! In: a finished request and what is known of both its ends. Out: counters and histograms under `istiocustom.`, which the Prometheus page
//! prints as `istio_requests_total` and so on. The labels of a request are compared as they lie about; only a combination that this thread has
//! not seen is formatted.

mod attribute;
mod config;
mod expression;
mod key;
mod labels;
mod messages;
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
use crate::http::access_log::Periodic;
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::listener::Direction;
use crate::telemetry::labelled::Labelled;
use crate::telemetry::stats::{Counter, Histogram};
use attribute::Subject;
use config::Metrics;
use key::{Facts, OwnedKey};
use messages::{Messages, Told};

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
    /// How often a connection without HTTP, or a gRPC call, is reported while it lasts.
    interval: Duration,
}

/// The filter of HTTP.
struct OfHttp(Arc<IstioStats>);

/// One combination's metrics; `None`: dropped by configuration.
struct Series {
    requests: Option<Arc<Counter>>,
    duration: Option<Arc<Histogram>>,
    request_bytes: Option<Arc<Histogram>>,
    response_bytes: Option<Arc<Histogram>>,
    /// Of a gRPC call.
    messages: Option<Messages>,
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
    IstioStats::compile(config, cx.name, cx.build).map(|filter| Stage::Filter(Arc::new(OfHttp(Arc::new(filter)))))
}

impl Filter for OfHttp {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        if GrpcCall::watch_request(exchange).is_some() {
            let stats = self.0.clone();
            let tell = move |exchange: &mut Exchange| stats.tell_messages(exchange);
            Periodic::add(exchange, self.0.interval, Arc::new(tell));
        }
        if self.0.metrics.needs_response() {
            exchange.logged_response.get_or_insert_default();
        }
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        GrpcCall::watch_response(exchange, response);
        Flow::Continue
    }

    fn log(&self, exchange: &mut Exchange) {
        self.0.finish(exchange);
    }
}

impl IstioStats {
    /// Compiles the encoded configuration.
    ///
    /// # Errors
    /// What is wrong or not supported, by path.
    pub fn compile(config: &[u8], name: &str, build: &BuildContext) -> Compiled<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let node = &build.node;
        let config = config::compile(config, node)?;
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
            interval: config.interval,
        })
    }

    /// Records a request that is over.
    fn finish(&self, exchange: &Exchange) {
        let facts = Facts::of(exchange, self.host_fallback);
        let extra = self.metrics.own_values(|| Subject::of(exchange));
        let key = facts.key(self.id, &extra);
        KNOWN.with_borrow_mut(|known| {
            if let Some(known) = known.get(&key) {
                return known.series.record(exchange, self.id);
            }
            let series = self.series(&facts, &extra);
            series.record(exchange, self.id);
            if known.len() >= REMEMBERED {
                known.clear();
            }
            let peer = facts.peer.cloned();
            known.insert(key.to_owned(), Known { series, _peer: peer });
        });
    }

    /// Reports the messages of a gRPC call that goes on, once its peer is known. Their labels do not change any more.
    fn tell_messages(&self, exchange: &mut Exchange) {
        let call = exchange.extensions.get::<GrpcCall>().cloned();
        let Some(call) = call.filter(|call| exchange.connection.direction == Direction::Inbound || call.is_answered())
        else {
            return;
        };
        if exchange
            .extensions
            .get::<Told>()
            .is_none_or(|told| !told.is_of(self.id))
        {
            let facts = Facts::of(exchange, self.host_fallback);
            let extra = self.metrics.own_values(|| Subject::of(exchange));
            let labels = labels::of(&facts, &self.own);
            let told = Told::new(self.id, self.messages(&labels, &extra), exchange.extensions.remove());
            exchange.extensions.insert(told);
        }
        if let Some(told) = exchange.extensions.get_mut::<Told>() {
            told.tell(self.id, &call);
        }
    }

    fn messages(&self, labels: &[labels::Label<'_>], extra: &str) -> Messages {
        let ends = &labels[..labels::OF_ENDS.min(labels.len())];
        let counter = |name: &str| {
            let labels = self.metrics.labels(name, ends, extra)?;
            Some(self.group.counter(&format!("istio_{name}"), &labels))
        };
        Messages {
            requests: counter("request_messages_total"),
            responses: counter("response_messages_total"),
        }
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
        Arc::new(Series {
            requests: counter("requests_total"),
            duration: histogram("request_duration_milliseconds"),
            request_bytes: histogram("request_bytes"),
            response_bytes: histogram("response_bytes"),
            messages: facts.grpc.map(|_| self.messages(&labels, extra)),
        })
    }
}

impl Series {
    /// `filter`: whose.
    fn record(&self, exchange: &Exchange, filter: u64) {
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
            match exchange.extensions.get::<Told>().filter(|told| told.is_of(filter)) {
                Some(told) => told.finish(filter, call),
                None => self
                    .messages
                    .iter()
                    .for_each(|messages| messages.add(call.requests(), call.responses())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
