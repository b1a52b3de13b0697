//! Mirrors: copies of a request for other clusters, whose answers nobody waits for (`request_mirror_policies`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use http_body::Body as _;

use super::attempt::{self, Attempt, SentAt};
use super::deadline::{RouteTimeout, bounded};
use super::envoy_headers::EXPECTED_TIMEOUT;
use super::limits::Limits;
use super::retry::Source;
use super::{CANARY, Router, count_failure, peer_name};
use crate::cluster::{ActiveRequest, Cluster};
use crate::http::body::Body;
use crate::http::exchange::{Exchange, RouteCell};
use crate::http::failure::Failure;
use crate::http::header_policy::remote::append_machine;
use crate::http::header_policy::set_authority;
use crate::http::outcome;
use crate::http::service::Response;
use crate::route::forward::{Mirror, MirrorTarget};
use crate::route::{Forward, RequestView};
use crate::runtime::spawn::spawn;

/// Sends a copy to each mirror of the route that this request is one for.
pub(super) fn start(router: &Router, exchange: &Exchange, forward: &Forward, limits: &Limits, source: &Source) {
    for mirror in forward.mirrors.iter() {
        if mirror
            .fraction
            .as_ref()
            .is_some_and(|fraction| !fraction.contains(exchange.random))
        {
            continue;
        }
        let Some(cluster) = cluster(router, exchange, mirror) else {
            continue;
        };
        let (body, ended) = match source {
            Source::Whole(bytes) => (Body::from(bytes.clone()), true),
            Source::Stream(stream) => (stream.tee(), false),
        };
        let mut copy = exchange.fork(body);
        // Its requests are none of the route's.
        copy.route = RouteCell::default();
        announce(
            copy.request.headers_mut(),
            limits.route.filter(|_| !router.suppress_envoy_headers),
        );
        readdress(&mut copy, mirror);
        copy.upstream.name = peer_name(&cluster, &copy);
        let timeout = RouteTimeout {
            limit: limits.route,
            request_ended: ended.then_some(copy.started),
            stream: match source {
                Source::Stream(stream) => Some(stream.clone()),
                Source::Whole(_) => None,
            },
            stream_end: None,
            is_over: false,
        };
        router.mirror_stats.rq_total.inc();
        spawn("mirror", run(cluster, copy, timeout));
    }
}

fn cluster(router: &Router, exchange: &Exchange, mirror: &Mirror) -> Option<Arc<Cluster>> {
    match &mirror.cluster {
        MirrorTarget::Name(name) => router.snapshot.load().cluster(name),
        MirrorTarget::Header(key) => {
            let name = key.first(&RequestView::of(exchange))?;
            router.snapshot.load().cluster(std::str::from_utf8(&name).ok()?)
        }
    }
}

/// What a router of its own would say: that the request comes from inside, through this machine, and how long it may take.
fn announce(headers: &mut HeaderMap, limit: Option<Duration>) {
    headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
    append_machine(headers);
    match limit.and_then(|limit| u64::try_from(limit.as_millis()).ok()) {
        Some(millis) => headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis)),
        None => headers.remove(EXPECTED_TIMEOUT),
    };
}

/// Tells the mirror's upstream what it is: by a host of its own.
fn readdress(copy: &mut Exchange, mirror: &Mirror) {
    copy.internal = true;
    if let Some(host) = &mirror.host_rewrite {
        set_authority(copy, host.clone());
        return;
    }
    let Some(authority) = copy.authority.clone().filter(|_| mirror.shadow_suffix) else {
        return;
    };
    let authority = authority.as_bytes();
    let port = crate::route::table::port_start(authority).unwrap_or(authority.len());
    let (host, port) = authority.split_at(port);
    if let Ok(host) = HeaderValue::from_bytes(&[host, b"-shadow", port].concat()) {
        set_authority(copy, host);
    }
}

async fn run(cluster: Arc<Cluster>, mut copy: Exchange, mut timeout: RouteTimeout) {
    match answer(&cluster, &mut copy, &mut timeout).await {
        Ok(mut response) => {
            if let Some(host) = copy.active.as_mut().and_then(ActiveRequest::stands) {
                outcome::judge(&mut response, host.clone());
            }
            let canary = response.headers().get(CANARY).is_some_and(|value| value == "true");
            cluster.stats.count_response(response.status().as_u16(), true, canary);
            drain(response.into_body(), &mut timeout).await;
            let took = copy.elapsed().as_millis();
            let millis = u64::try_from(took).unwrap_or(u64::MAX);
            cluster.stats.record_time(millis, true, canary);
        }
        Err(failure) => count_failure(&cluster.stats, &failure, &copy),
    }
}

async fn answer(cluster: &Arc<Cluster>, copy: &mut Exchange, timeout: &mut RouteTimeout) -> Result<Response, Failure> {
    let forward = Forward::plain();
    let (mut attempt, sent) = (Attempt::default(), SentAt::default());
    let body = std::mem::take(copy.request.body_mut());
    let future = attempt::run(&mut attempt, &sent, copy, &forward, cluster, None, body);
    match bounded(pin!(future), timeout, |_| None).await {
        Ok(outcome) => outcome,
        Err(failure) => {
            sent.timed_out(cluster, &failure);
            Err(failure)
        }
    }
}

/// Reads an answer to its end, so that its connection can be used again.
async fn drain(body: Body, timeout: &mut RouteTimeout) {
    let mut body = pin!(body);
    let end = std::future::poll_fn(|cx| {
        while let Some(Ok(_)) = std::task::ready!(body.as_mut().poll_frame(cx)) {}
        std::task::Poll::Ready(())
    });
    // Too late is as good as over.
    let _ = bounded(pin!(end), timeout, |_| None).await;
}
