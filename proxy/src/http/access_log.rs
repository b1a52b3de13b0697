//! The access-log stage: one record per request, written when its last byte is out; more of one that takes long, if that is asked for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower::Layer;

use super::exchange::Exchange;
use super::pipeline::Settings;
use super::service::{Response, Service};
use crate::runtime::{clock, wake};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::format::LogType;

/// When there is a line beside the one at the end (`access_log_options`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `flush_access_log_on_new_request`
    pub on_new_request: bool,
    /// `flush_log_on_tunnel_successfully_established`
    pub on_tunnel: bool,
    /// `access_log_flush_interval`
    pub interval: Option<Duration>,
}

pub struct AccessLogLayer {
    logs: Arc<[AccessLog]>,
    options: LogOptions,
}

impl AccessLogLayer {
    pub fn new(settings: &Settings) -> Self {
        Self {
            logs: settings.access_logs.clone(),
            options: settings.log_options,
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
            logs_tunnels: self.options.on_tunnel,
            interval: self.options.interval.filter(|_| !self.logs.is_empty()),
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
    interval: Option<Duration>,
    meters_upstream: bool,
    inner: S,
}

impl<S: Service> Service for AccessLogs<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        if self.meters_upstream {
            exchange.upstream.meter = Some(Arc::default());
        }
        if let Some(interval) = self.interval {
            exchange.periodic = Some(Box::new(Periodic {
                logs: self.logs.clone(),
                interval,
                due: exchange.started + interval,
                received: None,
            }));
        }
        let response = self.inner.call(exchange).await;
        if self.keeps_headers {
            exchange.logged_response = Some(Box::new(response.headers().clone()));
        }
        response
    }

    fn established(&self, exchange: &mut Exchange) {
        if self.logs_tunnels {
            let kind = LogType::DownstreamTunnelSuccessfullyEstablished;
            self.logs.iter().for_each(|log| log.log_as(kind, exchange));
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
        for log in self.logs.iter() {
            log.log(exchange);
        }
    }
}

/// The lines of a stream that is not over: at the latest when its next byte moves, and while its answer or the room for it is waited for. A filter
/// that waits for something else has the stream to itself; a line that comes due meanwhile is written behind that.
pub struct Periodic {
    logs: Arc<[AccessLog]>,
    interval: Duration,
    due: Instant,
    received: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
}

impl Periodic {
    /// Where to ask how much of the request's body is here.
    pub fn count(&mut self, received: impl Fn() -> u64 + Send + Sync + 'static) {
        self.received = Some(Box::new(received));
    }
}

/// Writes the line that is due, if there is one, and says when the next one will be; `None`: never.
pub fn write_due(exchange: &mut Exchange) -> Option<Instant> {
    let periodic = exchange.periodic.as_mut()?;
    let now = clock::now();
    if now < periodic.due {
        return Some(periodic.due);
    }
    let due = now + periodic.interval;
    periodic.due = due;
    if let Some(received) = &periodic.received {
        exchange.bytes.received = exchange.bytes.received.max(received());
    }
    let logs = periodic.logs.clone();
    logs.iter()
        .for_each(|log| log.log_as(LogType::DownstreamPeriodic, exchange));
    Some(due)
}

/// Waits for `future`, and writes the lines that come due meanwhile.
pub async fn during<F: Future>(exchange: &mut Exchange, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending()
            && let Some(due) = write_due(exchange)
        {
            // Whoever drives a stream lends its timer.
            wake::at(due);
        }
        polled
    })
    .await
}
