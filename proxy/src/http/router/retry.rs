//! The attempts of one request: the first, and those that the retry policy allows.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Router;
use super::attempt::{self, Attempt, SentAt};
use super::deadline::{IdleBody, RouteTimeout, TimedBody, bounded};
use super::envoy_headers;
use super::hedge;
use super::limits::{Deadline, Limits};
use super::mirror;
use super::redirect;
use super::request_stream::RequestStream;
use crate::cluster::breaker::RoutingPriority;
use crate::cluster::{ActiveRequest, Cluster};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::outcome;
use crate::http::service::Response;
use crate::route::{Forward, RequestView, RetryPolicy};
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;

/// The request's body, as each attempt can have it.
pub(super) enum Source {
    Whole(Bytes),
    Stream(RequestStream),
}

impl Source {
    /// `None`: it cannot be read again.
    pub(super) fn body(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::from(bytes.clone())),
            Self::Stream(stream) => stream.reader(),
        }
    }

    /// Whether an attempt after this one could have all of it.
    fn is_replayable(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Stream(stream) => stream.is_kept(),
        }
    }

    /// All of the body is here.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Self::Whole(_))
    }

    /// All of it again, for a request that goes elsewhere. `None`: it is not over, or partly gone.
    pub(super) fn whole(&self) -> Option<Body> {
        match self {
            Self::Whole(bytes) => Some(Body::from(bytes.clone())),
            Self::Stream(stream) => stream.whole(),
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
    let durations = (router.max_stream_duration, cluster.http.max_stream_duration);
    let limits = Limits::of(exchange, forward, policy.as_deref(), hinted, durations);
    if hinted {
        exchange.timeout_is_no_content = envoy_headers::wants_no_content(exchange.headers());
        envoy_headers::consume(exchange.request.headers_mut());
    }
    let source = source(
        exchange,
        policy.is_some() || forward.internal_redirect.is_some(),
        cluster,
    );
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
        is_over: limits.stream.is_some_and(|limit| limit.is_zero()),
    };
    if !forward.mirrors.is_empty() && exchange.upgrade.is_none() {
        mirror::start(router, exchange, forward, &limits, &source);
    }
    let mut run = Run {
        router,
        cluster,
        forward,
        priority,
        policy,
        retries: 0,
        permit: None,
    };
    let mut result = if limits.hedges && exchange.upgrade.is_none() {
        Box::pin(hedge::race(&mut run, exchange, &source, &mut timeout, &limits)).await
    } else {
        run.attempts(exchange, &source, &mut timeout, &limits).await
    };
    if let (Ok(response), Some(policy)) = (&result, &forward.internal_redirect)
        && exchange.upgrade.is_none()
        && redirect::follow(router, exchange, policy, response, &source)
    {
        let status = response.status();
        result = Err(Failure::InternalRedirect(status));
    }
    if let (Source::Whole(bytes), Some(_)) = (&source, &exchange.redirected) {
        exchange.bytes.received += bytes.len() as u64;
    }
    if let Some(stream) = stream {
        stream.stop_keeping();
        exchange.bytes.received = stream.received();
        exchange.guards.push(Box::new(Abandoned(stream)));
    }
    let mut response = result?;
    limit_body(exchange, cluster, &mut response, &limits, &mut timeout);
    Ok(response)
}

/// What is left of the time limits when the response begins goes with its body, and so does what its end tells of a gRPC host.
fn limit_body(
    exchange: &mut Exchange,
    cluster: &Arc<Cluster>,
    response: &mut Response,
    limits: &Limits,
    timeout: &mut RouteTimeout,
) {
    if matches!(response.body(), Body::Empty | Body::Full(_)) || exchange.upgrade.is_some() {
        return judge(exchange, response);
    }
    if let Some(limit) = limits.per_try_idle {
        let inner = std::mem::take(response.body_mut());
        *response.body_mut() = Body::Boxed(Box::pin(IdleBody::new(inner, limit)));
    }
    let sent = exchange.timing.first_upstream_tx.map(|after| exchange.started + after);
    // Its answer has begun: the code does not count any more.
    let too_long = Failure::MaxStreamDuration { request_complete: true };
    let of_attempt = limits
        .upstream_stream
        .and_then(|limit| sent?.checked_add(limit))
        .map(|end| (end, too_long));
    let ends = timeout.deadline().into_iter().chain(of_attempt);
    if let Some((deadline, failure)) = ends.min_by_key(|(end, _)| *end) {
        let timer = Box::pin(tokio::time::sleep_until(deadline.into()));
        let inner = std::mem::take(response.body_mut());
        *response.body_mut() = Body::Boxed(Box::pin(TimedBody {
            inner,
            timer,
            failure,
            cluster: cluster.clone(),
        }));
    }
    // Outermost, so that the end that a time limit makes counts too.
    judge(exchange, response);
}

fn judge(exchange: &mut Exchange, response: &mut Response) {
    if let Some(host) = exchange.active.as_mut().and_then(ActiveRequest::stands) {
        outcome::judge(response, host.clone());
    }
}

fn source(exchange: &mut Exchange, may_retry: bool, cluster: &Arc<Cluster>) -> Source {
    let body = exchange.request.body_mut().take();
    match body {
        Body::Empty => Source::Whole(Bytes::new()),
        Body::Full(bytes) => Source::Whole(bytes),
        body if exchange.upgrade.is_some() => counted(exchange, RequestStream::new(body, None, cluster)),
        body => {
            let route = exchange.route.route.as_ref();
            // Where nothing else is configured, the listener's limit for what a connection holds.
            let limit = route
                .and_then(|route| route.request_buffer_limit)
                .unwrap_or(exchange.connection.buffer_limit as u64);
            counted(exchange, RequestStream::new(body, may_retry.then_some(limit), cluster))
        }
    }
}

/// Lines of the log that come due meanwhile tell how much of it is here.
fn counted(exchange: &mut Exchange, stream: RequestStream) -> Source {
    if let Some(periodic) = &mut exchange.periodic {
        let stream = stream.clone();
        periodic.count(move || stream.received());
    }
    Source::Stream(stream)
}

impl Source {
    /// Waits for the next attempt. As [`RequestStream::pause`].
    async fn pause(&self, wait: Duration) -> Result<(), Failure> {
        match self {
            Self::Stream(stream) => stream.pause(wait).await,
            Self::Whole(_) => {
                clock::sleep(wait).await;
                Ok(())
            }
        }
    }
}

pub(super) struct Run<'a> {
    router: &'a Router,
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) forward: &'a Forward,
    priority: RoutingPriority,
    pub(super) policy: Option<Arc<RetryPolicy>>,
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
        let mut after_timeout = None;
        loop {
            let body = source.body().ok_or(Failure::RetryBufferExceeded)?;
            exchange.upstream.attempts += 1;
            self.announce(exchange, timeout, limits, after_timeout);
            let (mut attempt, sent) = (Attempt::default(), SentAt::default());
            let outcome = {
                let sent = &sent;
                let future = pin!(attempt::run(
                    &mut attempt,
                    sent,
                    exchange,
                    self.forward,
                    self.cluster,
                    self.policy.as_deref(),
                    body,
                ));
                bounded(future, timeout, |request_ended| limits.of_attempt(sent, request_ended)).await
            };
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(failure) => {
                    sent.timed_out(self.cluster, &failure);
                    Err(failure)
                }
            };
            let was_never_heard = attempt.was_never_heard(exchange.request.method(), &sent);
            if was_never_heard && unnoticed_deaths < UNNOTICED_DEATHS && outcome.is_err() && source.is_whole() {
                unnoticed_deaths += 1;
                exchange.upstream.attempts -= 1;
                if self.policy.is_some() {
                    exchange.upstream.attempted.pop();
                }
                continue;
            }
            if let (true, Err(failure)) = (attempt.died_unnoticed, &outcome) {
                sent.lost(self.cluster, failure);
            }
            if !source.is_replayable() {
                return outcome;
            }
            let Some(wait) = self.retry(exchange, &outcome, &sent) else {
                return outcome;
            };
            after_timeout = Some(matches!(
                outcome,
                Err(Failure::PerTryTimeout | Failure::PerTryIdleTimeout)
            ));
            if outcome.is_ok() {
                exchange.active.iter_mut().for_each(ActiveRequest::superseded);
            }
            drop(outcome);
            match bounded(pin!(source.pause(wait)), timeout, |_| None).await {
                Ok(kept) => kept?,
                Err(failure) => {
                    self.cluster.stats.upstream_rq_timeout.inc();
                    return Err(failure);
                }
            }
        }
    }

    /// Tells the upstream of the next attempt what it has to know.
    pub(super) fn announce(
        &self,
        exchange: &mut Exchange,
        timeout: &RouteTimeout,
        limits: &Limits,
        after_timeout: Option<bool>,
    ) {
        let left = self.left(timeout, limits);
        let expected = left.filter(|_| !self.router.suppress_envoy_headers);
        let deadline = match limits.deadline {
            Deadline::AsItCame => None,
            // Without a limit nothing is told: zero would be a deadline that is over.
            Deadline::OfAttempt => left.filter(|left| !left.is_zero()),
            Deadline::OfStream(limit) => Some(limit),
        };
        envoy_headers::announce(exchange, expected, after_timeout, deadline);
    }

    /// The time that the next attempt has.
    fn left(&self, timeout: &RouteTimeout, limits: &Limits) -> Option<Duration> {
        if let Some(per_try) = limits.per_try.filter(|_| !limits.hedges) {
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
        self.permit = None;
        if !self.wants_retry(outcome, sent) {
            self.count_success(exchange, outcome);
            return None;
        }
        self.admit_retry(exchange, outcome)
    }

    /// Whether the policy would have another attempt after this outcome.
    pub(super) fn wants_retry(&self, outcome: &Result<Response, Failure>, sent: &SentAt) -> bool {
        let Some(policy) = &self.policy else { return false };
        match outcome {
            Ok(response) => policy.retry_on_response(response.status(), response.headers()),
            Err(Failure::ResponseTimeout) => false,
            Err(failure) => policy.retry_on_failure(failure, sent.get().is_some()),
        }
    }

    /// What is passed on after retries, and that more of them would not mend: in Envoy a success, failures among it.
    pub(super) fn count_success(&self, exchange: &Exchange, outcome: &Result<Response, Failure>) {
        let is_final = outcome.as_ref().err().is_none_or(Failure::is_reset);
        if self.retries > 0 && is_final {
            self.cluster.stats.upstream_rq_retry_success.inc();
            exchange
                .route
                .count(|stats| stats.traffic.upstream_rq_retry_success.inc());
        }
    }

    /// Takes a retry's place, if number and breakers allow one more, and says how long to wait for it.
    pub(super) fn admit_retry(
        &mut self,
        exchange: &mut Exchange,
        outcome: &Result<Response, Failure>,
    ) -> Option<Duration> {
        let stats = &self.cluster.stats;
        let policy = self.policy.as_ref()?;
        if self.retries >= policy.num_retries {
            stats.upstream_rq_retry_limit_exceeded.inc();
            exchange
                .route
                .count(|stats| stats.traffic.upstream_rq_retry_limit_exceeded.inc());
            exchange.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return None;
        }
        // Of an answer that is not all here the connection keeps the place.
        let goes_on = |response: &Response| !matches!(response.body(), Body::Empty | Body::Full(_));
        let is_over = !outcome.as_ref().is_ok_and(goes_on);
        let Some(permit) = self.cluster.breakers.try_retry(self.priority, is_over) else {
            stats.upstream_rq_retry_overflow.inc();
            exchange
                .route
                .count(|stats| stats.traffic.upstream_rq_retry_overflow.inc());
            exchange.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
            return None;
        };
        self.permit = Some(permit);
        self.retries += 1;
        stats.upstream_rq_retry.inc();
        exchange.route.count(|stats| stats.traffic.upstream_rq_retry.inc());
        if let Ok(response) = outcome {
            stats.retry.inc(response.status().as_u16());
        }
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

/// At the end of its exchange a request is over, read or not.
struct Abandoned(RequestStream);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// How often a request is sent again after connections that died unnoticed.
pub(super) const UNNOTICED_DEATHS: u32 = 3;
