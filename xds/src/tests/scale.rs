//! Costs that must not grow with the number of resources.

use super::*;
use crate::types::{ASSIGNMENT, CLUSTER};

const MANY: usize = 10_000;

#[test]
fn one_changed_endpoint_among_ten_thousand_clusters_looks_at_a_handful_of_entries() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Delta), &[&CLUSTER], 1);
    script.connect();
    let name = |index: usize| format!("cluster-{index}");
    let clusters: Vec<_> = (0..MANY)
        .map(|at| res(&name(at), "1").needs(&format!("eds:{}", name(at))))
        .collect();
    script.receive(delta(&CLUSTER, "1", &clusters, &[]));
    let assignments: Vec<_> = (0..MANY).map(|at| res(&name(at), "1")).collect();
    script.receive(delta(&ASSIGNMENT, "1", &assignments, &[]));
    assert_eq!(script.published.len(), 2 * MANY);

    let before = script.engine.store.visits();
    assert_eq!(
        script.receive(delta(&ASSIGNMENT, "2", &[res(&name(4711), "2")], &[])),
        ["eds n=2 +[] -[] {}"]
    );
    let visits = script.engine.store.visits() - before;
    assert_eq!(script.order, ["+eds cluster-4711"]);
    assert!(visits <= 10, "{visits} entries for one change");
}

#[test]
fn ten_thousand_new_clusters_cost_one_request_for_their_assignments() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&CLUSTER], 1);
    script.connect();
    let clusters: Vec<_> = (0..MANY)
        .map(|at| res(&format!("c{at}"), "1").needs(&format!("eds:c{at}")))
        .collect();
    script.deliver(script.streams[0], sotw(&CLUSTER, "1", "c1", &clusters));
    assert_eq!(script.requests().len(), 2);
}
