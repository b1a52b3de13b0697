//! The record of one stream, from its first header to its last byte: request, selected route, upstream, flags, guards.
//!
//! Owned by the codec's driver for as long as the stream lives. What must end with the stream (in-flight counts, permits, spans, the access-log record)
//! hangs off it and acts on drop (D11).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::Extensions;

use super::body::Body;
use super::header_policy::request_id::TraceReason;
use crate::cluster::{Cluster, Host};
use crate::listener::ConnectionInfo;
use crate::route::{Decorator, Route, RouteTable, VirtualHost};
use crate::runtime::wake;
use crate::tcp::connect::ConnectTimes;
use crate::telemetry::flags::ResponseFlags;

/// One request and all that is known of it.
pub struct Exchange {
    /// The request as it goes upstream: layers and filters change it here.
    pub request: http::Request<Body>,
    pub connection: Arc<ConnectionInfo>,
    pub protocol: Protocol,
    pub started: Instant,
    /// The route cell (D6): a filter may clear it, the router selects again.
    pub route: RouteCell,
    pub upstream: Upstream,
    pub flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: Cow<'static, str>,
    /// Set once a response head exists.
    pub response_code: Option<http::StatusCode>,
    pub bytes: ByteCounts,
    pub timing: Timing,
    /// The client's address after XFF processing; `None`: the connection's.
    pub remote: Option<crate::runtime::io::Address>,
    /// Path as received, before rewrites (`x-envoy-original-path`, `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%`).
    pub original_path: Option<http::uri::PathAndQuery>,
    pub authority: Authority,
    pub internal: bool,
    /// Whatever filters keep per request, by type.
    pub extensions: Extensions,
    /// `local_reply_config` of the connection manager.
    pub local_reply: Option<Arc<super::respond::LocalReply>>,
    /// A bit for each HTTP filter that the stream passes by.
    pub filters_off: u64,
    /// `idle_timeout` of the route, in the place of the connection manager's `stream_idle_timeout`.
    pub stream_idle: Option<wake::Patience>,
    /// Dropped when the stream ends.
    pub guards: Vec<Box<dyn Send>>,
    /// Counts the request as active on its cluster and host until the stream ends.
    pub active: Option<crate::cluster::ActiveRequest>,
    /// Ask the codec to close the downstream connection after this response.
    pub close_downstream: bool,
    /// The stream ended before its response did.
    pub reset: Option<Reset>,
    /// `max_requests_per_connection` allows no request behind this one.
    pub last_of_connection: bool,
    /// The answer is to a failure: nobody reads the rest of the request.
    pub request_abandoned: bool,
    /// The response began before the request had ended.
    pub answered_early: bool,
    /// Where interim responses go, if they go on to the client.
    pub interim: Option<Arc<super::codec::Interim>>,
    /// The request's upgrade, if it asks for one and the connection manager allows it.
    pub upgrade: Option<super::upgrade::UpgradeKind>,
    /// One random number a stream: runtime fractions and weighted clusters agree on it.
    pub random: u64,
    /// Why it is traced, as far as its id says so.
    pub trace_reason: TraceReason,
    /// What the response tells the client of the operation.
    pub decorator: Option<Arc<Decorator>>,
    /// From the route's hash policies; the same for every attempt.
    pub hash: Option<u64>,
    /// `set-cookie` lines that the hash policies ask for.
    pub set_cookies: Vec<http::HeaderValue>,
    /// `x-envoy-upstream-rq-timeout-alt-response`: a timeout is answered by 204 and nothing.
    pub timeout_is_no_content: bool,
    /// `suppress_envoy_headers` of the router.
    pub suppress_envoy_headers: bool,
    /// The request that follows this one inside the proxy, when an answer was taken as a redirect.
    pub redirect: Option<Box<http::Request<Body>>>,
    /// The statistics know that it began, and not yet that it is over.
    pub counted: bool,
    /// What internal redirects led here; `None`: the client's own request.
    pub redirected: Option<Box<Redirected>>,
    /// Its lines in the access log while it is not over, if there are such.
    pub periodic: Option<Box<super::access_log::Periodic>>,
    /// The response's headers, kept only if an access log asks for them (`AccessLog::needs_response_headers`), or a filter left a place for them.
    pub logged_response: Option<Box<http::HeaderMap>>,
    /// The response's trailers, kept only if an access log asks for them.
    pub logged_trailers: Option<Box<http::HeaderMap>>,
}

/// The way of a request that followed internal redirects.
#[derive(Clone, Debug, Default)]
pub struct Redirected {
    pub count: u32,
    /// Names of the routes that redirected, and of those they led to.
    pub steps: Vec<(Arc<str>, Arc<str>)>,
}

/// Who ended a stream before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    ByClient,
    ByUs,
}

impl Reset {
    /// Whose doing the failure is.
    pub(super) fn of(failure: &super::failure::Failure) -> Self {
        use super::failure::Failure;
        match failure {
            Failure::DownstreamDisconnect | Failure::DownstreamReset | Failure::BadRequest { .. } => Self::ByClient,
            _ => Self::ByUs,
        }
    }
}

/// The request's authority (`host` or `:authority`), as Envoy matches it.
pub type Authority = Option<http::HeaderValue>;

/// See [`Exchange::route`].
#[derive(Default, Clone)]
pub struct RouteCell {
    pub table: Option<Arc<RouteTable>>,
    pub virtual_host: Option<Arc<VirtualHost>>,
    pub route: Option<Arc<Route>>,
    pub cluster: Option<Arc<Cluster>>,
    /// The kind of request that this is counted as, if its virtual host has kinds.
    pub virtual_cluster: Option<Arc<crate::route::stats::VirtualCluster>>,
    /// Which entry of a weighted cluster was chosen, for its header rules and per-filter configuration.
    pub weighted: Option<u32>,
    /// How often a route was looked for (`%ROUTE_RESOLUTION_COUNT%`).
    pub selections: u32,
    /// See [`clear`](Self::clear).
    pub is_stale: bool,
    /// How long that took, if somebody asks ([`time_selections`](super::select_route::time_selections)).
    pub resolution: Option<Duration>,
}

impl RouteCell {
    /// A filter has changed what routes match on: the route is selected again before anything else asks for it (Envoy: `clearRouteCache`).
    pub fn clear(&mut self) {
        self.virtual_host = None;
        self.route = None;
        self.virtual_cluster = None;
        self.weighted = None;
        self.is_stale = true;
    }
}

/// Dynamic metadata: what filters say of a stream, by namespace. Lives in [`Exchange::extensions`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicMetadata(pub std::collections::BTreeMap<String, remora_proto::pb::google::protobuf::Struct>);

impl DynamicMetadata {
    /// The value at `path` below a namespace.
    pub fn value(&self, namespace: &str, path: &[String]) -> Option<&remora_proto::pb::google::protobuf::Value> {
        use remora_proto::pb::google::protobuf::value::Kind;
        let (last, parents) = path.split_last()?;
        let mut fields = self.0.get(namespace)?;
        for key in parents {
            match fields.fields.get(key)?.kind.as_ref()? {
                Kind::StructValue(inner) => fields = inner,
                _ => return None,
            }
        }
        fields.fields.get(last)
    }
}

impl DynamicMetadata {
    /// Sets one text field of a namespace.
    pub fn set_text(&mut self, namespace: &str, key: String, text: &str) {
        use remora_proto::pb::google::protobuf::{Value, value::Kind};
        let kind = Some(Kind::StringValue(text.to_owned()));
        self.fields_mut(namespace).fields.insert(key, Value { kind });
    }

    /// A namespace's fields, made if need be.
    pub fn fields_mut(&mut self, namespace: &str) -> &mut remora_proto::pb::google::protobuf::Struct {
        self.0.entry(namespace.to_owned()).or_default()
    }
}

/// Filter state that prints as text, by key. Lives in [`Exchange::extensions`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterState(pub std::collections::BTreeMap<String, String>);

/// Filter state that is an object, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectState(pub std::collections::BTreeMap<&'static str, Object>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// What it prints as.
    pub json: String,
    /// What can be asked for one by one.
    pub fields: std::collections::BTreeMap<String, String>,
}

/// What the router did upstream.
#[derive(Default)]
pub struct Upstream {
    pub host: Option<Arc<Host>>,
    /// Hosts of earlier attempts.
    pub attempted: Vec<Arc<Host>>,
    /// Those that there was a connection to, each once.
    pub reached: smallvec::SmallVec<[Arc<Host>; 1]>,
    pub attempts: u32,
    /// What the request calls its upstream, where that matters for connections.
    pub name: Option<Arc<crate::pool::PeerName>>,
    pub local: Option<crate::runtime::io::Address>,
    pub tls: Option<Arc<crate::tls::PeerInfo>>,
    pub protocol: Option<Protocol>,
    /// Of the connections of all attempts, the last one's last.
    pub connection_ids: smallvec::SmallVec<[u64; 1]>,
    /// When the connection was made, if it was for this request.
    pub connected: Option<ConnectTimes>,
    /// Counts what the connection carries; only there when a log asks.
    pub meter: Option<Arc<super::codec::UpstreamMeter>>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`
    pub failure_reason: Option<String>,
    /// The answer says that it comes from a canary.
    pub is_canary: bool,
    /// Until response headers; for `x-envoy-upstream-service-time` (milliseconds).
    pub service_time: Option<Duration>,
}

impl Upstream {
    /// A piece of the response's body goes on to the client.
    pub(in crate::http) fn body_moves(&self) {
        if let Some(meter) = &self.meter {
            meter.body_moves();
        }
    }

    /// Its end does.
    pub(in crate::http) fn body_ends(&self) {
        if let Some(meter) = &self.meter {
            meter.body_ends();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
}

impl Protocol {
    /// As `%PROTOCOL%` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Bytes on the wire and of bodies.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByteCounts {
    /// Request body bytes (`%BYTES_RECEIVED%`).
    pub received: u64,
    /// Response body bytes (`%BYTES_SENT%`).
    pub sent: u64,
    /// The request's head on an HTTP/1 wire; of HTTP/2, its names and values.
    pub request_headers: u64,
    /// The response's head on an HTTP/1 wire.
    pub response_headers: u64,
    /// Of the request's head, what Envoy counts as headers.
    pub request_lines: u64,
    /// All that HTTP/1 took and gave for the stream.
    pub wire_received: u64,
    pub wire_sent: u64,
}

/// Marks on the stream's way, as durations since [`Exchange::started`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Last byte of the request received (`%REQUEST_DURATION%`).
    pub request_end: Option<Duration>,
    /// How long the request waited for a connection.
    pub pool_ready: Option<Duration>,
    pub first_upstream_tx: Option<Duration>,
    /// First byte of the upstream's response (`%RESPONSE_DURATION%`).
    pub first_upstream_rx: Option<Duration>,
    pub first_downstream_tx: Option<Duration>,
    /// All (`%DURATION%`).
    pub end: Option<Duration>,
}

impl Timing {
    /// When the request was upstream in full: its bytes go on as they come.
    pub fn last_upstream_tx(&self) -> Option<Duration> {
        Some(self.request_end?.max(self.first_upstream_tx?))
    }
}

impl RouteCell {
    /// Calls `count` with each group of stats that the selected route has beside its cluster's.
    pub fn count(&self, count: impl Fn(&crate::route::stats::RouteStats)) {
        if let Some(kind) = &self.virtual_cluster {
            count(&kind.stats);
        }
        if let Some(stats) = self.route.as_ref().and_then(|route| route.stats.as_ref()) {
            count(stats);
        }
    }
}

impl Exchange {
    pub fn new(request: http::Request<Body>, connection: Arc<ConnectionInfo>, protocol: Protocol) -> Self {
        let extensions = connection.extensions.clone();
        Self {
            request,
            connection,
            protocol,
            started: crate::runtime::clock::now(),
            route: RouteCell::default(),
            upstream: Upstream::default(),
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            response_code: None,
            bytes: ByteCounts::default(),
            timing: Timing::default(),
            remote: None,
            original_path: None,
            authority: None,
            internal: false,
            extensions,
            local_reply: None,
            filters_off: 0,
            stream_idle: None,
            guards: Vec::new(),
            active: None,
            close_downstream: false,
            reset: None,
            interim: None,
            request_abandoned: false,
            answered_early: false,
            last_of_connection: false,
            upgrade: None,
            random: fastrand::u64(..),
            trace_reason: TraceReason::NotTraced,
            decorator: None,
            hash: None,
            set_cookies: Vec::new(),
            timeout_is_no_content: false,
            suppress_envoy_headers: false,
            redirect: None,
            counted: false,
            redirected: None,
            periodic: None,
            logged_response: None,
            logged_trailers: None,
        }
    }

    /// Logs of an answer that was taken as a redirect show where it led, as Envoy's do.
    /// False: there was none.
    pub fn show_next(&mut self) -> bool {
        let Some(next) = &self.redirect else { return false };
        *self.request.uri_mut() = next.uri().clone();
        *self.request.method_mut() = next.method().clone();
        self.request.headers_mut().clone_from(next.headers());
        self.authority = next.headers().get(http::header::HOST).cloned();
        let table = self.route.table.clone();
        self.route.selections += 1;
        if let Some((_, route)) = table.map(|table| table.select(&crate::route::RequestView::of(self))) {
            self.route.cluster = None;
            self.route.route = route;
        }
        true
    }

    /// Turns into the stream of the request that an internal redirect asks for. Filter state is what stays.
    pub fn follow(&mut self) {
        let Some(request) = self.redirect.take() else { return };
        let mut next = Self::new(*request, self.connection.clone(), self.protocol);
        next.remote = self.remote.take();
        next.internal = self.internal;
        next.bytes.received = self.bytes.received;
        next.redirected = self.redirected.take();
        if let Some(state) = self.extensions.remove::<FilterState>() {
            next.extensions.insert(state);
        }
        if let Some(state) = self.extensions.remove::<ObjectState>() {
            next.extensions.insert(state);
        }
        next.timing.request_end = Some(Duration::ZERO);
        *self = next;
    }

    /// A stream of its own with a copy of this request's head: for attempts that run beside this one, and for mirrors.
    pub fn fork(&self, body: Body) -> Self {
        let mut request = http::Request::new(body);
        *request.method_mut() = self.request.method().clone();
        *request.uri_mut() = self.request.uri().clone();
        *request.version_mut() = self.request.version();
        *request.headers_mut() = self.request.headers().clone();
        Self {
            route: self.route.clone(),
            remote: self.remote.clone(),
            original_path: self.original_path.clone(),
            authority: self.authority.clone(),
            internal: self.internal,
            random: self.random,
            ..Self::new(request, self.connection.clone(), self.protocol)
        }
    }

    /// Time since the stream began.
    pub fn elapsed(&self) -> Duration {
        crate::runtime::clock::now().saturating_duration_since(self.started)
    }

    /// The client's address: after XFF processing, else the connection's.
    pub fn remote_address(&self) -> &crate::runtime::io::Address {
        self.remote.as_ref().unwrap_or(&self.connection.remote)
    }

    /// Wall clock at the first byte (`%START_TIME%`); worked out when a log asks, not for each request.
    pub fn start_time(&self) -> SystemTime {
        crate::runtime::clock::wall_of(self.started)
    }

    /// Keeps the response's trailers, if a log asks for what came back.
    pub(super) fn log_trailers(&mut self, trailers: &http::HeaderMap) {
        if self.logged_response.is_some() {
            self.logged_trailers = Some(Box::new(trailers.clone()));
        }
    }

    pub fn headers(&self) -> &http::HeaderMap {
        self.request.headers()
    }
}
