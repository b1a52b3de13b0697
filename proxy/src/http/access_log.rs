//! The access-log stage: one record per request, written when its last byte is out.

use std::sync::Arc;

use tower::Layer;

use super::exchange::Exchange;
use super::service::{Response, Service};
use crate::telemetry::access_log::AccessLog;

pub struct AccessLogLayer {
    logs: Arc<[AccessLog]>,
}

impl AccessLogLayer {
    pub fn new(logs: &Arc<[AccessLog]>) -> Self {
        Self { logs: logs.clone() }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLogs<S>;

    fn layer(&self, inner: S) -> AccessLogs<S> {
        let keeps_headers = self.logs.iter().any(AccessLog::needs_response_headers);
        AccessLogs {
            logs: self.logs.clone(),
            keeps_headers,
            meters_upstream: self.logs.iter().any(AccessLog::needs_upstream_meter),
            inner,
        }
    }
}

/// See the module.
pub struct AccessLogs<S> {
    logs: Arc<[AccessLog]>,
    keeps_headers: bool,
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

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
        for log in self.logs.iter() {
            log.log(exchange);
        }
    }
}
