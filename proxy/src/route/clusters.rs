//! Which cluster a route sends to: one by name, one that a header names, or one of several by weight.

use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::headers::HeaderKey;
use super::per_filter::PerFilter;
use super::view::RequestView;
use crate::config::live::Amount;
use crate::config::route::{Under, each, refuse};
use crate::config::{Compiled, Problems};
use crate::http::header_policy::mutations::LevelMutations;

/// `cluster`, `cluster_header` or `weighted_clusters`.
pub enum ClusterSpecifier {
    Name(Arc<str>),
    Header(HeaderKey),
    Weighted(WeightedClusters),
}

/// `envoy.config.route.v3.WeightedCluster`
pub struct WeightedClusters {
    pub entries: Vec<WeightedEntry>,
    total: u64,
    random: RandomValue,
    /// With a `runtime_key_prefix`: what the weight of each entry is set to, over its own.
    overrides: Vec<Amount>,
}

/// One entry, with what it adds to its route.
pub struct WeightedEntry {
    target: Target,
    /// Sum of the weights up to and with this entry.
    until: u64,
    /// Merged over the route's: this entry's fields win.
    pub metadata_match: Option<Arc<Metadata>>,
    pub mutations: LevelMutations,
    pub per_filter: PerFilter,
    pub host_rewrite: Option<http::HeaderValue>,
}

enum Target {
    Name(Arc<str>),
    Header(HeaderKey),
}

#[derive(Debug)]
enum RandomValue {
    Stream,
    Header(HeaderKey),
    Hash,
}

/// What was chosen: the cluster's name, and which weighted entry if any.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    pub cluster: Arc<str>,
    pub weighted: Option<u32>,
}

impl ClusterSpecifier {
    pub fn compile(value: &pbr::RouteAction) -> Compiled<Self> {
        use pbr::route_action::ClusterSpecifier as C;
        Ok(match &value.cluster_specifier {
            Some(C::Cluster(name)) => Self::Name(name.as_str().into()),
            Some(C::ClusterHeader(name)) => Self::Header(HeaderKey::compile("cluster_header", name)?),
            Some(C::WeightedClusters(weighted)) => {
                let base = value.metadata_match.as_ref();
                Self::Weighted(WeightedClusters::compile(weighted, base).under("weighted_clusters")?)
            }
            Some(C::ClusterSpecifierPlugin(_)) => {
                return Err(Problems::one("cluster_specifier_plugin", "is not supported"));
            }
            Some(C::InlineClusterSpecifierPlugin(_)) => {
                return Err(Problems::one("inline_cluster_specifier_plugin", "is not supported"));
            }
            None => return Err(Problems::one("cluster_specifier", "is required")),
        })
    }

    /// The cluster for one request; `hash` as the route's hash policies say. `None`: a header that should name it is missing.
    pub fn choose(&self, view: &RequestView<'_>, hash: Option<u64>) -> Option<Chosen> {
        match self {
            Self::Name(name) => Some(Chosen {
                cluster: name.clone(),
                weighted: None,
            }),
            Self::Header(key) => Some(Chosen {
                cluster: named_by(key, view)?,
                weighted: None,
            }),
            Self::Weighted(weighted) => weighted.choose(view, hash),
        }
    }
}

fn named_by(key: &HeaderKey, view: &RequestView<'_>) -> Option<Arc<str>> {
    let value = key.first(view)?;
    let name = std::str::from_utf8(&value).ok()?;
    (!name.is_empty()).then(|| name.into())
}

impl WeightedClusters {
    #[allow(deprecated, reason = "total_weight is refused, not ignored")]
    fn compile(value: &pbr::WeightedCluster, base: Option<&Metadata>) -> Compiled<Self> {
        use pbr::weighted_cluster::RandomValueSpecifier as R;
        let mut total = 0u64;
        let mut untils = Vec::with_capacity(value.clusters.len());
        for cluster in &value.clusters {
            total += u64::from(cluster.weight.map_or(0, |weight| weight.value));
            untils.push(total);
        }
        if total == 0 || total > u64::from(u32::MAX) {
            return Err(Problems::one("clusters", "the weights must add up to 1..=4294967295"));
        }
        if let Some(declared) = value.total_weight {
            refuse(
                "total_weight",
                u64::from(declared.value) != total,
                "differs from the sum of the weights",
            )?;
        }
        let mut entries = each("clusters", &value.clusters, |cluster| {
            WeightedEntry::compile(cluster, base)
        })?;
        for (entry, until) in entries.iter_mut().zip(untils) {
            entry.until = until;
        }
        let random = match &value.random_value_specifier {
            None => RandomValue::Stream,
            Some(R::HeaderName(name)) => RandomValue::Header(HeaderKey::compile("header_name", name)?),
            Some(R::UseHashPolicy(flag)) if flag.value => RandomValue::Hash,
            Some(R::UseHashPolicy(_)) => RandomValue::Stream,
        };
        let prefix = &value.runtime_key_prefix;
        let named = value.clusters.iter().filter(|_| !prefix.is_empty());
        let overrides = named.map(|cluster| Amount::named(&format!("{prefix}.{}", cluster.name)));
        Ok(Self {
            entries,
            total,
            random,
            overrides: overrides.collect(),
        })
    }

    /// The entry that a random number falls on.
    fn draw(&self, random: u64) -> usize {
        if self.overrides.is_empty() {
            let point = random % self.total;
            return self.entries.partition_point(|entry| entry.until <= point);
        }
        let weights = (0..self.entries.len()).map(|index| self.weight(index));
        let total = weights.fold(0u64, u64::saturating_add);
        let mut point = random.checked_rem(total).unwrap_or(0);
        for index in 0..self.entries.len() {
            let weight = self.weight(index);
            if point < weight {
                return index;
            }
            point -= weight;
        }
        // A weight has just been changed.
        self.entries.len().saturating_sub(1)
    }

    fn weight(&self, index: usize) -> u64 {
        let until = |index: usize| self.entries.get(index).map_or(0, |entry| entry.until);
        let before = index.checked_sub(1).map_or(0, until);
        let set = self.overrides.get(index).and_then(Amount::now);
        set.unwrap_or(until(index) - before)
    }

    fn choose(&self, view: &RequestView<'_>, hash: Option<u64>) -> Option<Chosen> {
        let random = match &self.random {
            RandomValue::Stream => view.random,
            RandomValue::Hash => hash.unwrap_or(view.random),
            RandomValue::Header(key) => {
                let value = key.of(view);
                let number = value
                    .as_deref()
                    .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
                number.unwrap_or(view.random)
            }
        };
        let index = self.draw(random);
        let cluster = match &self.entries.get(index)?.target {
            Target::Name(name) => name.clone(),
            Target::Header(key) => named_by(key, view)?,
        };
        Some(Chosen {
            cluster,
            weighted: u32::try_from(index).ok(),
        })
    }
}

impl WeightedEntry {
    fn compile(value: &pbr::weighted_cluster::ClusterWeight, base: Option<&Metadata>) -> Compiled<Self> {
        use pbr::weighted_cluster::cluster_weight::HostRewriteSpecifier;
        let target = match (value.name.is_empty(), value.cluster_header.is_empty()) {
            (false, true) => Target::Name(value.name.as_str().into()),
            (true, false) => Target::Header(HeaderKey::compile("cluster_header", &value.cluster_header)?),
            _ => {
                return Err(Problems::one(
                    "name",
                    "exactly one of name and cluster_header is needed",
                ));
            }
        };
        let host_rewrite = match &value.host_rewrite_specifier {
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if host.is_empty() => None,
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(
                http::HeaderValue::from_str(host)
                    .map_err(|_| Problems::one("host_rewrite_literal", "is not a header value"))?,
            ),
            None => None,
        };
        Ok(Self {
            target,
            until: 0,
            metadata_match: value.metadata_match.as_ref().map(|own| Arc::new(merge(base, own))),
            mutations: LevelMutations::compile(
                &value.request_headers_to_add,
                &value.request_headers_to_remove,
                &value.response_headers_to_add,
                &value.response_headers_to_remove,
            )?,
            per_filter: PerFilter::compile(&value.typed_per_filter_config)?,
            host_rewrite,
        })
    }
}

/// The `envoy.lb` fields of both; `own` wins.
fn merge(base: Option<&Metadata>, own: &Metadata) -> Metadata {
    let mut merged = base.cloned().unwrap_or_default();
    for (namespace, fields) in &own.filter_metadata {
        let target = merged.filter_metadata.entry(namespace.clone()).or_default();
        target
            .fields
            .extend(fields.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    merged
}
