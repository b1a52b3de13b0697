//! One attempt: pick a host, lease a connection, send, observe what came of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::pick;
use crate::cluster::{ActiveRequest, Cluster, Host};
use crate::http::access_log;
use crate::http::body::Body;
use crate::http::codec::h1::OriginalNames;
use crate::http::codec::{Head, Interim, InterimStatus, SendError, UpstreamMeter};
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::outcome::Outcome;
use crate::http::service::Response;
use crate::pool::alpn::UpstreamAlpn;
use crate::pool::{self, Asked, Client, Lease};
use crate::route::{Forward, RetryPolicy};
use crate::runtime::clock;

/// What is known of an attempt while it runs.
#[derive(Default)]
pub(super) struct Attempt {
    /// It failed with a connection that another request had used before, and got no byte of an answer.
    pub died_unnoticed: bool,
    /// The upstream says that it never looked at the request.
    pub unseen: bool,
}

impl Attempt {
    fn note_loss(&mut self, reused: bool, error: &SendError) {
        self.unseen = error.failure == Failure::RemoteRefused;
        let is_over = self.unseen || error.failure == Failure::ConnectionTermination;
        self.died_unnoticed = reused && error.body.is_some() && is_over;
    }

    /// Whether a request of this method that failed so is sent again without any policy: its pooled connection died before it arrived, which
    /// is not the upstream's answer.
    pub fn was_never_heard(&self, method: &http::Method, sent: &SentAt) -> bool {
        self.died_unnoticed && (self.unseen || (method.is_idempotent() && sent.is_young()))
    }
}

/// When a request was sent, and where to; set once, read by the timers of the same task.
#[derive(Default)]
pub(super) struct SentAt {
    at: OnceLock<Instant>,
    host: OnceLock<Arc<Host>>,
}

impl SentAt {
    pub fn get(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    /// Sent a moment ago: a connection that was dead by then says so within a round trip. One that ends later may have ended by the request.
    pub fn is_young(&self) -> bool {
        const MOMENT: Duration = Duration::from_secs(1);
        self.get()
            .is_none_or(|at| clock::now().saturating_duration_since(at) < MOMENT)
    }

    /// The connection ended, and the request with it.
    pub fn lost(&self, cluster: &Cluster, failure: &Failure) {
        if let Some(host) = self.host.get() {
            cluster.observe_failure(host, failure, clock::now());
        }
    }

    /// The attempt took longer than it may.
    pub fn timed_out(&self, cluster: &Cluster, failure: &Failure) {
        match failure {
            Failure::PerTryTimeout => cluster.stats.upstream_rq_per_try_timeout.inc(),
            Failure::PerTryIdleTimeout => cluster.stats.upstream_rq_per_try_idle_timeout.inc(),
            Failure::MaxStreamDuration { .. } => cluster.stats.upstream_rq_max_duration_reached.inc(),
            _ => {}
        }
        self.slowed_down(cluster, failure);
    }

    pub fn host(&self) -> Option<Arc<Host>> {
        self.host.get().cloned()
    }

    /// What a host is blamed for, whether or not its attempt goes on.
    pub fn slowed_down(&self, cluster: &Cluster, failure: &Failure) {
        if let Some(host) = self.host.get() {
            host.state.rq_timeout.fetch_add(1, Ordering::Relaxed);
            let now = clock::now();
            if let Some(sent_at) = self.get() {
                cluster.observe_time(host, now.saturating_duration_since(sent_at), now);
            }
            cluster.observe_failure(host, failure, now);
        }
    }
}

pub(super) async fn run(
    attempt: &mut Attempt,
    sent: &SentAt,
    exchange: &mut Exchange,
    forward: &Forward,
    cluster: &Arc<Cluster>,
    policy: Option<&RetryPolicy>,
    body: Body,
) -> Result<Response, Failure> {
    let host = pick::pick(exchange, forward, cluster, policy)?;
    // The cells are this attempt's own: they are empty.
    let _ = sent.host.set(host.clone());
    exchange.upstream.host = Some(host.clone());
    crate::http::header_policy::auto_host(exchange, forward, &host);
    let raw = forward.terminates(&exchange.request);
    let leased = lease(exchange, forward, cluster, &host, raw).await;
    let (lease, waited) = match leased {
        Ok(leased) => leased,
        Err(failure) => {
            match &failure {
                Failure::QueueOverflow => exchange.upstream.host = None,
                Failure::ConnectFailure(_) | Failure::BindFailure(_) => {
                    exchange.upstream.failure_reason = failure.transport_reason().map(str::to_owned);
                }
                _ => {}
            }
            cluster.observe_failure(&host, &failure, clock::now());
            return Err(failure);
        }
    };
    let reached = &mut exchange.upstream.reached;
    if !reached.iter().any(|other| Arc::ptr_eq(&other.state, &host.state)) {
        reached.push(host.clone());
    }
    cluster.observe_connected(&host, false);
    let guard = ActiveRequest::start(cluster, &host);
    exchange.route.count(|stats| stats.traffic.upstream_rq_total.inc());
    connected(exchange, &lease, raw, waited);
    let reused = lease.reused();
    let sent_at = clock::now();
    let _ = sent.at.set(sent_at);
    exchange.timing.first_upstream_tx = Some(sent_at.saturating_duration_since(exchange.started));
    let result = match raw {
        true => lease.tunnel(body),
        // Boxed: it is rare, and holds a request.
        false if exchange.periodic.is_some() => Box::pin(send_and_log(exchange, lease, body)).await,
        false => {
            let (interim, meter) = (exchange.interim.as_deref(), exchange.upstream.meter.as_ref());
            lease.send(head(&exchange.request, interim, meter), body).await
        }
    };
    let now = clock::now();
    match result {
        Ok(mut response) => {
            if let Some(InterimStatus(status)) = response.extensions_mut().remove() {
                cluster.stats.count_response(status.as_u16(), exchange.internal, false);
            }
            let service_time = now.saturating_duration_since(sent_at);
            cluster.observe_time(&host, service_time, now);
            exchange.upstream.service_time = Some(service_time);
            let outcome = Outcome::of(
                exchange.request.headers(),
                &response,
                cluster.http.error_matcher.as_ref(),
            );
            cluster.observe_headers(&host, outcome.status, response.headers(), now);
            exchange.timing.first_upstream_rx = Some(now.saturating_duration_since(exchange.started));
            exchange.active = Some(guard.answered(&host, outcome, now));
            Ok(response)
        }
        Err(error) => {
            attempt.note_loss(reused, &error);
            let is_the_clients = matches!(error.failure, Failure::DownstreamDisconnect | Failure::DownstreamReset);
            if !is_the_clients && !attempt.died_unnoticed {
                cluster.observe_failure(&host, &error.failure, now);
            }
            Err(error.failure)
        }
    }
}

fn head<'a, B>(
    request: &'a http::Request<B>,
    interim: Option<&'a Interim>,
    meter: Option<&'a Arc<UpstreamMeter>>,
) -> Head<'a> {
    Head {
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
        interim,
        names: request.extensions().get(),
        meter,
    }
}

/// Sends the request; lines of it that come due before its answer are written.
async fn send_and_log(exchange: &mut Exchange, lease: Lease, body: Body) -> Result<Response, SendError> {
    // Of its own: the log reads the exchange meanwhile.
    let mut request = http::Request::new(());
    *request.method_mut() = exchange.request.method().clone();
    *request.uri_mut() = exchange.request.uri().clone();
    *request.headers_mut() = exchange.request.headers().clone();
    if let Some(names) = exchange.request.extensions().get::<OriginalNames>() {
        request.extensions_mut().insert(names.clone());
    }
    let (interim, meter) = (exchange.interim.clone(), exchange.upstream.meter.clone());
    let sending = lease.send(head(&request, interim.as_deref(), meter.as_ref()), body);
    access_log::during(exchange, sending).await
}

/// A connection for the attempt, and how long it was waited for. The future borrows nothing but what it needs of the exchange, whose body may not
/// be looked at from two threads.
fn lease<'a>(
    exchange: &'a Exchange,
    forward: &'a Forward,
    cluster: &'a Arc<Cluster>,
    host: &'a Arc<Host>,
    raw: bool,
) -> impl Future<Output = Result<(Lease, Duration), Failure>> + Send + 'a {
    let asked = Asked {
        alpn: exchange.extensions.get::<UpstreamAlpn>(),
        name: exchange.upstream.name.as_ref(),
    };
    let client = Client::of(&exchange.connection);
    let (protocol, is_high) = (exchange.protocol, forward.high_priority);
    async move {
        match raw {
            true => pool::raw(cluster, host, is_high, asked.name, client.source).await,
            false => pool::lease(cluster, host, is_high, protocol, asked, client).await,
        }
    }
}

/// What is known of the connection that the attempt goes over.
fn connected(exchange: &mut Exchange, lease: &Lease, raw: bool, waited: Duration) {
    let origin = lease.origin();
    exchange.upstream.protocol = (!raw).then_some(lease.protocol());
    exchange.upstream.tls.clone_from(&origin.tls);
    exchange.upstream.local.clone_from(&origin.local);
    exchange.upstream.connected = origin.times.filter(|_| !lease.reused());
    exchange.upstream.connection_ids.push(origin.id);
    exchange.timing.pool_ready = Some(waited);
}
