use std::collections::HashMap;

use parking_lot::Mutex;
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as epb;

use super::*;
use crate::config::BuildContext;

type Answers = HashMap<(&'static str, bool), Result<Vec<IpAddr>, ()>>;

#[derive(Default)]
struct Scripted {
    /// Of a name that is not among them, nothing is ever heard when it begins with `slow`.
    answers: Mutex<Answers>,
    ttl: Duration,
}

impl Resolve for Scripted {
    fn resolve<'a>(&'a self, name: &'a str, v6: bool) -> Resolving<'a> {
        let found = self
            .answers
            .lock()
            .iter()
            .find(|((known, of_v6), _)| *known == name && *of_v6 == v6)
            .map(|(_, answer)| answer.clone());
        let ttl = self.ttl;
        Box::pin(async move {
            if found.is_none() && name.starts_with("slow") {
                std::future::pending::<()>().await;
            }
            match found {
                Some(Ok(addresses)) => Ok(Answer { addresses, ttl }),
                Some(Err(())) | None => Err(ResolveError::new("no answer".to_owned())),
            }
        })
    }
}

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

#[test]
fn an_address_among_names_is_what_its_host_is_called() {
    let config = config(pb::cluster::DiscoveryType::StrictDns as i32, &["127.0.0.1", "a.test"]);
    let built = crate::config::cluster::compile(&config.encode_to_vec(), &BuildContext::default());
    let cluster = built.unwrap_or_else(|problems| panic!("{problems}"));
    let Discovery::Dns(dns) = &cluster.discovery else {
        panic!("no DNS cluster");
    };
    let names: Vec<&str> = dns.templates.iter().map(|template| &*template.hostname).collect();
    assert_eq!(names, ["127.0.0.1", "a.test"]);
}

fn config(kind: i32, names: &[&str]) -> pb::Cluster {
    let endpoint = |name: &&str| epb::LbEndpoint {
        host_identifier: Some(epb::lb_endpoint::HostIdentifier::Endpoint(epb::Endpoint {
            address: Some(core::Address {
                address: Some(core::address::Address::SocketAddress(core::SocketAddress {
                    address: (*name).to_owned(),
                    port_specifier: Some(core::socket_address::PortSpecifier::PortValue(80)),
                    ..Default::default()
                })),
            }),
            ..Default::default()
        })),
        ..Default::default()
    };
    pb::Cluster {
        name: "dns".to_owned(),
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(kind)),
        load_assignment: Some(epb::ClusterLoadAssignment {
            endpoints: vec![epb::LocalityLbEndpoints {
                lb_endpoints: names.iter().map(endpoint).collect(),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn build(config: &pb::Cluster) -> Arc<Cluster> {
    build_in(config, &BuildContext::default())
}

/// The next version of a cluster.
fn built_with(config: &pb::Cluster, old: &Cluster) -> Arc<Cluster> {
    let context = BuildContext {
        hosts: old.registry.clone(),
        ..BuildContext::default()
    };
    build_in(config, &context)
}

fn build_in(config: &pb::Cluster, context: &BuildContext) -> Arc<Cluster> {
    let built = crate::config::cluster::compile(&config.encode_to_vec(), context);
    Arc::new(built.unwrap_or_else(|problems| panic!("{problems}")))
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster
        .all_hosts()
        .iter()
        .map(|host| host.address.to_string())
        .collect()
}

/// Lets the task run until it sleeps, `seconds` later.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn every_address_is_a_host_and_a_failure_keeps_them() {
    let cluster = build(&config(1, &["a.test", "10.0.0.9"]));
    assert!(addresses(&cluster).is_empty());
    let resolver = Arc::new(Scripted::default());
    resolver
        .answers
        .lock()
        .insert(("a.test", false), Ok(vec![v4(1), v4(2)]));
    let running = crate::runtime::spawn::spawn("test", run(Arc::downgrade(&cluster), resolver.clone()));
    pass(1).await;
    assert_eq!(addresses(&cluster), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.9:80"]);
    resolver.answers.lock().insert(("a.test", false), Err(()));
    pass(5).await;
    assert_eq!(addresses(&cluster).len(), 3);
    assert_eq!(cluster.stats.update_failure.value(), 1);
    // That it has none is an answer, and is asked again when any other would be.
    resolver.answers.lock().insert(("a.test", false), Ok(Vec::new()));
    pass(60).await;
    assert_eq!(addresses(&cluster), ["10.0.0.9:80"]);
    let asked = cluster.stats.update_attempt.value();
    pass(5).await;
    assert_eq!(
        cluster.stats.update_attempt.value(),
        asked + 2,
        "one for each of its endpoints"
    );
    assert_eq!(cluster.stats.update_failure.value(), 1);
    resolver.answers.lock().insert(("a.test", false), Ok(vec![v4(2)]));
    pass(60).await;
    assert_eq!(addresses(&cluster), ["10.0.0.2:80", "10.0.0.9:80"]);
    drop(cluster);
    pass(60).await;
    assert!(running.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_answers_for_holds_up_no_other() {
    let cluster = build(&config(1, &["slow.test", "a.test", "failing.test"]));
    let resolver = Arc::new(Scripted::default());
    resolver.answers.lock().insert(("a.test", false), Ok(vec![v4(1)]));
    resolver.answers.lock().insert(("failing.test", false), Err(()));
    crate::runtime::spawn::spawn("test", run(Arc::downgrade(&cluster), resolver.clone()));
    pass(1).await;
    assert_eq!(addresses(&cluster), ["10.0.0.1:80"]);
    resolver.answers.lock().insert(("a.test", false), Ok(vec![v4(2)]));
    pass(5).await;
    assert_eq!(addresses(&cluster), ["10.0.0.2:80"]);
    // It is asked every five seconds, however long the failing one is left alone.
    pass(45).await;
    let stats = &cluster.stats;
    assert_eq!((stats.update_success.value(), stats.update_no_rebuild.value()), (11, 9));
    assert!(stats.update_failure.value() < 11);
}

#[tokio::test(start_paused = true)]
async fn a_logical_cluster_has_one_host_with_every_address() {
    let cluster = build(&config(2, &["a.test"]));
    let resolver = Arc::new(Scripted::default());
    resolver
        .answers
        .lock()
        .insert(("a.test", false), Ok(vec![v4(1), v4(2)]));
    crate::runtime::spawn::spawn("test", run(Arc::downgrade(&cluster), resolver.clone()));
    let others = || {
        cluster.all_hosts()[0]
            .additional_addresses
            .iter()
            .map(Address::to_string)
            .collect::<Vec<_>>()
    };
    pass(1).await;
    assert_eq!(addresses(&cluster), ["10.0.0.1:80"]);
    assert_eq!(others(), ["10.0.0.2:80"]);
    resolver
        .answers
        .lock()
        .insert(("a.test", false), Ok(vec![v4(1), v4(3)]));
    pass(5).await;
    assert_eq!(
        (addresses(&cluster), others()),
        (vec!["10.0.0.1:80".to_owned()], vec!["10.0.0.3:80".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_logical_host_that_moves_is_another_one() {
    let cluster = build(&config(2, &["a.test"]));
    let resolver = Arc::new(Scripted::default());
    let answer = |addresses: Vec<IpAddr>| resolver.answers.lock().insert(("a.test", false), Ok(addresses));
    answer(vec![v4(1), v4(2)]);
    crate::runtime::spawn::spawn("test", run(Arc::downgrade(&cluster), resolver.clone()));
    pass(1).await;
    let host = cluster.all_hosts()[0].clone();
    let stats = &cluster.stats;
    let changes = stats.membership_change.value();
    answer(vec![v4(2), v4(1)]);
    pass(5).await;
    // The old one finishes what it has, as one that discovery has dropped.
    let moved = cluster.all_hosts()[0].clone();
    assert_eq!(addresses(&cluster), ["10.0.0.2:80"]);
    assert_eq!(moved.additional_addresses.first(), Some(&host.address));
    assert!(!Arc::ptr_eq(&moved.state, &host.state));
    assert!(moved.state.is_member() && !host.state.is_member());
    assert_eq!(stats.membership_change.value(), changes + 1);
    // A name that has no address now keeps the one that it had.
    answer(vec![]);
    pass(5).await;
    assert_eq!(addresses(&cluster), ["10.0.0.2:80"]);
    assert_eq!((stats.update_success.value(), stats.update_failure.value()), (2, 1));
    assert_eq!(stats.membership_change.value(), changes + 1);
    // Another configuration of the cluster, which asks anew, has the same host.
    let next = built_with(&config(2, &["a.test"]), &cluster);
    answer(vec![v4(2)]);
    crate::runtime::spawn::spawn("test", run(Arc::downgrade(&next), resolver.clone()));
    pass(1).await;
    assert_eq!(addresses(&next), ["10.0.0.2:80"]);
    assert!(Arc::ptr_eq(&next.all_hosts()[0].state, &moved.state));
}

/// As Envoy warms a changed cluster beside the old one.
#[tokio::test(start_paused = true)]
async fn a_changed_cluster_goes_on_with_the_old_hosts_until_its_own_names_were_asked_for() {
    let resolver = Arc::new(Scripted::default());
    resolver.answers.lock().extend([
        (("a.test", false), Ok(vec![v4(1)])),
        (("b.test", false), Ok(vec![v4(2)])),
        (("failing.test", false), Err(())),
    ]);
    let start = |cluster: &Arc<Cluster>| {
        crate::runtime::spawn::spawn("test", run(Arc::downgrade(cluster), resolver.clone()));
    };
    let old = build(&config(1, &["a.test"]));
    start(&old);
    pass(1).await;
    let changed = build(&config(1, &["b.test", "slow.test"]));
    changed.inherit(&old);
    start(&changed);
    pass(1).await;
    assert_eq!(
        addresses(&changed),
        ["10.0.0.1:80"],
        "one of its names is not known yet"
    );
    let changed = build(&config(1, &["b.test", "failing.test"]));
    start(&changed);
    changed.inherit(&old);
    assert_eq!(addresses(&changed), ["10.0.0.1:80"]);
    pass(1).await;
    assert_eq!(
        addresses(&changed),
        ["10.0.0.2:80"],
        "a name that cannot be resolved was asked for"
    );
    changed.inherit(&old);
    assert_eq!(addresses(&changed), ["10.0.0.2:80"], "too late");
    let mut hasty = config(1, &["b.test"]);
    hasty.wait_for_warm_on_init = Some(remora_proto::pb::google::protobuf::BoolValue { value: false });
    let hasty = build(&hasty);
    hasty.inherit(&old);
    assert!(addresses(&hasty).is_empty());
}

#[tokio::test]
async fn families_are_asked_in_their_order() {
    let resolver = Scripted::default();
    let v6: IpAddr = std::net::Ipv6Addr::LOCALHOST.into();
    resolver.answers.lock().extend([
        (("both", false), Ok(vec![v4(1)])),
        (("both", true), Ok(vec![v6])),
        (("four", false), Ok(vec![v4(1)])),
        (("four", true), Ok(vec![])),
    ]);
    use LookupFamily as Family;
    for (name, family, expected) in [
        ("both", Family::Auto, vec![v6]),
        ("both", Family::V4Preferred, vec![v4(1)]),
        ("both", Family::V4Only, vec![v4(1)]),
        ("both", Family::V6Only, vec![v6]),
        ("both", Family::All, vec![v4(1), v6]),
        ("four", Family::Auto, vec![v4(1)]),
        ("four", Family::V6Only, vec![]),
    ] {
        let answer = look_up(name, family, &resolver).await.expect("an answer");
        assert_eq!(answer.addresses, expected, "{name} {family:?}");
    }
    assert!(look_up("none", Family::Auto, &resolver).await.is_err());
    // That there is no address of one family says nothing of the other.
    resolver.answers.lock().insert(("half", true), Ok(vec![]));
    assert!(look_up("half", Family::All, &resolver).await.is_err());
    resolver.answers.lock().insert(("half", false), Ok(vec![]));
    let none = look_up("half", Family::All, &resolver).await.expect("an answer");
    assert!(none.addresses.is_empty());
}

#[test]
fn questions_are_repeated_in_time() {
    let seconds = Duration::from_secs;
    let config = DnsConfig {
        respect_ttl: true,
        ..DnsConfig::default()
    };
    assert_eq!(delay(&config, Some(seconds(30)), 0, 0), seconds(30));
    assert_eq!(delay(&config, Some(seconds(1)), 0, 0), seconds(1));
    assert_eq!(delay(&config, Some(seconds(0)), 0, 0), seconds(5));
    let floored = DnsConfig {
        min_refresh_rate: seconds(3),
        ..config.clone()
    };
    assert_eq!(delay(&floored, Some(seconds(1)), 0, 0), seconds(3));
    assert_eq!(delay(&DnsConfig::default(), Some(seconds(30)), 0, 0), seconds(5));
    for failures in 1..40 {
        for random in [0, 1 << 40, u64::MAX] {
            let delay = delay(&config, None, failures, random);
            assert!((seconds(5)..=seconds(50)).contains(&delay), "{delay:?}");
        }
    }
}
