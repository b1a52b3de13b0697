//! ORIGINAL_DST: the host is wherever the client wanted to go, made on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::cluster::host::{Host, HostRegistry};
use crate::http::exchange::DynamicMetadata;
use crate::runtime::io::Address;
use crate::telemetry::stats::Counter;
use remora_proto::pb::google::protobuf::value::Kind;

/// `OriginalDstLbConfig`. Where the destination comes from is the caller's: it fills `PickContext::original_destination` from the header,
/// the metadata or the filter state named here, in Envoy's order, else from the connection.
#[derive(Clone, Debug, PartialEq)]
pub struct OriginalDst {
    /// `use_http_header`: the header to read, `x-envoy-original-dst-host` by default.
    pub http_header: Option<http::HeaderName>,
    /// `metadata_key`: namespace, then path of keys in the request's dynamic metadata.
    pub metadata_key: Option<(String, Vec<String>)>,
    /// Wins over any port that was found.
    pub port_override: Option<u16>,
    /// How long an unused host is kept: `cleanup_interval`, 5 s by default.
    pub cleanup_interval: Duration,
}

impl Default for OriginalDst {
    fn default() -> Self {
        Self {
            http_header: None,
            metadata_key: None,
            port_override: None,
            cleanup_interval: Duration::from_secs(5),
        }
    }
}

const SHARDS: usize = 16;

type Shard = HashMap<SocketAddr, Arc<Entry>>;

struct Entry {
    host: Arc<Host>,
    used: AtomicBool,
}

/// Hosts made so far. Looking one up waits for nobody; a new destination copies one shard.
#[derive(Default)]
pub struct Destinations {
    shards: [ArcSwap<Shard>; SHARDS],
}

impl Destinations {
    /// The host at `address`, made by `make` if it is new.
    pub fn host(&self, address: SocketAddr, make: impl Fn(SocketAddr) -> Host) -> Arc<Host> {
        let shard = &self.shards[shard_of(&address)];
        if let Some(entry) = shard.load().get(&address) {
            // A store that changes nothing would still take the cache line from the other workers.
            if !entry.used.load(Ordering::Relaxed) {
                entry.used.store(true, Ordering::Relaxed);
            }
            return entry.host.clone();
        }
        let made = Arc::new(Entry {
            host: Arc::new(make(address)),
            used: AtomicBool::new(true),
        });
        let mut host = made.host.clone();
        shard.rcu(|current| {
            if let Some(entry) = current.get(&address) {
                host = entry.host.clone();
                return current.clone();
            }
            host = made.host.clone();
            let mut next = Shard::clone(current);
            next.insert(address, made.clone());
            Arc::new(next)
        });
        if Arc::ptr_eq(&host, &made.host) {
            host.state.joined();
        }
        host
    }

    /// Drops what was neither picked since the last sweep nor has connections; returns it.
    pub fn sweep(&self) -> Vec<Arc<Host>> {
        let keep = |entry: &Entry| {
            let state = &entry.host.state;
            entry.used.load(Ordering::Relaxed)
                || state.cx_active.load(Ordering::Relaxed) != 0
                || state.rq_active.load(Ordering::Relaxed) != 0
        };
        let mut gone = Vec::new();
        for shard in &self.shards {
            let current = shard.load_full();
            let unused: Vec<SocketAddr> = current
                .iter()
                .filter(|(_, entry)| !keep(entry))
                .map(|(address, _)| *address)
                .collect();
            if !unused.is_empty() {
                shard.rcu(|current| {
                    let mut next = Shard::clone(current);
                    next.retain(|address, _| !unused.contains(address));
                    next
                });
                gone.extend(
                    unused
                        .iter()
                        .filter_map(|address| Some(current.get(address)?.host.clone())),
                );
            }
            for entry in shard.load().values() {
                entry.used.store(false, Ordering::Relaxed);
            }
        }
        gone
    }

    pub fn hosts(&self) -> Vec<Arc<Host>> {
        let all = self.shards.iter().flat_map(|shard| {
            let shard = shard.load();
            shard.values().map(|entry| entry.host.clone()).collect::<Vec<_>>()
        });
        all.collect()
    }
}

impl OriginalDst {
    /// The address that a request names instead of its connection's own, in Envoy's order: metadata, then the header. What is no address is
    /// counted in `invalid`, and the connection's own destination holds.
    pub fn named(
        &self,
        headers: Option<&http::HeaderMap>,
        extensions: &http::Extensions,
        invalid: &Counter,
    ) -> Option<SocketAddr> {
        let parsed = |text: &str| {
            let address = text.parse().ok();
            if address.is_none() {
                invalid.inc();
            }
            address
        };
        if let Some((namespace, path)) = &self.metadata_key
            && let Some(Kind::StringValue(text)) = extensions
                .get::<DynamicMetadata>()
                .and_then(|metadata| metadata.value(namespace, path)?.kind.as_ref())
            && let Some(address) = parsed(text)
        {
            return Some(address);
        }
        let value = headers?.get(self.http_header.as_ref()?)?;
        parsed(value.to_str().unwrap_or_default())
    }
}

/// A host for `address` whose state the registry shares.
pub fn make_host(registry: &HostRegistry, cluster: &Arc<str>, address: SocketAddr) -> Host {
    let address = Address::Ip(address);
    let mut host = Host::new(address.clone());
    if let Some(state) = registry.states(cluster, std::iter::once(host.key())).pop() {
        host.state = state;
    }
    host.hostname = Arc::from(format!("{cluster}{address}"));
    host
}

fn shard_of(address: &SocketAddr) -> usize {
    use std::hash::BuildHasher;
    (foldhash::fast::FixedState::with_seed(1).hash_one(address) >> 32) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_wins_over_the_header_and_nonsense_is_counted() {
        let config = OriginalDst {
            http_header: Some(http::HeaderName::from_static("x-to")),
            metadata_key: Some(("ns".into(), vec!["to".into()])),
            ..OriginalDst::default()
        };
        let invalid = Counter::default();
        let mut headers = http::HeaderMap::new();
        let mut extensions = http::Extensions::new();
        assert_eq!(config.named(Some(&headers), &extensions, &invalid), None);
        headers.insert("x-to", http::HeaderValue::from_static("10.0.0.1:80"));
        assert_eq!(
            config.named(Some(&headers), &extensions, &invalid),
            "10.0.0.1:80".parse().ok()
        );
        let metadata = extensions.get_or_insert_default::<DynamicMetadata>();
        metadata.set_text("ns", "to".into(), "10.0.0.2:80");
        assert_eq!(config.named(None, &extensions, &invalid), "10.0.0.2:80".parse().ok());
        assert_eq!(invalid.value(), 0);
        headers.insert("x-to", http::HeaderValue::from_static("example.com:80"));
        let none = http::Extensions::new();
        assert_eq!(config.named(Some(&headers), &none, &invalid), None);
        assert_eq!(invalid.value(), 1);
    }

    #[test]
    fn a_destination_has_one_host_until_nobody_uses_it() {
        let destinations = Destinations::default();
        let make = |address| Host::new(Address::Ip(address));
        let address: SocketAddr = ([10, 1, 2, 3], 80).into();
        let first = destinations.host(address, make);
        assert!(Arc::ptr_eq(&first, &destinations.host(address, make)));
        assert!(destinations.sweep().is_empty());
        first.state.cx_active.store(1, Ordering::Relaxed);
        assert!(destinations.sweep().is_empty());
        first.state.cx_active.store(0, Ordering::Relaxed);
        assert_eq!(destinations.sweep().len(), 1);
        assert!(!Arc::ptr_eq(&first, &destinations.host(address, make)));
    }
}
