//! Responses with the headers that Envoy's admin server sends.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use remora_proto::json::{Style, write_json};
use serde::Serialize;

pub(super) type Reply = Response<Body>;

const TEXT: &str = "text/plain; charset=UTF-8";
/// Envoy tells no encoding where its handlers name the type themselves.
const PLAIN: &str = "text/plain";
const HTML: &str = "text/html; charset=UTF-8";
const JSON: &str = "application/json";

/// How Envoy prints messages: indented by one, secrets blotted out.
pub(super) const STYLE: Style = Style {
    pretty: true,
    json_names: false,
    redact: true,
};

pub(super) fn text(status: StatusCode, body: impl Into<Body>) -> Reply {
    reply(status, TEXT, body)
}

pub(super) fn plain(status: StatusCode, body: impl Into<Body>) -> Reply {
    reply(status, PLAIN, body)
}

pub(super) fn ok(body: impl Into<Body>) -> Reply {
    reply(StatusCode::OK, TEXT, body)
}

/// What a change answers with.
pub(super) fn done() -> Reply {
    ok("OK\n")
}

pub(super) fn bad_request(body: impl Into<Body>) -> Reply {
    reply(StatusCode::BAD_REQUEST, TEXT, body)
}

pub(super) fn html(body: impl Into<Body>) -> Reply {
    reply(StatusCode::OK, HTML, body)
}

pub(super) fn json(body: impl Into<Body>) -> Reply {
    reply(StatusCode::OK, JSON, body)
}

/// A message under its full name, pretty.
pub(super) fn message<M: prost::Message + prost::Name>(message: &M) -> Reply {
    let mut page = Vec::new();
    match write_json(&message.encode_to_vec(), &M::full_name(), &mut page, STYLE) {
        Ok(()) => {
            page.push(b'\n');
            json(page)
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

/// A JSON tree, indented as Envoy's.
pub(super) fn tree(value: &serde_json::Value) -> Reply {
    json(pretty(value) + "\n")
}

/// JSON text with one space of indentation a level.
pub(super) fn pretty(value: &serde_json::Value) -> String {
    let mut page = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut page, formatter);
    // Neither a tree nor a buffer can fail; an error would leave an empty page.
    let _ = value.serialize(&mut serializer);
    String::from_utf8(page).unwrap_or_default()
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Reply {
    const HEADERS: [(HeaderName, HeaderValue); 3] = [
        (CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (SERVER, HeaderValue::from_static("envoy")),
    ];
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.extend(HEADERS);
    reply
}
