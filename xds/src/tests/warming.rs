//! The reference graph: warming, make before break, fetch timeouts, start order.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE, SECRET};

fn connected() -> Script {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script
}

#[test]
fn a_cluster_is_published_when_its_assignment_and_secrets_are_there() {
    let mut script = connected();
    script.receive(sotw(
        &CLUSTER,
        "1",
        "c1",
        &[res("a", "1").needs("eds:a").needs("sds:s")],
    ));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert!(script.has("cds").is_empty());
    script.receive(sotw(&SECRET, "1", "s1", &[res("s", "1")]));
    assert_eq!(script.has("cds"), ["a=1"]);
    assert_eq!(script.order, ["+sds s", "+cds a"]);
}

#[test]
fn the_old_version_serves_while_the_new_one_waits_for_a_fresh_assignment() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:a")]));
    assert_eq!(sent, ["cds v=2 n=c2 []", "eds v=1 n=e1 [a]"]);
    assert_eq!(script.has("cds"), ["a=1"]);
    // Equal bytes count as the fresh copy.
    script.receive(sotw(&ASSIGNMENT, "1", "e2", &[res("a", "1")]));
    assert_eq!(script.has("cds"), ["a=2"]);
}

#[test]
fn the_request_for_a_fresh_assignment_is_not_swallowed_by_an_ack() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    let ads = script.streams[0];
    script.deliver(ads, sotw(&ASSIGNMENT, "2", "e2", &[res("a", "2")]));
    script.deliver(ads, sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:a")]));
    assert_eq!(
        script.sent(),
        ["eds v=2 n=e2 [a]", "cds v=2 n=c2 []", "eds v=2 n=e2 [a]"]
    );
}

#[test]
fn a_route_that_is_held_is_used_at_once_by_a_changed_listener() {
    let mut script = connected();
    script.receive(sotw(&LISTENER, "1", "l1", &[res("l", "1").needs("rds:r")]));
    script.receive(sotw(&ROUTE, "1", "r1", &[res("r", "1")]));
    script.receive(sotw(&LISTENER, "2", "l2", &[res("l", "2").needs("rds:r")]));
    assert_eq!(script.has("lds"), ["l=2"]);
}

#[test]
fn a_replaced_reference_is_dropped_only_after_the_new_one_has_come() {
    let mut script = connected();
    script.receive(sotw(&LISTENER, "1", "l1", &[res("l", "1").needs("rds:old")]));
    script.receive(sotw(&ROUTE, "1", "r1", &[res("old", "1")]));
    let sent = script.receive(sotw(&LISTENER, "2", "l2", &[res("l", "2").needs("rds:new")]));
    assert_eq!(sent, ["lds v=2 n=l2 []", "rds v=1 n=r1 [new,old]"]);
    assert_eq!(
        (script.has("lds"), script.has("rds")),
        (vec!["l=1".to_owned()], vec!["old=1".to_owned()])
    );
    let sent = script.receive(sotw(&ROUTE, "2", "r2", &[res("new", "1")]));
    assert_eq!(sent, ["rds v=2 n=r2 [new]"]);
    assert_eq!(script.order, ["+rds new", "+lds l", "-rds old"]);
}

#[test]
fn a_reference_that_two_hold_goes_with_the_second() {
    let mut script = connected();
    let both = [res("a", "1").needs("eds:shared"), res("b", "1").needs("eds:shared")];
    script.receive(sotw(&CLUSTER, "1", "c1", &both));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("shared", "1")]));
    assert_eq!(
        script.receive(sotw(&CLUSTER, "2", "c2", &both[..1])),
        ["cds v=2 n=c2 []"]
    );
    assert_eq!(script.has("eds"), ["shared=1"]);
    script.receive(sotw(&CLUSTER, "3", "c3", &[]));
    assert!(script.published.is_empty());
}

#[test]
fn a_fetch_timeout_lets_the_owner_go_on_without() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a/15")]));
    script.advance(14);
    assert!(script.has("cds").is_empty());
    script.advance(1);
    assert_eq!(script.has("cds"), ["a=1"]);
    assert_eq!(script.stats.of(&ASSIGNMENT).init_fetch_timeout.value(), 1);
}

#[test]
fn a_fetch_timeout_of_zero_waits_for_ever() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.advance(100_000);
    assert!(script.has("cds").is_empty());
}

#[test]
fn a_first_update_that_is_refused_ends_the_wait() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "BAD")]));
    assert_eq!(
        (script.has("cds"), script.has("eds").len()),
        (vec!["a=1".to_owned()], 0)
    );
}

#[test]
fn a_reference_that_does_not_exist_ends_the_wait() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1").needs("eds:a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[], &["a"]));
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn what_replaces_a_version_in_use_waits_for_routes_that_are_said_not_to_exist() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    script.receive(delta(&LISTENER, "1", &[res("l", "1").needs("rds:r")], &[]));
    script.receive(delta(&ROUTE, "1", &[], &["r"]));
    assert_eq!(script.has("lds"), ["l=1"], "a first version goes on without");
    script.receive(delta(&LISTENER, "2", &[res("l", "2").needs("rds:x/15")], &[]));
    script.receive(delta(&ROUTE, "2", &[], &["x"]));
    script.advance(3600);
    assert_eq!(
        script.has("lds"),
        ["l=1"],
        "no time ends it: that there is none was the answer"
    );
    // One more owner of what is known not to be there, and one more version.
    script.receive(delta(
        &LISTENER,
        "3",
        &[res("l", "3").needs("rds:x/15"), res("m", "1").needs("rds:x/15")],
        &[],
    ));
    script.advance(3600);
    assert_eq!(script.has("lds"), ["l=1", "m=1"]);
    script.receive(delta(&ROUTE, "3", &[res("x", "1")], &[]));
    assert_eq!(script.has("lds"), ["l=3", "m=1"]);
    script.receive(delta(&LISTENER, "4", &[res("l", "4").needs("rds:x/15")], &[]));
    assert_eq!(script.has("lds"), ["l=4", "m=1"], "it has come");
}

#[test]
fn a_reference_that_is_not_required_is_subscribed_and_not_waited_for() {
    let mut script = connected();
    let sent = script.receive(sotw(&LISTENER, "1", "l1", &[res("l", "1").needs("rds:r?")]));
    assert_eq!(sent, ["lds v=1 n=l1 []", "rds v= n= [r]"]);
    assert_eq!(script.has("lds"), ["l=1"]);
}

#[test]
fn removing_a_warming_cluster_cancels_it_and_its_subscription() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    assert_eq!(
        script.receive(sotw(&CLUSTER, "2", "c2", &[])),
        ["cds v=2 n=c2 []", "eds v= n= []"]
    );
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert!(script.published.is_empty());
}

#[test]
fn an_update_of_a_warming_cluster_replaces_it() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:x")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:y")]));
    assert_eq!(sent, ["cds v=2 n=c2 []", "eds v= n= [y]"]);
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("y", "1")]));
    assert_eq!(script.has("cds"), ["a=2"]);
}

#[test]
fn listener_removals_come_before_additions_and_cluster_removals_last() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("old", "1")]));
    script.receive(sotw(&LISTENER, "1", "l1", &[res("old", "1")]));
    let ads = script.streams[0];
    // Two responses before the follower looks: one update.
    script
        .engine
        .on_message(ads, sotw(&LISTENER, "2", "l2", &[res("new", "1")]), script.now)
        .unwrap();
    script
        .engine
        .on_message(ads, sotw(&CLUSTER, "2", "c2", &[res("new", "1")]), script.now)
        .unwrap();
    script.look();
    assert_eq!(script.order, ["+cds new", "-lds old", "+lds new", "-cds old"]);
}

#[test]
fn listeners_are_asked_for_once_clusters_are_initialised() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&CLUSTER], 1);
    script.engine.add_root(Root::new(&LISTENER), script.now);
    assert_eq!(script.connect(), ["cds v= n= [] node"]);
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    assert_eq!(sent, ["cds v=1 n=c1 []", "eds v= n= [a]"]);
    let sent = script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert_eq!(sent, ["eds v=1 n=e1 [a]", "lds v= n= []"]);
    assert_eq!(script.initialized, ["cds"]);
}

#[test]
fn initialisation_ends_at_its_timeout_or_at_a_first_refusal() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
    script.engine.add_root(Root::new(&CLUSTER), script.now);
    script.engine.add_root(Root::new(&LISTENER), script.now);
    script.connect();
    script.advance(15);
    assert_eq!(script.initialized, ["cds"]);
    assert_eq!(script.stats.of(&CLUSTER).init_fetch_timeout.value(), 1);
    assert_eq!(script.sent(), ["lds v= n= []"]);
    script.receive(sotw(&LISTENER, "1", "l1", &[res("l", "BAD")]));
    assert_eq!(script.initialized, ["cds", "lds"]);
}

#[test]
fn a_pinned_owner_is_published_when_its_references_have_come() {
    let mut script = connected();
    script
        .engine
        .pin(&"bootstrap".into(), vec![reference("sds:s")], script.now);
    assert_eq!(script.sent(), ["sds v= n= [s]"]);
    assert!(script.has("pinned").is_empty());
    script.receive(sotw(&SECRET, "1", "s1", &[res("s", "1")]));
    assert_eq!(script.has("pinned"), ["bootstrap="]);
    script.engine.unpin("bootstrap", script.now);
    assert_eq!(script.sent(), ["sds v=1 n=s1 []"]);
    script.look();
    assert!(script.published.is_empty());
}

#[test]
fn a_named_source_gets_a_stream_of_its_own_for_each_secret() {
    let mut script = connected();
    let sent = script.receive(sotw(
        &CLUSTER,
        "1",
        "c1",
        &[res("a", "1").needs("sds:default@sds-grpc").needs("sds:ROOTCA@sds-grpc")],
    ));
    assert_eq!(sent, ["cds v=1 n=c1 []"]);
    assert_eq!(
        script.engine.streams_to_open(script.now.instant)[0].path,
        SECRET.sotw_path
    );
    assert_eq!(
        script.connect(),
        ["sds v= n= [ROOTCA] node", "sds v= n= [default] node"]
    );
    script.receive_on(1, sotw(&SECRET, "1", "1", &[res("ROOTCA", "1")]));
    script.receive_on(2, sotw(&SECRET, "1", "1", &[res("default", "1")]));
    assert_eq!(script.has("cds"), ["a=1"]);
    script.receive(sotw(&CLUSTER, "2", "c2", &[]));
    assert_eq!(script.engine.take_closed().len(), 2);
}

#[test]
fn an_unknown_source_leaves_its_owner_waiting_for_the_timeout() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("sds:s@nowhere/15")]));
    assert!(script.has("cds").is_empty());
    script.advance(15);
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn an_answer_that_ends_the_need_of_another_stream_closes_that_one_and_disturbs_none() {
    let mut script = connected();
    let listener = |version: &str, routes: &str| sotw(&LISTENER, version, version, &[res("l", version).needs(routes)]);
    script.receive(listener("1", "rds:old@own"));
    script.connect();
    script.receive_on(1, sotw(&ROUTE, "1", "r1", &[res("old", "1")]));
    script.receive(listener("2", "rds:new@own"));
    script.connect();
    assert_eq!(script.has("lds"), ["l=1"], "the new routes are not there yet");
    let sent = script.receive_on(2, sotw(&ROUTE, "1", "n1", &[res("new", "1")]));
    assert_eq!(sent, ["rds v=1 n=n1 [new]"]);
    assert_eq!(script.has("lds"), ["l=2"]);
    assert_eq!(script.engine.take_closed(), [script.streams[1]]);
    // And it goes on being answered.
    let sent = script.receive_on(2, sotw(&ROUTE, "2", "n2", &[res("new", "2")]));
    assert_eq!(sent, ["rds v=2 n=n2 [new]"]);
}

/// What is published of `name`, by source.
fn of_sources(script: &Script, name: &str) -> Vec<String> {
    let published = script
        .engine
        .store
        .dump()
        .into_iter()
        .filter(|entry| &*entry.name == name);
    let content = |entry: crate::DumpEntry| Some(format!("{}={}", entry.source, read(&entry.active?.bytes).1));
    published.filter_map(content).collect()
}

#[test]
fn one_name_from_two_sources_is_two_resources() {
    let mut script = connected();
    let mut updates = script.engine.store.follow();
    let clusters = [
        res("a", "1").needs("eds:s@one"),
        res("b", "1").needs("eds:s@two"),
        res("c", "1").needs("eds:s"),
    ];
    script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    script.connect();
    for (stream, content) in [(2, "of one"), (1, "of two"), (0, "of ads")] {
        script.receive_on(stream, sotw(&ASSIGNMENT, "1", "1", &[res("s", content)]));
    }
    assert_eq!(of_sources(&script, "s"), ["one=of one", "two=of two", "ads=of ads"]);
    assert_eq!(script.has("cds"), ["a=1", "b=1", "c=1"]);
    let sources = updates
        .take()
        .changes
        .into_iter()
        .filter(|change| *change.ty == ASSIGNMENT);
    let mut sources: Vec<_> = sources.map(|change| change.source.to_string()).collect();
    sources.sort_unstable();
    assert_eq!(sources, ["ads", "one", "two"]);
    // What ends with one of them leaves the others.
    script.receive(sotw(
        &CLUSTER,
        "2",
        "c2",
        &[res("b", "1").needs("eds:s@two"), res("c", "1").needs("eds:s")],
    ));
    assert_eq!(of_sources(&script, "s"), ["two=of two", "ads=of ads"]);
    let gone = updates
        .take()
        .changes
        .into_iter()
        .find(|change| *change.ty == ASSIGNMENT)
        .unwrap();
    assert!(gone.resource.is_none());
    assert_eq!(gone.source.to_string(), "one");
}

#[test]
fn a_name_that_moves_to_another_source_serves_from_the_old_one_until_the_new_one_has_answered() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:s@one")]));
    script.connect();
    script.receive_on(1, sotw(&ASSIGNMENT, "1", "1", &[res("s", "of one")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:s@two")]));
    script.connect();
    assert_eq!(
        (script.has("cds"), of_sources(&script, "s")),
        (vec!["a=1".to_owned()], vec!["one=of one".to_owned()])
    );
    assert!(script.engine.take_closed().is_empty());
    script.receive_on(2, sotw(&ASSIGNMENT, "1", "1", &[res("s", "of two")]));
    assert_eq!(
        (script.has("cds"), of_sources(&script, "s")),
        (vec!["a=2".to_owned()], vec!["two=of two".to_owned()])
    );
    assert_eq!(script.engine.take_closed(), [script.streams[1]]);
}

#[test]
fn waits_that_are_over_leave_nothing_behind() {
    let mut script = connected();
    for push in 0..100 {
        let content = push.to_string();
        let cluster = res("a", &content)
            .needs("eds:never/15")
            .needs(&format!("sds:s@source-{push}/15"));
        script.receive(sotw(&CLUSTER, &content, &content, &[cluster]));
        script.connect();
    }
    // Of the last version: one timer and one waiter for each of its two needs.
    assert_eq!(script.engine.store.waits(), (2, 2));
    assert!(script.engine.store.sources() < 10, "{}", script.engine.store.sources());
    script.advance(15);
    assert_eq!(
        (script.engine.store.waits(), script.has("cds")),
        ((0, 0), vec!["a=99".to_owned()])
    );
}
