//! Who gets how much: the same weights, health and localities behind both proxies, and their shares counted.
//!
//! Where turns are taken, shares are exact. Where chance decides, each may be six standard deviations off what the arithmetic says, which
//! happens once in half a billion times.

use std::net::SocketAddr;

use remora_tests::Http1;

use crate::cases::zones::{NODE, at, nobody, zone, zoned};
use crate::harness::Pair;

struct Division {
    name: &'static str,
    /// Of a cluster, in YAML.
    cluster: String,
    /// Percent of the requests that backends `a` and `b` get; the rest fails.
    shares: [f64; 2],
    by_chance: bool,
}

const TURNS: usize = 400;
const DRAWS: usize = 2_000;

#[tokio::test]
async fn shares_are_what_the_arithmetic_says() {
    let divisions = divisions();
    let routes: String = divisions
        .iter()
        .map(|division| {
            let name = division.name;
            format!("    - {{match: {{prefix: /{name}/}}, route: {{cluster: {name}}}}}\n")
        })
        .collect();
    let manager = format!(
        "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{routes}"
    );
    let local = zoned("local", &[zone("a", &nobody(1), 0), zone("b", &nobody(6)[1..], 0)], "");
    let clusters: Vec<String> = divisions
        .iter()
        .map(|division| division.cluster.clone())
        .chain([local])
        .collect();
    let yaml = format!(
        "{NODE}{}",
        crate::cases::bootstrap(&[crate::cases::listener("http", &manager)], &clusters)
    );
    let Some(pair) = Pair::start("distributions", &yaml).await else {
        return;
    };
    let mut wrong = Vec::new();
    for division in &divisions {
        let (theirs, ours) = tokio::join!(
            count(pair.envoy("http"), division),
            count(pair.remora("http"), division)
        );
        for (who, got) in [("Envoy", theirs), ("Remora", ours)] {
            if !fits(division, got) {
                wrong.push(format!(
                    "{}: {who} gives {got:?}, {:?} % of {} were expected",
                    division.name,
                    division.shares,
                    division.requests()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

impl Division {
    fn requests(&self) -> usize {
        if self.by_chance { DRAWS } else { TURNS }
    }
}

/// Answers of `a`, of `b`, and failures.
async fn count(proxy: SocketAddr, division: &Division) -> [usize; 3] {
    let mut client = Http1::connect(proxy).await.unwrap();
    let mut got = [0; 3];
    for _ in 0..division.requests() {
        let answer = client.get("parity.test", &format!("/{}/", division.name), "").await;
        let index = match answer.header("x-backend") {
            Some("a") => 0,
            Some("b") => 1,
            _ => 2,
        };
        got[index] += 1;
    }
    got
}

fn fits(division: &Division, got: [usize; 3]) -> bool {
    let requests = division.requests() as f64;
    got.iter().zip(division.shares).all(|(got, percent)| {
        let share = percent / 100.0;
        let tolerance = match division.by_chance {
            true => 6.0 * (share * (1.0 - share) * requests).sqrt(),
            // A period may be under way at the start and at the end.
            false => 2.0,
        };
        (*got as f64 - share * requests).abs() <= tolerance + 1e-9
    })
}

const SICK: &str = ", health_status: UNHEALTHY";
const WEIGHTED: &str = "common_lb_config: {locality_weighted_lb_config: {}}";

fn divisions() -> Vec<Division> {
    let a = |more: &str| at("{{a}}", more);
    let b = |more: &str| at("{{b}}", more);
    let weight = |weight: u32| format!(", load_balancing_weight: {weight}");
    let sick = |count: u8| -> Vec<String> {
        let mark = |endpoint: String| format!("{}{SICK}}}", &endpoint[..endpoint.len() - 1]);
        nobody(count).into_iter().map(mark).collect()
    };
    let with = |endpoint: String, others: Vec<String>| [vec![endpoint], others].concat();
    let later = |zone: String| zone.replace("        lb_endpoints", "        priority: 1\n        lb_endpoints");
    let flat = |name, endpoints: &[String], fields: &str| zoned(name, &[zone("a", endpoints, 0)], fields);
    let pair =
        |name, weights: [u32; 2], fields: &str| flat(name, &[a(&weight(weights[0])), b(&weight(weights[1]))], fields);
    let exact = |name, cluster, shares| Division {
        name,
        cluster,
        shares,
        by_chance: false,
    };
    let drawn = |name, cluster, shares| Division {
        by_chance: true,
        ..exact(name, cluster, shares)
    };
    vec![
        exact("turns", pair("turns", [3, 2], ""), [60.0, 40.0]),
        exact("least", pair("least", [3, 1], "lb_policy: LEAST_REQUEST"), [75.0, 25.0]),
        drawn("random", pair("random", [1, 1], "lb_policy: RANDOM"), [50.0, 50.0]),
        drawn("maglev", pair("maglev", [1, 3], "lb_policy: MAGLEV"), [25.0, 75.0]),
        // Half of priority 0 is up: 70 % of the load.
        drawn(
            "priorities",
            zoned(
                "priorities",
                &[zone("a", &with(a(""), sick(1)), 0), later(zone("b", &[b("")], 0))],
                "",
            ),
            [70.0, 30.0],
        ),
        // A quarter is healthy and a quarter degraded: 35 and 35, of 70.
        drawn(
            "degraded",
            flat(
                "degraded",
                &[vec![a(""), b(", health_status: DEGRADED")], sick(2)].concat(),
                "",
            ),
            [50.0, 50.0],
        ),
        // Half of the second locality is up: 2 × 0.7.
        exact(
            "localities",
            zoned(
                "localities",
                &[zone("a", &[a("")], 1), zone("b", &with(b(""), sick(1)), 2)],
                WEIGHTED,
            ),
            [100.0 / 2.4, 140.0 / 2.4],
        ),
        // No locality has a weight, or only one that is down: they are as one.
        exact(
            "weightless",
            zoned(
                "weightless",
                &[zone("a", &[a("")], 0), zone("b", &[b("")], 0)],
                WEIGHTED,
            ),
            [50.0, 50.0],
        ),
        exact(
            "left",
            zoned(
                "left",
                &[zone("a", &[a("")], 0), zone("b", &[b("")], 0), zone("c", &sick(1), 9)],
                WEIGHTED,
            ),
            [50.0, 50.0],
        ),
        // A period of 20,003 turns.
        exact("long", pair("long", [5_001, 15_002], ""), [25.0, 75.0]),
        // A draining host does not count among those that could be up.
        exact(
            "excluded",
            zoned(
                "excluded",
                &[
                    zone("a", &[a("")], 1),
                    zone(
                        "b",
                        &with(b(""), sick(1))
                            .iter()
                            .map(|one| one.replace("UNHEALTHY", "DRAINING"))
                            .collect::<Vec<_>>(),
                        1,
                    ),
                ],
                WEIGHTED,
            ),
            [50.0, 50.0],
        ),
        // In panic localities do not count.
        exact(
            "panic",
            zoned(
                "panic",
                &[zone("a", &[a("")], 1), zone("b", &with(b(SICK), sick(2)), 9)],
                WEIGHTED,
            ),
            [25.0, 25.0],
        ),
        // Tables know the weights as they are configured, whatever failed, and share a locality's by those of its hosts.
        drawn(
            "table",
            zoned(
                "table",
                &[zone("a", &[a("")], 1), zone("b", &with(b(&weight(5)), sick(1)), 3)],
                &format!("lb_policy: MAGLEV\n{WEIGHTED}"),
            ),
            [25.0, 75.0],
        ),
        drawn(
            "unweighted",
            zoned(
                "unweighted",
                &[zone("a", &[a("")], 0), zone("b", &[b("")], 3)],
                &format!("lb_policy: RING_HASH\n{WEIGHTED}"),
            ),
            [0.0, 100.0],
        ),
        // A sixth of the sidecars is here, a tenth of the hosts: 1,000 of 1,666 stay.
        drawn(
            "zones",
            zoned(
                "zones",
                &[zone("a", &[a("")], 0), zone("b", &with(b(""), nobody(8)), 0)],
                "",
            ),
            [6_002.0 / 100.0, 3_998.0 / 900.0],
        ),
        // Half of the requests care for zones, and stay; the others take turns.
        drawn(
            "half",
            zoned(
                "half",
                &[zone("a", &[a("")], 0), zone("b", &[b("")], 0)],
                "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1, routing_enabled: {value: 50}}}",
            ),
            [75.0, 25.0],
        ),
    ]
}
