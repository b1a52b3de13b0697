//! The access-log stage: one record per request, written when its last byte is out.

use std::sync::Arc;

use tower::Layer;

use super::exchange::Exchange;
use super::service::{Response, Service};
use crate::telemetry::access_log::AccessLog;

pub struct AccessLogLayer {
    logs: Arc<[AccessLog]>,
    /// `flush_log_on_tunnel_successfully_established`
    logs_tunnels: bool,
}

impl AccessLogLayer {
    pub fn new(logs: &Arc<[AccessLog]>, logs_tunnels: bool) -> Self {
        Self {
            logs: logs.clone(),
            logs_tunnels,
        }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLogs<S>;

    fn layer(&self, inner: S) -> AccessLogs<S> {
        let keeps_headers = self.logs.iter().any(AccessLog::needs_response_headers);
        AccessLogs {
            logs: self.logs.clone(),
            keeps_headers,
            logs_tunnels: self.logs_tunnels,
            meters_upstream: self.logs.iter().any(AccessLog::needs_upstream_meter),
            inner,
        }
    }
}

/// See the module.
pub struct AccessLogs<S> {
    logs: Arc<[AccessLog]>,
    keeps_headers: bool,
    logs_tunnels: bool,
    meters_upstream: bool,
    inner: S,
}

impl<S: Service> Service for AccessLogs<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        if self.meters_upstream {
            exchange.upstream.meter = Some(Arc::default());
        }
        let response = self.inner.call(exchange).await;
        if self.keeps_headers {
            exchange.logged_response = Some(Box::new(response.headers().clone()));
        }
        response
    }

    fn established(&self, exchange: &mut Exchange) {
        if self.logs_tunnels {
            self.logs.iter().for_each(|log| log.log_tunnel(exchange));
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
        for log in self.logs.iter() {
            log.log(exchange);
        }
    }
}
