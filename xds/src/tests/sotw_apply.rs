//! What a SotW response does.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER};

fn connected() -> Script {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script
}

#[test]
fn good_resources_of_a_partly_bad_response_are_applied() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "1")]));
    let sent = script.receive(sotw(
        &CLUSTER,
        "2",
        "c2",
        &[res("a", "2"), res("b", "BAD"), res("c", "2")],
    ));
    assert_eq!(sent, ["cds v=1 n=c2 [] NACK b: content: is bad"]);
    assert_eq!(script.has("cds"), ["a=2", "b=1", "c=2"]);
}

#[test]
fn a_full_set_deletes_what_it_does_not_name() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "1")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("b", "1")]));
    assert_eq!(script.has("cds"), ["b=1"]);
}

#[test]
fn an_empty_cluster_or_listener_response_deletes_everything() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1")]));
    script.receive(sotw(&LISTENER, "1", "l1", &[res("l", "1")]));
    assert_eq!(script.receive(sotw(&CLUSTER, "2", "c2", &[])), ["cds v=2 n=c2 []"]);
    assert_eq!(script.receive(sotw(&LISTENER, "2", "l2", &[])), ["lds v=2 n=l2 []"]);
    assert!(script.published.is_empty());
}

#[test]
fn an_empty_response_of_other_types_changes_nothing_and_is_counted_and_acked() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert_eq!(script.receive(sotw(&ASSIGNMENT, "2", "e2", &[])), ["eds v=2 n=e2 [a]"]);
    assert_eq!(script.has("eds"), ["a=1"]);
    assert_eq!(script.stats.of(&ASSIGNMENT).update_empty.value(), 1);
}

#[test]
fn absence_from_an_assignment_response_means_nothing() {
    let mut script = connected();
    let clusters = [res("a", "1").needs("eds:a"), res("b", "1").needs("eds:b")];
    script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1"), res("b", "1")]));
    script.receive(sotw(&ASSIGNMENT, "2", "e2", &[res("b", "2")]));
    assert_eq!(script.has("eds"), ["a=1", "b=2"]);
}

#[test]
fn a_resource_that_is_refused_is_not_deleted() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "1")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("b", "BAD")]));
    assert_eq!(script.has("cds"), ["b=1"]);
}

#[test]
fn a_resource_of_another_type_fails_alone_and_deletes_nothing() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "1")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2"), res("b", "2").foreign()]));
    assert!(
        sent[0].contains("NACK b: type URL type.googleapis.com/other does not match"),
        "{sent:?}"
    );
    assert_eq!(script.has("cds"), ["a=2", "b=1"]);
}

#[test]
fn a_resource_without_a_name_is_refused_and_stops_deletions() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("", "2")]));
    assert_eq!(
        sent,
        ["cds v=1 n=c2 [] NACK (unnamed resource): name: must not be empty"]
    );
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn a_name_sent_twice_is_nacked_and_the_first_copy_counts() {
    let mut script = connected();
    let sent = script.receive(sotw(
        &CLUSTER,
        "1",
        "c1",
        &[res("a", "1"), res("a", "2"), res("b", "1")],
    ));
    assert_eq!(sent, ["cds v= n=c1 [] NACK a: the response names it twice"]);
    assert_eq!(script.has("cds"), ["a=1", "b=1"]);
}

#[test]
fn of_a_name_that_was_asked_for_and_comes_twice_the_first_copy_counts() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    let twice = [res("a", "1"), res("a", "BAD")];
    assert_eq!(
        script.receive(sotw(&ASSIGNMENT, "1", "e1", &twice)),
        ["eds v=1 n=e1 [a]"]
    );
    assert_eq!(script.has("eds"), ["a=1"]);
}

#[test]
fn resources_nobody_asked_for_are_dropped_without_a_nack() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    let sent = script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1"), res("stranger", "BAD")]));
    assert_eq!(sent, ["eds v=1 n=e1 [a]"]);
    assert_eq!(script.has("eds"), ["a=1"]);
}

#[test]
fn a_wrapped_resource_is_unwrapped() {
    let mut script = connected();
    assert_eq!(
        script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").wrapped()])),
        ["cds v=1 n=c1 []"]
    );
    assert_eq!(script.has("cds"), ["a=x"]);
}

#[test]
fn a_wrapped_resource_has_the_name_that_it_was_asked_for_by() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").needs("eds:e")]));
    let stranger = res("e", "x").calling_itself("other");
    assert_eq!(
        script.receive(sotw(&ASSIGNMENT, "1", "e1", &[stranger])),
        ["eds v= n=e1 [e] NACK e: Unexpected EDS cluster (expecting e): other"]
    );
    assert_eq!(script.has("eds"), [""; 0]);
}

#[test]
fn a_wrapped_cluster_is_called_what_it_calls_itself() {
    let mut script = connected();
    let renamed = res("a", "x").calling_itself("b");
    script.receive(sotw(&CLUSTER, "1", "c1", &[renamed]));
    assert_eq!(script.has("cds"), ["b=x"]);
}

#[test]
fn ttl_runs_out_and_deletes() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").ttl(10), res("b", "x")]));
    script.advance(9);
    assert_eq!(script.has("cds"), ["a=x", "b=x"]);
    script.advance(1);
    assert_eq!(script.has("cds"), ["b=x"]);
}

#[test]
fn a_heartbeat_refreshes_the_ttl_and_is_no_deletion() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").ttl(10), res("b", "x")]));
    script.advance(9);
    let beat = [res("a", "").ttl(10).absent().version("1"), res("b", "x")];
    assert_eq!(script.receive(sotw(&CLUSTER, "1", "c2", &beat)), ["cds v=1 n=c2 []"]);
    script.advance(9);
    assert_eq!(script.has("cds"), ["a=x", "b=x"]);
    script.advance(1);
    assert_eq!(script.has("cds"), ["b=x"]);
}

/// Envoy holds the version of the response against what it has, and has no eye for that of the wrapper.
#[test]
fn a_heartbeat_is_known_by_the_version_of_its_response() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").ttl(10).version("own")]));
    script.advance(9);
    let beat = |version: &str| [res("a", "").ttl(10).absent().version(version)];
    assert_eq!(
        script.receive(sotw(&CLUSTER, "1", "c2", &beat("own"))),
        ["cds v=1 n=c2 []"]
    );
    script.advance(9);
    assert_eq!(script.has("cds"), ["a=x"]);
    for version in ["own", "1", "2"] {
        let sent = script.receive(sotw(&CLUSTER, "2", "c3", &beat(version)));
        assert!(
            sent[0].starts_with("cds v=1 n=c3 [] NACK a: resource: must be set"),
            "{sent:?}"
        );
    }
    script.advance(1);
    assert_eq!(script.has("cds"), [""; 0]);
}

#[test]
fn resending_without_a_ttl_stops_the_timer() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x").ttl(10)]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "x")]));
    script.advance(60);
    assert_eq!(script.has("cds"), ["a=x"]);
}

#[test]
fn an_absent_payload_with_another_version_is_refused() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    let sent = script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "").absent().version("9")]));
    assert!(
        sent[0].starts_with("cds v=1 n=c2 [] NACK a: resource: must be set"),
        "{sent:?}"
    );
    assert_eq!(script.has("cds"), ["a=x"]);
}

#[test]
fn equal_bytes_are_a_no_op_that_is_acked() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    assert_eq!(
        script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "x")])),
        ["cds v=2 n=c2 []"]
    );
    assert!(script.order.is_empty());
    let push = script
        .engine
        .status()
        .types
        .into_iter()
        .find(|status| *status.ty == CLUSTER)
        .unwrap();
    assert_eq!((push.last_push.unchanged, push.last_push.changed), (1, 0));
}

#[test]
fn stream_loss_removes_nothing() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "x")]));
    script.reconnect();
    assert_eq!(script.has("cds"), ["a=x"]);
}

/// `version_info` of a config dump: what was good of a refused response is in use, and is of its version.
#[test]
fn what_is_applied_of_a_refused_response_has_its_version() {
    let mut script = connected();
    let versions = |script: &Script| {
        let status = script.engine.status().types;
        let clusters = status.into_iter().find(|status| *status.ty == CLUSTER).unwrap();
        (
            clusters.applied_version.to_string(),
            clusters.running_version.to_string(),
        )
    };
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "BAD")]));
    assert_eq!(versions(&script), ("1".to_owned(), String::new()));
    // Nothing of this one is new.
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "1")]));
    assert_eq!(versions(&script), ("1".to_owned(), "2".to_owned()));
}
