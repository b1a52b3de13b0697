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
            let logs = self.logs.clone();
            let write = move |exchange: &mut Exchange| {
                logs.iter()
                    .for_each(|log| log.log_as(LogType::DownstreamPeriodic, exchange));
            };
            Periodic::add(exchange, interval, Arc::new(write));
        }
        let response = self.inner.call(exchange).await;
        // A filter that reads them at the end has left a place for them.
        if self.keeps_headers || exchange.logged_response.is_some() {
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

/// What is told of a stream that is not over, as the lines of its log are: at the latest when its next byte moves, and while its answer or the room
/// for it is waited for. A filter that waits for something else has the stream to itself; what comes due meanwhile is told behind that.
#[derive(Default)]
pub struct Periodic {
    reports: Vec<Report>,
    received: Option<Box<dyn Fn() -> u64 + Send + Sync>>,
}

/// Tells of the stream.
pub type Tell = Arc<dyn Fn(&mut Exchange) + Send + Sync>;

struct Report {
    tell: Tell,
    interval: Duration,
    due: Instant,
}

impl Periodic {
    /// Tells of the stream from now on each time that `interval` is over.
    pub fn add(exchange: &mut Exchange, interval: Duration, tell: Tell) {
        let due = clock::now() + interval;
        let periodic = exchange.periodic.get_or_insert_default();
        periodic.reports.push(Report { tell, interval, due });
    }

    /// Where to ask how much of the request's body is here.
    pub fn count(&mut self, received: impl Fn() -> u64 + Send + Sync + 'static) {
        self.received = Some(Box::new(received));
    }

    /// The next one that is due.
    fn take_due(&mut self, now: Instant) -> Option<Tell> {
        let report = self.reports.iter_mut().find(|report| report.due <= now)?;
        report.due = now + report.interval;
        Some(report.tell.clone())
    }
}

/// Tells what is due, if anything is, and says when something will be next; `None`: never.
pub fn write_due(exchange: &mut Exchange) -> Option<Instant> {
    let now = clock::now();
    while let Some(tell) = exchange.periodic.as_mut()?.take_due(now) {
        let received = exchange.periodic.as_ref()?.received.as_ref().map(|received| received());
        exchange.bytes.received = exchange.bytes.received.max(received.unwrap_or(0));
        tell(exchange);
    }
    let reports = &exchange.periodic.as_ref()?.reports;
    reports.iter().map(|report| report.due).min()
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
