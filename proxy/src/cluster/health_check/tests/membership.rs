//! Endpoints that turn checks of themselves off and on.

use std::pin::pin;
use std::task::{Context, Wake, Waker};

use parking_lot::Mutex;
use remora_proto::pb::envoy::config::endpoint::v3 as epb;

use super::*;

/// The cluster's own assignment with `change` made to its endpoint.
fn assign(cluster: &Cluster, config: &pb::Cluster, target: Option<epb::endpoint::HealthCheckConfig>) {
    let mut assignment = config.load_assignment.clone().expect("an assignment");
    assignment.cluster_name = "checked".to_owned();
    let endpoint = &mut assignment.endpoints[0].lb_endpoints[0];
    let Some(epb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut endpoint.host_identifier else {
        panic!("an endpoint");
    };
    endpoint.health_check_config = target;
    let updated = cluster.update_endpoints(&assignment.encode_to_vec());
    updated.unwrap_or_else(|problems| panic!("{problems}"));
}

fn disabled() -> Option<epb::endpoint::HealthCheckConfig> {
    Some(epb::endpoint::HealthCheckConfig {
        disable_active_health_check: true,
        ..Default::default()
    })
}

#[test]
fn a_host_that_turns_checks_off_is_healthy_and_one_that_turns_them_on_has_to_pass() {
    let config = config(check(http()), 1);
    let cluster = built(&config);
    let state = cluster.all_hosts()[0].state.clone();
    let check = &cluster.health_checks[0];
    let mut checker = Checker::default();
    checker.on(check, &state, Outcome::Timeout);
    assert_eq!(state.flags_text(), "/failed_active_hc/active_hc_timeout");
    let changes = cluster.stats.membership_change.value();
    assign(&cluster, &config, disabled());
    assert_eq!(state.flags_text(), "healthy");
    assert_eq!(cluster.stats.membership_healthy.value(), 1);
    assert_eq!(cluster.stats.health_check().healthy.value(), 0, "nobody checks it");
    assert_eq!(cluster.stats.membership_change.value(), changes + 1);
    // The same again changes nothing.
    assign(&cluster, &config, disabled());
    assert_eq!(cluster.stats.membership_change.value(), changes + 1);
    assign(&cluster, &config, None);
    assert_eq!(state.flags_text(), "/failed_active_hc");
    assert_eq!(cluster.stats.membership_healthy.value(), 0);
    // What was known of another place says nothing of this one.
    Checker::default().on(check, &state, Outcome::Success);
    assert_eq!(state.flags_text(), "healthy");
    let elsewhere = epb::endpoint::HealthCheckConfig {
        port_value: 2,
        ..Default::default()
    };
    assign(&cluster, &config, Some(elsewhere));
    assert_eq!(state.flags_text(), "/failed_active_hc");
}

#[tokio::test]
async fn a_host_that_turns_checks_off_is_asked_no_more_until_it_turns_them_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let tcp = core::health_check::HealthChecker::TcpHealthCheck(Default::default());
    let mut check = check(tcp);
    check.no_traffic_interval = Some(PbDuration {
        seconds: 0,
        nanos: 1_000_000,
    });
    let config = config(check, listener.local_addr().expect("bound").port());
    let cluster = built(&config);
    let attempts = || cluster.stats.health_check().attempt.value();
    let running = spawn("test", run(Arc::downgrade(&cluster)));
    for _ in 0..3 {
        listener.accept().await.expect("a check's connection");
    }
    assign(&cluster, &config, disabled());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let before = attempts();
    // Time for many more.
    clock::sleep(Duration::from_millis(50)).await;
    assert_eq!(attempts(), before);
    assert_eq!(cluster.all_hosts()[0].state.flags_text(), "healthy");
    assign(&cluster, &config, None);
    let deadline = clock::now() + Duration::from_secs(20);
    while attempts() == before || cluster.all_hosts()[0].state.has(HealthFlag::FailedActiveHc) {
        assert!(clock::now() < deadline, "is not checked again");
        let _ = tokio::time::timeout(Duration::from_millis(5), listener.accept()).await;
    }
    running.abort();
}

fn remove_all(cluster: &Cluster) {
    let nothing = epb::ClusterLoadAssignment {
        cluster_name: "checked".to_owned(),
        ..Default::default()
    };
    let updated = cluster.update_endpoints(&nothing.encode_to_vec());
    updated.unwrap_or_else(|problems| panic!("{problems}"));
}

#[test]
fn a_removed_host_stays_until_checks_fail_it() {
    let cluster = built(&config(check(http()), 1));
    let host = cluster.all_hosts()[0].clone();
    let check = &cluster.health_checks[0];
    let mut checker = Checker::default();
    let mut found = |outcome| {
        settle(&cluster, &host, check, (outcome, 0), false, || {
            checker.on(check, &host.state, outcome)
        });
        cluster.stats.membership_total.value()
    };
    assert_eq!(found(Outcome::Success), 1);
    remove_all(&cluster);
    assert_eq!(host.state.flags_text(), "/pending_dynamic_removal");
    let picked = cluster.pick(&crate::cluster::PickContext::default());
    assert!(Arc::ptr_eq(&picked.expect("it serves").state, &host.state));
    assert_eq!(found(Outcome::Success), 1);
    assert_eq!(found(Outcome::Timeout), 1, "one of two that it takes");
    assert_eq!(found(Outcome::Timeout), 0);
    assert!(!host.state.is_member() && cluster.all_hosts().is_empty());
}

#[test]
fn a_removed_host_that_nobody_checks_goes_at_once() {
    let config = config(check(http()), 1);
    let cluster = built(&config);
    let host = cluster.all_hosts()[0].clone();
    assign(&cluster, &config, disabled());
    assert_eq!(cluster.stats.membership_total.value(), 1);
    remove_all(&cluster);
    assert_eq!(cluster.stats.membership_total.value(), 0);
    assert!(!host.state.is_member());
}

/// Counts the cluster's hosts at the very moment that it is told of a change.
struct Witness {
    cluster: Arc<Cluster>,
    hosts: Mutex<Option<usize>>,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        *self.hosts.lock() = Some(self.cluster.all_hosts().len());
    }
}

/// Checks of a host begin when it is there: whoever keeps them looks when he is told, and else not before seconds have passed.
#[test]
fn who_is_told_of_a_change_finds_the_hosts_changed() {
    let config = config(check(http()), 1);
    let cluster = built(&config);
    let witness = Arc::new(Witness {
        cluster: cluster.clone(),
        hosts: Mutex::default(),
    });
    let waker = Waker::from(witness.clone());
    let seen = |change: &dyn Fn()| {
        let changed = cluster.membership_changed();
        let mut told = pin!(changed.notified());
        // What was said before is not meant.
        while told.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            told.set(changed.notified());
        }
        change();
        witness.hosts.lock().take()
    };
    let mut two = config.load_assignment.clone().expect("an assignment");
    two.cluster_name = "checked".to_owned();
    let mut second = two.endpoints[0].lb_endpoints[0].clone();
    let Some(epb::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut second.host_identifier else {
        panic!("an endpoint");
    };
    let Some(core::address::Address::SocketAddress(address)) =
        endpoint.address.as_mut().and_then(|address| address.address.as_mut())
    else {
        panic!("an address");
    };
    address.port_specifier = Some(core::socket_address::PortSpecifier::PortValue(2));
    two.endpoints[0].lb_endpoints.push(second);
    let come = || {
        cluster
            .update_endpoints(&two.encode_to_vec())
            .expect("a good assignment")
    };
    assert_eq!(seen(&come), Some(2));
    let hosts = cluster.all_hosts();
    let find = |outcome| {
        for host in &hosts {
            settle(&cluster, host, &cluster.health_checks[0], (outcome, 0), false, || {
                Checker::default().on(&cluster.health_checks[0], &host.state, outcome)
            });
        }
    };
    find(Outcome::Success);
    assert_eq!(seen(&|| remove_all(&cluster)), None, "they stay for their health");
    let fail = || {
        settle(
            &cluster,
            &hosts[0],
            &cluster.health_checks[0],
            (Outcome::Failure, 0),
            false,
            || Checker::default().on(&cluster.health_checks[0], &hosts[0].state, Outcome::Failure),
        );
    };
    assert_eq!(seen(&fail), Some(1));
}
