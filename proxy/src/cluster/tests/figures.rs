//! What clients see of failing hosts, in simulated time: error rate and latency of one open-loop load on ten hosts, under Envoy's defaults and
//! under what a mesh configures, in the same seeded world.
//!
//! `cargo test -p remora --lib -- figures --nocapture` prints the table of docs/upstream.md.

use remora_proto::pb::google::protobuf::Any;

use super::world::{Fault, Ill, Member, Plan, World};
use super::*;
use crate::route::RetryPolicy;
use crate::route::retry::{HostPredicate, RetryOn};

const HOSTS: u16 = 10;
/// Requests per second, and how long they come.
const RATE: f64 = 400.0;
const LASTS: f64 = 60.0;
/// When the fault begins.
const FAULT: f64 = 10.0;
const SEED: u64 = 7;

/// What stands in the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Setup {
    /// Round robin, no outlier detection, no retries, 15 s for a request.
    EnvoysDefaults,
    /// Least request, outlier detection as it is by default, two retries elsewhere after 5xx, refusals and 0.5 s without an answer, as many at
    /// once as it takes: what Istio asks for, and a time per try.
    Mesh,
    /// The same with peak EWMA.
    PeakEwma,
}

impl Setup {
    /// Seconds for one try.
    fn patience(self) -> f64 {
        if self == Self::EnvoysDefaults { 15.0 } else { 0.5 }
    }

    fn retries(self) -> Option<RetryPolicy> {
        (self != Self::EnvoysDefaults).then(|| RetryPolicy {
            retry_on: RetryOn::parse("5xx,reset,connect-failure,refused-stream"),
            num_retries: 2,
            host_predicates: vec![HostPredicate::PreviousHosts],
            host_selection_attempts: 5,
            ..RetryPolicy::default()
        })
    }

    fn cluster(self) -> Cluster {
        let mut config = eds();
        match self {
            Self::EnvoysDefaults => return build(&config, &BuildContext::default()),
            Self::Mesh => config.lb_policy = 1,
            Self::PeakEwma => config.load_balancing_policy = Some(peak_ewma()),
        }
        config.outlier_detection = Some(pb::OutlierDetection::default());
        config.circuit_breakers = Some(pb::CircuitBreakers {
            thresholds: vec![pb::circuit_breakers::Thresholds {
                max_retries: Some(number(u32::MAX)),
                ..Default::default()
            }],
            ..Default::default()
        });
        build(&config, &BuildContext::default())
    }

    /// Under which the first host has `fault` from the tenth second on. Who is gone is so for twenty seconds, of which discovery says it during
    /// fifteen.
    fn plan(self, fault: Option<Fault>) -> Plan {
        let hosts = |first: u16| (first..HOSTS).map(|port| Member::from(port + 1)).collect::<Vec<_>>();
        let leaves = fault == Some(Fault::Gone);
        let mut told = vec![(0.0, hosts(0))];
        if leaves {
            told.extend([(FAULT + 5.0, hosts(1)), (FAULT + 20.0, hosts(0))]);
        }
        let ill = |fault| Ill {
            port: 1,
            from: FAULT,
            until: if leaves { FAULT + 19.0 } else { f64::INFINITY },
            fault,
        };
        Plan {
            cluster: Arc::new(self.cluster()),
            retries: self.retries(),
            patience: self.patience(),
            rate: RATE,
            lasts: LASTS,
            ills: fault.map(ill).into_iter().collect(),
            told,
            versions: Vec::new(),
        }
    }
}

pub(super) fn peak_ewma() -> pb::LoadBalancingPolicy {
    let policy = Any {
        type_url: "type.googleapis.com/envoy.extensions.load_balancing_policies.peak_ewma.v3alpha.PeakEwma".to_owned(),
        value: Vec::new(),
    };
    pb::LoadBalancingPolicy {
        policies: vec![pb::load_balancing_policy::Policy {
            typed_extension_config: Some(core::TypedExtensionConfig {
                name: "ewma".to_owned(),
                typed_config: Some(policy),
            }),
        }],
    }
}

/// Percent of errors, median and 99th percentile in milliseconds; failures count with the time that they took.
struct Figures {
    errors: f64,
    p50: f64,
    p99: f64,
}

fn play(setup: Setup, fault: Option<Fault>) -> Figures {
    // Where rotations start is drawn from the thread's own generator.
    fastrand::seed(SEED);
    let mut world = World::new(setup.plan(fault), SEED);
    if let Err(broken) = world.run() {
        panic!("{setup:?}, {fault:?}: {broken}");
    }
    let mut times: Vec<f64> = world.done.iter().map(|(time, _)| *time * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let failed = world.done.iter().filter(|(_, fine)| !fine).count();
    Figures {
        errors: 100.0 * failed as f64 / times.len() as f64,
        p50: times[times.len() / 2],
        p99: times[times.len() * 99 / 100],
    }
}

#[test]
fn figures() {
    use std::fmt::Write as _;
    let faults = [
        None,
        Some(Fault::Failing),
        Some(Fault::Flapping),
        Some(Fault::Slow(50.0)),
        Some(Fault::BlackHole),
        Some(Fault::Overloaded),
        Some(Fault::Gone),
    ];
    let setups = [Setup::EnvoysDefaults, Setup::Mesh, Setup::PeakEwma];
    let mut table = String::from("fault | setup | errors, % | p50, ms | p99, ms\n");
    for fault in faults {
        let figures = setups.map(|setup| play(setup, fault));
        for (setup, figures) in setups.iter().zip(&figures) {
            let Figures { errors, p50, p99 } = figures;
            let _ = writeln!(table, "{fault:?} | {setup:?} | {errors:.2} | {p50:.1} | {p99:.0}");
        }
        let [defaults, mesh, ewma] = &figures;
        // A host of ten is ill for most of the time: who asks it no more, or asks another too, fails less and waits less.
        assert!(mesh.errors <= defaults.errors.max(0.01), "{fault:?}: errors\n{table}");
        assert!(ewma.errors <= defaults.errors.max(0.01), "{fault:?}: errors\n{table}");
        assert!(mesh.p99 <= defaults.p99 * 1.1 + 5.0, "{fault:?}: p99\n{table}");
        assert!(ewma.p99 <= defaults.p99 * 1.1 + 5.0, "{fault:?}: p99\n{table}");
        let fails = matches!(
            fault,
            Some(Fault::Failing | Fault::Flapping | Fault::BlackHole | Fault::Gone)
        );
        assert!(
            !fails || (defaults.errors > 0.5 && mesh.errors < 0.1),
            "{fault:?}\n{table}"
        );
    }
    // To the output itself: whoever asks for it with --nocapture sees it.
    #[allow(
        clippy::print_stdout,
        reason = "the table is what whoever runs this test by hand wants"
    )]
    {
        println!("{table}");
    }
}
