//! What the selected route does to heads: mutations of every level, then rewrites of host and path (spec D.4, D.5).

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};

use super::mutations::append;
use super::set_authority;
use crate::cluster::Host;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::route::rewrite::HostRewrite;
use crate::route::{Forward, Route};

const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const X_ENVOY_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Readies the request for the upstream of `route`: once per selected route, before a host is picked.
///
/// # Errors
/// The path has become longer than any URI.
pub fn finalize_request(exchange: &mut Exchange, route: &Route, forward: &Forward) -> Result<(), Failure> {
    let weighted = exchange.route.weighted;
    for level in route.mutation_levels(weighted).into_iter().flatten() {
        if !level.request.is_empty() {
            level.request.apply_request(exchange);
        }
    }
    let of_weight = route
        .weighted(exchange.route.weighted)
        .and_then(|entry| entry.host_rewrite.clone());
    if let Some(host) = of_weight {
        // Unlike a route's own rewrite, a weight's leaves no trace of the host before.
        set_authority(exchange, host);
    } else if let Some(host) = rewritten_host(exchange, forward) {
        rewrite_host(exchange, forward, host);
    }
    rewrite_path(exchange, route, forward)
}

/// `auto_host_rewrite`, once a host is picked; a retry may go to another.
pub fn auto_host(exchange: &mut Exchange, forward: &Forward, host: &Host) {
    if !matches!(forward.host_rewrite, Some(HostRewrite::Auto)) || host.hostname.is_empty() {
        return;
    }
    if let Ok(hostname) = HeaderValue::from_str(&host.hostname) {
        rewrite_host(exchange, forward, hostname);
    }
}

/// Readies a response for the client.
pub fn finalize_response(exchange: &Exchange, route: &Route, headers: &mut HeaderMap) {
    for level in route.mutation_levels(exchange.route.weighted).into_iter().flatten() {
        if !level.response.is_empty() {
            level.response.apply_response(exchange, headers);
        }
    }
}

fn rewritten_host(exchange: &Exchange, forward: &Forward) -> Option<HeaderValue> {
    match forward.host_rewrite.as_ref()? {
        HostRewrite::Literal(host) => Some(host.clone()),
        HostRewrite::Auto => None,
        HostRewrite::Header(name) => exchange.headers().get(name).filter(|value| !value.is_empty()).cloned(),
        HostRewrite::PathRegex(substitution) => {
            let host = substitution.apply(exchange.request.uri().path());
            HeaderValue::try_from(host).ok().filter(|host| !host.is_empty())
        }
    }
}

fn rewrite_host(exchange: &mut Exchange, forward: &Forward, host: HeaderValue) {
    let Some(original) = exchange.authority.clone() else {
        set_authority(exchange, host);
        return;
    };
    let headers = exchange.request.headers_mut();
    if forward.append_x_forwarded_host {
        let last = headers
            .get(X_FORWARDED_HOST)
            .and_then(|value| value.as_bytes().rsplit(|byte| *byte == b',').next());
        // As it stands: a blank before it makes it another, as in Envoy.
        if last != Some(original.as_bytes()) {
            append(headers, &X_FORWARDED_HOST, original.clone());
        }
    }
    if !exchange.suppress_envoy_headers {
        headers.entry(X_ENVOY_ORIGINAL_HOST).or_insert(original);
    }
    set_authority(exchange, host);
}

fn rewrite_path(exchange: &mut Exchange, route: &Route, forward: &Forward) -> Result<(), Failure> {
    let (Some(rewrite), Some(original)) = (&forward.path_rewrite, exchange.request.uri().path_and_query().cloned())
    else {
        return Ok(());
    };
    let Some(rewritten) = rewrite.apply(&route.matcher.path, original.as_str()) else {
        return Ok(());
    };
    let rewritten = target(rewritten)?;
    if !exchange.suppress_envoy_headers
        && let Ok(value) = HeaderValue::from_str(original.as_str())
    {
        exchange.request.headers_mut().insert(X_ENVOY_ORIGINAL_PATH, value);
    }
    exchange.original_path.get_or_insert(original);
    set_path(exchange, rewritten);
    Ok(())
}

/// What a rewrite has made of a path, as a URI can hold it: what is in no URI goes on escaped, and a path begins with a slash.
fn target(rewritten: String) -> Result<PathAndQuery, Failure> {
    let has_start = rewritten.starts_with(['/', '?']);
    // What is behind a `#` would be dropped.
    if has_start
        && !rewritten.contains('#')
        && let Ok(target) = PathAndQuery::try_from(rewritten.as_str())
    {
        return Ok(target);
    }
    let slash = if has_start { "" } else { "/" };
    let escaped = percent_encoding::utf8_percent_encode(&rewritten, IN_NO_URI);
    PathAndQuery::try_from(format!("{slash}{escaped}")).map_err(|_| Failure::BadRequest {
        details: "rewritten_path_too_long",
        status: StatusCode::URI_TOO_LONG,
    })
}

const IN_NO_URI: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'`');

/// Changes the path and leaves scheme and authority as they are.
pub fn set_path(exchange: &mut Exchange, path: PathAndQuery) {
    let uri = exchange.request.uri_mut();
    let mut parts = std::mem::take(uri).into_parts();
    if parts.authority.is_none() {
        // An origin-form target; a scheme alone is no URI.
        parts.scheme = None;
    }
    parts.path_and_query = Some(path);
    // With a path, an authority and a scheme go together or are both missing.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}
