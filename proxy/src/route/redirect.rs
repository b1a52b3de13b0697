//! Redirects and direct responses.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::matcher::PathMatcher;
use super::rewrite::{PathRewrite, Substitution};
use super::view::RequestView;
use crate::config::route::{Under, data_source, optional};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::http::respond::BodyFormat;
use crate::telemetry::format::{Format, LogView};

/// `envoy.config.route.v3.RedirectAction`
pub struct Redirect {
    pub status: StatusCode,
    scheme: Option<Box<str>>,
    host: Option<Box<str>>,
    port: Option<u32>,
    path: Option<Box<str>>,
    rewrite: Option<PathRewrite>,
    /// `path_rewrite`: the whole path and query, as a format of the request.
    format: Option<Format>,
    strip_query: bool,
}

impl Redirect {
    pub fn compile(value: &pbr::RedirectAction) -> Compiled<Self> {
        use pbr::redirect_action::{PathRewriteSpecifier as P, SchemeRewriteSpecifier as S};
        let status = match value.response_code {
            0 => StatusCode::MOVED_PERMANENTLY,
            1 => StatusCode::FOUND,
            2 => StatusCode::SEE_OTHER,
            3 => StatusCode::TEMPORARY_REDIRECT,
            4 => StatusCode::PERMANENT_REDIRECT,
            other => return Err(Problems::one("response_code", format!("unknown value {other}"))),
        };
        let scheme = match &value.scheme_rewrite_specifier {
            Some(S::HttpsRedirect(true)) => Some("https".into()),
            Some(S::SchemeRedirect(scheme)) => Some(scheme.as_str().into()),
            Some(S::HttpsRedirect(false)) | None => None,
        };
        let (path, rewrite) = match &value.path_rewrite_specifier {
            Some(P::PathRedirect(path)) => (filled(path), None),
            // As in Envoy: nothing is said.
            Some(P::PrefixRewrite(prefix)) if prefix.is_empty() => (None, None),
            Some(P::PrefixRewrite(prefix)) => (None, Some(PathRewrite::Prefix(prefix.as_str().into()))),
            Some(P::RegexRewrite(regex)) => (
                None,
                Some(PathRewrite::Regex(Substitution::compile(regex).under("regex_rewrite")?)),
            ),
            Some(P::PathRewrite(_)) => (None, None),
            None => (None, None),
        };
        let format = match &value.path_rewrite_specifier {
            Some(P::PathRewrite(format)) => Some(Format::header(format).under("path_rewrite")?),
            _ => None,
        };
        Ok(Self {
            status,
            scheme,
            format,
            host: filled(&value.host_redirect),
            port: (value.port_redirect != 0).then_some(value.port_redirect),
            path,
            rewrite,
            strip_query: value.strip_query,
        })
    }

    /// 301 to the same place over TLS (`require_tls`).
    pub fn to_https() -> Self {
        Self {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: Some("https".into()),
            host: None,
            port: None,
            path: None,
            rewrite: None,
            format: None,
            strip_query: false,
        }
    }

    /// The `location` of the answer; `matcher` is the route's own, for prefix rewrites.
    pub fn location(&self, matcher: &PathMatcher, exchange: &Exchange) -> String {
        let view = &RequestView::of(exchange);
        let scheme = self.scheme.as_deref().unwrap_or_else(|| view.scheme());
        let authority = view.authority.map(String::from_utf8_lossy).unwrap_or_default();
        let host = match &self.host {
            Some(host) => host,
            None => self.request_host(scheme, &authority, view),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let original = view.path_and_query().unwrap_or("/");
        let formatted = self.format.as_ref().map(|format| formatted_path(format, exchange));
        let path = self.target_path(formatted.as_deref().or(self.path.as_deref()), matcher, original);
        // Without one, what a request is rewritten to could go on with the host's name.
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{host}{port}{slash}{path}")
    }

    /// `said`: `path_redirect`, or what `path_rewrite` comes to. `strip_query` leaves alone the query that it has, as in Envoy.
    fn target_path(&self, said: Option<&str>, matcher: &PathMatcher, original: &str) -> String {
        let own_query = said.is_some_and(|path| path.contains('?'));
        let mut path = match (said, &self.rewrite) {
            (Some(path), _) if own_query => path.to_owned(),
            (Some(path), _) => format!("{path}{}", original.find('?').map_or("", |query| &original[query..])),
            (None, Some(rewrite)) => rewrite.apply(matcher, original).unwrap_or_else(|| original.to_owned()),
            (None, None) => original.to_owned(),
        };
        if self.strip_query && !own_query {
            path.truncate(path.find('?').unwrap_or(path.len()));
        }
        path
    }

    /// The request's host, without its port if a new one is set or if it was the default of the scheme that goes away.
    fn request_host<'a>(&self, new_scheme: &str, authority: &'a str, view: &RequestView<'_>) -> &'a str {
        let port_start = if authority.starts_with('[') {
            authority.rfind("]:").map(|at| at + 1)
        } else {
            authority.rfind(':')
        };
        let Some(port_start) = port_start else { return authority };
        let forwarded = view
            .headers
            .get("x-forwarded-proto")
            .and_then(|value| value.to_str().ok());
        let old_scheme = forwarded.unwrap_or_else(|| view.scheme());
        let port = &authority[port_start..];
        let was_default = (old_scheme == "https" && port == ":443") || (old_scheme == "http" && port == ":80");
        if self.port.is_some() || (new_scheme != old_scheme && was_default) {
            return &authority[..port_start];
        }
        authority
    }
}

fn filled(text: &str) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// `envoy.config.route.v3.DirectResponseAction`
#[derive(Debug)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub body: Bytes,
    format: Option<BodyFormat>,
}

impl DirectResponse {
    /// `max_body`: bytes (`max_direct_response_body_size_bytes`).
    pub fn compile(value: &pbr::DirectResponseAction, max_body: usize) -> Compiled<Self> {
        let status = u16::try_from(value.status)
            .ok()
            .filter(|status| (200..600).contains(status));
        let Some(status) = status.and_then(|status| StatusCode::from_u16(status).ok()) else {
            return Err(Problems::one("status", format!("{} is not in 200..599", value.status)));
        };
        let body = value
            .body
            .as_ref()
            .map(data_source)
            .transpose()
            .under("body")?
            .unwrap_or_default();
        if body.len() > max_body {
            return Err(Problems::one(
                "body",
                format!("{} bytes, more than the {max_body} allowed", body.len()),
            ));
        }
        let format = optional("body_format", value.body_format.as_ref(), BodyFormat::compile)?;
        Ok(Self { status, body, format })
    }

    /// What was made and what is elsewhere says where: at the request's own URL.
    pub fn headers(&self, view: &RequestView<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.status == StatusCode::CREATED || self.status.is_redirection() {
            let host = view.authority.map(String::from_utf8_lossy).unwrap_or_default();
            let path = view.path_and_query().unwrap_or("/");
            if let Ok(location) = HeaderValue::try_from(format!("{}://{host}{path}", view.scheme())) {
                headers.insert(http::header::LOCATION, location);
            }
        }
        headers
    }

    /// Its body and content type for one request; without a format they are as configured.
    pub fn body<'a>(&'a self, exchange: &Exchange) -> (Cow<'a, [u8]>, Option<HeaderValue>) {
        match &self.format {
            None => (Cow::Borrowed(&self.body), None),
            Some(format) => {
                let body = format.write(exchange, &self.body, &HeaderMap::new());
                (Cow::Owned(body), Some(format.content_type().clone()))
            }
        }
    }
}

/// `path_rewrite`
fn formatted_path(format: &Format, exchange: &Exchange) -> String {
    let mut path = Vec::new();
    format.write(&LogView::of(exchange), &mut path);
    String::from_utf8_lossy(&path).into_owned()
}
