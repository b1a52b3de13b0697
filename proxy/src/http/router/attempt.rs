//! One attempt: pick a host, lease a connection, send, observe what came of it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::pick;
use crate::cluster::{ActiveRequest, Cluster, Host};
use crate::http::body::Body;
use crate::http::codec::{Head, InterimStatus};
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::pool;
use crate::pool::alpn::UpstreamAlpn;
use crate::route::{Forward, RetryPolicy};
use crate::runtime::clock;

/// What is known of an attempt while it runs.
#[derive(Default)]
pub(super) struct Attempt {
    /// It failed on a connection that another request had used before, and got no byte of an answer.
    pub died_unnoticed: bool,
    host: Option<Arc<Host>>,
}

/// When a request was sent; set once, read by the timer of the same task.
#[derive(Default)]
pub(super) struct SentAt(std::sync::OnceLock<Instant>);

impl SentAt {
    pub fn get(&self) -> Option<Instant> {
        self.0.get().copied()
    }
}

impl Attempt {
    /// The attempt was cut by a timer.
    pub fn timed_out(&self, exchange: &Exchange, cluster: &Cluster, failure: &Failure) {
        if *failure == Failure::PerTryTimeout {
            cluster.stats.upstream_rq_per_try_timeout.inc();
        }
        if let Some(host) = &self.host {
            host.state.rq_timeout.fetch_add(1, Ordering::Relaxed);
            cluster.observe_failure(host, failure, clock::now());
        }
        let _ = exchange;
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
    attempt.host = Some(host.clone());
    exchange.upstream.host = Some(host.clone());
    crate::http::header_policy::auto_host(exchange, forward, &host);
    let stats = &cluster.stats;
    let alpn = exchange.extensions.get::<UpstreamAlpn>();
    let source = exchange.connection.extensions.get().copied();
    let leased = pool::lease(cluster, &host, forward.high_priority, exchange.protocol, alpn, source).await;
    let lease = match leased {
        Ok(lease) => lease,
        Err(failure) => {
            if let Failure::ConnectFailure(reason) = &failure {
                exchange.upstream.failure_reason = reason.clone();
            }
            cluster.observe_failure(&host, &failure, clock::now());
            return Err(failure);
        }
    };
    cluster.observe_connected(&host, false);
    let guard = ActiveRequest::start(cluster, &host);
    exchange.upstream.protocol = Some(lease.protocol());
    exchange.upstream.tls.clone_from(&lease.origin().tls);
    exchange.upstream.local.clone_from(&lease.origin().local);
    let reused = lease.reused();
    let sent_at = clock::now();
    // The cell is this attempt's own: it is empty.
    let _ = sent.0.set(sent_at);
    exchange.timing.first_upstream_tx = Some(sent_at.saturating_duration_since(exchange.started));
    let head = Head {
        method: exchange.request.method(),
        uri: exchange.request.uri(),
        headers: exchange.request.headers(),
        interim: exchange.interim.as_deref(),
    };
    let result = lease.send(head, body).await;
    let now = clock::now();
    match result {
        Ok(mut response) => {
            if let Some(InterimStatus(status)) = response.extensions_mut().remove() {
                stats.count_response(status.as_u16(), exchange.internal, false);
            }
            exchange.upstream.service_time = Some(now.saturating_duration_since(sent_at));
            exchange.timing.first_upstream_rx = Some(now.saturating_duration_since(exchange.started));
            exchange.active = Some(guard);
            cluster.observe_response(&host, response.status(), now);
            Ok(response)
        }
        Err(error) => {
            attempt.died_unnoticed = reused && error.body.is_some() && error.failure == Failure::ConnectionTermination;
            if !matches!(error.failure, Failure::DownstreamDisconnect | Failure::DownstreamReset) {
                if !attempt.died_unnoticed {
                    cluster.observe_failure(&host, &error.failure, now);
                }
            }
            Err(error.failure)
        }
    }
}
