//! What is counted of one resource, and when.

use std::path::Path;

use super::*;
use crate::stats::{TypeStats, Watching};
use crate::store::PathSource;
use crate::types::{ASSIGNMENT, CLUSTER, LISTENER, ROUTE};

fn watched(script: &Script, name: &str) -> (Arc<TypeStats>, Watching) {
    let counters = Arc::new(TypeStats::new(&ASSIGNMENT));
    let watching = script.stats.watch(&Source::Ads, &name.into(), counters.clone());
    (counters, watching)
}

/// Attempts, successes, updates without effect, refusals, failures.
fn counts(of: &TypeStats) -> [u64; 5] {
    [
        of.update_attempt.value(),
        of.update_success.value(),
        of.update_no_rebuild.value(),
        of.update_rejected.value(),
        of.update_failure.value(),
    ]
}

#[test]
fn an_assignment_is_counted_for_who_watches_it() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    let clusters = [res("a", "1").needs("eds:a"), res("b", "1").needs("eds:b")];
    script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    let (a, _watching) = watched(&script, "a");
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1"), res("b", "1")]));
    assert_eq!(counts(&a), [1, 1, 0, 0, 0]);
    // What does not name it is nothing to it.
    script.receive(sotw(&ASSIGNMENT, "2", "e2", &[res("b", "2")]));
    script.receive(sotw(&ASSIGNMENT, "3", "e3", &[]));
    assert_eq!((counts(&a), &*a.version_text()), ([1, 1, 0, 0, 0], "1"));
    script.receive(sotw(&ASSIGNMENT, "4", "e4", &[res("a", "1")]));
    assert_eq!((counts(&a), &*a.version_text()), ([2, 2, 1, 0, 0], "4"));
    let updated = a.update_time.value();
    script.advance(1);
    script.receive(sotw(&ASSIGNMENT, "5", "e5", &[res("a", "BAD")]));
    assert_eq!((counts(&a), &*a.version_text()), ([3, 2, 1, 1, 0], "4"));
    assert_eq!(a.update_time.value(), updated);
    script.reconnect();
    assert_eq!(counts(&a), [4, 2, 1, 1, 1]);
}

/// Whatever is wrong with a response, it is refused as a whole to whoever has something of its type.
#[test]
fn a_refusal_is_counted_for_everybody_on_the_stream() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    let clusters = [res("a", "1").needs("eds:a"), res("b", "1").needs("eds:b")];
    script.receive(delta(&CLUSTER, "c1", &clusters, &[]));
    let ((a, _watching), (b, _other)) = (watched(&script, "a"), watched(&script, "b"));
    script.receive(delta(&ASSIGNMENT, "e1", &[res("a", "1"), res("b", "1")], &[]));
    script.receive(delta(&ASSIGNMENT, "e2", &[res("a", "BAD")], &[]));
    assert_eq!((counts(&a), counts(&b)), ([2, 1, 0, 1, 0], [2, 1, 0, 1, 0]));
    let (same, other) = (res("a", "2"), res("a", "3"));
    script.receive(delta(&ASSIGNMENT, "e3", &[same, other], &[]));
    assert_eq!((counts(&a), counts(&b)), ([3, 1, 0, 2, 0], [3, 1, 0, 2, 0]));
}

#[test]
fn a_removal_is_an_update_of_who_has_asked_for_what_is_removed() {
    let mut script = Script::new(Mode::Delta);
    script.connect();
    let clusters = [res("a", "1").needs("eds:a"), res("b", "1").needs("eds:b")];
    script.receive(delta(&CLUSTER, "c1", &clusters, &[]));
    let ((a, _watching), (b, _other)) = (watched(&script, "a"), watched(&script, "b"));
    script.receive(delta(&ASSIGNMENT, "e1", &[res("a", "1"), res("b", "1")], &[]));
    script.receive(delta(&ASSIGNMENT, "e2", &[], &["a"]));
    assert_eq!((counts(&a), counts(&b)), ([2, 2, 0, 0, 0], [1, 1, 0, 0, 0]));
    assert_eq!(a.update_empty.value(), 1);
}

/// What is published is seen before it is counted.
#[test]
fn who_sees_an_update_first_does_not_count_it_as_well() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    let (a, _watching) = watched(&script, "a");
    let resource = script.engine.store.get(&ASSIGNMENT, "a").cloned().unwrap();
    let before = a.begin(crate::stats::millis(resource.updated_at));
    a.catch_up(&resource);
    assert_eq!(counts(&a), [0; 5]);
    a.update_time.set(before);
    a.catch_up(&resource);
    a.catch_up(&resource);
    assert_eq!(counts(&a), [1, 1, 0, 0, 0]);
}

/// To a cluster that has changed, the same endpoints are new.
#[test]
fn what_a_changed_owner_has_waited_for_is_no_update_without_effect() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script.receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a/15")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1")]));
    let (a, _watching) = watched(&script, "a");
    script.receive(sotw(&CLUSTER, "2", "c2", &[res("a", "2").needs("eds:a/15")]));
    script.receive(sotw(&ASSIGNMENT, "1", "e2", &[res("a", "1")]));
    assert_eq!(counts(&a), [1, 1, 0, 0, 0]);
    // None comes this time: the owner goes on with the one that is held.
    script.receive(sotw(&CLUSTER, "3", "c3", &[res("a", "3").needs("eds:a/15")]));
    script.advance(15);
    assert_eq!(script.has("cds"), ["a=3"]);
    assert_eq!((a.init_fetch_timeout.value(), a.use_cached.value()), (1, 1));
    assert_eq!(counts(&a), [2, 1, 0, 0, 0]);
}

#[test]
fn what_does_not_come_in_time_is_an_attempt_of_one_subscription() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    script.receive(sotw(&CLUSTER, "1", "c1", &[]));
    let listeners = [res("l", "1").needs("rds:r/15"), res("m", "1").needs("rds:r/15")];
    script.receive(sotw(&LISTENER, "1", "l1", &listeners));
    script.advance(15);
    let routes = script.stats.of_resource(&ROUTE, "r").unwrap();
    assert_eq!(routes.init_fetch_timeout.value(), 1);
    assert_eq!(counts(&routes), [2, 0, 0, 0, 0]);
}

#[test]
fn the_end_of_a_life_is_an_update_of_no_version() {
    let mut script = Script::new(Mode::Sotw);
    script.connect();
    let clusters = [res("a", "1").needs("eds:a"), res("b", "1").ttl(20)];
    script.receive(sotw(&CLUSTER, "1", "c1", &clusters));
    let (a, _watching) = watched(&script, "a");
    script.receive(sotw(&ASSIGNMENT, "1", "e1", &[res("a", "1").ttl(10)]));
    script.advance(10);
    assert_eq!((counts(&a), &*a.version_text()), ([2, 2, 0, 0, 0], ""));
    assert_eq!(a.update_empty.value(), 1);
    let clusters = script.stats.of(&CLUSTER);
    let reloads = clusters.config_reload.value();
    let before = clusters.update_success.value();
    script.advance(10);
    assert_eq!(clusters.update_success.value(), before + 1);
    assert_eq!(
        (&*clusters.version_text(), clusters.config_reload.value()),
        ("", reloads)
    );
}

/// A file that has something else than what is wanted of it.
#[test]
fn a_file_without_what_is_wanted_of_it_is_refused() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
    let file = Source::Path(PathSource {
        path: Path::new("/f").to_str().unwrap().into(),
        watched_directory: None,
    });
    let reference = |ty, name: &str| crate::Reference {
        source: file.clone(),
        ..crate::Reference::new(ty, name)
    };
    let owner: Arc<str> = "owner".into();
    let wanted = vec![reference(&ASSIGNMENT, "a"), reference(&crate::types::SECRET, "s")];
    script.engine.pin(&owner, wanted, script.now);
    script.connect();
    let counters = Arc::new(TypeStats::new(&ASSIGNMENT));
    let _watching = script.stats.watch(&file, &"a".into(), counters.clone());
    let [sds, eds] = script.streams[..] else {
        panic!("{} files", script.streams.len());
    };
    let mut read = |id, message| script.engine.on_message(id, message, script.now).unwrap();
    read(eds, sotw(&ASSIGNMENT, "1", "", &[res("z", "1")]));
    assert_eq!(counts(&counters), [1, 0, 0, 1, 0]);
    read(eds, sotw(&ASSIGNMENT, "2", "", &[res("a", "1"), res("z", "1")]));
    assert_eq!(counts(&counters), [2, 0, 0, 2, 0]);
    read(eds, sotw(&ASSIGNMENT, "3", "", &[]));
    assert_eq!((counts(&counters), counters.update_empty.value()), ([3, 1, 0, 2, 0], 1));
    read(eds, sotw(&ASSIGNMENT, "4", "", &[res("a", "1")]));
    assert_eq!((counts(&counters), &*counters.version_text()), ([4, 2, 0, 2, 0], "4"));
    read(sds, sotw(&crate::types::SECRET, "1", "", &[]));
    let secret = script.stats.of_resource(&crate::types::SECRET, "s").unwrap();
    assert_eq!(counts(&secret), [1, 0, 0, 1, 0]);
}
