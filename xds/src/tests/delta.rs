//! The delta protocol.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, VIRTUAL_HOST};

fn connected() -> Script {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[&CLUSTER], 1);
    assert_eq!(script.connect(), ["cds n= +[] -[] {} node"]);
    script
}

#[test]
fn the_reference_conversation() {
    let mut script = connected();
    let both = [
        res("a", "x").needs("eds:a").version("1"),
        res("b", "x").needs("eds:b").version("1"),
    ];
    assert_eq!(
        script.receive(delta(&CLUSTER, "1", &both, &[])),
        ["cds n=1 +[] -[] {}", "eds n= +[a,b] -[] {}"]
    );
    assert_eq!(
        script.receive(delta(&ASSIGNMENT, "1", &[res("a", "x").version("5")], &["b"])),
        ["eds n=1 +[] -[] {}"]
    );
    assert_eq!(
        script.receive(delta(&ASSIGNMENT, "2", &[res("b", "x").version("1")], &[])),
        ["eds n=2 +[] -[] {}"]
    );
    let bad = [res("a", "BAD").version("2")];
    let sent = script.receive(delta(&CLUSTER, "2", &bad, &["b"]));
    assert_eq!(
        sent,
        ["cds n=2 +[] -[] {} NACK a: content: is bad", "eds n= +[] -[b] {}"]
    );
    assert_eq!(script.has("cds"), ["a=x"]);
    assert_eq!(
        script.reconnect(),
        ["cds n= +[] -[] {a:1} node", "eds n= +[a] -[] {a:5}"]
    );
}

#[test]
fn an_ack_says_nothing_else_and_a_change_answers_nothing() {
    let mut script = connected();
    let sent = script.receive(delta(&CLUSTER, "1", &[res("a", "x").needs("eds:a")], &[]));
    assert_eq!(sent, ["cds n=1 +[] -[] {}", "eds n= +[a] -[] {}"]);
}

#[test]
fn an_empty_version_is_held_and_sent_back() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").version("")], &[]));
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:} node"]);
}

#[test]
fn names_without_a_version_are_left_out_of_the_initial_versions() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").needs("eds:a").version("1")], &[]));
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:1} node", "eds n= +[a] -[] {}"]);
}

#[test]
fn nothing_wanted_is_not_said_on_a_new_stream_where_it_would_mean_wildcard() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").needs("eds:a")], &[]));
    script.receive(delta(&CLUSTER, "2", &[], &["a"]));
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {} node"]);
}

#[test]
fn a_name_twice_rejects_the_whole_response() {
    let mut script = connected();
    let twice = [res("a", "1"), res("a", "2"), res("b", "1")];
    let sent = script.receive(delta(&CLUSTER, "1", &twice, &[]));
    assert_eq!(sent, ["cds n=1 +[] -[] {} NACK a: the response names it twice"]);
    assert!(script.published.is_empty());
}

#[test]
fn a_name_both_sent_and_removed_rejects_the_whole_response() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1")], &[]));
    let sent = script.receive(delta(&CLUSTER, "2", &[res("a", "2")], &["a"]));
    assert_eq!(sent, ["cds n=2 +[] -[] {} NACK a: the response names it twice"]);
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn removals_of_a_nacked_response_are_carried_out() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1"), res("b", "1")], &[]));
    script.receive(delta(&CLUSTER, "2", &[res("a", "BAD")], &["b"]));
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn the_version_of_a_bad_resource_is_not_recorded_but_those_of_good_ones_are() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1"), res("b", "1")], &[]));
    script.receive(delta(
        &CLUSTER,
        "2",
        &[res("a", "BAD").version("2"), res("b", "2")],
        &[],
    ));
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:1,b:2} node"]);
}

#[test]
fn a_removed_assignment_stays_until_its_cluster_goes() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1").needs("eds:a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1")], &[]));
    script.receive(delta(&ASSIGNMENT, "2", &[], &["a"]));
    assert_eq!(script.has("eds"), ["a=1"]);
    script.receive(delta(&CLUSTER, "2", &[], &["a"]));
    assert!(script.published.is_empty());
}

#[test]
fn a_removed_requested_name_stays_subscribed_and_loses_its_version() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1").needs("eds:a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1")], &[]));
    script.receive(delta(&ASSIGNMENT, "2", &[], &["a"]));
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:1} node", "eds n= +[a] -[] {}"]);
}

#[test]
fn removing_an_unknown_name_is_acked_and_does_nothing() {
    let mut script = connected();
    assert_eq!(
        script.receive(delta(&CLUSTER, "1", &[], &["ghost"])),
        ["cds n=1 +[] -[] {}"]
    );
}

#[test]
fn a_changed_cluster_subscribes_its_assignment_again() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1").needs("eds:a")], &[]));
    script.receive(delta(&ASSIGNMENT, "1", &[res("a", "1")], &[]));
    let sent = script.receive(delta(&CLUSTER, "2", &[res("a", "2").needs("eds:a")], &[]));
    assert_eq!(sent, ["cds n=2 +[] -[] {}", "eds n= +[a] -[] {}"]);
    // The server must not be told on a new stream that its copy is held: it would not send it.
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {a:2} node", "eds n= +[a] -[] {}"]);
}

#[test]
fn explicit_names_beside_a_wildcard_are_added_to_it_and_taken_back() {
    let mut script = connected();
    script
        .engine
        .pin(&"static".into(), vec![Reference::new(&CLUSTER, "A")], script.now);
    assert_eq!(script.sent(), ["cds n= +[A] -[] {}"]);
    script.engine.unpin("static", script.now);
    assert_eq!(script.sent(), ["cds n= +[] -[A] {}"]);
    assert_eq!(script.reconnect(), ["cds n= +[*] -[] {} node"]);
}

#[test]
fn an_ambiguous_name_is_held_until_the_server_tells() {
    let mut script = connected();
    script
        .engine
        .pin(&"static".into(), vec![Reference::new(&CLUSTER, "A")], script.now);
    script.receive(delta(&CLUSTER, "1", &[res("A", "1")], &[]));
    script.engine.unpin("static", script.now);
    assert_eq!(script.reconnect(), ["cds n= +[*] -[] {A:1} node"]);
    script.receive(delta(&CLUSTER, "2", &[], &["A"]));
    assert!(script.has("cds").is_empty());
    assert_eq!(script.reconnect(), ["cds n= +[*] -[] {} node"]);
}

#[test]
fn a_delta_heartbeat_compares_the_version_of_the_resource() {
    let mut script = connected();
    script.receive(delta(&CLUSTER, "1", &[res("a", "x").version("4").ttl(10)], &[]));
    script.advance(9);
    let beat = res("a", "").absent().version("4").ttl(10);
    assert_eq!(
        script.receive(delta(&CLUSTER, "2", &[beat], &[])),
        ["cds n=2 +[] -[] {}"]
    );
    script.advance(9);
    assert_eq!(script.has("cds"), ["a=x"]);
    script.advance(1);
    assert!(script.has("cds").is_empty());
    assert_eq!(script.reconnect(), ["cds n= +[] -[] {} node"]);
}

#[test]
fn an_empty_delta_response_completes_initialisation() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[&CLUSTER, &LISTENER], 1);
    script.connect();
    assert_eq!(script.receive(delta(&CLUSTER, "1", &[], &[])), ["cds n=1 +[] -[] {}"]);
    assert_eq!(script.initialized, ["cds"]);
}

#[test]
fn an_unresolved_alias_is_a_removal_of_the_names_it_stands_for() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[], 1);
    script.engine.pin(
        &"routes".into(),
        vec![Reference::new(&VIRTUAL_HOST, "rc/a.test")],
        script.now,
    );
    assert_eq!(script.connect(), ["vhds n= +[rc/a.test] -[] {} node"]);
    // Neither payload nor version: nobody is called so. The owner goes on without.
    let unresolved = res("", "").absent().alias("rc/a.test");
    let sent = script.receive(delta(&VIRTUAL_HOST, "1", &[unresolved], &[]));
    assert_eq!(sent, ["vhds n=1 +[] -[] {}"]);
    assert!(script.published.contains_key("pinned routes"));
}
