//! `cluster`, `weighted_clusters` and `metadata_match`.

use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use crate::config::{Compiled, Problems};
use crate::http::exchange::FilterState;
use crate::listener::ConnectionInfo;

/// Filter state that overrides the cluster: what `sni_cluster` sets.
pub const CLUSTER_KEY: &str = "envoy.tcp_proxy.cluster";

/// Where connections may go.
pub(super) struct Clusters {
    entries: Vec<Entry>,
    /// Of the whole filter.
    metadata_match: Option<Metadata>,
}

struct Entry {
    name: Arc<str>,
    /// The upper end of its share; the last one's is the total.
    end: u64,
    /// Its own, over the filter's.
    metadata_match: Option<Metadata>,
}

/// One connection's choice.
pub(super) struct Chosen<'a> {
    pub(super) name: &'a str,
    pub(super) metadata_match: Option<&'a Metadata>,
}

impl Clusters {
    pub(super) fn compile(config: &pb::TcpProxy) -> Compiled<Self> {
        use pb::tcp_proxy::ClusterSpecifier;
        let mut entries = Vec::new();
        match &config.cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => entries.push(Entry {
                name: Arc::from(name.as_str()),
                end: 1,
                metadata_match: None,
            }),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                let mut total = 0;
                for (index, cluster) in weighted.clusters.iter().enumerate() {
                    if cluster.weight == 0 {
                        let path = format!("weighted_clusters.clusters[{index}].weight");
                        return Err(Problems::one(path, "must be at least 1"));
                    }
                    total += u64::from(cluster.weight);
                    let merged = |own: &Metadata| merge(config.metadata_match.as_ref(), own);
                    entries.push(Entry {
                        name: Arc::from(cluster.name.as_str()),
                        end: total,
                        metadata_match: cluster.metadata_match.as_ref().map(merged),
                    });
                }
            }
            None => return Err(Problems::one("cluster_specifier", "required")),
        }
        if entries.is_empty() {
            return Err(Problems::one("weighted_clusters.clusters", "required"));
        }
        Ok(Self {
            entries,
            metadata_match: config.metadata_match.clone(),
        })
    }

    /// One by weight, unless a filter before has named it.
    pub(super) fn choose<'a>(&'a self, connection: &'a ConnectionInfo) -> Chosen<'a> {
        let named = connection.extensions.get::<FilterState>();
        if let Some(name) = named.and_then(|state| state.0.get(CLUSTER_KEY)) {
            return Chosen {
                name,
                metadata_match: self.metadata_match.as_ref(),
            };
        }
        let total = self.entries.last().map_or(1, |entry| entry.end);
        let draw = if total == 1 { 0 } else { fastrand::u64(..total) };
        let entry = self.entries.iter().find(|entry| draw < entry.end);
        Chosen {
            name: entry.map_or("", |entry| &entry.name),
            metadata_match: entry
                .and_then(|entry| entry.metadata_match.as_ref())
                .or(self.metadata_match.as_ref()),
        }
    }
}

/// Fields of `own` win over those of `base`.
fn merge(base: Option<&Metadata>, own: &Metadata) -> Metadata {
    let mut merged = base.cloned().unwrap_or_default();
    for (namespace, fields) in &own.filter_metadata {
        let into = merged.filter_metadata.entry(namespace.clone()).or_default();
        into.fields
            .extend(fields.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    merged
}
