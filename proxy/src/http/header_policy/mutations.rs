//! Header mutations of routes, virtual hosts and route tables: compiled once, applied in Envoy's order (spec D.5).

use http::{HeaderMap, HeaderName, HeaderValue};
use remora_proto::pb::envoy::config::core::v3::HeaderValueOption;

use crate::config::route::{Under, each, mutable_name};
use crate::config::{Compiled, Problems, gather};
use crate::http::exchange::Exchange;
use crate::telemetry::format::{Format, LogView};

/// One level's mutations in both directions.
#[derive(Default)]
pub struct LevelMutations {
    pub request: Mutations,
    pub response: Mutations,
}

impl LevelMutations {
    pub fn compile(
        request_add: &[HeaderValueOption],
        request_remove: &[String],
        response_add: &[HeaderValueOption],
        response_remove: &[String],
    ) -> Compiled<Self> {
        let request_fields = ("request_headers_to_add", "request_headers_to_remove");
        let response_fields = ("response_headers_to_add", "response_headers_to_remove");
        gather! {
            let request = Mutations::compile(request_fields, request_add, request_remove);
            let response = Mutations::compile(response_fields, response_add, response_remove);
        }
        Ok(Self { request, response })
    }
}

/// Removals, then additions.
#[derive(Default)]
pub struct Mutations {
    remove: Vec<HeaderName>,
    add: Vec<Addition>,
}

struct Addition {
    name: HeaderName,
    value: Value,
    action: Action,
    keep_empty: bool,
}

/// Most values are constant: cloned, not formatted.
enum Value {
    Constant(HeaderValue),
    Formatted(Format),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

impl Mutations {
    /// `fields`: the names of the two fields, for problems.
    pub fn compile(fields: (&str, &str), add: &[HeaderValueOption], remove: &[String]) -> Compiled<Self> {
        gather! {
            let add = each(fields.0, add, Addition::compile);
            let remove = each(fields.1, remove, |name| mutable_name("", name));
        }
        Ok(Self { remove, add })
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Applies to the exchange's request headers.
    pub fn apply_request(&self, exchange: &mut Exchange) {
        for name in &self.remove {
            exchange.request.headers_mut().remove(name);
        }
        for addition in &self.add {
            let value = addition.value.of(&LogView::of(exchange));
            addition.apply(value, exchange.request.headers_mut());
        }
    }

    /// Applies to the headers of a request that belongs to no exchange.
    pub fn apply_view(&self, view: &LogView<'_>, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            addition.apply(addition.value.of(view), headers);
        }
    }

    /// Applies to a response's headers; formats see them as the response.
    pub fn apply_response(&self, exchange: &Exchange, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            let value = addition.value.of(&LogView::of(exchange).with_response(headers));
            addition.apply(value, headers);
        }
    }
}

impl Value {
    /// `None`: what was formatted is no header value.
    fn of(&self, view: &LogView<'_>) -> Option<HeaderValue> {
        match self {
            Self::Constant(value) => Some(value.clone()),
            Self::Formatted(format) => {
                let mut bytes = Vec::with_capacity(64);
                format.write(view, &mut bytes);
                HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).ok()
            }
        }
    }
}

impl Addition {
    fn compile(option: &HeaderValueOption) -> Compiled<Self> {
        let Some(header) = &option.header else {
            return Err(Problems::one("header", "is required"));
        };
        let value = if header.raw_value.is_empty() {
            let format = Format::header(&header.value).under("header.value")?;
            match format.literal() {
                Some(literal) => Value::Constant(constant(literal.as_bytes())?),
                None => Value::Formatted(format),
            }
        } else {
            Value::Constant(constant(&header.raw_value)?)
        };
        Ok(Self {
            name: mutable_name("header.key", &header.key)?,
            value,
            action: action(option)?,
            keep_empty: option.keep_empty_value,
        })
    }

    fn apply(&self, value: Option<HeaderValue>, headers: &mut HeaderMap) {
        let Some(value) = value.filter(|value| self.keep_empty || !value.is_empty()) else {
            return;
        };
        match self.action {
            Action::Append => append(headers, &self.name, value),
            Action::AddIfAbsent => {
                headers.entry(&self.name).or_insert(value);
            }
            Action::Overwrite => {
                headers.insert(&self.name, value);
            }
            Action::OverwriteIfExists => {
                if headers.contains_key(&self.name) {
                    headers.insert(&self.name, value);
                }
            }
        }
    }
}

fn constant(bytes: &[u8]) -> Compiled<HeaderValue> {
    HeaderValue::from_bytes(bytes).map_err(|_| Problems::one("header.value", "is not a header value"))
}

#[allow(deprecated, reason = "`append` still arrives from older control planes")]
fn action(option: &HeaderValueOption) -> Compiled<Action> {
    if let Some(append) = option.append {
        return Ok(if append.value {
            Action::Append
        } else {
            Action::Overwrite
        });
    }
    Ok(match option.append_action {
        0 => Action::Append,
        1 => Action::AddIfAbsent,
        2 => Action::Overwrite,
        3 => Action::OverwriteIfExists,
        other => return Err(Problems::one("append_action", format!("unknown value {other}"))),
    })
}

/// Headers that Envoy keeps as one entry, so that appending joins with a comma; others get a line of their own.
const JOINED: &[&str] = &[
    "accept",
    "accept-encoding",
    "access-control-request-headers",
    "authorization",
    "cache-control",
    "connection",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "grpc-status",
    "referer",
    "server",
    "te",
    "upgrade",
    "user-agent",
    "via",
    "x-envoy-decorator-operation",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

/// Whether Envoy keeps the header's lines as one.
pub fn is_joined(name: &HeaderName) -> bool {
    JOINED.contains(&name.as_str())
}

/// Adds a value as Envoy does: joined to the present one for its known headers, else as another line.
pub fn append(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue) {
    let present = headers.get(name).filter(|_| is_joined(name));
    let Some(present) = present else {
        headers.append(name, value);
        return;
    };
    let mut joined = Vec::with_capacity(present.len() + 1 + value.len());
    joined.extend_from_slice(present.as_bytes());
    joined.push(b',');
    joined.extend_from_slice(value.as_bytes());
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}
