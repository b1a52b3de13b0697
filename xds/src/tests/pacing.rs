//! Back-off and rate limits.

use super::*;
use crate::client::pacing::{Backoff, RateLimit};
use crate::types::CLUSTER;

#[test]
fn back_off_is_full_jitter_doubling_from_half_a_second_to_thirty() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mut backoff, mut ceiling, mut low) = (Backoff::default(), Duration::from_millis(500), false);
    for _ in 0..64 {
        let delay = backoff.delay(&mut rng);
        assert!(delay < ceiling);
        low |= delay < ceiling / 4;
        ceiling = (ceiling * 2).min(Duration::from_secs(30));
    }
    assert!(low, "jitter reaches down to zero");
    backoff.reset();
    assert!(backoff.delay(&mut rng) < Duration::from_millis(500));
}

#[test]
fn back_off_starts_again_with_a_response_and_not_with_a_connect() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&CLUSTER], 3);
    script.connect();
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        script.engine.on_disconnected(script.streams[0], script.now);
        longest = longest.max(script.engine.next_deadline().unwrap() - script.now.instant);
        script.now.instant += Duration::from_secs(30);
        script.connect();
    }
    assert!(longest > Duration::from_secs(5), "{longest:?}");
    script.receive(sotw(&CLUSTER, "1", "c1", &[]));
    script.engine.on_disconnected(script.streams[0], script.now);
    assert!(script.engine.next_deadline().unwrap() - script.now.instant < Duration::from_millis(500));
}

#[test]
fn retry_back_off_of_a_source_replaces_half_a_second_and_thirty() {
    let mut config = SourceConfig::aggregated(Mode::Sotw);
    config.mux.backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(400));
    let mut script = Script::with(config, &[&CLUSTER], 3);
    script.connect();
    let mut delays = Vec::new();
    for _ in 0..40 {
        script.engine.on_disconnected(script.streams[0], script.now);
        delays.push(script.engine.next_deadline().unwrap() - script.now.instant);
        script.now.instant = script.engine.next_deadline().unwrap();
        script.connect();
    }
    assert!(delays[0] < Duration::from_millis(100), "{delays:?}");
    let longest = delays.into_iter().max().unwrap();
    assert!(
        longest < Duration::from_millis(400) && longest > Duration::from_millis(300),
        "{longest:?}"
    );
}

#[test]
fn no_stream_is_opened_before_its_time() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[&CLUSTER], 3);
    script.connect();
    script.engine.on_disconnected(script.streams[0], script.now);
    let due = script.engine.next_deadline().unwrap();
    assert!(script.engine.streams_to_open(due - Duration::from_nanos(1)).is_empty());
    assert_eq!(script.engine.streams_to_open(due).len(), 1);
}

#[test]
fn the_token_bucket_delays_requests_and_drops_none() {
    let mut config = SourceConfig::aggregated(Mode::Sotw);
    config.mux.rate_limit = Some(RateLimit {
        max_tokens: 1,
        fill_rate: 2.0,
    });
    let mut script = Script::with(config, &[&CLUSTER], 1);
    assert_eq!(script.connect(), ["cds v= n= [] node"]);
    assert!(
        script
            .receive(sotw(&CLUSTER, "1", "c1", &[res("a", "1").needs("eds:a")]))
            .is_empty()
    );
    let stats = script.stats.control_plane.clone();
    assert_eq!(
        (stats.rate_limit_enforced.value(), stats.pending_requests.value()),
        (1, 2)
    );
    script.now.instant = script.engine.next_deadline().unwrap();
    assert_eq!(script.sent(), ["cds v=1 n=c1 []"]);
    script.now.instant = script.engine.next_deadline().unwrap();
    assert_eq!(script.sent(), ["eds v= n= [a]"]);
    assert_eq!(stats.pending_requests.value(), 0);
}

#[test]
fn a_paused_type_is_silent_and_resuming_says_all_in_one_request() {
    use crate::client::{Mux, MuxConfig};
    let now = Instant::now();
    let stats = Arc::new(crate::stats::ControlPlaneStats::default());
    let mut mux = Mux::new(MuxConfig::new(Mode::Sotw), fastrand::Rng::with_seed(1), stats);
    mux.on_connected(now);
    mux.pause(&types::ASSIGNMENT);
    for name in ["c", "a", "b"] {
        mux.subscribe(&types::ASSIGNMENT, name.into());
    }
    assert!(mux.poll_transmit(now).is_none());
    mux.resume(&types::ASSIGNMENT);
    assert_eq!(line(&mux.poll_transmit(now).unwrap()), "eds v= n= [a,b,c] node");
    assert!(mux.poll_transmit(now).is_none());
}

/// A pause says nothing about what is wanted: the types of a stream speak in the order of their first wish.
#[test]
fn a_pause_does_not_put_a_type_before_those_that_were_wanted_earlier() {
    use crate::client::{Mux, MuxConfig};
    let now = Instant::now();
    let stats = Arc::new(crate::stats::ControlPlaneStats::default());
    let mut mux = Mux::new(MuxConfig::new(Mode::Sotw), fastrand::Rng::with_seed(1), stats);
    mux.on_connected(now);
    mux.pause(&types::SECRET);
    mux.resume(&types::SECRET);
    mux.subscribe_wildcard(&types::LISTENER);
    mux.subscribe(&types::SECRET, "s".into());
    let sent: Vec<_> = std::iter::from_fn(|| mux.poll_transmit(now))
        .map(|request| line(&request))
        .collect();
    assert_eq!(sent, ["lds v= n= [] node", "sds v= n= [s]"]);
}
