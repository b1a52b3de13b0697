//! The router: timeout → retry → attempt (cluster → pick host → lease a connection → send → observe).
//!
//! The innermost stage. Redirects and direct responses end here too: they are what a route says instead of a cluster.

mod attempt;
mod deadline;
pub(super) mod envoy_headers;
mod hedge;
mod limits;
mod mirror;
mod pick;
mod redirect;
mod request_stream;
mod retry;

#[cfg(test)]
pub(crate) use pick::refused as refuses_host;

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, LOCATION, SET_COOKIE};
use http::{HeaderValue, StatusCode};

use super::body::Body;
use super::exchange::Exchange;
use super::failure::Failure;
use super::pipeline::RouterStats;
use super::respond::Reply;
use super::service::{Response, TryService};
use super::upgrade::UpgradeKind;
use crate::cluster::lb::Policy;
use crate::cluster::{Cluster, ClusterStats};
use crate::pool::PeerName;
use crate::route::clusters::Chosen;
use crate::route::hash::Hashed;
use crate::route::{Action, Forward, RequestView, Route};
use crate::snapshot::SnapshotCell;

/// See the module. One per connection manager.
pub struct Router {
    pub snapshot: Arc<SnapshotCell>,
    pub stats: Arc<RouterStats>,
    /// What mirrors count as if they had a router of their own.
    pub mirror_stats: Arc<RouterStats>,
    /// `suppress_envoy_headers`: the router adds no `x-envoy-*` of its own.
    pub suppress_envoy_headers: bool,
    /// The connection manager's `max_stream_duration`, for routes that say nothing of it.
    pub max_stream_duration: Option<Duration>,
}

impl TryService for Router {
    async fn try_call(&self, exchange: &mut Exchange) -> Result<Response, Failure> {
        self.stats.rq_total.inc();
        exchange.suppress_envoy_headers = self.suppress_envoy_headers;
        let Some(route) = exchange.route.route.clone() else {
            self.stats.no_route.inc();
            return Err(Failure::RouteNotFound);
        };
        match &route.action {
            Action::Forward(forward) => self.forward(exchange, &route, forward).await,
            Action::Redirect(redirect) => {
                // As Envoy counts them: a redirect is a direct response.
                self.stats.rq_direct_response.inc();
                exchange.details = "direct_response".into();
                let location = redirect.location(&route.matcher.path, exchange);
                let location = HeaderValue::try_from(location).map_err(|_| Failure::RouteNotFound)?;
                let reply = Reply {
                    status: redirect.status,
                    grpc: None,
                    body: b"",
                    headers: [(LOCATION, location)].into_iter().collect(),
                    content_type: None,
                };
                Ok(reply.into_response(exchange))
            }
            Action::DirectResponse(direct) => {
                self.stats.rq_direct_response.inc();
                exchange.details = "direct_response".into();
                let (body, content_type) = direct.body(exchange);
                let reply = Reply {
                    status: direct.status,
                    grpc: None,
                    body: &body,
                    headers: direct.headers(&RequestView::of(exchange)),
                    content_type,
                };
                Ok(reply.into_response(exchange))
            }
            Action::NonForwarding => {
                self.stats.no_cluster.inc();
                Err(Failure::ClusterNotFound(StatusCode::SERVICE_UNAVAILABLE))
            }
        }
    }

    fn finish(&self, exchange: &mut Exchange) {
        let Some(cluster) = exchange.route.cluster.take() else {
            // A filter answered: logs and metrics still name where the request would have gone.
            exchange.route.cluster = routed(&self.snapshot, exchange);
            return;
        };
        // Only of answers that came from a host, and whole.
        let is_whole = exchange.reset.is_none() && exchange.details == "via_upstream";
        if let (true, Some(end)) = (is_whole, exchange.timing.end) {
            let millis = end.as_millis() as u64;
            let canary = exchange.upstream.is_canary;
            cluster.stats.record_time(millis, exchange.internal, canary);
            exchange
                .route
                .count(|stats| stats.traffic.upstream_rq_time.record(millis));
        }
        // The log may still want its name.
        exchange.route.cluster = Some(cluster);
    }
}

impl Router {
    async fn forward(
        &self,
        exchange: &mut Exchange,
        route: &Arc<Route>,
        forward: &Forward,
    ) -> Result<Response, Failure> {
        exchange.route.virtual_cluster = exchange
            .route
            .virtual_host
            .as_ref()
            .and_then(|host| host.virtual_cluster(&RequestView::of(exchange)).cloned());
        let cluster = self.choose_cluster(exchange, forward)?;
        crate::http::header_policy::finalize_request(exchange, route, forward)?;
        exchange.upstream.name = peer_name(&cluster, exchange);
        let turned_away = match cluster.is_in_maintenance(fastrand::u64(..)) {
            true => Some(Failure::MaintenanceMode),
            false => cluster.drops(fastrand::u64(..)),
        };
        if let Some(failure) = turned_away {
            count_failure(&cluster.stats, &failure, exchange);
            return Err(failure);
        }
        let result = retry::run(self, exchange, forward, &cluster).await;
        if let Ok(response) = &result {
            let canary = response.headers().get(CANARY).is_some_and(|value| value == "true");
            exchange.upstream.is_canary = canary;
            cluster
                .stats
                .count_response(response.status().as_u16(), exchange.internal, canary);
            let code = response.status().as_u16();
            exchange.route.count(|stats| stats.codes.inc(code));
        } else if let Err(failure) = &result
            // The connection manager answers that one.
            && !matches!(failure, Failure::StreamDuration { .. })
        {
            count_failure(&cluster.stats, failure, exchange);
            if failure.is_answered() {
                exchange.route.count(|stats| {
                    stats.codes.inc(failure.status(exchange.timeout_is_no_content).as_u16());
                    if *failure == Failure::ResponseTimeout {
                        stats.traffic.upstream_rq_timeout.inc();
                    }
                });
            }
        }
        let mut response = result?;
        exchange.details = "via_upstream".into();
        if is_failed_handshake(exchange, response.status()) {
            exchange.details = "websocket_handshake_unsuccessful".into();
            response.headers_mut().remove(CONTENT_LENGTH);
            *response.body_mut() = Body::Empty;
        }
        for cookie in exchange.set_cookies.drain(..) {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
        // An upgrade's request has no end to measure from.
        if !self.suppress_envoy_headers
            && exchange.upgrade.is_none()
            && let Some(time) = exchange.upstream.service_time
        {
            response.headers_mut().insert(SERVICE_TIME, millis(time));
        }
        Ok(response)
    }

    fn choose_cluster(&self, exchange: &mut Exchange, forward: &Forward) -> Result<Arc<Cluster>, Failure> {
        let missing = Failure::ClusterNotFound(forward.cluster_not_found);
        let hashed = hashed(exchange, forward);
        let chosen = forward.cluster.choose(&RequestView::of(exchange), hashed.hash);
        let Some(chosen) = chosen else {
            self.stats.no_cluster.inc();
            return Err(missing);
        };
        exchange.route.weighted = chosen.weighted;
        exchange.hash = hashed.hash;
        let cluster = self.snapshot.load().cluster(&chosen.cluster);
        let Some(cluster) = cluster else {
            self.stats.no_cluster.inc();
            return Err(missing);
        };
        // Who does not look at the hash does not make a cookie for it either.
        if matches!(cluster.lb.policy, Policy::RingHash(_) | Policy::Maglev(_)) {
            exchange.set_cookies = hashed.set_cookies;
        }
        exchange.route.cluster = Some(cluster.clone());
        Ok(cluster)
    }
}

/// The cluster that the selected route leads to.
pub(super) fn routed(snapshot: &SnapshotCell, exchange: &Exchange) -> Option<Arc<Cluster>> {
    let forward = exchange.route.route.as_ref()?.forward()?;
    snapshot.load().cluster(&choose(exchange, forward).1?.cluster)
}

/// The request's hash and the cluster that it chooses; the same each time it is asked, for filters that must know before the router does.
pub fn choose(exchange: &Exchange, forward: &Forward) -> (Option<u64>, Option<Chosen>) {
    let hash = hashed(exchange, forward).hash;
    (hash, forward.cluster.choose(&RequestView::of(exchange), hash))
}

fn hashed(exchange: &Exchange, forward: &Forward) -> Hashed {
    if forward.hash_policies.is_empty() {
        return Hashed::default();
    }
    let view = RequestView::of(exchange);
    crate::route::hash::hash(&forward.hash_policies, &view, exchange.remote_address())
}

/// What the request calls its upstream: by the host that the route has given it, before the chosen endpoint gives it another.
fn peer_name(cluster: &Cluster, exchange: &Exchange) -> Option<Arc<PeerName>> {
    let authority = exchange.authority.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
    PeerName::of(&cluster.http, exchange.headers(), authority)
}

/// A failure that the router answers counts as the response code it becomes.
fn count_failure(stats: &ClusterStats, failure: &Failure, exchange: &Exchange) {
    match failure {
        Failure::DownstreamDisconnect
        | Failure::DownstreamReset
        | Failure::BadRequest { .. }
        // Answered, but no answer of the cluster's, to Envoy.
        | Failure::MaxStreamDuration { .. }
        | Failure::InternalRedirect(_) => return,
        Failure::ResponseTimeout => stats.upstream_rq_timeout.inc(),
        _ => {}
    }
    let status = failure.status(exchange.timeout_is_no_content);
    stats.count_response(status.as_u16(), exchange.internal, false);
}

const SERVICE_TIME: http::HeaderName = http::HeaderName::from_static("x-envoy-upstream-service-time");
const CANARY: http::HeaderName = http::HeaderName::from_static("x-envoy-upstream-canary");

/// A duration in milliseconds; the usual ones cost no allocation.
fn millis(time: Duration) -> HeaderValue {
    const SHORT: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match SHORT.get(usize::try_from(millis).unwrap_or(usize::MAX)) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(millis),
    }
}

/// Whether a WebSocket is refused by an answer that says otherwise: a client could take what follows for frames.
fn is_failed_handshake(exchange: &Exchange, status: StatusCode) -> bool {
    let asks = exchange.upgrade.as_ref().is_some_and(UpgradeKind::is_websocket);
    asks && status != StatusCode::SWITCHING_PROTOCOLS && status < StatusCode::BAD_REQUEST
}
