//! The stats stage: `http.<stat_prefix>.`

use std::sync::Arc;

use tower::Layer;

use super::exchange::{Exchange, Protocol};
use super::service::{Response, Service};
use crate::telemetry::flags::ResponseFlags;

crate::stat_group! {
    /// Per connection manager.
    pub struct HcmStats {
        counters: {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_ssl_total, downstream_cx_upgrades_total, downstream_cx_protocol_error,
            downstream_cx_idle_timeout, downstream_cx_drain_close, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total, downstream_cx_destroy_remote, downstream_cx_destroy_local,
            downstream_rq_total, downstream_rq_http1_total, downstream_rq_http2_total, downstream_rq_completed,
            downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_rx_reset, downstream_rq_tx_reset, downstream_rq_too_large, downstream_rq_timeout,
            downstream_rq_idle_timeout, downstream_rq_header_timeout, downstream_rq_response_before_rq_complete,
            downstream_rq_ws_on_non_ws_route, downstream_rq_non_relative_path,
            rq_total, rq_direct_response, rq_redirect, no_route, no_cluster,
            passthrough_internal_redirect_bad_location, passthrough_internal_redirect_unsafe_scheme,
            passthrough_internal_redirect_too_many_redirects, passthrough_internal_redirect_no_route,
            passthrough_internal_redirect_predicate,
        }
        gauges: { downstream_cx_active, downstream_cx_http1_active, downstream_cx_http2_active, downstream_rq_active, downstream_cx_upgrades_active }
        histograms: { downstream_rq_time, downstream_cx_length_ms }
    }
}

impl HcmStats {
    /// Counts a connection until the guard is dropped.
    pub fn open_connection(self: &Arc<Self>) -> impl Send + use<> {
        self.downstream_cx_total.inc();
        self.downstream_cx_active.inc();
        OpenConnection {
            stats: self.clone(),
            since: crate::runtime::clock::now(),
        }
    }
}

struct OpenConnection {
    stats: Arc<HcmStats>,
    since: std::time::Instant,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.stats.downstream_cx_active.dec();
        self.stats.downstream_cx_destroy.inc();
        let lived = crate::runtime::clock::now().saturating_duration_since(self.since);
        self.stats.downstream_cx_length_ms.record(lived.as_millis() as u64);
    }
}

pub struct StatsLayer {
    stats: Arc<HcmStats>,
}

impl StatsLayer {
    pub fn new(stats: &Arc<HcmStats>) -> Self {
        Self { stats: stats.clone() }
    }
}

impl<S> Layer<S> for StatsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            stats: self.stats.clone(),
            inner,
        }
    }
}

/// See the module.
pub struct Counted<S> {
    stats: Arc<HcmStats>,
    inner: S,
}

impl<S: Service> Service for Counted<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        self.stats.downstream_rq_total.inc();
        self.stats.downstream_rq_active.inc();
        match exchange.protocol {
            Protocol::Http2 => self.stats.downstream_rq_http2_total.inc(),
            _ => self.stats.downstream_rq_http1_total.inc(),
        }
        let response = self.inner.call(exchange).await;
        exchange.response_code = Some(response.status());
        response
    }

    fn finish(&self, exchange: &mut Exchange) {
        let stats = &self.stats;
        stats.downstream_rq_active.dec();
        // An answer that is followed as a redirect is none.
        if let Some(code) = exchange.response_code.filter(|_| exchange.redirect.is_none()) {
            stats.downstream_rq_completed.inc();
            match code.as_u16() / 100 {
                1 => stats.downstream_rq_1xx.inc(),
                2 => stats.downstream_rq_2xx.inc(),
                3 => stats.downstream_rq_3xx.inc(),
                4 => stats.downstream_rq_4xx.inc(),
                _ => stats.downstream_rq_5xx.inc(),
            }
        }
        if exchange
            .flags
            .contains(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION)
        {
            stats.downstream_rq_rx_reset.inc();
        }
        if let Some(end) = exchange.timing.end {
            stats.downstream_rq_time.record(end.as_millis() as u64);
        }
        self.inner.finish(exchange);
    }
}
