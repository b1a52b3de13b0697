//! Answers to ordinary requests that fail their host.

use super::*;

#[test]
fn an_answer_fails_its_host_at_once_and_passed_checks_bring_it_back() {
    let mut two = check(http());
    two.healthy_threshold = Some(number(2));
    let config = config(two, 1);
    let cluster = built(&config);
    let host = cluster.all_hosts().remove(0);
    let (check, state) = (&cluster.health_checks[0], &host.state);
    let mut checker = Checker::default();
    checker.on(check, state, Outcome::Success);
    cluster.refresh(clock::now());
    let mut headers = http::HeaderMap::new();
    headers.insert("x-envoy-degraded", http::HeaderValue::from_static("1"));
    cluster.observe_headers(&host, 200, &headers, clock::now());
    assert_eq!(state.flags_text(), "healthy");
    headers.insert(
        "x-envoy-immediate-health-check-fail",
        http::HeaderValue::from_static("false"),
    );
    let epoch = state.drain_epoch();
    cluster.observe_headers(&host, 200, &headers, clock::now());
    assert_eq!(state.flags_text(), "/failed_active_hc/excluded_via_immediate_hc_fail");
    assert_eq!(state.drain_epoch(), epoch + 1);
    assert_eq!(cluster.stats.membership_excluded.value(), 1);
    assert_eq!(cluster.stats.membership_healthy.value(), 0);
    let stats = cluster.stats.health_check();
    assert_eq!((stats.passive_failure.value(), stats.failure.value()), (1, 1));
    // The checks have to pass as often as after any failure, whatever passed before.
    assert!(!checker.on(check, state, Outcome::Success));
    cluster.observe_headers(&host, 200, &headers, clock::now());
    assert!(!checker.on(check, state, Outcome::Success));
    assert!(checker.on(check, state, Outcome::Success));
    assert_eq!(state.flags_text(), "healthy");
}

#[test]
fn only_hosts_that_are_checked_fail_by_their_answers() {
    let mut unchecked = config(check(http()), 1);
    unchecked.health_checks.clear();
    let cluster = built(&unchecked);
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "x-envoy-immediate-health-check-fail",
        http::HeaderValue::from_static("1"),
    );
    let host = cluster.all_hosts().remove(0);
    cluster.observe_headers(&host, 200, &headers, clock::now());
    assert_eq!(host.state.flags_text(), "healthy");
    assert_eq!(cluster.stats.health_check().passive_failure.value(), 0);
}
