//! Calls of our own: what a filter asks of a cluster, over the pools of the worker it runs on.
//!
//! In: a cluster's name and a whole request. Out: a whole answer, or why there is none. The calls count in the cluster's statistics, in its
//! circuit breakers and for its outlier detection, as forwarded requests do.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt;

use super::body::Body;
use super::codec::Head;
use super::exchange::Protocol;
use super::failure::Failure;
use super::outcome::{self, Outcome};
use super::stats::RouterStats;
use crate::cluster::{ActiveRequest, Cluster, PickContext};
use crate::pool::{self, Asked, PeerName};
use crate::runtime::clock;
use crate::snapshot::SnapshotCell;

/// Bytes of an answer's body that are kept; Envoy's asynchronous client has no limit, a side-car's memory has.
const ANSWER_LIMIT: usize = 1 << 20;
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// Added to every answer, as the router does.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// A service that filters call.
#[derive(Clone)]
pub struct Callee {
    pub snapshot: Arc<SnapshotCell>,
    pub cluster: Arc<str>,
    /// From the request to the last byte of the answer; zero: no limit.
    pub timeout: Duration,
    /// `skip_envoy_headers`: the call carries no `x-envoy-` headers.
    pub skip_envoy_headers: bool,
    /// Under [`ASYNC_CLIENT`](super::stats::ASYNC_CLIENT).
    pub stats: Arc<RouterStats>,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("there is no cluster '{0}'")]
    NoCluster(Arc<str>),
    #[error("{}", .0.full_details())]
    Failed(Failure),
    #[error("the answer is longer than {ANSWER_LIMIT} bytes")]
    TooLong,
}

impl Callee {
    /// Sends the request to a host of the cluster and waits for the whole answer. Adds the headers by which a callee knows a proxy's own call.
    ///
    /// # Errors
    /// See [`CallError`]; one attempt is made.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub async fn call(&self, mut request: Request<Bytes>) -> Result<Answer, CallError> {
        self.stats.rq_total.inc();
        let started = clock::now();
        if !self.skip_envoy_headers {
            self.introduce(request.headers_mut());
        }
        let cluster = self.snapshot.load().cluster(&self.cluster);
        let Some(cluster) = cluster else {
            self.stats.no_cluster.inc();
            return Err(CallError::NoCluster(self.cluster.clone()));
        };
        let exchange = exchange(&cluster, request);
        let result = if self.timeout.is_zero() {
            exchange.await
        } else {
            let timed = tokio::time::timeout(self.timeout, exchange).await;
            timed.unwrap_or(Err(CallError::Failed(Failure::ResponseTimeout)))
        };
        match &result {
            Ok(answer) => {
                cluster.stats.count_response(answer.status.as_u16(), true, false);
                let took = clock::now().saturating_duration_since(started).as_millis();
                let millis = u64::try_from(took).unwrap_or(u64::MAX);
                cluster.stats.record_time(millis, true, false);
            }
            Err(CallError::Failed(failure)) => {
                if *failure == Failure::ResponseTimeout {
                    cluster.stats.upstream_rq_timeout.inc();
                }
                cluster.stats.count_response(failure.row().status.as_u16(), true, false);
            }
            Err(_) => {}
        }
        result
    }

    fn introduce(&self, headers: &mut HeaderMap) {
        headers.insert(INTERNAL, HeaderValue::from_static("true"));
        if !self.timeout.is_zero() {
            let millis = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED_TIMEOUT, HeaderValue::from(millis));
        }
    }
}

async fn exchange(cluster: &Arc<Cluster>, request: Request<Bytes>) -> Result<Answer, CallError> {
    let failed = CallError::Failed;
    let host = cluster
        .pick(&PickContext::default())
        .map_err(|_| failed(Failure::NoHealthyUpstream))?;
    let observed = |failure: Failure| {
        cluster.observe_failure(&host, &failure, clock::now());
        failed(failure)
    };
    let authority = request.headers().get(http::header::HOST).map(HeaderValue::as_bytes);
    let authority = authority.or(request.uri().authority().map(|authority| authority.as_str().as_bytes()));
    let name = PeerName::of(&cluster.http, request.headers(), authority.unwrap_or_default());
    let asked = Asked {
        alpn: None,
        name: name.as_ref(),
    };
    let (lease, _) = pool::lease(cluster, &host, false, Protocol::Http11, asked, pool::Client::default())
        .await
        .map_err(observed)?;
    let _active = ActiveRequest::start(cluster, &host);
    let (parts, body) = request.into_parts();
    let head = Head {
        method: &parts.method,
        uri: &parts.uri,
        headers: &parts.headers,
        interim: None,
        names: None,
        meter: None,
    };
    let sent_at = clock::now();
    let sent = lease.send(head, Body::from(body)).await;
    let mut response = sent.map_err(|error| observed(error.failure))?;
    let now = clock::now();
    let outcome = Outcome::of(&parts.headers, &response, cluster.http.error_matcher.as_ref());
    cluster.observe_headers(&host, outcome.status, response.headers(), now);
    cluster.observe_response(&host, outcome, now);
    match outcome.success {
        Some(success) => host.state.count_outcome(success),
        None => outcome::judge(&mut response, host.state.clone()),
    }
    let (mut parts, mut body) = response.into_parts();
    let took = now.saturating_duration_since(sent_at).as_millis();
    let took = HeaderValue::from(u64::try_from(took).unwrap_or(u64::MAX));
    parts.headers.insert(SERVICE_TIME, took);
    let mut bytes = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error {
            super::body::BodyError::Failed(failure) => failed(failure),
            super::body::BodyError::Other(_) => failed(Failure::ConnectionTermination),
        })?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER_LIMIT => return Err(CallError::TooLong),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(other) => trailers = other.into_trailers().ok(),
        }
    }
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: bytes.freeze(),
        trailers,
    })
}
