//! Attempts side by side (`hedge_on_per_try_timeout`): one that is slow goes on while another is sent, and the first good answer wins.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::attempt::{self, Attempt, SentAt};
use super::count_failure;
use super::deadline::{RouteTimeout, bounded};
use super::limits::Limits;
use super::retry::{Run, Source, UNNOTICED_DEATHS};
use crate::cluster::ActiveRequest;
use crate::http::access_log;
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::pool::alpn::UpstreamAlpn;
use crate::runtime::clock;

/// One attempt under way; it works on a copy of the stream, so that several can.
struct Racer<'a> {
    future: Pin<Box<dyn Future<Output = Finish> + Send + 'a>>,
    sent: Arc<SentAt>,
    /// Its time is over: it was answered by another attempt, and is not again.
    is_slow: bool,
    /// Why it was sent after another one, if it was: that one's time was over.
    after_timeout: Option<bool>,
}

struct Finish {
    attempt: Attempt,
    copy: Exchange,
    outcome: Result<Response, Failure>,
}

impl Racer<'_> {
    /// Whether it is sent again as if it had never been. One whose time is over has others in its place.
    fn was_never_heard(&self, finish: &Finish) -> bool {
        let method = finish.copy.request.method();
        !self.is_slow && finish.outcome.is_err() && finish.attempt.was_never_heard(method, &self.sent)
    }
}

enum Event {
    Finished(usize, Box<Finish>),
    /// The wait before the next attempt is over.
    Due,
}

/// Runs attempts until one of them has an answer for the client.
pub(super) async fn race(
    run: &mut Run<'_>,
    exchange: &mut Exchange,
    source: &Source,
    timeout: &mut RouteTimeout,
    limits: &Limits,
) -> Result<Response, Failure> {
    let mut racers: Vec<Racer<'_>> = Vec::new();
    let mut unnoticed_deaths = 0;
    let mut pause: Option<Pin<Box<tokio::time::Sleep>>> = None;
    racers.push(start(run, exchange, source, timeout, limits, None)?);
    loop {
        let event = {
            let deadlines: Vec<Arc<SentAt>> = waiting(&racers).map(|racer| racer.sent.clone()).collect();
            let earliest = |request_ended| {
                let ends = deadlines
                    .iter()
                    .filter_map(|sent| limits.of_attempt(sent, request_ended));
                ends.min_by_key(|(end, _)| *end)
            };
            let next = access_log::during(exchange, next(&mut racers, &mut pause));
            bounded(pin!(next), timeout, earliest).await
        };
        match event {
            Ok(Event::Due) => {
                pause = None;
                let is_after_timeout = racers.iter().any(|racer| racer.is_slow);
                racers.push(start(run, exchange, source, timeout, limits, Some(is_after_timeout))?);
            }
            Ok(Event::Finished(index, finish)) => {
                let racer = racers.swap_remove(index);
                if unnoticed_deaths < UNNOTICED_DEATHS && source.is_whole() && racer.was_never_heard(&finish) {
                    unnoticed_deaths += 1;
                    exchange.upstream.attempts -= 1;
                    racers.push(start(run, exchange, source, timeout, limits, racer.after_timeout)?);
                    continue;
                }
                if let (true, Err(failure)) = (finish.attempt.died_unnoticed, &finish.outcome) {
                    racer.sent.lost(run.cluster, failure);
                }
                let others = !racers.is_empty() || pause.is_some();
                if let Some(result) = judge(run, exchange, &racer, *finish, others, &mut pause) {
                    return result;
                }
            }
            Err(Failure::PerTryTimeout | Failure::PerTryIdleTimeout) => {
                slow_down(run, exchange, &mut racers, timeout, limits, &mut pause);
            }
            Err(failure) => {
                give_up(run, exchange, &racers, &failure);
                return Err(failure);
            }
        }
    }
}

fn waiting<'a, 'b>(racers: &'b [Racer<'a>]) -> impl Iterator<Item = &'b Racer<'a>> {
    racers.iter().filter(|racer| !racer.is_slow)
}

/// The next attempt, on a copy of the stream.
fn start<'a>(
    run: &mut Run<'a>,
    exchange: &mut Exchange,
    source: &Source,
    timeout: &RouteTimeout,
    limits: &Limits,
    after_timeout: Option<bool>,
) -> Result<Racer<'a>, Failure> {
    let body = source.body().ok_or(Failure::RetryBufferExceeded)?;
    exchange.upstream.attempts += 1;
    run.announce(exchange, timeout, limits, after_timeout);
    let mut copy = exchange.fork(Body::Empty);
    copy.started = exchange.started;
    copy.hash = exchange.hash;
    copy.upstream.attempts = exchange.upstream.attempts;
    copy.upstream.name.clone_from(&exchange.upstream.name);
    copy.upstream.attempted.clone_from(&exchange.upstream.attempted);
    if let Some(alpn) = exchange.extensions.get::<UpstreamAlpn>() {
        copy.extensions.insert(alpn.clone());
    }
    let sent = Arc::new(SentAt::default());
    let (forward, cluster, policy) = (run.forward, run.cluster, run.policy.clone());
    let future = {
        let sent = sent.clone();
        async move {
            let mut attempt = Attempt::default();
            let policy = policy.as_deref();
            let outcome = attempt::run(&mut attempt, &sent, &mut copy, forward, cluster, policy, body).await;
            Finish { attempt, copy, outcome }
        }
    };
    Ok(Racer {
        future: Box::pin(future),
        sent,
        is_slow: false,
        after_timeout,
    })
}

async fn next(racers: &mut [Racer<'_>], pause: &mut Option<Pin<Box<tokio::time::Sleep>>>) -> Event {
    std::future::poll_fn(|cx| {
        for (index, racer) in racers.iter_mut().enumerate() {
            if let Poll::Ready(finish) = racer.future.as_mut().poll(cx) {
                return Poll::Ready(Event::Finished(index, Box::new(finish)));
            }
        }
        match pause {
            Some(pause) => pause.as_mut().poll(cx).map(|()| Event::Due),
            None => Poll::Pending,
        }
    })
    .await
}

/// What an answer means: the end, another attempt, or that the others are waited for.
fn judge(
    run: &mut Run<'_>,
    exchange: &mut Exchange,
    racer: &Racer<'_>,
    finish: Finish,
    others: bool,
    pause: &mut Option<Pin<Box<tokio::time::Sleep>>>,
) -> Option<Result<Response, Failure>> {
    let Finish { mut copy, outcome, .. } = finish;
    exchange.upstream.attempted.clone_from(&copy.upstream.attempted);
    if run.wants_retry(&outcome, &racer.sent) {
        if !racer.is_slow
            && let Some(wait) = run.admit_retry(exchange, &outcome)
        {
            copy.active.iter_mut().for_each(ActiveRequest::superseded);
            schedule(pause, wait);
            return None;
        }
        // Nobody is sent a bad answer while a better one may still come.
        if others {
            copy.active.iter_mut().for_each(ActiveRequest::superseded);
            return None;
        }
    } else if !racer.is_slow {
        run.count_success(exchange, &outcome);
    }
    if let (true, Some(failure)) = (others, outcome.as_ref().err().filter(|failure| failure.is_reset())) {
        count_failure(&run.cluster.stats, failure, exchange);
        return None;
    }
    adopt(exchange, copy);
    Some(outcome)
}

/// Attempts whose time is over are not cut: another one is sent beside them, as often as the policy allows.
fn slow_down(
    run: &mut Run<'_>,
    exchange: &mut Exchange,
    racers: &mut [Racer<'_>],
    timeout: &RouteTimeout,
    limits: &Limits,
    pause: &mut Option<Pin<Box<tokio::time::Sleep>>>,
) {
    let now = clock::now();
    for racer in racers.iter_mut().filter(|racer| !racer.is_slow) {
        let Some((_, failure)) = limits
            .of_attempt(&racer.sent, timeout.request_ended)
            .filter(|(end, _)| *end <= now)
        else {
            continue;
        };
        racer.is_slow = true;
        racer.sent.slowed_down(run.cluster, &failure);
        if let Some(wait) = run.admit_retry(exchange, &Err(failure)) {
            schedule(pause, wait);
        }
    }
}

/// Every attempt that still ran counts as one that came to this.
fn give_up(run: &Run<'_>, exchange: &mut Exchange, racers: &[Racer<'_>], failure: &Failure) {
    for (index, racer) in racers.iter().enumerate() {
        if !racer.is_slow {
            racer.sent.timed_out(run.cluster, failure);
        }
        if index > 0 {
            if *failure == Failure::ResponseTimeout {
                run.cluster.stats.upstream_rq_timeout.inc();
            }
            let status = failure.row().status.as_u16();
            run.cluster.stats.count_response(status, exchange.internal, false);
        }
    }
    exchange.upstream.host = racers.last().and_then(|racer| racer.sent.host());
}

fn schedule(pause: &mut Option<Pin<Box<tokio::time::Sleep>>>, wait: Duration) {
    *pause = Some(Box::pin(tokio::time::sleep(wait)));
}

/// The stream becomes the one whose attempt won.
fn adopt(exchange: &mut Exchange, copy: Exchange) {
    let attempts = exchange.upstream.attempts;
    exchange.upstream = copy.upstream;
    exchange.upstream.attempts = attempts;
    exchange.active = copy.active;
    exchange.authority = copy.authority;
    *exchange.request.headers_mut() = copy.request.into_parts().0.headers;
    exchange.timing.first_upstream_tx = copy.timing.first_upstream_tx;
    exchange.timing.first_upstream_rx = copy.timing.first_upstream_rx;
}
