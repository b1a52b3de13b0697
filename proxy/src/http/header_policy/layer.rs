//! The header-policy stage: the connection manager's policy before routing, the route's and the policy's on the response.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use tower::Layer;

use super::{HeaderPolicy, Verdict, finalize_response, path};
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::respond::{Local, Reply};
use crate::http::router::envoy_headers::{ATTEMPT_COUNT, attempt_count};
use crate::http::service::{Response, Service};
use crate::http::stats::HcmStats;
use crate::runtime::clock;

pub struct HeaderPolicyLayer {
    policy: Arc<HeaderPolicy>,
    stats: Arc<HcmStats>,
}

impl HeaderPolicyLayer {
    pub fn new(policy: &Arc<HeaderPolicy>, stats: &Arc<HcmStats>) -> Self {
        Self {
            policy: policy.clone(),
            stats: stats.clone(),
        }
    }
}

impl<S> Layer<S> for HeaderPolicyLayer {
    type Service = Policed<S>;

    fn layer(&self, inner: S) -> Policed<S> {
        Policed {
            policy: self.policy.clone(),
            stats: self.stats.clone(),
            inner,
        }
    }
}

/// See the module. Stands outside the respond stage's answers too: ours carry `date` and `server` as the upstream's do.
pub struct Policed<S> {
    policy: Arc<HeaderPolicy>,
    stats: Arc<HcmStats>,
    inner: S,
}

impl<S: Service> Service for Policed<S> {
    async fn call(&self, exchange: &mut Exchange) -> Response {
        fill_authority(exchange);
        let verdict = if exchange.authority.is_none() {
            Verdict::Reject {
                status: StatusCode::BAD_REQUEST,
                details: "missing_host_header",
            }
        } else if exchange.request.method().as_str() == "QUERY" && !exchange.headers().contains_key(CONTENT_TYPE) {
            // RFC 10008, 2.
            Verdict::Reject {
                status: StatusCode::BAD_REQUEST,
                details: "query_missing_content_type",
            }
        } else {
            self.policy.request(exchange)
        };
        let mut response = match verdict {
            Verdict::Continue => self.inner.call(exchange).await,
            Verdict::Reject { status, details } => {
                self.count_rejected(details);
                // As Envoy: a request whose path or client is not acceptable is one all the same.
                exchange.close_downstream |= !matches!(details, path::ABSOLUTE | super::DETECTION_REJECTED);
                exchange.details = details.into();
                answer(exchange, status, HeaderMap::new())
            }
            Verdict::Redirect { location, details } => {
                self.stats.downstream_rq_redirected_with_normalized_path.inc();
                exchange.details = details.into();
                redirect(exchange, &location)
            }
        };
        let status = response.status();
        // What is added to the response may speak of its code.
        let local = response.extensions_mut().remove::<Local>();
        if local.is_none() {
            exchange.response_code = Some(status);
        }
        let tells_attempts = exchange
            .route
            .virtual_host
            .as_ref()
            .is_some_and(|host| host.settings.include_attempt_count_in_response);
        if tells_attempts && exchange.upstream.attempts > 0 {
            let count = attempt_count(exchange.upstream.attempts);
            response.headers_mut().insert(ATTEMPT_COUNT, count);
        }
        if let Some(route) = exchange.route.route.clone() {
            let headers = response.headers_mut();
            // A content type that the route adds goes before that of an answer of ours.
            let own = local.filter(|local| headers.get(CONTENT_TYPE) == Some(&local.0));
            if own.is_some() {
                headers.remove(CONTENT_TYPE);
            }
            finalize_response(exchange, &route, headers);
            if let Some(Local(content_type)) = own {
                headers.entry(CONTENT_TYPE).or_insert(content_type);
            }
        }
        with_date(|date| self.policy.response(exchange, status, response.headers_mut(), date));
        response
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
    }
}

impl<S> Policed<S> {
    fn count_rejected(&self, details: &'static str) {
        match details {
            path::FAILED => self.stats.downstream_rq_failed_path_normalization.inc(),
            path::ABSOLUTE => self.stats.downstream_rq_non_relative_path.inc(),
            super::DETECTION_REJECTED => self.stats.downstream_rq_rejected_via_ip_detection.inc(),
            _ => {}
        }
    }
}

/// One source of truth for the authority: the URI's, else the `host` header, which from here on always agrees with it.
fn fill_authority(exchange: &mut Exchange) {
    if exchange.authority.is_none() {
        let of_uri = exchange.request.uri().authority();
        let of_uri = of_uri.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let Some(authority) = of_uri else {
            exchange.authority = exchange.headers().get(HOST).cloned();
            return;
        };
        exchange.authority = Some(authority);
    }
    if let Some(authority) = exchange.authority.clone() {
        exchange.request.headers_mut().insert(HOST, authority);
    }
}

/// An answer of the policy's own, which is mapped and told to gRPC clients as all of ours are.
fn answer(exchange: &mut Exchange, status: StatusCode, headers: HeaderMap) -> Response {
    let reply = Reply {
        status,
        grpc: None,
        body: b"",
        headers,
        content_type: None,
    };
    reply.into_response(exchange)
}

fn redirect(exchange: &mut Exchange, location: &str) -> Response {
    let (status, location) = match HeaderValue::from_str(location) {
        Ok(location) => (StatusCode::TEMPORARY_REDIRECT, Some((LOCATION, location))),
        Err(_) => (Failure::RouteNotFound.row().status, None),
    };
    answer(exchange, status, location.into_iter().collect())
}

thread_local! {
    static DATE: RefCell<Option<(Instant, HeaderValue)>> = const { RefCell::new(None) };
}

/// Calls `use_date` with the current `date`, formatted at most every half second on each thread.
fn with_date(use_date: impl FnOnce(&HeaderValue)) {
    const FRESH: Duration = Duration::from_millis(500);
    DATE.with_borrow_mut(|cached| {
        let now = clock::now();
        let fresh = cached
            .as_ref()
            .is_some_and(|(made, _)| now.saturating_duration_since(*made) < FRESH);
        if !fresh {
            *cached = Some((now, date_value(clock::system_now())));
        }
        if let Some((_, date)) = cached {
            use_date(date);
        }
    });
}

fn date_value(now: SystemTime) -> HeaderValue {
    HeaderValue::try_from(httpdate::fmt_http_date(now)).unwrap_or(HeaderValue::from_static(""))
}
