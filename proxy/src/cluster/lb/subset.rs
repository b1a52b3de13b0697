//! Subsets: hosts divided by their metadata, and the one that a request asks for.
//!
//! Each subset is a [`PrioritySet`] of its own, with its own loads and panic, made anew with the cluster's hosts. A request's criteria are
//! held against the selectors: equal key sets, then a look-up by the hash of the values; nothing is copied.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::google::protobuf::value::Kind;
use remora_proto::pb::google::protobuf::{Struct, Value};

use super::LbConfig;
use crate::cluster::host::{Host, HostState};
use crate::cluster::pick::PickContext;
use crate::cluster::priority::{AssignmentPolicy, PrioritySet};
use crate::cluster::stats::ClusterStats;

/// The namespace of metadata that subsets are made of.
pub const NAMESPACE: &str = "envoy.lb";
/// The criterion that lists what to try instead, one after the other.
const FALLBACK_LIST: &str = "fallback_list";

/// `LbSubsetConfig`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubsetConfig {
    pub fallback: Fallback,
    pub default_subset: Vec<(String, Value)>,
    pub selectors: Vec<Selector>,
    pub locality_weight_aware: bool,
    pub scale_locality_weight: bool,
    pub panic_mode_any: bool,
    pub list_as_any: bool,
    /// A request may ask for more than a selector knows.
    pub allow_redundant_keys: bool,
    /// `FALLBACK_LIST`
    pub metadata_fallback: bool,
}

/// What happens to requests without a subset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    None,
    Any,
    Default,
}

/// `LbSubsetSelector`; keys in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    pub keys: Vec<String>,
    pub single_host: bool,
    pub fallback: SelectorFallback,
}

/// What happens to requests with the keys of a selector and values that no host has.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SelectorFallback {
    /// What the cluster says.
    #[default]
    Cluster,
    One(Fallback),
    /// Once more with these keys alone.
    Keys(Vec<String>),
}

/// All subsets at one moment.
#[derive(Default)]
pub struct Subsets {
    /// Per selector, by the hash of the values.
    by_selector: Vec<HashMap<u64, Vec<Subset>>>,
    default: Option<PrioritySet>,
}

struct Subset {
    values: Vec<Value>,
    hosts: Members,
}

enum Members {
    /// `single_host_per_subset`: this one, whatever its health.
    One(Arc<Host>),
    Many(PrioritySet),
}

impl Subsets {
    /// Divides `hosts`; `previous` lends its rotation positions.
    pub fn build(
        config: &SubsetConfig,
        hosts: &[Arc<Host>],
        policy: &AssignmentPolicy,
        lb: &LbConfig,
        previous: Option<&Self>,
    ) -> Self {
        let set = |members: &[Arc<Host>], previous: Option<&PrioritySet>| {
            let policy = policy_of(config, members, hosts, policy);
            let nothing = PrioritySet::default();
            PrioritySet::build(members, &policy, lb, previous.unwrap_or(&nothing))
        };
        let by_selector = config.selectors.iter().enumerate().map(|(index, selector)| {
            let mut subsets: HashMap<u64, Vec<Subset>> = HashMap::new();
            for (values, members) in divide(config, selector, hosts) {
                let hash = hash_all(values.iter());
                let before = previous.and_then(|previous| previous.find(index, hash, values.iter()));
                let members = match (selector.single_host, members.first()) {
                    (true, Some(first)) => Members::One(first.clone()),
                    _ => Members::Many(set(&members, before.and_then(Subset::set))),
                };
                subsets.entry(hash).or_default().push(Subset { values, hosts: members });
            }
            subsets
        });
        let by_selector = by_selector.collect();
        let matching = || -> Vec<Arc<Host>> {
            let matches = |host: &&Arc<Host>| is_like(host, &config.default_subset, config.list_as_any);
            hosts.iter().filter(matches).cloned().collect()
        };
        Self {
            by_selector,
            default: config.uses_default().then(|| {
                let before = previous.and_then(|previous| previous.default.as_ref());
                set(&matching(), before)
            }),
        }
    }

    /// Brings the stats of subsets up to date with the change from `previous` to this.
    pub fn count(&self, previous: Option<&Self>, stats: &ClusterStats) {
        let missing = |of: &Self, from: Option<&Self>| {
            let found = |(index, hash, subset): &(usize, u64, &Subset)| {
                from.is_some_and(|from| from.find(*index, *hash, subset.values.iter()).is_some())
            };
            of.all().filter(|entry| !found(entry)).count() as u64
        };
        stats.lb_subsets_created.add(missing(self, previous));
        stats
            .lb_subsets_removed
            .add(previous.map_or(0, |previous| missing(previous, Some(self))));
        stats.lb_subsets_active.set(self.all().count() as u64);
    }

    /// The hosts that some request can find; `None` where every request that finds no subset may go to anybody.
    pub fn findable(&self, config: &SubsetConfig) -> Option<HashSet<*const HostState>> {
        let goes_anywhere = |selector: &Selector| matches!(selector.fallback, SelectorFallback::One(Fallback::Any));
        let in_panic = config.panic_mode_any && config.fallback != Fallback::None;
        if config.fallback == Fallback::Any || in_panic || config.selectors.iter().any(goes_anywhere) {
            return None;
        }
        let mut found: HashSet<*const HostState> = HashSet::new();
        let mut add = |host: &Arc<Host>| {
            found.insert(Arc::as_ptr(&host.state));
        };
        for (_, _, subset) in self.all() {
            match &subset.hosts {
                Members::One(host) => add(host),
                Members::Many(set) => set.hosts().for_each(&mut add),
            }
        }
        self.default.iter().flat_map(PrioritySet::hosts).for_each(&mut add);
        Some(found)
    }

    fn all(&self) -> impl Iterator<Item = (usize, u64, &Subset)> {
        let of = |(index, subsets): (usize, _)| {
            let subsets: &HashMap<u64, Vec<Subset>> = subsets;
            let of = move |(hash, list): (&u64, _)| {
                let (hash, list): (u64, &Vec<Subset>) = (*hash, list);
                list.iter().map(move |subset| (index, hash, subset))
            };
            subsets.iter().flat_map(of)
        };
        self.by_selector.iter().enumerate().flat_map(of)
    }

    fn find<'v>(&self, selector: usize, hash: u64, values: impl Iterator<Item = &'v Value> + Clone) -> Option<&Subset> {
        let candidates = self.by_selector.get(selector)?.get(&hash)?;
        candidates.iter().find(|subset| subset.values.iter().eq(values.clone()))
    }
}

impl Subset {
    fn set(&self) -> Option<&PrioritySet> {
        match &self.hosts {
            Members::One(_) => None,
            Members::Many(set) => Some(set),
        }
    }
}

impl SubsetConfig {
    fn uses_default(&self) -> bool {
        let is_default = |selector: &Selector| selector.fallback == SelectorFallback::One(Fallback::Default);
        self.fallback == Fallback::Default || self.selectors.iter().any(is_default)
    }
}

/// What a request asks for, without copying it.
#[derive(Clone, Copy, Default)]
struct Criteria<'a> {
    base: Option<&'a Struct>,
    /// An entry of the fallback list: wins over `base`.
    over: Option<&'a Struct>,
    /// Only these count.
    keys: Option<&'a [String]>,
    without_list: bool,
}

impl<'a> Criteria<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let is_left_out = (self.without_list && key == FALLBACK_LIST)
            || self.keys.is_some_and(|keys| !keys.iter().any(|own| own == key));
        if is_left_out {
            return None;
        }
        let of = |fields: Option<&'a Struct>| fields.and_then(|fields| fields.fields.get(key));
        of(self.over).or_else(|| of(self.base))
    }

    fn len(&self) -> usize {
        let over = self.over.into_iter().flat_map(|fields| fields.fields.keys());
        let in_over = |key: &String| self.over.is_some_and(|over| over.fields.contains_key(key));
        let base = self.base.into_iter().flat_map(|fields| fields.fields.keys());
        let base = base.filter(|key| !in_over(key));
        over.chain(base).filter(|key| self.get(key).is_some()).count()
    }

    fn values<'k>(&self, keys: &'k [String]) -> impl Iterator<Item = &'a Value> + Clone + use<'a, 'k> {
        let criteria = *self;
        keys.iter().filter_map(move |key| criteria.get(key))
    }

    fn has_all(&self, keys: &[String]) -> bool {
        keys.iter().all(|key| self.get(key).is_some())
    }
}

/// One look for a host, Envoy's `SubsetLoadBalancer::chooseHost`.
pub struct Search<'a> {
    pub config: &'a SubsetConfig,
    pub subsets: &'a Subsets,
    pub everybody: &'a PrioritySet,
    pub stats: &'a ClusterStats,
}

type Picked = Option<Arc<Host>>;

impl Search<'_> {
    /// `balance` picks among the hosts of a set.
    pub fn pick(&self, context: &PickContext<'_>, balance: &mut dyn FnMut(&PrioritySet) -> Picked) -> Picked {
        let base = context.metadata_match.and_then(fields);
        let criteria = Criteria {
            base,
            ..Criteria::default()
        };
        let list = base.and_then(|fields| fields.fields.get(FALLBACK_LIST));
        let (true, Some(list)) = (self.config.metadata_fallback, list) else {
            return self.round(criteria, balance);
        };
        let criteria = Criteria {
            without_list: true,
            ..criteria
        };
        let tries = match &list.kind {
            Some(Kind::ListValue(list)) => list.values.as_slice(),
            _ => &[],
        };
        if tries.is_empty() {
            return self.round(criteria, balance);
        }
        tries.iter().find_map(|over| {
            let over = match &over.kind {
                Some(Kind::StructValue(over)) => Some(over),
                _ => None,
            };
            self.round(Criteria { over, ..criteria }, balance)
        })
    }

    fn round(&self, criteria: Criteria<'_>, balance: &mut dyn FnMut(&PrioritySet) -> Picked) -> Picked {
        if let Some((index, selector)) = self.selector(&criteria) {
            let values = criteria.values(&selector.keys);
            if let Some(subset) = self.subsets.find(index, hash_all(values.clone()), values) {
                self.stats.lb_subsets_selected.inc();
                // Whether or not it has a host that may be used.
                return match &subset.hosts {
                    Members::One(host) => Some(host.clone()),
                    Members::Many(set) => balance(set),
                };
            }
            match &selector.fallback {
                SelectorFallback::Cluster => {}
                SelectorFallback::One(fallback) => return self.set(*fallback).and_then(balance),
                SelectorFallback::Keys(keys) => {
                    let keys = Some(keys.as_slice());
                    return self.round(Criteria { keys, ..criteria }, balance);
                }
            }
        }
        if let Some(host) = self.set(self.config.fallback).and_then(&mut *balance) {
            self.stats.lb_subsets_fallback.inc();
            return Some(host);
        }
        if !self.config.panic_mode_any || self.config.fallback == Fallback::None {
            return None;
        }
        let host = balance(self.everybody)?;
        self.stats.lb_subsets_fallback_panic.inc();
        Some(host)
    }

    fn set(&self, fallback: Fallback) -> Option<&PrioritySet> {
        match fallback {
            Fallback::None => None,
            Fallback::Any => Some(self.everybody),
            Fallback::Default => self.subsets.default.as_ref(),
        }
    }

    fn selector(&self, criteria: &Criteria<'_>) -> Option<(usize, &Selector)> {
        let count = criteria.len();
        let fits = |selector: &Selector| {
            (selector.keys.len() == count || (self.config.allow_redundant_keys && selector.keys.len() < count))
                && criteria.has_all(&selector.keys)
        };
        let mut selectors = self.config.selectors.iter().enumerate();
        selectors.find(|(_, selector)| count > 0 && fits(selector))
    }
}

fn fields(metadata: &Metadata) -> Option<&Struct> {
    metadata.filter_metadata.get(NAMESPACE)
}

/// Whether a host's metadata has all of `labels`; with `list_as_any`, one element of a list is enough.
pub fn is_like(host: &Host, labels: &[(String, Value)], list_as_any: bool) -> bool {
    let own = host.metadata.as_deref().and_then(fields);
    labels.iter().all(|(key, wanted)| {
        let value = own.and_then(|own| own.fields.get(key));
        value.is_some_and(|value| match &value.kind {
            Some(Kind::ListValue(list)) if list_as_any => list.values.contains(wanted),
            _ => value == wanted,
        })
    })
}

/// The hosts that have all keys of the selector, by their values, in order of appearance.
fn divide(config: &SubsetConfig, selector: &Selector, hosts: &[Arc<Host>]) -> Vec<(Vec<Value>, Vec<Arc<Host>>)> {
    let mut subsets: Vec<(Vec<Value>, Vec<Arc<Host>>)> = Vec::new();
    let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::new();
    for host in hosts {
        for values in combinations(config, selector, host) {
            let candidates = by_hash.entry(hash_all(values.iter())).or_default();
            match candidates.iter().find(|index| subsets[**index].0 == values) {
                Some(index) => subsets[*index].1.push(host.clone()),
                None => {
                    candidates.push(subsets.len());
                    subsets.push((values, vec![host.clone()]));
                }
            }
        }
    }
    subsets
}

/// The values of a host for the keys: one combination, or with `list_as_any` one for each choice from its lists.
fn combinations(config: &SubsetConfig, selector: &Selector, host: &Host) -> Vec<Vec<Value>> {
    let Some(own) = host.metadata.as_deref().and_then(fields) else {
        return Vec::new();
    };
    let mut all = vec![Vec::new()];
    for key in &selector.keys {
        let Some(value) = own.fields.get(key) else {
            return Vec::new();
        };
        let choices = match &value.kind {
            Some(Kind::ListValue(list)) if config.list_as_any => list.values.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let longer = |values: Vec<Value>| {
            let with = move |choice: &Value| values.iter().chain([choice]).cloned().collect::<Vec<_>>();
            choices.iter().map(with).collect::<Vec<_>>()
        };
        all = all.into_iter().flat_map(longer).collect();
    }
    all
}

/// Weights of localities count within a subset only where it is aware of them.
fn policy_of(
    config: &SubsetConfig,
    members: &[Arc<Host>],
    everybody: &[Arc<Host>],
    policy: &AssignmentPolicy,
) -> AssignmentPolicy {
    let mut policy = policy.clone();
    if !config.locality_weight_aware {
        policy.locality_weights.clear();
    } else if config.scale_locality_weight {
        for ((priority, locality), weight) in &mut policy.locality_weights {
            let count = |hosts: &[Arc<Host>]| {
                let here = |host: &&Arc<Host>| host.priority == *priority && host.locality == *locality;
                hosts.iter().filter(here).count() as f64
            };
            let scaled = (f64::from(*weight) * count(members) / count(everybody).max(1.0)).round();
            *weight = (scaled as u32).max(u32::from(*weight > 0));
        }
    }
    policy
}

fn hash_all<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    values.fold(0, |sum: u64, value| mix(sum, hash(value)))
}

fn hash(value: &Value) -> u64 {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => 1,
        Some(Kind::NumberValue(number)) => mix(2, number.to_bits()),
        Some(Kind::StringValue(text)) => xxhash_rust::xxh64::xxh64(text.as_bytes(), 3),
        Some(Kind::BoolValue(truth)) => mix(4, u64::from(*truth)),
        Some(Kind::ListValue(list)) => mix(5, hash_all(list.values.iter())),
        // The fields have no order.
        Some(Kind::StructValue(fields)) => fields.fields.iter().fold(6, |sum: u64, (key, value)| {
            sum.wrapping_add(mix(xxhash_rust::xxh64::xxh64(key.as_bytes(), 7), hash(value)))
        }),
    }
}

fn mix(sum: u64, next: u64) -> u64 {
    (sum.rotate_left(23) ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests;
