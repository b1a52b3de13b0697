//! The attempts of one request: the first, and those that the retry policy allows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Router;
use super::attempt::{self, Attempt, SentAt};
use super::deadline::{RouteTimeout, TimedBody, bounded};
use super::envoy_headers;
use super::limits::Limits;
use super::request_stream::RequestStream;
use crate::cluster::Cluster;
use crate::cluster::breaker::RoutingPriority;
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::route::{Forward, RequestView, RetryPolicy};
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;

// As statics: a name given as text is parsed anew by every look-up.

/// The request's body, as each attempt can have it.
enum Source {
    Whole(Bytes),
    Stream(RequestStream),
}

impl Source {
    /// `None`: it cannot be read again.
    fn body(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::from(bytes.clone())),
            Self::Stream(stream) => stream.reader(),
        }
    }
}

pub(super) async fn run(
    router: &Router,
    exchange: &mut Exchange,
    forward: &Forward,
    cluster: &Arc<Cluster>,
) -> Result<Response, Failure> {
    let hinted = envoy_headers::any(exchange.headers());
    let policy = match (hinted, &forward.retry) {
        (false, None) => None,
        (_, retry) => RetryPolicy::for_request(retry.as_ref(), &RequestView::of(exchange)),
    };
    let priority = if forward.high_priority {
        RoutingPriority::High
    } else {
        RoutingPriority::Default
    };
    let Some(permit) = cluster.breakers.try_request(priority) else {
        cluster.stats.upstream_rq_pending_overflow.inc();
        exchange.upstream.attempts += 1;
        return Err(Failure::Overflow);
    };
    exchange.permit = Some(permit);
    let limits = Limits::of(exchange, forward, policy.as_deref(), hinted);
    if hinted {
        envoy_headers::consume(exchange.request.headers_mut());
    }
    let source = source(exchange, policy.is_some());
    let stream = match &source {
        Source::Stream(stream) => Some(stream.clone()),
        Source::Whole(_) => None,
    };
    let request_ended = stream.is_none().then_some(exchange.started);
    let mut timeout = RouteTimeout {
        limit: limits.route,
        request_ended,
        stream: stream.clone(),
        stream_end: limits.stream.and_then(|limit| exchange.started.checked_add(limit)),
    };
    let mut run = Run {
        router,
        cluster,
        forward,
        priority,
        policy,
        retries: 0,
        permit: None,
    };
    let result = run.attempts(exchange, &source, &mut timeout, &limits).await;
    if let Some(stream) = stream {
        stream.stop_keeping();
        exchange.bytes.received = stream.received();
        exchange.guards.push(Box::new(stream));
    }
    let mut response = result?;
    if let Some((deadline, failure)) = timeout.deadline()
        && !matches!(response.body(), Body::Empty | Body::Full(_))
        && exchange.upgrade.is_none()
    {
        let timer = Box::pin(tokio::time::sleep_until(deadline.into()));
        let inner = std::mem::take(response.body_mut());
        *response.body_mut() = Body::Boxed(Box::pin(TimedBody {
            inner,
            timer,
            failure,
            cluster: cluster.clone(),
        }));
    }
    Ok(response)
}

fn source(exchange: &mut Exchange, may_retry: bool) -> Source {
    let body = exchange.request.body_mut().take();
    match body {
        Body::Empty => Source::Whole(Bytes::new()),
        Body::Full(bytes) => Source::Whole(bytes),
        body if exchange.upgrade.is_some() => Source::Stream(RequestStream::new(body, None)),
        body => {
            let route = exchange.route.route.as_ref();
            // Where nothing else is configured, the listener's limit for what a connection holds.
            let limit = route
                .and_then(|route| route.request_buffer_limit)
                .unwrap_or(exchange.connection.buffer_limit as u64);
            Source::Stream(RequestStream::new(body, may_retry.then_some(limit)))
        }
    }
}

struct Run<'a> {
    router: &'a Router,
    cluster: &'a Arc<Cluster>,
    forward: &'a Forward,
    priority: RoutingPriority,
    policy: Option<Arc<RetryPolicy>>,
    retries: u32,
    /// The running retry's place in the retry breaker.
    permit: Option<crate::cluster::breaker::Permit>,
}

impl Run<'_> {
    async fn attempts(
        &mut self,
        exchange: &mut Exchange,
        source: &Source,
        timeout: &mut RouteTimeout,
        limits: &Limits,
    ) -> Result<Response, Failure> {
        let mut unnoticed_deaths = 0;
        loop {
            let body = source.body().ok_or(Failure::RetryBufferExceeded)?;
            exchange.upstream.attempts += 1;
            envoy_headers::announce(exchange, self.expected(timeout, limits));
            let (mut attempt, sent) = (Attempt::default(), SentAt::default());
            let outcome = {
                let sent = &sent;
                let future = attempt::run(
                    &mut attempt,
                    sent,
                    exchange,
                    self.forward,
                    self.cluster,
                    self.policy.as_deref(),
                    body,
                );
                let per_try = limits.per_try;
                let own = move || per_try.and_then(|limit| sent.get().and_then(|sent| sent.checked_add(limit)));
                bounded(future, timeout, own).await
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(failure) => {
                    attempt.timed_out(exchange, self.cluster, &failure);
                    Err(failure)
                }
            };
            // A pooled connection that died before the request arrived is not the upstream's answer.
            let safe = exchange.request.method().is_idempotent();
            if attempt.died_unnoticed && safe && unnoticed_deaths < 3 && outcome.is_err() && source_is_whole(source) {
                unnoticed_deaths += 1;
                exchange.upstream.attempts -= 1;
                continue;
            }
            let Some(wait) = self.retry(exchange, &outcome, &sent) else {
                return outcome;
            };
            drop(outcome);
            let pause = clock::sleep(wait);
            if let Err(failure) = bounded(pause, timeout, || None).await {
                self.cluster.stats.upstream_rq_timeout.inc();
                return Err(failure);
            }
        }
    }

    /// The time that the next attempt has, for the upstream to know.
    fn expected(&self, timeout: &RouteTimeout, limits: &Limits) -> Option<Duration> {
        if self.router.suppress_envoy_headers {
            return None;
        }
        if let Some(per_try) = limits.per_try.filter(|_| !self.forward.hedge_on_per_try_timeout) {
            return Some(per_try);
        }
        let limit = limits.route?;
        let spent = match timeout.request_ended {
            Some(ended) if self.retries > 0 => clock::now().saturating_duration_since(ended),
            _ => Duration::ZERO,
        };
        Some(limit.saturating_sub(spent))
    }

    /// Whether and after which wait there is another attempt; counts why not.
    fn retry(
        &mut self,
        exchange: &mut Exchange,
        outcome: &Result<Response, Failure>,
        sent: &SentAt,
    ) -> Option<Duration> {
        let stats = &self.cluster.stats;
        self.permit = None;
        let policy = self.policy.as_ref()?;
        let wanted = match outcome {
            Ok(response) => policy.retry_on_response(response.status(), response.headers()),
            Err(Failure::ResponseTimeout) => false,
            Err(failure) => policy.retry_on_failure(failure, sent.get().is_some()),
        };
        if !wanted {
            if self.retries > 0 && outcome.is_ok() {
                stats.upstream_rq_retry_success.inc();
            }
            return None;
        }
        if self.retries >= policy.num_retries {
            stats.upstream_rq_retry_limit_exceeded.inc();
            exchange.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return None;
        }
        let Some(permit) = self.cluster.breakers.try_retry(self.priority) else {
            stats.upstream_rq_retry_overflow.inc();
            return None;
        };
        self.permit = Some(permit);
        self.retries += 1;
        stats.upstream_rq_retry.inc();
        let mut random = fastrand::Rng::new();
        let asked = outcome
            .as_ref()
            .ok()
            .and_then(|response| policy.rate_limited_backoff(response.headers(), clock::system_now(), &mut random));
        match asked {
            Some(_) => stats.upstream_rq_retry_backoff_ratelimited.inc(),
            None => stats.upstream_rq_retry_backoff_exponential.inc(),
        }
        Some(asked.unwrap_or_else(|| policy.backoff(self.retries, &mut random)))
    }
}

fn source_is_whole(source: &Source) -> bool {
    matches!(source, Source::Whole(_))
}
