//! The stats stage: `http.<stat_prefix>.`

mod connection;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tower::Layer;

pub use connection::OpenConnection;

use super::exchange::{Exchange, Protocol, Reset};
use super::header_policy::request_id::TraceReason;
use super::pipeline::Settings;
use super::service::{ConnectionEvent, Response, Service};
use crate::listener::ConnectionInfo;
use crate::telemetry::flags::ResponseFlags;

crate::stat_group! {
    /// Per connection manager.
    pub struct HcmStats {
        counters: {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_ssl_total, downstream_cx_upgrades_total, downstream_cx_protocol_error,
            downstream_cx_idle_timeout, downstream_cx_drain_close, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total, downstream_cx_destroy_remote, downstream_cx_destroy_local,
            downstream_cx_destroy_active_rq, downstream_cx_destroy_remote_active_rq,
            downstream_cx_destroy_local_active_rq,
            downstream_cx_max_duration_reached, downstream_cx_delayed_close_timeout,
            downstream_rq_too_many_premature_resets,
            downstream_rq_total, downstream_rq_http1_total, downstream_rq_http2_total, downstream_rq_completed,
            downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_rx_reset, downstream_rq_tx_reset, downstream_rq_too_large, downstream_rq_timeout,
            downstream_rq_idle_timeout, downstream_rq_header_timeout, downstream_rq_response_before_rq_complete,
            downstream_rq_ws_on_non_ws_route, downstream_rq_non_relative_path,
            downstream_rq_failed_path_normalization, downstream_rq_redirected_with_normalized_path,
            downstream_rq_rejected_via_ip_detection, downstream_rq_max_duration_reached, downstream_cx_max_requests_reached,
        }
        gauges: {
            downstream_cx_rx_bytes_buffered, downstream_cx_tx_bytes_buffered, downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active, downstream_cx_ssl_active,
            downstream_rq_active, downstream_cx_upgrades_active,
        }
        histograms: { downstream_rq_time, downstream_cx_length_ms }
    }
}

crate::stat_group! {
    /// What the router counts, under the prefix of its connection manager; and that of our own calls, under `http.async-client.`.
    pub struct RouterStats {
        counters: {
            rq_total, rq_direct_response, rq_reset_after_downstream_response_started, no_route, no_cluster,
            passthrough_internal_redirect_bad_location, passthrough_internal_redirect_unsafe_scheme,
            passthrough_internal_redirect_too_many_redirects, passthrough_internal_redirect_no_route,
            passthrough_internal_redirect_predicate,
        }
        gauges: {}
        histograms: {}
    }
}

/// Where calls of our own and mirrors count what a router counts.
pub const ASYNC_CLIENT: &str = "http.async-client.";

crate::stat_group! {
    /// `http.<stat_prefix>.tracing.`: why answered requests would be traced.
    pub struct TracingStats {
        counters: { client_enabled, not_traceable, random_sampling, service_forced }
        gauges: {}
        histograms: {}
    }
}

impl TracingStats {
    fn count(&self, reason: TraceReason) {
        match reason {
            TraceReason::NotTraced => self.not_traceable.inc(),
            TraceReason::Sampled => self.random_sampling.inc(),
            TraceReason::ServiceForced => self.service_forced.inc(),
            TraceReason::ClientForced => self.client_enabled.inc(),
        }
    }
}

crate::stat_group! {
    /// `http1.`: what the codec saw, of all connection managers together.
    pub struct Http1Stats {
        counters: { dropped_headers_with_underscores, requests_rejected_with_underscores_in_headers }
        gauges: {}
        histograms: {}
    }
}

crate::stat_group! {
    /// `http2.`, as [`Http1Stats`].
    pub struct Http2Stats {
        counters: {
            dropped_headers_with_underscores, requests_rejected_with_underscores_in_headers, rx_reset, tx_reset,
            header_overflow, keepalive_timeout, goaway_sent,
        }
        gauges: { streams_active }
        histograms: {}
    }
}

crate::stat_group! {
    /// `listener.<address>.http.<stat_prefix>.`: the same manager's answers, as far as they went out on this listener.
    pub struct ListenerHttpStats {
        counters: {
            downstream_rq_completed, downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx,
            downstream_rq_5xx,
        }
        gauges: {}
        histograms: {}
    }
}

/// What codecs count.
pub struct CodecStats {
    pub http1: Arc<Http1Stats>,
    pub http2: Arc<Http2Stats>,
}

impl CodecStats {
    fn count(&self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::HeadersDropped(Protocol::Http2, count) => {
                self.http2.dropped_headers_with_underscores.add(count);
            }
            ConnectionEvent::HeadersDropped(_, count) => self.http1.dropped_headers_with_underscores.add(count),
            ConnectionEvent::UnderscoreRejected(Protocol::Http2) => {
                self.http2.requests_rejected_with_underscores_in_headers.inc();
            }
            ConnectionEvent::UnderscoreRejected(_) => self.http1.requests_rejected_with_underscores_in_headers.inc(),
            ConnectionEvent::StreamReset => self.http2.rx_reset.inc(),
            ConnectionEvent::HeaderOverflow => self.http2.header_overflow.inc(),
            ConnectionEvent::KeepaliveTimeout => self.http2.keepalive_timeout.inc(),
            ConnectionEvent::GoawaySent => self.http2.goaway_sent.inc(),
            _ => {}
        }
    }
}

impl HcmStats {
    pub(super) fn count(&self, event: ConnectionEvent, codecs: &CodecStats) {
        match event {
            ConnectionEvent::ProtocolError => self.downstream_cx_protocol_error.inc(),
            ConnectionEvent::IdleTimeout => self.downstream_cx_idle_timeout.inc(),
            ConnectionEvent::DrainClose => self.downstream_cx_drain_close.inc(),
            ConnectionEvent::MaxDuration => self.downstream_cx_max_duration_reached.inc(),
            ConnectionEvent::DelayedClose => self.downstream_cx_delayed_close_timeout.inc(),
            ConnectionEvent::ResetFlood => self.downstream_rq_too_many_premature_resets.inc(),
            // Counted like the response that follows it, as Envoy does.
            ConnectionEvent::Interim => {
                self.downstream_rq_completed.inc();
                self.downstream_rq_1xx.inc();
            }
            _ => codecs.count(event),
        }
    }

    /// Counts a response by its class, here and on the listener that it went out on.
    pub(crate) fn count_answer(&self, code: StatusCode, of_listener: &ListenerHttpStats) {
        self.downstream_rq_completed.inc();
        of_listener.downstream_rq_completed.inc();
        let (ours, listeners) = match code.as_u16() / 100 {
            1 => (&self.downstream_rq_1xx, &of_listener.downstream_rq_1xx),
            2 => (&self.downstream_rq_2xx, &of_listener.downstream_rq_2xx),
            3 => (&self.downstream_rq_3xx, &of_listener.downstream_rq_3xx),
            4 => (&self.downstream_rq_4xx, &of_listener.downstream_rq_4xx),
            _ => (&self.downstream_rq_5xx, &of_listener.downstream_rq_5xx),
        };
        ours.inc();
        listeners.inc();
    }

    fn count_failure(&self, details: &str) {
        match details {
            "stream_idle_timeout" => self.downstream_rq_idle_timeout.inc(),
            "request_overall_timeout" => self.downstream_rq_timeout.inc(),
            "request_header_timeout" => self.downstream_rq_header_timeout.inc(),
            "max_duration_timeout" => self.downstream_rq_max_duration_reached.inc(),
            "request_payload_too_large" => self.downstream_rq_too_large.inc(),
            _ => {}
        }
    }

    /// Counts a connection until the last handle is dropped; `info`: what counts its requests, if anything does.
    pub fn open_connection(self: &Arc<Self>, info: Option<&Arc<ConnectionInfo>>) -> Arc<OpenConnection> {
        OpenConnection::start(self.clone(), info.cloned())
    }
}

/// Where the requests of one connection manager are counted.
#[derive(Clone)]
struct Books {
    manager: Arc<HcmStats>,
    of_listener: Arc<ListenerHttpStats>,
    http2: Arc<Http2Stats>,
    router: Arc<RouterStats>,
    /// `None`: it has no `tracing`.
    tracing: Option<Arc<TracingStats>>,
}

pub struct StatsLayer(Books);

impl StatsLayer {
    pub fn new(settings: &Settings) -> Self {
        let is_traced = settings.header_policy.sampling.is_some();
        Self(Books {
            manager: settings.stats.clone(),
            of_listener: settings.listener_stats.clone(),
            http2: settings.codec_stats.http2.clone(),
            router: settings.router_stats.clone(),
            tracing: is_traced.then(|| settings.tracing_stats.clone()),
        })
    }
}

impl<S> Layer<S> for StatsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            books: self.0.clone(),
            inner,
        }
    }
}

/// See the module.
pub struct Counted<S> {
    books: Books,
    inner: S,
}

impl<S> Counted<S> {
    fn begin(&self, exchange: &mut Exchange) {
        exchange.counted = true;
        exchange.connection.requests.fetch_add(1, Ordering::Relaxed);
        let stats = &self.books.manager;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match exchange.protocol {
            Protocol::Http2 => {
                stats.downstream_rq_http2_total.inc();
                self.books.http2.streams_active.inc();
            }
            _ => stats.downstream_rq_http1_total.inc(),
        }
    }
}

impl<S: Service> Service for Counted<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        self.begin(exchange);
        let response = self.inner.call(exchange).await;
        exchange.response_code = Some(response.status());
        response
    }

    fn finish(&self, exchange: &mut Exchange) {
        if !exchange.counted {
            // A codec has refused it: the layers below never saw it.
            self.begin(exchange);
        }
        exchange.counted = false;
        exchange.connection.requests.fetch_sub(1, Ordering::Relaxed);
        let stats = &self.books.manager;
        stats.downstream_rq_active.dec();
        let is_http2 = exchange.protocol == Protocol::Http2;
        if is_http2 {
            self.books.http2.streams_active.dec();
        }
        // An answer that is followed as a redirect is none.
        if let Some(code) = exchange.response_code.filter(|_| exchange.redirect.is_none()) {
            stats.count_answer(code, &self.books.of_listener);
        }
        // As Envoy: when there is an answer, and not if the client went before.
        if let Some(tracing) = &self.books.tracing
            && exchange.response_code.is_some()
        {
            tracing.count(exchange.trace_reason);
        }
        if exchange.answered_early || exchange.reset.is_some() {
            stats.downstream_rq_rx_reset.inc();
        }
        if exchange.reset == Some(Reset::ByUs) {
            stats.downstream_rq_tx_reset.inc();
            if is_http2 {
                self.books.http2.tx_reset.inc();
            }
            if exchange.response_code.is_some() && was_cut_upstream(exchange.flags) {
                self.books.router.rq_reset_after_downstream_response_started.inc();
            }
        }
        if exchange.last_of_connection {
            stats.downstream_cx_max_requests_reached.inc();
        }
        if exchange.answered_early {
            stats.downstream_rq_response_before_rq_complete.inc();
        }
        if exchange
            .response_code
            .is_none_or(|code| code.is_client_error() || code.is_server_error())
            || exchange.reset.is_some()
        {
            stats.count_failure(&exchange.details);
        }
        if let Some(end) = exchange.timing.end {
            stats.downstream_rq_time.record(end.as_millis() as u64);
        }
        self.inner.finish(exchange);
    }
}

/// Whether a response that had started ended with its upstream stream.
fn was_cut_upstream(flags: ResponseFlags) -> bool {
    [
        ResponseFlags::UPSTREAM_REMOTE_RESET,
        ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
        ResponseFlags::UPSTREAM_REQUEST_TIMEOUT,
    ]
    .into_iter()
    .any(|flag| flags.contains(flag))
}
