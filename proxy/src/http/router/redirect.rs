//! Internal redirects: an answer that points elsewhere is followed here instead of being passed on (`internal_redirect_policy`).

use http::header::{CONTENT_LENGTH, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

use super::Router;
use super::retry::Source;
use crate::http::body::Body;
use crate::http::exchange::{Exchange, Redirected};
use crate::http::service::Response;
use crate::http::stats::RouterStats;
use crate::route::RequestView;
use crate::route::forward::{InternalRedirect, RedirectPredicate};
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
        .and_then(|body| prepare(exchange, policy, response, body));
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
type Reason = Option<fn(&RouterStats) -> &Counter>;

fn prepare(
    exchange: &mut Exchange,
    policy: &InternalRedirect,
    response: &Response,
    body: Body,
) -> Result<http::Request<Body>, Reason> {
    let Some(location) = response.headers().get(LOCATION) else {
        return Err(None);
    };
    let target = target(location).ok_or(Some(bad_location as fn(&RouterStats) -> &Counter))?;
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
    Ok(next)
}

fn bad_location(stats: &RouterStats) -> &Counter {
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
    schemes: (bool, bool),
) -> Result<Redirected, Reason> {
    let table = exchange.route.table.as_ref();
    let route = table.and_then(|table| table.select(&RequestView::of(exchange)).1);
    let Some(route) = route else {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_no_route));
    };
    let from = exchange
        .route
        .route
        .as_ref()
        .map_or_else(|| "".into(), |route| route.name.clone());
    let mut predicates = policy.predicates.iter();
    if !predicates.all(|predicate| accepts_name(predicate, &from, &route.name, &way, schemes)) {
        return Err(Some(|stats| &stats.passthrough_internal_redirect_predicate));
    }
    way.count += 1;
    way.steps.push((from, route.name.clone()));
    Ok(way)
}

/// `target`: the name of the route that it leads to; then whether it comes from and goes to plaintext.
fn accepts_name(
    predicate: &RedirectPredicate,
    from: &str,
    target: &str,
    way: &Redirected,
    (from_http, to_http): (bool, bool),
) -> bool {
    match predicate {
        RedirectPredicate::AllowListed(names) => names.iter().any(|name| **name == *target),
        RedirectPredicate::PreviousRoutes => {
            let mut taken = way.steps.iter().filter(|(step, _)| **step == *from);
            !taken.any(|(_, to)| **to == *target)
        }
        RedirectPredicate::SafeCrossScheme => !from_http || to_http,
    }
}

/// Where the request was going, for the next upstream to know.
fn original_url(exchange: &Exchange, from_http: bool) -> Option<HeaderValue> {
    let scheme = if from_http { "http" } else { "https" };
    let authority = exchange.authority.as_ref()?.to_str().ok()?;
    let path = exchange
        .request
        .uri()
        .path_and_query()
        .map_or("/", PathAndQuery::as_str);
    HeaderValue::try_from(format!("{scheme}://{authority}{path}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_urls_are_followed_and_fragments_stay_behind() {
        let followed = |location: &'static str| target(&HeaderValue::from_static(location)).map(|uri| uri.to_string());
        assert_eq!(followed("http://a.test/x?y#z").as_deref(), Some("http://a.test/x?y"));
        assert_eq!(followed("https://a.test:8443").as_deref(), Some("https://a.test:8443/"));
        for nowhere in ["/x", "a.test/x", "ftp://a.test/x", "http://", "", "nonsense"] {
            assert_eq!(followed(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn predicates_look_at_names_ways_and_schemes() {
        let from: std::sync::Arc<str> = "from".into();
        let way = Redirected {
            count: 1,
            steps: vec![(from.clone(), "taken".into())],
        };
        let accepts = |predicate: &RedirectPredicate, target: &str, from_http: bool, to_http: bool| {
            accepts_name(predicate, &from, target, &way, (from_http, to_http))
        };
        let listed = RedirectPredicate::AllowListed(vec!["good".into()]);
        assert!(accepts(&listed, "good", true, true) && !accepts(&listed, "bad", true, true));
        assert!(!accepts(&RedirectPredicate::PreviousRoutes, "taken", true, true));
        assert!(accepts(&RedirectPredicate::PreviousRoutes, "fresh", true, true));
        assert!(accepts(&RedirectPredicate::SafeCrossScheme, "x", false, true));
        assert!(!accepts(&RedirectPredicate::SafeCrossScheme, "x", true, false));
    }
}
