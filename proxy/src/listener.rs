//! Listeners: bind, keep, swap and drain; the accept loop; listener filters; filter-chain match; connection info.
//!
//! In: compiled [`ListenerConfig`]s from the snapshot. Out: connections, each handed with its [`ConnectionInfo`] to the terminal network filter of
//! its chain. A listener's socket is never closed and re-bound for an update: its [`ChainTable`](chain_match::ChainTable) is swapped.

pub mod accept;
pub mod active;
pub mod balance;
pub mod bind;
pub mod chain_match;
pub mod connection;
pub mod detect;
pub mod inspect;
pub mod manager;
pub mod stats;

use std::borrow::Cow;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

pub use manager::ListenerManager;
use remora_proto::pb::envoy::config::core::v3::Metadata;

pub use crate::cluster::options::Keepalive;

use crate::filters::listener::local_ratelimit::LocalRateLimit;
use crate::filters::listener::original_src::OriginalSrc;
use crate::filters::listener::proxy_protocol::ProxyProtocol;
use crate::http::header_policy::xfcc::Told;
use crate::runtime::io::Address;
use crate::tls::PeerInfo;

/// A compiled listener; see `config/listener.rs`.
pub struct ListenerConfig {
    pub name: Arc<str>,
    /// xxh64 of the encoded resource: equal means unchanged (D12).
    pub hash: u64,
    /// The address, then `additional_addresses`.
    pub addresses: Vec<Address>,
    pub bind_to_port: bool,
    pub reuse_port: bool,
    pub chains: chain_match::ChainTable,
    /// `access_log`: a line for each connection, however it ends.
    pub access_logs: Arc<[crate::telemetry::access_log::AccessLog]>,
    pub settings: ListenerSettings,
    /// What the control plane sent; `None` for a listener of the bootstrap.
    pub resource: Option<Arc<remora_xds::Resource>>,
}

/// What of a listener does not force a new socket when it changes.
#[derive(Clone, Default)]
pub struct ListenerSettings {
    pub stat_prefix: Option<String>,
    pub direction: Direction,
    pub use_original_dst: bool,
    /// Bytes that a connection holds on to at most, for the other side or for retries; Envoy's default is 1 MiB
    /// (`per_connection_buffer_limit_bytes`).
    pub buffer_limit: usize,
    /// `tcp_backlog_size`; `None`: the system's maximum.
    pub backlog: Option<u32>,
    pub transparent: bool,
    pub freebind: bool,
    pub listener_filters: Vec<ListenerFilter>,
    /// 15 s by default; `None`: no limit.
    pub listener_filters_timeout: Option<Duration>,
    pub continue_on_listener_filters_timeout: bool,
    /// `drain_type: MODIFY_ONLY`
    pub drain_modify_only: bool,
    pub socket_options: Vec<SocketOption>,
    pub keepalive: Option<Keepalive>,
    /// What `additional_addresses` have in place of the listener's own.
    pub additional: Vec<AddressOptions>,
    pub balance: balance::Balance,
    /// `ignore_global_conn_limit`
    pub ignores_connection_limit: bool,
    /// Connections it may have at a time; the same for all of its versions.
    pub connection_limit: Option<u64>,
    /// `pipe.mode` of its own address; `None`: as the process makes files.
    pub pipe_mode: Option<u32>,
    /// `ipv4_compat`: an IPv6 wildcard socket takes IPv4 too.
    pub ipv4_compat: bool,
    pub metadata: Option<Arc<Metadata>>,
}

/// Options of one of `additional_addresses`; what is `None` is the listener's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressOptions {
    pub socket_options: Option<Vec<SocketOption>>,
    /// `Some(None)`: none here.
    pub keepalive: Option<Option<Keepalive>>,
    pub pipe_mode: Option<u32>,
}

impl ListenerSettings {
    /// Whether sockets that were made for `other` are as these settings want them.
    pub fn finds_sockets_of(&self, other: &Self) -> bool {
        let of = |settings: &Self| {
            let flags = (settings.transparent, settings.freebind, settings.ipv4_compat);
            let own = (settings.backlog, settings.keepalive, settings.pipe_mode, flags);
            (own, settings.socket_options.clone(), settings.additional.clone())
        };
        of(self) == of(other)
    }

    /// Those of the address at `index`: 0 is the listener's own, then come the additional ones.
    pub fn of_address(&self, index: usize) -> Cow<'_, Self> {
        let own = index.checked_sub(1).and_then(|index| self.additional.get(index));
        let Some(own) = own else {
            return Cow::Borrowed(self);
        };
        let mut settings = self.clone();
        if let Some(options) = &own.socket_options {
            settings.socket_options.clone_from(options);
        }
        if let Some(keepalive) = own.keepalive {
            settings.keepalive = keepalive;
        }
        settings.pipe_mode = own.pipe_mode;
        Cow::Owned(settings)
    }
}

/// One of `socket_options`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    pub level: i32,
    pub name: i32,
    pub value: Vec<u8>,
    pub state: SocketState,
}

/// When a socket option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    PreBind,
    Bound,
    Listening,
}

/// A configured listener filter.
#[derive(Clone)]
pub struct ListenerFilter {
    pub kind: ListenerFilterKind,
    /// `filter_disabled`
    pub disabled: Option<PortPredicate>,
}

/// `tls_inspector`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsInspection {
    /// Bytes that a ClientHello may have.
    pub max_hello: usize,
    pub close_on_error: bool,
    pub fingerprints: detect::fingerprint::Wanted,
}

/// The listener filters that exist so far.
#[derive(Clone)]
pub enum ListenerFilterKind {
    TlsInspector(TlsInspection),
    HttpInspector,
    OriginalDst,
    OriginalSrc(OriginalSrc),
    ProxyProtocol(Arc<ProxyProtocol>),
    LocalRateLimit(Arc<LocalRateLimit>),
}

/// `ListenerFilterChainMatchPredicate`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortPredicate {
    Or(Vec<PortPredicate>),
    And(Vec<PortPredicate>),
    Not(Box<PortPredicate>),
    Any,
    /// Start inclusive, end exclusive.
    Ports(std::ops::Range<i32>),
}

impl PortPredicate {
    /// `None`: the connection has no port (a pipe).
    pub fn matches(&self, destination_port: Option<u16>) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(destination_port)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(destination_port)),
            Self::Not(rule) => !rule.matches(destination_port),
            Self::Any => true,
            Self::Ports(range) => destination_port.is_some_and(|port| range.contains(&i32::from(port))),
        }
    }
}

/// `traffic_direction`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    #[default]
    Unspecified,
    Inbound,
    Outbound,
}

/// Where listening sockets come from that another process has opened.
pub trait Inherit: Send + Sync {
    /// All sockets that listen on this address of the configuration; none, if there are none. The name counts where the port is 0.
    fn sockets(&self, listener: &str, address: &Address) -> Vec<std::os::fd::OwnedFd>;
}

/// `metadata` of a listener and of one of its filter chains, for access logs.
#[derive(Clone, Debug, Default)]
pub struct ConfiguredMetadata {
    pub listener: Option<Arc<Metadata>>,
    pub filter_chain: Option<Arc<Metadata>>,
}

/// What is known of a downstream connection; made once per connection, shared by its streams.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Unique in the process (`%CONNECTION_ID%`).
    pub id: u64,
    pub local: Address,
    /// After listener filters and PROXY protocol; XFF applies per request, not here.
    pub remote: Address,
    /// The peer of the socket itself.
    pub direct_remote: Address,
    /// The socket's own address, where `local` is another.
    pub own_local: Option<Box<Address>>,
    pub original_destination: Option<std::net::SocketAddr>,
    pub sni: Option<Arc<str>>,
    /// `raw_buffer` or `tls`
    pub transport_protocol: &'static str,
    pub alpn: Option<Arc<[u8]>>,
    pub tls: Option<Arc<PeerInfo>>,
    /// Who the peer said it is (`istio.metadata_exchange`).
    pub workload: Option<crate::filters::network::metadata_exchange::Workload>,
    pub listener_name: Arc<str>,
    pub filter_chain_name: Arc<str>,
    pub metadata: ConfiguredMetadata,
    pub direction: Direction,
    pub accepted_at: Instant,
    /// When its TLS handshake had ended.
    pub secured_at: Option<Instant>,
    /// Requests under way on it.
    pub requests: AtomicU32,
    /// What `x-forwarded-client-cert` says of its peer, once a request was told.
    pub xfcc: OnceLock<Box<Told>>,
    /// Its listener's `per_connection_buffer_limit_bytes`.
    pub buffer_limit: usize,
    /// Dynamic metadata and filter state that listener and network filters leave; each stream starts with a copy.
    pub extensions: http::Extensions,
}

impl ConnectionInfo {
    /// The address that the socket itself was accepted on.
    pub fn direct_local(&self) -> &Address {
        self.own_local.as_deref().unwrap_or(&self.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_as_wanted_unless_an_option_of_theirs_changes() {
        let old = ListenerSettings::default();
        let mut new = old.clone();
        new.continue_on_listener_filters_timeout = true;
        assert!(new.finds_sockets_of(&old));
        new.additional = vec![AddressOptions {
            keepalive: Some(None),
            ..AddressOptions::default()
        }];
        assert!(!new.finds_sockets_of(&old));
        let kept = ListenerSettings {
            keepalive: Some(Keepalive::default()),
            ..old.clone()
        };
        assert!(!kept.finds_sockets_of(&old));
        // The first address has the listener's own, the second none.
        let settings = ListenerSettings {
            additional: new.additional,
            ..kept
        };
        assert!(settings.of_address(0).keepalive.is_some() && settings.of_address(1).keepalive.is_none());
    }
}
