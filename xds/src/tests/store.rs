//! Errors, stats and what people get to see.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE};

fn connected() -> Script {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script
}

#[test]
fn the_dump_has_the_last_good_version_and_the_error_which_a_good_one_clears() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "BAD")]));
    let entry = script.engine.store.dump().remove(0);
    let (active, error) = (entry.active.unwrap(), entry.error.unwrap());
    assert_eq!((read(&active.bytes).1.as_str(), &*active.version), ("1", "1"));
    assert_eq!(
        (&*error.details, &*error.version, read(&error.failed).1.as_str()),
        ("content: is bad", "2", "BAD")
    );
    script.receive(sotw(&CLUSTER, "3", "c3", &[res("a", "1")]));
    assert!(script.engine.store.dump().remove(0).error.is_none());
}

/// What is wrong with it was found before the store saw it.
#[test]
fn the_dump_tells_of_what_is_new_and_cannot_be_read_until_it_goes() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    script.receive(delta(&CLUSTER, "1", &[res("a", "1"), res("b", "1").foreign()], &[]));
    let dump = script.engine.store.dump();
    let told: Vec<_> = dump.iter().map(|entry| (&*entry.name, entry.error.is_some())).collect();
    assert_eq!(told, [("a", false), ("b", true)]);
    script.receive(delta(&CLUSTER, "2", &[], &["b"]));
    assert_eq!(script.engine.store.dump().len(), 1);
}

#[test]
fn the_dump_has_warming_and_active_versions_side_by_side() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1")]));
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:a")]));
    let entry = script.engine.store.dump().remove(0);
    assert_eq!(
        (&*entry.active.unwrap().version, &*entry.warming.unwrap().version),
        ("1", "2")
    );
}

#[test]
fn a_panic_of_the_interpreter_is_a_refusal() {
    let mut script = connected();
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "BAD PANIC"), res("b", "1")]));
    assert_eq!(sent, ["cds v= n=c1 [] NACK a: internal error: the check panicked"]);
    assert_eq!(script.has("cds"), ["b=1"]);
}

#[test]
fn what_the_bootstrap_defines_is_ignored_and_acked() {
    let mut script = connected();
    script.engine.store.fix(&CLUSTER, "static");
    let sent = script.receive(sotw(&CLUSTER, "1", "c1", &[res("static", "1"), res("a", "1")]));
    assert_eq!(sent, ["cds v=1 n=c1 []"]);
    assert_eq!(script.has("cds"), ["a=1"]);
}

#[test]
fn kept_bytes_do_not_keep_the_response() {
    let mut script = connected();
    let response = sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", &"x".repeat(100_000))]);
    let range = response.as_ptr_range();
    script.receive(response.clone());
    let kept = script.engine.store.get(&CLUSTER, "a").unwrap();
    assert!(
        !range.contains(&kept.bytes.as_ptr()),
        "a slice of the response would hold all of it"
    );
}

#[test]
fn statistics_are_envoys() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "v1", "c1", &[res("a", "1")]));
    script.receive(sotw(&CLUSTER, "v2", "c2", &[res("a", "BAD")]));
    let stats = script.stats.of(&CLUSTER);
    let counted = (
        stats.update_attempt.value(),
        stats.update_success.value(),
        stats.update_rejected.value(),
    );
    assert_eq!(counted, (3, 1, 1));
    assert_eq!((&*stats.version_text(), stats.update_time.value()), ("v1", 1_000_000));
    assert_eq!(stats.version.value(), xxhash_rust::xxh64::xxh64(b"v1", 0));
    script.engine.on_disconnected(script.streams[0], script.now);
    assert_eq!(stats.update_failure.value(), 1);
    assert_eq!(script.stats.control_plane.connected_state.value(), 0);
}

#[test]
fn a_route_configuration_is_counted_by_its_name_while_somebody_wants_it() {
    let mut script = connected();
    let listener = |name: &str| res("l", name).needs(&format!("rds:{name}/30"));
    script.receive(sotw(&LISTENER, "1", "l1", &[listener("a")]));
    let counted = |script: &Script, name: &str| {
        script.stats.of_resource(&ROUTE, name).map(|stats| {
            let version = stats.version_text().to_string();
            let (attempt, success) = (stats.update_attempt.value(), stats.update_success.value());
            (
                attempt,
                success,
                stats.update_rejected.value(),
                stats.config_reload.value(),
                version,
            )
        })
    };
    assert_eq!(counted(&script, "a"), Some((1, 0, 0, 0, String::new())));
    script.receive(sotw(&ROUTE, "v1", "r1", &[res("a", "1"), res("stranger", "1")]));
    script.receive(sotw(&ROUTE, "v2", "r2", &[res("a", "1")]));
    assert_eq!(counted(&script, "a"), Some((3, 2, 0, 1, "v2".to_owned())));
    script.receive(sotw(&ROUTE, "v3", "r3", &[res("a", "BAD")]));
    assert_eq!(counted(&script, "a"), Some((4, 2, 1, 1, "v2".to_owned())));
    assert_eq!(counted(&script, "stranger"), None);
    script.engine.on_disconnected(script.streams[0], script.now);
    let stats = script.stats.of_resource(&ROUTE, "a").unwrap();
    assert_eq!((stats.update_failure.value(), stats.update_attempt.value()), (1, 5));
    stats.reset();
    assert_eq!((stats.update_failure.value(), &*stats.version_text()), (0, "v2"));
    // Another one is wanted in its place; it comes late.
    script.reconnect();
    script.receive(sotw(&LISTENER, "2", "l2", &[listener("b")]));
    assert!(counted(&script, "a").is_some(), "the old listener still serves");
    script.advance(30);
    assert_eq!(
        script
            .stats
            .of_resource(&ROUTE, "b")
            .unwrap()
            .init_fetch_timeout
            .value(),
        1
    );
    assert_eq!(counted(&script, "a"), None);
    assert_eq!(script.stats.resources().len(), 1);
}

#[test]
fn assignments_are_not_counted_by_name() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert!(script.stats.resources().is_empty());
    assert_eq!(script.stats.of(&ASSIGNMENT).update_success.value(), 1);
}

#[test]
fn what_warms_is_counted() {
    let mut script = connected();
    let (a, b) = (res("a", "1").needs("eds:a"), res("b", "1").needs("eds:b"));
    script.receive(sotw(&CLUSTER, "1", "c1", &[a, b, res("c", "1")]));
    assert_eq!(script.stats.of(&CLUSTER).warming.value(), 2);
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    assert_eq!(script.stats.of(&CLUSTER).warming.value(), 1);
    script.receive(sotw(&CLUSTER, "2", "c2", &[]));
    assert_eq!(script.stats.of(&CLUSTER).warming.value(), 0);
}

#[test]
fn the_status_tells_versions_waits_and_the_last_nack() {
    let mut script = connected();
    script.receive(sotw(
        &CLUSTER,
        "1",
        "c1",
        &[res("a", "1").needs("eds:a"), res("b", "1")],
    ));
    script.receive(sotw(
        &CLUSTER,
        "2",
        "c2",
        &[res("a", "1").needs("eds:a"), res("b", "BAD")],
    ));
    let status = script.engine.status();
    let clusters = status.types.iter().find(|status| *status.ty == CLUSTER).unwrap();
    assert_eq!((&*clusters.running_version, &*clusters.wanted_version), ("1", "2"));
    assert_eq!((clusters.published, &*clusters.waiting[0].name), (1, "a"));
    assert_eq!(clusters.waiting[0].waits_for[0], (&ASSIGNMENT, "a".into()));
    assert_eq!(clusters.last_nack.as_ref().unwrap().reason, "b: content: is bad");
    assert_eq!((clusters.last_push.rejected, clusters.last_push.unchanged), (1, 1));
    assert_eq!(clusters.source, "ads");
    let assignments = status.types.iter().find(|status| *status.ty == ASSIGNMENT).unwrap();
    assert_eq!(&*assignments.missing[0], "a");
}

#[test]
fn a_late_follower_first_gets_everything_and_then_only_changes() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1"), res("b", "1")]));
    let mut late = script.engine.store.follow();
    assert_eq!(late.take().changes.len(), 2);
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2"), res("b", "1")]));
    script.receive(sotw(&CLUSTER, "3", "c3", &[res("a", "3"), res("b", "1")]));
    let changes = late.take().changes;
    assert_eq!(changes.len(), 1);
    assert_eq!(read(&changes[0].resource.as_ref().unwrap().bytes).1, "3");
}

#[test]
fn types_do_not_mix() {
    let mut script = connected();
    script.receive(sotw(&CLUSTER, "1", "same", &[res("a", "1")]));
    assert_eq!(
        script.receive(sotw(&LISTENER, "9", "same", &[res("a", "BAD")]))[0]
            .split(" NACK")
            .next(),
        Some("lds v= n=same []")
    );
    assert_eq!(script.has("cds"), ["a=1"]);
}
