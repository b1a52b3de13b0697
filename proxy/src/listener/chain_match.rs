//! Filter-chain match: the table, and the walk over it in Envoy's exact order, without backtracking.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::runtime::drain::Drain;

/// A compiled filter chain. Its identity is the hash of its bytes: an update that keeps the hash keeps the chain and its connections.
pub struct FilterChain {
    pub name: Arc<str>,
    pub metadata: Option<Arc<remora_proto::pb::envoy::config::core::v3::Metadata>>,
    pub hash: u64,
    pub tls: Option<Arc<crate::tls::DownstreamTls>>,
    /// `transport_socket_connect_timeout`; `None`: no limit.
    pub handshake_timeout: Option<std::time::Duration>,
    /// Network filters before the terminal one.
    pub filters: Vec<Arc<dyn crate::filters::network::NetworkFilter>>,
    /// Of `filters`: who hears of connections without HTTP.
    pub observers: Vec<Arc<dyn crate::filters::network::Observer>>,
    pub terminal: Terminal,
    /// Advanced when the chain vanishes from its listener (D12) or the listener drains.
    pub drain: Drain,
}

/// What ends a chain.
pub enum Terminal {
    Http(Arc<crate::http::pipeline::ConnectionManager>),
    Tcp(Arc<crate::tcp::TcpProxy>),
    /// `envoy.filters.network.echo`
    Echo,
    /// `envoy.filters.network.direct_response`
    DirectResponse(bytes::Bytes),
    /// No filter at all: Envoy closes the connection.
    Close,
}

/// A `FilterChainMatch` whose values have been parsed. An empty list asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<IpNet>,
    /// Lower case; a suffix begins with its dot. An empty one is any name.
    pub server_names: Vec<String>,
    pub transport_protocol: Option<String>,
    pub application_protocols: Vec<String>,
    pub direct_source_prefix_ranges: Vec<IpNet>,
    pub source_type: SourceType,
    pub source_prefix_ranges: Vec<IpNet>,
    pub source_ports: Vec<u16>,
}

/// `FilterChainMatch.ConnectionSourceType`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

/// What is known of a connection when its chain is chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// The (restored) local address; `None` for pipes.
    pub destination: Option<SocketAddr>,
    /// Lower case.
    pub server_name: Option<&'a str>,
    /// As detected: `tls`, `raw_buffer`, or empty when nobody looked.
    pub transport_protocol: &'a str,
    /// In the client's order.
    pub application_protocols: &'a [Vec<u8>],
    /// The peer of the socket.
    pub direct_source: Option<IpAddr>,
    /// The effective remote address.
    pub source: Option<SocketAddr>,
}

/// The filter chains of a listener, indexed for the match.
#[derive(Default)]
pub struct ChainTable {
    chains: Vec<Arc<FilterChain>>,
    default: Option<Arc<FilterChain>>,
    root: Arc<Node>,
}

/// Two chains ask for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Index of the later chain.
    pub chain: usize,
    /// Index of the earlier one.
    pub earlier: usize,
}

impl ChainTable {
    /// Indexes chains by their criteria.
    ///
    /// # Errors
    /// [`Duplicate`] for chains with equal or overlapping criteria.
    pub fn new(
        chains: Vec<(Criteria, Arc<FilterChain>)>,
        default: Option<Arc<FilterChain>>,
    ) -> Result<Self, Duplicate> {
        let mut root = Node::default();
        for (index, (criteria, _)) in chains.iter().enumerate() {
            let stages = criteria.stages();
            root.insert(&stages, index)
                .map_err(|earlier| Duplicate { chain: index, earlier })?;
        }
        root.sort();
        Ok(Self {
            chains: chains.into_iter().map(|(_, chain)| chain).collect(),
            default,
            root: Arc::new(root),
        })
    }

    /// The chain for a connection; `None`: there is none, not even a default.
    pub fn find(&self, target: &Target<'_>) -> Option<&Arc<FilterChain>> {
        let found = self.root.walk(target, 0).and_then(|index| self.chains.get(index));
        found.or(self.default.as_ref())
    }

    /// All chains, the default last.
    pub fn all(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.chains.iter().chain(&self.default)
    }

    /// The same table, with the chains that `old` has too (by hash) taken from there, so that their connections live on.
    pub fn adopting(&self, old: &Self) -> Self {
        let known: HashMap<u64, &Arc<FilterChain>> = old.all().map(|chain| (chain.hash, chain)).collect();
        let adopt = |chain: &Arc<FilterChain>| (*known.get(&chain.hash).unwrap_or(&chain)).clone();
        Self {
            chains: self.chains.iter().map(adopt).collect(),
            default: self.default.as_ref().map(adopt),
            root: self.root.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Port(u16),
    Text(String),
    Source(SourceType),
}

/// What a criterion of one stage puts into the index.
enum Entry {
    Any,
    Key(Key),
    Net(IpNet),
}

/// One bucket of one stage.
#[derive(Default)]
struct Node {
    keys: HashMap<Key, Node>,
    /// Longest prefix first.
    nets: Vec<(IpNet, Node)>,
    any: Option<Box<Node>>,
    chain: Option<usize>,
}

/// The stages, in Envoy's order.
const STAGES: usize = 9;

impl Criteria {
    fn stages(&self) -> [Vec<Entry>; STAGES] {
        let or_any = |entries: Vec<Entry>| match entries.is_empty() {
            true => vec![Entry::Any],
            false => entries,
        };
        let port = |port: &u16| Entry::Key(Key::Port(*port));
        let nets = |nets: &[IpNet]| or_any(nets.iter().map(|net| Entry::Net(*net)).collect());
        // Nothing, as text, asks for nothing.
        let text = |text: &String| match text.is_empty() {
            true => Entry::Any,
            false => Entry::Key(Key::Text(text.clone())),
        };
        let source_type = match self.source_type {
            SourceType::Any => Entry::Any,
            other => Entry::Key(Key::Source(other)),
        };
        [
            or_any(self.destination_port.iter().map(port).collect()),
            nets(&self.prefix_ranges),
            or_any(self.server_names.iter().map(text).collect()),
            or_any(self.transport_protocol.iter().map(text).collect()),
            or_any(self.application_protocols.iter().map(text).collect()),
            nets(&self.direct_source_prefix_ranges),
            vec![source_type],
            nets(&self.source_prefix_ranges),
            or_any(self.source_ports.iter().map(port).collect()),
        ]
    }
}

impl Node {
    /// Puts `chain` under every combination of the stages' entries. `Err`: the chain that is there already.
    fn insert(&mut self, stages: &[Vec<Entry>], chain: usize) -> Result<(), usize> {
        let Some((entries, rest)) = stages.split_first() else {
            return match self.chain.replace(chain) {
                Some(earlier) => Err(earlier),
                None => Ok(()),
            };
        };
        for entry in entries {
            let next = match entry {
                Entry::Any => &mut **self.any.get_or_insert_default(),
                Entry::Key(key) => self.keys.entry(key.clone()).or_default(),
                Entry::Net(net) => {
                    let known = self.nets.iter().position(|(known, _)| known == net);
                    let index = known.unwrap_or_else(|| {
                        self.nets.push((*net, Self::default()));
                        self.nets.len() - 1
                    });
                    &mut self.nets[index].1
                }
            };
            next.insert(rest, chain)?;
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.nets.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        let nets = self.nets.iter_mut().map(|(_, node)| node);
        let any = self.any.as_deref_mut();
        nets.chain(self.keys.values_mut()).chain(any).for_each(Self::sort);
    }

    /// Enters the most specific bucket of each stage and never comes back.
    fn walk(&self, target: &Target<'_>, stage: usize) -> Option<usize> {
        if stage == STAGES {
            return self.chain;
        }
        let specific = match stage {
            0 => target.destination.and_then(|address| self.port(address.port())),
            1 => self.net(target.destination.map(|address| address.ip())),
            2 => target.server_name.and_then(|name| self.name(name)),
            3 => self.text(target.transport_protocol),
            4 => self.alpn(target.application_protocols),
            5 => self.net(target.direct_source),
            6 => self.keys.get(&Key::Source(target.source_type())),
            7 => self.net(target.source.map(|address| address.ip())),
            _ => target.source.and_then(|address| self.port(address.port())),
        };
        specific.or(self.any.as_deref())?.walk(target, stage + 1)
    }

    fn port(&self, port: u16) -> Option<&Self> {
        self.keys.get(&Key::Port(port))
    }

    fn net(&self, ip: Option<IpAddr>) -> Option<&Self> {
        let ip = ip?;
        let found = self.nets.iter().find(|(net, _)| net.contains(&ip));
        found.map(|(_, node)| node)
    }

    fn text(&self, text: &str) -> Option<&Self> {
        match self.keys.is_empty() {
            true => None,
            false => self.keys.get(&Key::Text(text.to_owned())),
        }
    }

    fn name(&self, name: &str) -> Option<&Self> {
        if self.keys.is_empty() {
            return None;
        }
        if let Some(node) = self.text(name) {
            return Some(node);
        }
        let mut rest = name;
        // Longest suffix first, one label at a time; never the bare domain.
        while let Some(dot) = rest.get(1..).and_then(|tail| tail.find('.')) {
            rest = &rest[dot + 1..];
            if let Some(node) = self.text(rest) {
                return Some(node);
            }
        }
        None
    }

    fn alpn(&self, offered: &[Vec<u8>]) -> Option<&Self> {
        offered
            .iter()
            .find_map(|name| self.text(std::str::from_utf8(name).ok()?))
    }
}

impl Target<'_> {
    fn source_type(&self) -> SourceType {
        let Some(source) = self.source else {
            // Pipes have no address that could differ.
            return SourceType::SameIpOrLoopback;
        };
        let same = self.destination.is_some_and(|local| local.ip() == source.ip());
        match same || source.ip().is_loopback() {
            true => SourceType::SameIpOrLoopback,
            false => SourceType::External,
        }
    }
}

#[cfg(test)]
mod tests;
