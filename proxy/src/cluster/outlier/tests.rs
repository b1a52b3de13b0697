use super::*;
use crate::cluster::host::Health;
use crate::runtime::io::Address;

struct Bench {
    detector: Detector,
    hosts: Vec<Arc<Host>>,
    now: Instant,
}

impl Bench {
    fn new(count: u8, config: OutlierConfig) -> Self {
        let host = |index| Arc::new(Host::new(Address::Ip(([10, 0, 0, index], 80).into())));
        let hosts: Vec<Arc<Host>> = (0..count).map(host).collect();
        let now = crate::runtime::clock::now();
        let detector = Detector::new(config, Arc::default());
        detector.set_hosts(hosts.iter(), now);
        Self { detector, hosts, now }
    }

    fn respond(&self, host: usize, status: u16, times: u32) -> bool {
        let mut ejected = false;
        for _ in 0..times {
            ejected |= self
                .detector
                .on_response(&self.hosts[host], status, self.now, &mut || 0);
        }
        ejected
    }

    fn fail(&self, host: usize, kind: LocalFailure, times: u32) -> bool {
        let mut ejected = false;
        for _ in 0..times {
            ejected |= self
                .detector
                .on_local_failure(&self.hosts[host], kind, self.now, &mut || 0);
        }
        ejected
    }

    /// Lets `seconds` pass, sweeping at each interval.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.detector.tick(&self.hosts, self.now, &mut || 0);
        }
    }

    fn is_ejected(&self, host: usize) -> bool {
        self.hosts[host].state.has(HealthFlag::FailedOutlierCheck)
    }
}

fn half() -> OutlierConfig {
    OutlierConfig {
        max_ejection_percent: 50,
        ..OutlierConfig::default()
    }
}

#[test]
fn five_errors_in_a_row_eject_and_a_success_in_between_saves() {
    let bench = Bench::new(2, half());
    assert!(!bench.respond(0, 500, 4));
    assert!(!bench.respond(0, 404, 1));
    assert!(!bench.respond(0, 500, 4));
    assert!(bench.respond(0, 500, 1));
    assert!(bench.is_ejected(0) && bench.hosts[0].state.drain_epoch() == 1);
    assert_eq!(bench.detector.stats.outlier().ejections_active.value(), 1);
}

#[test]
fn no_more_than_the_share_is_ejected() {
    let bench = Bench::new(4, half());
    assert!(bench.respond(0, 503, 5) && bench.respond(1, 503, 5));
    assert!(!bench.respond(2, 503, 5));
    // Both kinds that five 503s are; above the share neither chance nor the total comes into it.
    let stats = bench.detector.stats.outlier();
    assert_eq!(stats.ejections_overflow.value(), 2);
    assert_eq!(stats.ejections_total.value(), 2);
    assert_eq!(stats.ejections_consecutive_5xx.value(), 3);
    // Ten percent of four hosts is nobody, unless one may always go.
    assert!(!Bench::new(4, OutlierConfig::default()).respond(0, 500, 5));
    let always = OutlierConfig {
        always_eject_one_host: true,
        ..OutlierConfig::default()
    };
    let bench = Bench::new(4, always);
    assert!(bench.respond(0, 500, 5) && !bench.respond(1, 500, 5));
}

#[test]
fn gateway_failures_are_only_noticed_by_default() {
    let bench = Bench::new(
        2,
        OutlierConfig {
            consecutive_5xx: 100,
            ..half()
        },
    );
    assert!(!bench.respond(0, 502, 5));
    let stats = bench.detector.stats.outlier();
    assert_eq!(stats.ejections_detected_consecutive_gateway_failure.value(), 1);
    assert_eq!(stats.ejections_enforced_consecutive_gateway_failure.value(), 0);
    let config = OutlierConfig {
        enforcing_consecutive_gateway_failure: 100,
        consecutive_5xx: 100,
        ..half()
    };
    let bench = Bench::new(2, config);
    assert!(!bench.respond(0, 502, 4) && !bench.respond(0, 500, 1) && !bench.respond(0, 504, 4));
    assert!(bench.respond(0, 504, 1));
}

#[test]
fn ejections_grow_and_shrink() {
    let mut bench = Bench::new(2, half());
    assert!(bench.respond(0, 500, 5));
    bench.pass(29);
    assert!(bench.is_ejected(0));
    bench.pass(1);
    assert!(!bench.is_ejected(0));
    assert!(bench.respond(0, 500, 5));
    bench.pass(50);
    assert!(bench.is_ejected(0));
    bench.pass(10);
    assert!(!bench.is_ejected(0));
    // Two fine intervals take the multiplier back to zero.
    bench.pass(20);
    assert!(bench.respond(0, 500, 5));
    bench.pass(30);
    assert!(!bench.is_ejected(0));
    assert_eq!(bench.hosts[0].state.outlier.ejections(), 3);
}

#[test]
fn an_ejection_never_lasts_longer_than_the_maximum() {
    let config = OutlierConfig {
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(40),
        ..half()
    };
    let mut ejection = Ejection::default();
    let now = crate::runtime::clock::now();
    let mut times = Vec::new();
    for _ in 0..5 {
        ejection.begin(&config, now, 0);
        times.push(ejection.until.expect("begun").duration_since(now).as_secs());
    }
    assert_eq!(times, [30, 40, 40, 40, 40]);
    assert_eq!(ejection.multiplier, 3);
}

#[test]
fn local_failures_have_their_own_count_when_split() {
    assert!(Bench::new(2, half()).fail(0, LocalFailure::ConnectFailed, 5));
    let config = OutlierConfig {
        split_external_local_origin_errors: true,
        ..half()
    };
    let bench = Bench::new(2, config);
    assert!(!bench.fail(0, LocalFailure::ConnectTimeout, 4) && !bench.respond(0, 500, 4));
    // The host was reached, so the local count begins anew.
    bench.detector.on_connected(&bench.hosts[0], false);
    assert!(!bench.fail(0, LocalFailure::Reset, 4));
    assert!(bench.fail(0, LocalFailure::Reset, 1));
    assert_eq!(
        bench
            .detector
            .stats
            .outlier()
            .ejections_enforced_consecutive_local_origin_failure
            .value(),
        1
    );
}

/// Envoy's example: rates 50, 100 × 4; mean 90, deviation 20, threshold 52.
#[test]
fn the_odd_one_out_is_ejected_by_success_rate() {
    let mut bench = Bench::new(
        5,
        OutlierConfig {
            consecutive_5xx: 1000,
            ..half()
        },
    );
    for host in 0..5 {
        bench.respond(host, 200, if host == 0 { 50 } else { 100 });
    }
    for _ in 0..50 {
        bench.respond(0, 500, 1);
    }
    bench.pass(10);
    assert!(bench.is_ejected(0) && (1..5).all(|host| !bench.is_ejected(host)));
    assert_eq!(bench.hosts[0].state.outlier.success_rate(), Some(50.0));
    assert_eq!(
        bench.detector.stats.outlier().ejections_enforced_success_rate.value(),
        1
    );
}

#[test]
fn failure_percentage_needs_enforcing() {
    let config = |enforcing| OutlierConfig {
        consecutive_5xx: 1000,
        enforcing_success_rate: 0,
        enforcing_failure_percentage: enforcing,
        ..half()
    };
    for (enforcing, ejected) in [(0, false), (100, true)] {
        let mut bench = Bench::new(5, config(enforcing));
        for host in 0..5 {
            bench.respond(host, 200, 15);
            bench.respond(host, if host == 4 { 500 } else { 200 }, 85);
        }
        bench.pass(10);
        assert_eq!(bench.is_ejected(4), ejected);
        assert_eq!(
            bench
                .detector
                .stats
                .outlier()
                .ejections_detected_failure_percentage
                .value(),
            1
        );
    }
}

/// Times and rules as the real Envoy 1.40 was seen to keep them.
#[test]
fn a_host_that_says_so_is_degraded_for_a_growing_while() {
    let config = OutlierConfig {
        interval: Duration::from_secs(1),
        base_ejection_time: Duration::from_secs(2),
        max_ejection_time: Duration::from_secs(5),
        detect_degraded_hosts: true,
        consecutive_5xx: 2,
        ..OutlierConfig::default()
    };
    let mut bench = Bench::new(1, config);
    let mut headers = http::HeaderMap::new();
    let answer = |bench: &Bench, status, headers: &http::HeaderMap| {
        bench
            .detector
            .on_headers(&bench.hosts[0], status, headers, bench.now, &mut || 0)
    };
    assert!(!answer(&bench, 200, &headers));
    headers.insert("x-envoy-degraded", http::HeaderValue::from_static(""));
    assert!(!answer(&bench, 500, &headers), "a failure is a failure");
    let host = bench.hosts[0].clone();
    let mut lasts = Vec::new();
    for _ in 0..3 {
        assert!(answer(&bench, 404, &headers), "no limit is asked");
        assert!(!answer(&bench, 404, &headers), "it is already");
        assert_eq!(host.state.flags_text(), "/degraded_outlier_detection");
        assert_eq!(host.state.health(), Health::Degraded);
        let mut seconds = 0;
        while host.state.has(HealthFlag::DegradedOutlierDetection) {
            bench.pass(1);
            seconds += 1;
        }
        lasts.push(seconds);
    }
    assert_eq!(lasts, [2, 4, 5], "twice the base, and no more than the most");
    // Quiet intervals count down, and ejections are counted on their own.
    bench.pass(3);
    assert!(answer(&bench, 200, &headers));
    let stats = bench.detector.stats.outlier();
    assert_eq!(stats.ejections_detected_degradation.value(), 4);
    assert_eq!(stats.ejections_enforced_total.value(), 0);
    assert_eq!(host.state.outlier.ejections(), 0);
    let left = host.state.outlier.degraded_until().map(|until| until - bench.now);
    assert_eq!(left, Some(Duration::from_secs(2)));
}

#[test]
fn who_does_not_look_for_degraded_hosts_finds_none() {
    let bench = Bench::new(1, OutlierConfig::default());
    let headers = [(
        http::HeaderName::from_static("x-envoy-degraded"),
        http::HeaderValue::from_static("1"),
    )];
    let headers = headers.into_iter().collect();
    assert!(
        !bench
            .detector
            .on_headers(&bench.hosts[0], 200, &headers, bench.now, &mut || 0)
    );
}
