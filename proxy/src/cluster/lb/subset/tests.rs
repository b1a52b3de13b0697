use remora_proto::pb::google::protobuf::ListValue;

use super::*;
use crate::cluster::lb::Turn;
use crate::runtime::io::Address;

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

fn list(values: &[&str]) -> Value {
    let values = values.iter().map(|value| text(value)).collect();
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

fn metadata(fields: &[(&str, Value)]) -> Metadata {
    let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let fields = Struct {
        fields: fields.collect(),
    };
    Metadata {
        filter_metadata: [(NAMESPACE.to_owned(), fields)].into_iter().collect(),
        ..Metadata::default()
    }
}

fn host(port: u16, fields: &[(&str, Value)]) -> Arc<Host> {
    let mut host = Host::new(Address::Ip(([10, 0, 0, 1], port).into()));
    host.metadata = Some(Arc::new(metadata(fields)));
    Arc::new(host)
}

fn selector(keys: &[&str], fallback: SelectorFallback) -> Selector {
    Selector {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        fallback,
        ..Selector::default()
    }
}

struct World {
    config: SubsetConfig,
    hosts: Vec<Arc<Host>>,
}

impl World {
    /// Ports 1 and 2 are v1 (in prod and dev), 3 is v2 in prod, 4 has no version.
    fn new(config: SubsetConfig) -> Self {
        let hosts = vec![
            host(1, &[("version", text("v1")), ("stage", text("prod"))]),
            host(2, &[("version", text("v1")), ("stage", text("dev"))]),
            host(3, &[("version", text("v2")), ("stage", text("prod"))]),
            host(4, &[("stage", text("dev"))]),
        ];
        Self { config, hosts }
    }

    /// Ports that a request with these criteria may get, in order; and the stats.
    fn ports(&self, criteria: &[(&str, Value)]) -> (Vec<u16>, ClusterStats) {
        let lb = LbConfig {
            policy: crate::cluster::lb::Policy::Random,
            ..LbConfig::default()
        };
        let policy = AssignmentPolicy::default();
        let everybody = PrioritySet::build(&self.hosts, &policy, &lb, &PrioritySet::default());
        let subsets = Subsets::build(&self.config, &self.hosts, &policy, &lb, None);
        let stats = ClusterStats::default();
        let metadata = metadata(criteria);
        let context = PickContext {
            metadata_match: (!criteria.is_empty()).then_some(&metadata),
            ..PickContext::default()
        };
        let mut rng = fastrand::Rng::with_seed(1);
        let mut ports = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let search = Search {
                config: &self.config,
                subsets: &subsets,
                everybody: &everybody,
                stats: &stats,
            };
            let picked = search.pick(&context, &mut |set| {
                let choice = set.choose(&set.loads, rng.u64(..))?;
                choice.group.pick(Turn::default(), &mut || rng.u64(..)).cloned()
            });
            ports.extend(picked.and_then(|host| Some(host.address.ip()?.port())));
        }
        (ports.into_iter().collect(), stats)
    }
}

fn by_version(fallback: Fallback) -> SubsetConfig {
    SubsetConfig {
        fallback,
        default_subset: vec![("stage".to_owned(), text("dev"))],
        selectors: vec![
            selector(&["version"], SelectorFallback::Cluster),
            selector(&["stage", "version"], SelectorFallback::Cluster),
        ],
        ..SubsetConfig::default()
    }
}

#[test]
fn a_request_gets_the_hosts_with_exactly_its_keys_and_values() {
    let world = World::new(by_version(Fallback::None));
    let (ports, stats) = world.ports(&[("version", text("v1"))]);
    assert_eq!((ports, stats.lb_subsets_selected.value()), (vec![1, 2], 100));
    let (ports, _) = world.ports(&[("version", text("v1")), ("stage", text("prod"))]);
    assert_eq!(ports, [1]);
    // A value that no host has, a key that no selector has, one key too many, none at all.
    for criteria in [
        vec![("version", text("v3"))],
        vec![("stage", text("prod"))],
        vec![("version", text("v1")), ("colour", text("red"))],
        vec![],
    ] {
        let (ports, stats) = world.ports(&criteria);
        assert_eq!((ports, stats.lb_subsets_fallback.value()), (vec![], 0), "{criteria:?}");
    }
}

#[test]
fn without_a_subset_the_fallback_decides() {
    let unknown = [("version", text("v3"))];
    let (ports, stats) = World::new(by_version(Fallback::Any)).ports(&unknown);
    assert_eq!((ports, stats.lb_subsets_fallback.value()), (vec![1, 2, 3, 4], 100));
    let (ports, _) = World::new(by_version(Fallback::Default)).ports(&unknown);
    assert_eq!(ports, [2, 4]);
    let (ports, _) = World::new(by_version(Fallback::Default)).ports(&[]);
    assert_eq!(ports, [2, 4]);
}

#[test]
fn in_panic_any_host_stands_in_for_an_empty_default() {
    let mut config = by_version(Fallback::Default);
    config.default_subset = vec![("stage".to_owned(), text("test"))];
    config.panic_mode_any = true;
    let (ports, stats) = World::new(config).ports(&[]);
    assert_eq!(
        (ports, stats.lb_subsets_fallback_panic.value()),
        (vec![1, 2, 3, 4], 100)
    );
}

#[test]
fn a_selectors_own_fallback_wins() {
    let mut config = by_version(Fallback::Any);
    let prod_v9 = [("stage", text("prod")), ("version", text("v9"))];
    for (fallback, expected) in [
        (SelectorFallback::One(Fallback::None), vec![]),
        (SelectorFallback::One(Fallback::Any), vec![1, 2, 3, 4]),
        (SelectorFallback::One(Fallback::Default), vec![2, 4]),
        (SelectorFallback::Keys(vec!["stage".to_owned()]), vec![1, 3]),
    ] {
        config.selectors = vec![
            selector(&["stage"], SelectorFallback::Cluster),
            selector(&["stage", "version"], fallback.clone()),
        ];
        let world = World::new(config.clone());
        assert_eq!(world.ports(&prod_v9).0, expected, "{fallback:?}");
    }
}

#[test]
fn lists_redundant_keys_and_single_hosts() {
    let mut world = World::new(by_version(Fallback::None));
    world.hosts.push(host(5, &[("version", list(&["v2", "v5"]))]));
    assert_eq!(world.ports(&[("version", text("v5"))]).0, [0u16; 0]);
    world.config.list_as_any = true;
    assert_eq!(world.ports(&[("version", text("v5"))]).0, [5]);
    assert_eq!(world.ports(&[("version", text("v2"))]).0, [3, 5]);
    let redundant = [("version", text("v1")), ("colour", text("red"))];
    assert_eq!(world.ports(&redundant).0, [0u16; 0]);
    world.config.allow_redundant_keys = true;
    assert_eq!(world.ports(&redundant).0, [1, 2]);
    world.config.selectors[0].single_host = true;
    assert_eq!(world.ports(&[("version", text("v1"))]).0, [1]);
}

#[test]
fn a_fallback_list_is_tried_in_order() {
    let mut world = World::new(by_version(Fallback::None));
    world.config.metadata_fallback = true;
    let to = |version: &str| Value {
        kind: Some(Kind::StructValue(Struct {
            fields: [("version".to_owned(), text(version))].into_iter().collect(),
        })),
    };
    let tries = Value {
        kind: Some(Kind::ListValue(ListValue {
            values: vec![to("v7"), to("v2"), to("v1")],
        })),
    };
    let criteria = [("stage", text("prod")), ("version", text("v1")), (FALLBACK_LIST, tries)];
    assert_eq!(world.ports(&criteria).0, [3]);
}

#[test]
fn subsets_come_and_go_with_their_hosts_and_are_counted() {
    let mut world = World::new(by_version(Fallback::None));
    let (lb, policy, stats) = (
        LbConfig::default(),
        AssignmentPolicy::default(),
        ClusterStats::default(),
    );
    let first = Subsets::build(&world.config, &world.hosts, &policy, &lb, None);
    first.count(None, &stats);
    // v1, v2; prod v1, dev v1, prod v2.
    assert_eq!(
        (stats.lb_subsets_active.value(), stats.lb_subsets_created.value()),
        (5, 5)
    );
    world.hosts.remove(2);
    world.hosts.push(host(6, &[("version", text("v3"))]));
    let second = Subsets::build(&world.config, &world.hosts, &policy, &lb, Some(&first));
    second.count(Some(&first), &stats);
    let counts = [&stats.lb_subsets_created, &stats.lb_subsets_removed].map(|counter| counter.value());
    assert_eq!((stats.lb_subsets_active.value(), counts), (4, [6, 2]));
}
