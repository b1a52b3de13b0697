//! Attributes: what an expression can ask of a stream or connection, under the names that Envoy's expressions have for it.
//!
//! Values are text, as Envoy prints them; an attribute may have none, which is not the same as an empty one.

mod simple;

use std::fmt::Write as _;

use remora_proto::pb::envoy::config::core::v3::{Metadata, Node};
use remora_proto::pb::google::protobuf::value::Kind;
use remora_proto::pb::google::protobuf::{Struct, Value};

use crate::cluster::Cluster;
use crate::filters::http::peer_metadata::{DownstreamPeer, Peer, UpstreamPeer};
use crate::filters::network::metadata_exchange::Workload;
use crate::http::exchange::{Exchange, FilterState, ObjectState};
use crate::route::RequestView;
use crate::route::headers::HeaderKey;
use crate::route::view::joined;
use crate::telemetry::format::{LogView, TcpRecord};
use crate::tls::PeerInfo;
use simple::Simple;

/// What attributes are asked of.
pub(super) struct Subject<'a> {
    view: LogView<'a>,
    cluster: Option<&'a Cluster>,
    upstream_peer: Option<&'a Peer>,
    downstream_peer: Option<&'a Peer>,
}

impl<'a> Subject<'a> {
    pub fn of(exchange: &'a Exchange) -> Self {
        let extensions = &exchange.extensions;
        Self {
            view: LogView::of(exchange),
            cluster: exchange.route.cluster.as_deref(),
            upstream_peer: extensions.get::<UpstreamPeer>().map(|peer| &*peer.0),
            downstream_peer: extensions.get::<DownstreamPeer>().map(|peer| &*peer.0),
        }
    }

    pub fn of_tcp(record: &'a TcpRecord) -> Self {
        let peer = |workload: &'a Option<Workload>| workload.as_ref()?.peer().map(|peer| &**peer);
        Self {
            view: LogView::of_tcp(record),
            cluster: record.cluster.as_deref(),
            upstream_peer: peer(&record.workload),
            downstream_peer: peer(&record.connection.workload),
        }
    }

    fn request(&self) -> Option<RequestView<'a>> {
        self.view.exchange.map(RequestView::of)
    }

    fn down(&self) -> Option<&'a PeerInfo> {
        self.view.connection.tls.as_deref()
    }

    fn up(&self) -> Option<&'a PeerInfo> {
        self.view.upstream.tls.as_deref()
    }
}

/// One compiled attribute.
pub(super) enum Attribute {
    Simple(&'static Simple),
    RequestHeader(HeaderKey),
    ResponseHeader(HeaderKey),
    ResponseTrailer(HeaderKey),
    /// Who is at an end of the stream, as a whole: it can only be asked whether it is known.
    Peer(End),
    PeerField(End, String),
    PeerLabel(End, String),
    /// Text that a filter left, or a field of an object.
    State(String, Option<String>),
    Metadata(Place, String, Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Upstream,
    Downstream,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Cluster,
    Host,
    Route,
}

/// What a path leads to.
pub(super) enum Found {
    Attribute(Attribute),
    /// It does not change while the process lasts. Whether it is text; `None`: there is none.
    Constant(Option<(String, bool)>),
}

/// The attribute at a path.
///
/// # Errors
/// Why it is not supported.
pub(super) fn find(path: &[String], node: &Node) -> Result<Found, String> {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    Ok(Found::Attribute(match parts.as_slice() {
        ["request", "headers", name] => Attribute::RequestHeader(header(name)?),
        ["response", "headers", name] => Attribute::ResponseHeader(header(name)?),
        ["response", "trailers", name] => Attribute::ResponseTrailer(header(name)?),
        ["xds", "node", rest @ ..] | ["node", rest @ ..] => return of_node(rest, node).map(Found::Constant),
        // The second is what proxies before 1.24 had.
        ["filter_state", peer @ ("upstream_peer" | "downstream_peer"), rest @ ..]
        | [peer @ ("upstream_peer" | "downstream_peer"), rest @ ..] => of_peer(peer, rest)?,
        ["filter_state", key] => Attribute::State((*key).to_owned(), None),
        ["filter_state", key, field] => Attribute::State((*key).to_owned(), Some((*field).to_owned())),
        ["xds", place, "filter_metadata", namespace, first, rest @ ..] => {
            let place = match *place {
                "cluster_metadata" => Place::Cluster,
                "upstream_host_metadata" => Place::Host,
                "route_metadata" => Place::Route,
                other => return Err(format!("xds.{other} is not supported")),
            };
            let path = std::iter::once(first).chain(rest).map(|&key| key.to_owned()).collect();
            Attribute::Metadata(place, (*namespace).to_owned(), path)
        }
        [_, _] => {
            let name = parts.join(".");
            let simple = simple::find(&name);
            Attribute::Simple(simple.ok_or_else(|| format!("{name} is not supported"))?)
        }
        _ => return Err(format!("{} is not supported", parts.join("."))),
    }))
}

fn header(name: &str) -> Result<HeaderKey, String> {
    HeaderKey::compile("", name).map_err(|problems| problems.to_string())
}

fn of_peer(peer: &str, rest: &[&str]) -> Result<Attribute, String> {
    let end = match peer {
        "upstream_peer" => End::Upstream,
        _ => End::Downstream,
    };
    Ok(match rest {
        [] => Attribute::Peer(end),
        ["labels", label] => Attribute::PeerLabel(end, (*label).to_owned()),
        [field] if Peer::FIELDS.contains(field) => Attribute::PeerField(end, (*field).to_owned()),
        _ => return Err(format!("a peer has no {}", rest.join("."))),
    })
}

fn of_node(path: &[&str], node: &Node) -> Result<Option<(String, bool)>, String> {
    let text = |text: &str| Some((text.to_owned(), true));
    Ok(match path {
        ["id"] => text(&node.id),
        ["cluster"] => text(&node.cluster),
        ["locality", part] => {
            let locality = node.locality.clone().unwrap_or_default();
            match *part {
                "region" => text(&locality.region),
                "zone" => text(&locality.zone),
                "sub_zone" => text(&locality.sub_zone),
                other => return Err(format!("a locality has no {other}")),
            }
        }
        ["metadata", first, rest @ ..] => {
            let path: Vec<String> = rest.iter().map(|&key| key.to_owned()).collect();
            let value = node.metadata.as_ref().and_then(|fields| value_at(fields, first, &path));
            value.map(|value| (print(value), matches!(value.kind, Some(Kind::StringValue(_)))))
        }
        _ => return Err(format!("the node's {} is not supported", path.join("."))),
    })
}

fn value_at<'a>(fields: &'a Struct, first: &str, rest: &[String]) -> Option<&'a Value> {
    let mut value = fields.fields.get(first)?;
    for key in rest {
        match value.kind.as_ref()? {
            Kind::StructValue(inner) => value = inner.fields.get(key)?,
            _ => return None,
        }
    }
    Some(value)
}

/// As Envoy's expressions print what they find.
fn print(value: &Value) -> String {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::BoolValue(is)) => is.to_string(),
        Some(Kind::StructValue(_)) => "CelMap value".to_owned(),
        Some(Kind::ListValue(_)) => "CelList value".to_owned(),
        Some(Kind::NullValue(_)) | None => "NULL".to_owned(),
    }
}

impl Attribute {
    /// Whether it is text, and not a number or the like.
    pub fn is_text(&self) -> bool {
        match self {
            Self::Simple(simple) => simple.is_text,
            Self::Metadata(..) | Self::Peer(_) => false,
            _ => true,
        }
    }

    /// Whether the response's headers have to be kept for it.
    pub fn needs_response(&self) -> bool {
        match self {
            Self::ResponseHeader(_) | Self::ResponseTrailer(_) => true,
            Self::Simple(simple) => simple.name == "response.grpc_status",
            _ => false,
        }
    }

    /// Whether there is a value.
    pub fn is_known(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Peer(end) => end.of(subject).is_some(),
            _ => self.write(subject, &mut String::new()),
        }
    }

    /// Appends the value. False: there is none, and nothing is appended.
    pub fn write(&self, subject: &Subject<'_>, out: &mut String) -> bool {
        let start = out.len();
        let found = self.append(subject, out).is_some();
        if !found {
            out.truncate(start);
        }
        found
    }

    fn append(&self, subject: &Subject<'_>, out: &mut String) -> Option<()> {
        match self {
            Self::Simple(simple) => (simple.of)(subject, out),
            Self::RequestHeader(key) => bytes(out, &key.of(&subject.request()?)?),
            Self::ResponseHeader(HeaderKey::Status) => code(subject, out),
            Self::ResponseHeader(HeaderKey::Name(name)) => bytes(out, &joined(subject.view.response?, name)?),
            Self::ResponseTrailer(HeaderKey::Name(name)) => bytes(out, &joined(subject.view.trailers?, name)?),
            Self::ResponseHeader(_) | Self::ResponseTrailer(_) | Self::Peer(_) => None,
            Self::PeerField(end, field) => text(out, end.of(subject)?.field(field)?),
            Self::PeerLabel(end, label) => {
                let labels = &end.of(subject)?.labels;
                text(out, &labels.iter().find(|(key, _)| **key == **label)?.1)
            }
            Self::State(key, None) => text(out, subject.view.extensions().get::<FilterState>()?.0.get(key)?),
            Self::State(key, Some(field)) => {
                let objects = subject.view.extensions().get::<ObjectState>()?;
                text(out, objects.0.get(key.as_str())?.fields.get(field)?)
            }
            Self::Metadata(place, namespace, path) => {
                let (first, rest) = path.split_first()?;
                let fields = place.of(subject)?.filter_metadata.get(namespace)?;
                text(out, &print(value_at(fields, first, rest)?))
            }
        }
    }
}

impl End {
    fn of<'a>(self, subject: &Subject<'a>) -> Option<&'a Peer> {
        match self {
            Self::Upstream => subject.upstream_peer,
            Self::Downstream => subject.downstream_peer,
        }
    }
}

impl Place {
    fn of<'a>(self, subject: &Subject<'a>) -> Option<&'a Metadata> {
        match self {
            Self::Cluster => subject.cluster?.metadata.as_deref(),
            Self::Host => subject.view.upstream.host.as_ref()?.metadata.as_deref(),
            Self::Route => subject.view.exchange?.route.route.as_ref()?.metadata.as_deref(),
        }
    }
}

fn text(out: &mut String, value: &str) -> Option<()> {
    out.push_str(value);
    Some(())
}

fn bytes(out: &mut String, value: &[u8]) -> Option<()> {
    text(out, &String::from_utf8_lossy(value))
}

fn shown(out: &mut String, value: impl std::fmt::Display) -> Option<()> {
    write!(out, "{value}").ok()
}

fn code(subject: &Subject<'_>, out: &mut String) -> Option<()> {
    shown(out, subject.view.exchange?.response_code?.as_u16())
}
