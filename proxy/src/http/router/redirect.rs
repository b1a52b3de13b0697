//! Internal redirects: an answer that points elsewhere is followed here instead of being passed on (`internal_redirect_policy`).

use http::header::{CONTENT_LENGTH, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::Router;
use super::retry::Source;
use crate::http::body::Body;
use crate::http::exchange::{Exchange, Redirected};
use crate::http::service::Response;
use crate::http::stats::HcmStats;
use crate::route::forward::{InternalRedirect, RedirectPredicate};
use crate::route::{RequestView, Route};
use crate::telemetry::stats::Counter;

/// Readies the next request in the exchange, if the answer is a redirect to follow. False: the answer goes to the client.
pub(super) fn follow(
    router: &Router,
    exchange: &mut Exchange,
    policy: &InternalRedirect,
    response: &Response,
    source: &Source,
) -> bool {
    let status = response.status();
    if !policy.codes.contains(&status.as_u16()) {
        return false;
    }
    // Without the whole request there is nothing to send again.
    let prepared = source
        .whole()
        .ok_or(None)
        .and_then(|body| prepare(router, exchange, policy, response, body));
    let stats = exchange.route.cluster.as_ref().map(|cluster| cluster.stats.clone());
    match prepared {
        Ok(next) => {
            exchange.redirect = Some(Box::new(next));
            if let Some(stats) = stats {
                stats.upstream_internal_redirect_succeeded_total.inc();
            }
            true
        }
        Err(reason) => {
            if let Some(reason) = reason {
                reason(&router.stats).inc();
            }
            if let Some(stats) = stats {
                stats.upstream_internal_redirect_failed_total.inc();
            }
            false
        }
    }
}

/// Which counter a redirect that is not followed goes to.
type Reason = Option<fn(&HcmStats) -> &Counter>;

fn prepare(
    router: &Router,
    exchange: &mut Exchange,
    policy: &InternalRedirect,
    response: &Response,
    body: Body,
) -> Result<http::Request<Body>, Reason> {
    let Some(location) = response.headers().get(LOCATION) else {
        return Err(None);
    };
    let target = target(location).ok_or(Some(bad_location as fn(&HcmStats) -> &Counter))?;
    let from_http = RequestView::of(exchange).scheme() == "http";
    let to_http = target.scheme_str() == Some("http");
    if !policy.allow_cross_scheme && from_http != to_http {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_unsafe_scheme));
    }
    let way = exchange.redirected.as_deref().cloned().unwrap_or_default();
    if way.count >= policy.max {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_too_many_redirects));
    }
    let next = request(exchange, policy, response.headers(), target, body);
    let before = (
        std::mem::replace(&mut exchange.request, next),
        exchange.authority.take(),
    );
    exchange.authority = authority(exchange.request.uri());
    let way = admit(exchange, policy, way, (from_http, to_http));
    let next = std::mem::replace(&mut exchange.request, before.0);
    exchange.authority = before.1;
    let way = way?;
    let original = original_url(exchange, from_http);
    let mut next = next;
    if response.status() == StatusCode::SEE_OTHER && !matches!(*next.method(), Method::GET | Method::HEAD) {
        *next.method_mut() = Method::GET;
        next.headers_mut().remove(CONTENT_LENGTH);
        *next.body_mut() = Body::Empty;
    }
    if let Some(original) = original {
        next.headers_mut().insert("x-envoy-original-url", original);
    }
    exchange.redirected = Some(Box::new(way));
    let _ = router;
    Ok(next)
}

fn bad_location(stats: &HcmStats) -> &Counter {
    &stats.passthrough_internal_redirect_bad_location
}

/// Absolute URLs only; a fragment is not sent on.
fn target(location: &HeaderValue) -> Option<Uri> {
    let text = location.to_str().ok()?;
    let text = text.split('#').next().unwrap_or(text);
    let uri: Uri = text.parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    (is_http && uri.authority().is_some()).then_some(uri)
}

fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// The request that goes to the new place.
fn request(
    exchange: &Exchange,
    policy: &InternalRedirect,
    response: &HeaderMap,
    target: Uri,
    body: Body,
) -> http::Request<Body> {
    let mut next = http::Request::new(body);
    *next.method_mut() = exchange.request.method().clone();
    *next.version_mut() = exchange.request.version();
    *next.headers_mut() = exchange.request.headers().clone();
    let headers = next.headers_mut();
    for name in &policy.headers_to_copy {
        headers.remove(name);
        for value in response.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    if let Some(host) = authority(&target) {
        headers.insert(http::header::HOST, host);
    }
    *next.uri_mut() = target;
    next
}

/// There must be a route for the new request, and the predicates must agree to it.
fn admit(
    exchange: &Exchange,
    policy: &InternalRedirect,
    mut way: Redirected,
    (from_http, to_http): (bool, bool),
) -> Result<Redirected, Reason> {
    let table = exchange.route.table.as_ref();
    let route = table.and_then(|table| table.select(&RequestView::of(exchange)).1);
    let Some(route) = route else {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_no_route));
    };
    let from = exchange.route.route.as_ref().map_or_else(|| "".into(), |route| route.name.clone());
    let accepts = |predicate: &RedirectPredicate| accepts(predicate, &from, &route, &way, from_http, to_http);
    if !policy.predicates.iter().all(accepts) {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_predicate));
    }
    way.count += 1;
    way.steps.push((from, route.name.clone()));
    Ok(way)
}

fn accepts(
    predicate: &RedirectPredicate,
    from: &str,
    target: &Route,
    way: &Redirected,
    from_http: bool,
    to_http: bool,
) -> bool {
    match predicate {
        RedirectPredicate::AllowListed(names) => names.iter().any(|name| **name == *target.name),
        RedirectPredicate::PreviousRoutes => {
            let mut taken = way.steps.iter().filter(|(step, _)| **step == *from);
            !taken.any(|(_, to)| *to == target.name)
        }
        RedirectPredicate::SafeCrossScheme => from_http || !to_http,
    }
}

/// Where the request was going, for the next upstream to know.
fn original_url(exchange: &Exchange, from_http: bool) -> Option<HeaderValue> {
    let scheme = if from_http { "http" } else { "https" };
    let authority = exchange.authority.as_ref()?.to_str().ok()?;
    let path = exchange.request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    HeaderValue::try_from(format!("{scheme}://{authority}{path}")).ok()
}
