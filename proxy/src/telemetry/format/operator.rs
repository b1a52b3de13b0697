//! Command operators: `%NAME(parameter):length%`.

mod compile;

use http::HeaderMap;
use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use super::grpc::GrpcStyle;
use super::peer::PeerField;
use super::simple::{self, Simple};
use super::time::TimeFormat;
use super::view::LogView;
use super::{Segment, json};
use crate::http::exchange::{DynamicMetadata, FilterState, ObjectState};
use crate::route::RequestView;
use crate::route::headers::HeaderKey;
use crate::telemetry::format::grpc_status;

/// One compiled operator and the bytes that it may print at most.
pub(super) struct Operator {
    what: What,
    limit: Option<usize>,
}

enum What {
    Simple(Simple),
    /// A value that does not change: `ENVIRONMENT`, `HOSTNAME`.
    Constant(Option<String>),
    Header {
        from: HeaderFrom,
        names: Vec<HeaderName>,
        cut_query: bool,
    },
    Query(String),
    /// All of them, as they came or percent-decoded.
    Queries {
        decoded: bool,
    },
    Details {
        blanks: bool,
    },
    ServerName {
        order: NameOrder,
        /// An operator of the request's headers.
        host: Box<What>,
    },
    Masked {
        of: simple::AddressOf,
        bits: Option<u8>,
    },
    /// A date and time.
    Moment {
        of: simple::MomentOf,
        format: TimeFormat,
    },
    /// The first that has a value.
    Coalesce(Vec<Operator>),
    Metadata {
        from: MetadataFrom,
        namespace: String,
        path: Vec<String>,
    },
    /// `%FILTER_STATE(upstream_peer:FIELD:…)%`
    Peer(PeerField),
    FilterState {
        key: String,
        style: StateStyle,
    },
    Grpc(GrpcStyle),
    Duration {
        from: simple::Point,
        to: simple::Point,
        nanos: u128,
    },
}

/// How `%FILTER_STATE%` prints what it finds.
#[derive(PartialEq, Eq)]
enum StateStyle {
    Plain,
    Typed,
    /// `FIELD:<name>`, of an object.
    Field(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeaderFrom {
    Request,
    Response,
    Trailers,
}

/// Which of two names `REQUESTED_SERVER_NAME` prefers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NameOrder {
    SniOnly,
    SniFirst,
    HostFirst,
}

/// A header, and whether Envoy keeps its lines as one.
struct HeaderName {
    key: HeaderKey,
    joined: bool,
}

enum MetadataFrom {
    Dynamic,
    Cluster,
    UpstreamHost,
    Route,
    VirtualHost,
    Listener,
    FilterChain,
}

/// Splits a format into literals and operators; the error is a reason.
pub(super) fn parse(format: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        if !literal.is_empty() {
            segments.push(Segment::Literal(std::mem::take(&mut literal)));
        }
        let (operator, after) = one(rest).map_err(|reason| format!("{format:?}: {reason}"))?;
        segments.push(Segment::Operator(operator));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        segments.push(Segment::Literal(literal));
    }
    Ok(segments)
}

/// The operator at the front of `text`, its opening `%` taken off; and what follows its closing one.
fn one(text: &str) -> Result<(Operator, &str), String> {
    let end = text.find(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let (name, mut rest) = text.split_at(end.unwrap_or(text.len()));
    let mut parameter = None;
    if let Some(after) = rest.strip_prefix('(') {
        let (inside, after) = after.split_once(')').ok_or("an operator's parameter is not closed")?;
        parameter = Some(inside);
        rest = after;
    }
    let mut limit = None;
    if let Some(after) = rest.strip_prefix(':') {
        let end = after.find('%').ok_or("an operator is not closed")?;
        limit = Some(
            after[..end]
                .parse()
                .map_err(|_| format!("{:?} is not a length", &after[..end]))?,
        );
        rest = &after[end..];
    }
    let rest = rest.strip_prefix('%').ok_or("an operator is not closed")?;
    let what = What::compile(name, parameter)?;
    Ok((Operator::new(name, what, limit)?, rest))
}

impl Operator {
    fn new(name: &str, what: What, limit: Option<usize>) -> Result<Self, String> {
        if limit.is_some() && !compile::takes_length(name) {
            return Err(format!("%{name}% takes no length"));
        }
        Ok(Self { what, limit })
    }

    /// Writes the value as text. `false`: there is none, and nothing is written.
    pub(super) fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let found = self.what.write(view, out);
        if !found {
            out.truncate(start);
        } else if let Some(limit) = self.limit {
            out.truncate(start + limit.min(out.len() - start));
        }
        found
    }

    /// Whether the value is a JSON number when it stands alone.
    pub(super) fn is_number(&self) -> bool {
        match &self.what {
            What::Simple(simple) => simple.is_number(),
            What::Grpc(style) => *style == GrpcStyle::Number,
            What::Duration { .. } => true,
            _ => false,
        }
    }

    /// Writes the value as JSON with its own type, for operators that have one.
    pub(super) fn write_json(&self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        if let What::Coalesce(operators) = &self.what {
            let number = operators.iter().find(|operator| operator.has_value(view));
            return number.is_some_and(|operator| operator.is_number() && operator.write(view, out));
        }
        let (from, namespace, path) = match &self.what {
            What::Metadata { from, namespace, path } => (from, namespace, path),
            What::FilterState { key, style } => return style.write_json(key, view, out),
            _ => return false,
        };
        if path.is_empty() {
            let fields = from.all(view, namespace);
            return fields.map(|fields| json::write_struct(fields, out)).is_some();
        }
        let value = from.value(view, namespace, path);
        value.map(|value| json::write_value(value, out)).is_some()
    }

    fn has_value(&self, view: &LogView<'_>) -> bool {
        let mut text = Vec::new();
        self.write(view, &mut text) && !text.is_empty()
    }

    pub(super) fn needs_response_headers(&self) -> bool {
        match &self.what {
            What::Grpc(_) => true,
            What::Header { from, .. } => *from == HeaderFrom::Response,
            What::Simple(simple) => simple.needs_response(),
            What::Coalesce(operators) => operators.iter().any(Self::needs_response_headers),
            _ => false,
        }
    }

    pub(super) fn needs_trailers(&self) -> bool {
        match &self.what {
            What::Grpc(_) => true,
            What::Header { from, .. } => *from == HeaderFrom::Trailers,
            What::Simple(simple) => simple.needs_response(),
            What::Coalesce(operators) => operators.iter().any(Self::needs_trailers),
            _ => false,
        }
    }

    /// Whether it prints how a connection was closed.
    pub(super) fn needs_close(&self) -> bool {
        match &self.what {
            What::Simple(simple) => matches!(simple, Simple::Closing(_)),
            What::Coalesce(operators) => operators.iter().any(Self::needs_close),
            _ => false,
        }
    }

    /// Whether it prints what the upstream connection carried, which is not counted otherwise.
    pub(super) fn needs_upstream_meter(&self) -> bool {
        match &self.what {
            What::Simple(simple) => matches!(simple, Simple::Metered(_)),
            What::Duration { from, to, .. } => from.needs_upstream_meter() || to.needs_upstream_meter(),
            What::Coalesce(operators) => operators.iter().any(Self::needs_upstream_meter),
            _ => false,
        }
    }
}

impl What {
    fn write(&self, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Simple(simple) => simple.write(view, out),
            Self::Constant(value) => put(out, value.as_ref().map(String::as_bytes)),
            Self::Header { from, names, cut_query } => {
                names.iter().any(|name| name.write(*from, view, *cut_query, out))
            }
            Self::Query(name) => {
                let request = view.exchange.map(RequestView::of);
                let value = request.and_then(|request| request.query_parameter(name));
                out.extend(value.into_iter().flat_map(percent_encoding::percent_decode_str));
                value.is_some()
            }
            Self::Queries { decoded } => simple::queries(view, *decoded, out),
            Self::Details { blanks } => simple::details(view, *blanks, out),
            Self::ServerName { order, host } => order.write(host, view, out),
            Self::Masked { of, bits } => simple::masked(out, of(view), *bits),
            Self::Moment { of, format } => of(view).map(|at| format.write(at, out)).is_some(),
            Self::Coalesce(operators) => operators.iter().any(|operator| {
                let start = out.len();
                operator.write(view, out) && out.len() > start
            }),
            Self::Metadata { from, namespace, path } if path.is_empty() => match from.all(view, namespace) {
                Some(fields) => {
                    json::write_struct(fields, out);
                    true
                }
                None => false,
            },
            Self::Metadata { from, namespace, path } => match from.value(view, namespace, path) {
                Some(Value {
                    kind: Some(Kind::StringValue(text)),
                }) => put(out, Some(text.as_bytes())),
                Some(value) => {
                    json::write_value(value, out);
                    true
                }
                None => false,
            },
            Self::Peer(field) => put(out, field.of(view).map(str::as_bytes)),
            Self::FilterState { key, style } => style.write(key, view, out),
            Self::Grpc(style) => grpc_status(view).is_some_and(|status| {
                style.write(status, out);
                true
            }),
            Self::Duration { from, to, nanos } => match (from.of(view), to.of(view)) {
                (Some(from), Some(to)) => to
                    .checked_duration_since(from)
                    .is_some_and(|took| simple::number(out, (took.as_nanos() / nanos) as u64)),
                _ => false,
            },
        }
    }
}

impl StateStyle {
    fn write(&self, key: &str, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        let text = || view.extensions().get::<FilterState>()?.0.get(key);
        let object = || view.extensions().get::<ObjectState>()?.0.get(key);
        match self {
            Self::Plain => put(out, text().map(String::as_bytes)),
            Self::Field(name) => put(
                out,
                object()
                    .and_then(|object| object.fields.get(name))
                    .map(String::as_bytes),
            ),
            Self::Typed => match (object(), text()) {
                (Some(object), _) => put(out, Some(object.json.as_bytes())),
                (None, Some(text)) => {
                    json::write_string(text.as_bytes(), out);
                    true
                }
                (None, None) => false,
            },
        }
    }

    /// As JSON with its own type, if it has one.
    fn write_json(&self, key: &str, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        let objects = || view.extensions().get::<ObjectState>();
        let is_object = *self == Self::Typed && objects().is_some_and(|objects| objects.0.contains_key(key));
        is_object && self.write(key, view, out)
    }
}

impl NameOrder {
    fn write(self, host: &What, view: &LogView<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let by_host = |out: &mut Vec<u8>| host.write(view, out) && out.len() > start;
        let by_sni = |out: &mut Vec<u8>| put(out, view.connection.sni.as_ref().map(|sni| sni.as_bytes()));
        match self {
            Self::SniOnly => by_sni(out),
            Self::SniFirst => by_sni(out) || by_host(out),
            Self::HostFirst => by_host(out) || by_sni(out),
        }
    }
}

/// A value that may be empty and is there all the same.
fn put_any(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    out.extend_from_slice(value.unwrap_or_default());
    value.is_some()
}

pub(super) fn put(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return false;
    };
    out.extend_from_slice(value);
    true
}

impl HeaderName {
    fn write(&self, from: HeaderFrom, view: &LogView<'_>, cut_query: bool, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let found = match (from, &self.key) {
            (HeaderFrom::Request, HeaderKey::Name(name)) => view
                .exchange
                .is_some_and(|exchange| self.write_from(exchange.headers(), name, out)),
            (HeaderFrom::Request, key) => {
                let request = view.exchange.map(RequestView::of);
                put_any(out, request.and_then(|request| key.of(&request)).as_deref())
            }
            (HeaderFrom::Response, HeaderKey::Status) => {
                view.response_code() != 0 && simple::number(out, u64::from(view.response_code()))
            }
            (HeaderFrom::Response, HeaderKey::Name(name)) => {
                view.response.is_some_and(|headers| self.write_from(headers, name, out))
            }
            (HeaderFrom::Trailers, HeaderKey::Name(name)) => view
                .trailers
                .is_some_and(|trailers| self.write_from(trailers, name, out)),
            _ => false,
        };
        if cut_query && let Some(query) = memchr::memchr(b'?', &out[start..]) {
            out.truncate(start + query);
        }
        found
    }

    fn write_from(&self, headers: &HeaderMap, name: &http::HeaderName, out: &mut Vec<u8>) -> bool {
        if self.joined {
            return put_any(out, crate::route::view::joined(headers, name).as_deref());
        }
        put_any(out, headers.get(name).map(http::HeaderValue::as_bytes))
    }
}

impl MetadataFrom {
    fn all<'a>(&self, view: &LogView<'a>, namespace: &str) -> Option<&'a Struct> {
        if let Self::Dynamic = self {
            return view.extensions().get::<DynamicMetadata>()?.0.get(namespace);
        }
        self.fixed(view)?.filter_metadata.get(namespace)
    }

    fn fixed<'a>(&self, view: &LogView<'a>) -> Option<&'a Metadata> {
        let route = view.exchange.map(|exchange| &exchange.route);
        match self {
            Self::Dynamic => None,
            Self::Cluster => route?.cluster.as_ref()?.metadata.as_deref(),
            Self::UpstreamHost => view.upstream.host.as_ref()?.metadata.as_deref(),
            Self::Route => route?.route.as_ref()?.metadata.as_deref(),
            Self::VirtualHost => route?.virtual_host.as_ref()?.settings.metadata.as_deref(),
            Self::Listener => view.connection.metadata.listener.as_deref(),
            Self::FilterChain => view.connection.metadata.filter_chain.as_deref(),
        }
    }

    fn value<'a>(&self, view: &LogView<'a>, namespace: &str, path: &[String]) -> Option<&'a Value> {
        let (last, parents) = path.split_last()?;
        let mut fields = self.all(view, namespace)?;
        for key in parents {
            match fields.fields.get(key)?.kind.as_ref()? {
                Kind::StructValue(inner) => fields = inner,
                _ => return None,
            }
        }
        fields.fields.get(last)
    }
}
