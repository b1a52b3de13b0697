//! What an authorization service is told of a request.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::service::auth::v3 as pb;
use remora_proto::pb::envoy::service::auth::v3::attribute_context as attributes;

use super::body::Read;
use super::config::ExtAuthz;
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::http::header_policy::xfcc;
use crate::listener::ConnectionInfo;
use crate::runtime::io::Address;
use crate::tls::PeerInfo;

const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// A request as a service sees it, apart from the exchange: the check waits, and owns what it tells.
pub(super) struct Question {
    pub method: Method,
    /// With its query.
    pub path: String,
    pub host: HeaderValue,
    /// Those that the configuration chose, and `authorization`.
    pub headers: HeaderMap,
    /// Headers of the configuration itself, for HTTP services.
    pub added: HeaderMap,
    pub body: Bytes,
    /// What a gRPC service gets, but for headers and body.
    pub attributes: pb::AttributeContext,
    pub raw_headers: bool,
    /// The address on which the request came.
    pub local: Option<String>,
    body_as_bytes: bool,
    /// Bytes of the body that have come so far.
    received: i64,
}

impl Question {
    pub fn of(config: &ExtAuthz, exchange: &Exchange, context_extensions: HashMap<String, String>) -> Self {
        let mut headers = HeaderMap::new();
        let is_http = matches!(config.service, super::Service::Http(_));
        for (name, value) in exchange.headers() {
            let always = is_http && *name == http::header::AUTHORIZATION;
            if *name != http::header::HOST && config.headers.takes(name.as_str(), !is_http || always) | always {
                headers.append(name, value.clone());
            }
        }
        let host = exchange
            .authority
            .clone()
            .unwrap_or_else(|| HeaderValue::from_static(""));
        let path = exchange.request.uri().path_and_query();
        let added = match &config.service {
            super::Service::Http(service) => service.added(exchange),
            super::Service::Grpc(_) => HeaderMap::new(),
        };
        Self {
            method: exchange.request.method().clone(),
            path: path.map_or_else(String::new, |path| path.as_str().to_owned()),
            attributes: attribute_context(config, exchange, context_extensions),
            local: exchange.connection.local.ip().map(|address| address.ip().to_string()),
            host,
            headers,
            added,
            body: Bytes::new(),
            raw_headers: config.raw_headers,
            body_as_bytes: false,
            received: 0,
        }
    }

    pub fn with_body(&mut self, read: Read, as_bytes: bool) {
        let partial = HeaderValue::from_static(if read.complete { "false" } else { "true" });
        self.headers.insert(PARTIAL_BODY, partial);
        self.received = i64::try_from(read.received).unwrap_or(i64::MAX);
        self.body = read.bytes;
        self.body_as_bytes = as_bytes;
    }

    /// The whole as `CheckRequest`.
    pub fn into_request(self, allowed_pseudo: bool) -> pb::CheckRequest {
        let mut attributes = self.attributes;
        let request = attributes.request.get_or_insert_default();
        let http = request.http.get_or_insert_default();
        let pseudo: Vec<(&str, Vec<u8>)> = match allowed_pseudo {
            true => vec![
                (":authority", self.host.as_bytes().to_vec()),
                (":method", self.method.as_str().as_bytes().to_vec()),
                (":path", self.path.clone().into_bytes()),
                (":scheme", http.scheme.clone().into_bytes()),
            ],
            false => Vec::new(),
        };
        let plain = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes().to_vec()));
        let all = pseudo.into_iter().chain(plain);
        if self.raw_headers {
            let headers = all.map(|(name, value)| core::HeaderValue {
                key: name.to_owned(),
                raw_value: value,
                ..Default::default()
            });
            http.header_map = Some(core::HeaderMap {
                headers: headers.collect(),
            });
        } else {
            for (name, value) in all {
                let value = String::from_utf8_lossy(&value).into_owned();
                // Envoy joins the lines of a header with commas.
                http.headers
                    .entry(name.to_owned())
                    .and_modify(|joined| {
                        joined.push(',');
                        joined.push_str(&value);
                    })
                    .or_insert(value);
            }
        }
        http.size = self.received;
        match self.body_as_bytes {
            true => http.raw_body = self.body.to_vec(),
            false => http.body = String::from_utf8_lossy(&self.body).into_owned(),
        }
        pb::CheckRequest {
            attributes: Some(attributes),
        }
    }
}

fn attribute_context(
    config: &ExtAuthz,
    exchange: &Exchange,
    context_extensions: HashMap<String, String>,
) -> pb::AttributeContext {
    let connection = &exchange.connection;
    let tls = connection.tls.as_deref();
    let mut source = peer(exchange.remote_address(), tls.map(principal));
    if config.certificate
        && let Some(der) = tls.and_then(|tls| tls.certificate.as_ref())
    {
        source.certificate = xfcc::url_encoded_pem(der);
    }
    let header = |name: HeaderName| exchange.headers().get(name);
    let scheme = match exchange.request.uri().scheme_str() {
        Some(scheme) => scheme.to_owned(),
        None => header(HeaderName::from_static("x-forwarded-proto")).map_or_else(
            || "http".to_owned(),
            |proto| String::from_utf8_lossy(proto.as_bytes()).into_owned(),
        ),
    };
    let http = attributes::HttpRequest {
        id: exchange.random.to_string(),
        method: exchange.request.method().as_str().to_owned(),
        path: exchange
            .request
            .uri()
            .path_and_query()
            .map_or_else(String::new, |path| path.as_str().to_owned()),
        host: exchange.authority.as_ref().map_or_else(String::new, |host| {
            String::from_utf8_lossy(host.as_bytes()).into_owned()
        }),
        scheme,
        protocol: exchange.protocol.as_str().to_owned(),
        ..Default::default()
    };
    let metadata = exchange.extensions.get::<DynamicMetadata>();
    pb::AttributeContext {
        source: Some(source),
        destination: Some(peer(&connection.local, tls.map(own_principal))),
        request: Some(attributes::Request {
            time: Some(timestamp(exchange.start_time())),
            http: Some(http),
        }),
        context_extensions,
        metadata_context: Some(chosen(metadata, &config.metadata)),
        route_metadata_context: Some(core::Metadata::default()),
        tls_session: tls.filter(|_| config.tls_session).map(|_| tls_session(connection)),
    }
}

/// What the configuration wants told of a connection without HTTP.
pub(crate) struct Telling {
    pub certificate: bool,
    pub tls_session: bool,
    /// Namespaces of dynamic metadata.
    pub metadata: Vec<String>,
    /// Of the destination.
    pub labels: HashMap<String, String>,
}

/// A connection without HTTP.
pub(crate) fn connection_attributes(connection: &ConnectionInfo, telling: &Telling) -> pb::AttributeContext {
    let tls = connection.tls.as_deref();
    let mut source = peer(&connection.remote, tls.map(principal));
    let mut destination = peer(&connection.local, tls.map(own_principal));
    destination.labels = telling.labels.clone();
    if telling.certificate
        && let Some(der) = tls.and_then(|tls| tls.certificate.as_ref())
    {
        source.certificate = xfcc::url_encoded_pem(der);
        // Envoy tells the client's certificate on both sides.
        destination.certificate = source.certificate.clone();
    }
    let metadata = connection.extensions.get::<DynamicMetadata>();
    pb::AttributeContext {
        source: Some(source),
        destination: Some(destination),
        metadata_context: Some(chosen(metadata, &telling.metadata)),
        tls_session: tls.filter(|_| telling.tls_session).map(|_| tls_session(connection)),
        ..Default::default()
    }
}

/// The metadata of some namespaces.
fn chosen(metadata: Option<&DynamicMetadata>, namespaces: &[String]) -> core::Metadata {
    let chosen = namespaces.iter().filter_map(|namespace| {
        let fields = metadata?.0.get(namespace)?;
        Some((namespace.clone(), fields.clone()))
    });
    core::Metadata {
        filter_metadata: chosen.collect(),
        ..Default::default()
    }
}

fn tls_session(connection: &ConnectionInfo) -> attributes::TlsSession {
    attributes::TlsSession {
        sni: connection.sni.as_deref().unwrap_or_default().to_owned(),
    }
}

fn peer(address: &Address, principal: Option<String>) -> attributes::Peer {
    attributes::Peer {
        address: Some(proto_address(address)),
        principal: principal.unwrap_or_default(),
        ..Default::default()
    }
}

/// As Envoy: the first URI SAN, else the first DNS SAN, else the subject.
fn principal(tls: &PeerInfo) -> String {
    first(&tls.uri_sans, &tls.dns_sans, tls.subject.as_ref())
}

fn own_principal(tls: &PeerInfo) -> String {
    first(&tls.local_uri_sans, &tls.local_dns_sans, tls.local_subject.as_ref())
}

fn first(uris: &[String], names: &[String], subject: Option<&String>) -> String {
    uris.first().or(names.first()).or(subject).cloned().unwrap_or_default()
}

fn proto_address(address: &Address) -> core::Address {
    use core::address::Address as Kind;
    let kind = match address.ip() {
        Some(ip) => Kind::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(ip.port().into())),
            ..Default::default()
        }),
        None => Kind::Pipe(core::Pipe {
            path: address.to_string(),
            ..Default::default()
        }),
    };
    core::Address { address: Some(kind) }
}

fn timestamp(time: SystemTime) -> remora_proto::pb::google::protobuf::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    remora_proto::pb::google::protobuf::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
