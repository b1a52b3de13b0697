//! What tells one combination of labels from another, taken from a finished request without formatting anything.

use std::sync::Arc;

use hashbrown::Equivalent;

use crate::cluster::{Cluster, Host};
use crate::filters::http::grpc_call::GrpcCall;
use crate::filters::http::peer_metadata::{DownstreamPeer, Peer, UpstreamPeer};
use crate::filters::network::metadata_exchange::Workload;
use crate::http::exchange::{Exchange, FilterState};
use crate::listener::Direction;
use crate::route::view::is_grpc;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::{TcpRecord, grpc_of_http};
use crate::tls::PeerInfo;

/// Where a request went that no service stands for, by its route's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Nowhere {
    No,
    BlackHole,
    Passthrough,
}

/// Everything that labels are made of.
pub(super) struct Facts<'a> {
    /// We stand before the server.
    pub inbound: bool,
    /// A connection without HTTP: there is neither code nor gRPC status.
    pub tcp: bool,
    pub peer: Option<&'a Arc<Peer>>,
    pub peer_principal: &'a str,
    pub own_principal: &'a str,
    pub cluster: Option<&'a Arc<Cluster>>,
    pub host: Option<&'a Arc<Host>>,
    pub nowhere: Nowhere,
    /// Empty unless it may stand for a service.
    pub authority: &'a [u8],
    pub code: u16,
    /// `None`: no gRPC.
    pub grpc: Option<u32>,
    pub flags: ResponseFlags,
}

/// A combination of one filter's labels. `S` and `B`: borrowed from a request, or owned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key<S, B> {
    filter: u64,
    inbound: bool,
    /// The peer's address in memory: whoever keeps a key keeps the peer.
    peer: usize,
    cluster: u64,
    /// Only where the host's metadata stands in for the peer.
    host: u64,
    nowhere: Nowhere,
    code: u16,
    grpc: Option<u32>,
    flags: ResponseFlags,
    peer_principal: S,
    own_principal: S,
    extra: S,
    authority: B,
}

pub(super) type OwnedKey = Key<Box<str>, Box<[u8]>>;

impl<'a> Facts<'a> {
    pub fn of(exchange: &'a Exchange, host_fallback: bool) -> Self {
        let inbound = exchange.connection.direction == Direction::Inbound;
        let extensions = &exchange.extensions;
        let peer = if inbound {
            extensions.get::<DownstreamPeer>().map(|peer| &peer.0)
        } else {
            extensions.get::<UpstreamPeer>().map(|peer| &peer.0)
        };
        let tls = if inbound {
            &exchange.connection.tls
        } else {
            &exchange.upstream.tls
        };
        let state = extensions.get::<FilterState>().filter(|_| inbound);
        let principal = |sans: Option<&'a Vec<String>>, key: &str| {
            let san = sans.and_then(|sans| sans.first());
            san.or_else(|| state?.0.get(key)).map_or("", String::as_str)
        };
        let code = exchange.response_code.map_or(0, |code| code.as_u16());
        let call = extensions.get::<GrpcCall>();
        let status = || call.and_then(GrpcCall::status).unwrap_or_else(|| grpc_of_http(code));
        let cluster = exchange.route.cluster.as_ref();
        let names_service = cluster.is_some_and(|cluster| cluster.istio.service.is_some());
        let authority = exchange.authority.as_ref().filter(|_| host_fallback && !names_service);
        Self {
            inbound,
            tcp: false,
            peer,
            peer_principal: principal(tls.as_ref().map(|tls| &tls.uri_sans), "io.istio.peer_principal"),
            own_principal: principal(tls.as_ref().map(|tls| &tls.local_uri_sans), "io.istio.local_principal"),
            cluster,
            host: exchange.upstream.host.as_ref().filter(|_| !inbound && peer.is_none()),
            nowhere: match exchange.route.route.as_ref().map_or("", |route| &route.name) {
                "block_all" => Nowhere::BlackHole,
                "allow_any" => Nowhere::Passthrough,
                _ => Nowhere::No,
            },
            authority: authority.map_or(b"", |authority| authority.as_bytes()),
            code,
            grpc: (call.is_some() || is_grpc(exchange.headers())).then(status),
            flags: exchange.flags,
        }
    }

    /// Whether the peer of a proxied connection has said who it is, or will not.
    pub fn are_known(record: &TcpRecord) -> bool {
        let workload = match record.connection.direction {
            Direction::Inbound => &record.connection.workload,
            _ => &record.workload,
        };
        workload.as_ref().is_none_or(Workload::is_known)
    }

    /// Of a proxied connection.
    pub fn of_tcp(record: &'a TcpRecord) -> Self {
        let connection = &record.connection;
        let inbound = connection.direction == Direction::Inbound;
        let (peer, tls) = if inbound {
            (&connection.workload, &connection.tls)
        } else {
            (&record.workload, &record.upstream.tls)
        };
        let peer = peer.as_ref().and_then(Workload::peer);
        let first = |sans: fn(&PeerInfo) -> &Vec<String>| {
            let san = tls.as_ref().and_then(|tls| sans(tls).first());
            san.map_or("", String::as_str)
        };
        Self {
            inbound,
            tcp: true,
            peer,
            peer_principal: first(|tls| &tls.uri_sans),
            own_principal: first(|tls| &tls.local_uri_sans),
            cluster: record.cluster.as_ref(),
            host: record.upstream.host.as_ref().filter(|_| !inbound && peer.is_none()),
            nowhere: Nowhere::No,
            authority: b"",
            code: 0,
            grpc: None,
            flags: record.flags,
        }
    }

    pub fn key<'k>(&'k self, filter: u64, extra: &'k str) -> Key<&'k str, &'k [u8]> {
        Key {
            filter,
            inbound: self.inbound,
            peer: self.peer.map_or(0, |peer| Arc::as_ptr(peer).addr()),
            cluster: self.cluster.map_or(0, |cluster| cluster.id),
            host: self.host.map_or(0, |host| host.state.id),
            nowhere: self.nowhere,
            code: self.code,
            grpc: self.grpc,
            flags: self.flags,
            peer_principal: self.peer_principal,
            own_principal: self.own_principal,
            extra,
            authority: self.authority,
        }
    }
}

impl Key<&str, &[u8]> {
    pub fn to_owned(&self) -> OwnedKey {
        Key {
            filter: self.filter,
            inbound: self.inbound,
            peer: self.peer,
            cluster: self.cluster,
            host: self.host,
            nowhere: self.nowhere,
            code: self.code,
            grpc: self.grpc,
            flags: self.flags,
            peer_principal: self.peer_principal.into(),
            own_principal: self.own_principal.into(),
            extra: self.extra.into(),
            authority: self.authority.into(),
        }
    }
}

impl Equivalent<OwnedKey> for Key<&str, &[u8]> {
    fn equivalent(&self, owned: &OwnedKey) -> bool {
        (self.filter, self.inbound, self.peer, self.cluster) == (owned.filter, owned.inbound, owned.peer, owned.cluster)
            && (self.host, self.nowhere, self.code) == (owned.host, owned.nowhere, owned.code)
            && (self.grpc, self.flags) == (owned.grpc, owned.flags)
            && *self.peer_principal == *owned.peer_principal
            && *self.own_principal == *owned.own_principal
            && *self.extra == *owned.extra
            && *self.authority == *owned.authority
    }
}
