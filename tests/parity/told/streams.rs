//! Of streams: what subscriptions count, and the cluster that leads to the control plane.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use control_plane_mock::resources::{
    ClusterBuilder, Variant, bootstrap_ads_with, cluster_eds, cluster_static, endpoint, endpoints, endpoints_of, hcm,
    listener_http, prefix, route_config,
};
use control_plane_mock::{ControlPlane, Ending, Entry, Fault, PATIENCE, What};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::google::protobuf as wkt;
use remora_tests::sources::{add_control_plane, grpc_source};
use remora_tests::{Backend, until};
use serde_json::json;

use super::{Subject, agree};
use crate::harness::envoy_or_skip;

/// A control plane of everything, one of the endpoints of `own`, and who is told about them.
struct Scene {
    plane: ControlPlane,
    eds: ControlPlane,
    backend: Backend,
    subject: Subject,
}

/// How long is waited for resources where they are not to come.
const SHORT: wkt::Duration = wkt::Duration {
    seconds: 0,
    nanos: 300_000_000,
};

impl Scene {
    async fn set(envoy: Option<&Path>, variant: Variant) -> Self {
        let (plane, eds) = (
            ControlPlane::start().await.unwrap(),
            ControlPlane::start().await.unwrap(),
        );
        let backend = Backend::start("a").await;
        for (name, plane) in [("a", &plane), ("own", &eds)] {
            plane.push_endpoints(endpoints(name, [("127.0.0.1", backend.port())]));
        }
        plane.push_cluster(assigned("a", 1, None));
        let source = grpc_source("eds", core::api_config_source::ApiType::Grpc);
        plane.push_cluster(assigned("own", 1, Some(source)));
        let routes = route_config("routes").vhost(["*"]);
        let routes = routes
            .with_route(prefix("/own").cluster("own"))
            .with_route(prefix("/").cluster("a"));
        plane.push_route(routes);
        plane.push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").rds("routes")));
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let bootstrap = bootstrap_ads_with("told", plane.listen(), admin, variant, |bootstrap| {
            add_control_plane(bootstrap, "eds", &eds);
        });
        let subject = Subject::start(envoy, &bootstrap).await;
        Self {
            plane,
            eds,
            backend,
            subject,
        }
    }
}

/// What comes of a change of `seconds` is another version of the cluster.
fn assigned(name: &str, seconds: u64, source: Option<core::ConfigSource>) -> ClusterBuilder {
    cluster_eds(name)
        .connect_timeout(Duration::from_secs(seconds))
        .edit(|cluster| {
            let config = cluster.eds_cluster_config.get_or_insert_default();
            if let Some(source) = source {
                config.eds_config = Some(source);
            }
            let source = config.eds_config.get_or_insert_default();
            source.initial_fetch_timeout = Some(SHORT);
        })
}

/// Something that happens, and what the control plane must have heard before the next: the last word of each type.
struct Step {
    name: &'static str,
    act: fn(&Scene),
    heard: &'static [(&'static str, What)],
    /// What Envoy tells in the end, where that takes its time.
    comes: Option<(&'static str, &'static str)>,
}

fn step(name: &'static str, heard: &'static [(&'static str, What)], act: fn(&Scene)) -> Step {
    Step {
        name,
        act,
        heard,
        comes: None,
    }
}

impl Step {
    fn comes(self, name: &'static str, value: &'static str) -> Self {
        Self {
            comes: Some((name, value)),
            ..self
        }
    }
}

/// What is compared: all that subscriptions count.
fn subscriptions(name: &str) -> bool {
    let names = [
        "update_attempt",
        "update_success",
        "update_failure",
        "update_rejected",
        "update_empty",
        "update_no_rebuild",
        "update_time",
        "update_duration",
        "init_fetch_timeout",
        "version",
        "version_text",
        "config_reload",
        "config_reload_time_ms",
        "assignment_stale",
        "assignment_timeout_received",
        "assignment_use_cached",
        "control_plane.connected_state",
        "control_plane.identifier",
        "control_plane.pending_requests",
        "control_plane.rate_limit_enforced",
    ];
    let prefixes = [
        "",
        "cluster.a.",
        "cluster.own.",
        "cluster_manager.cds.",
        "listener_manager.lds.",
        "http.http.rds.routes.",
    ];
    prefixes
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|name| names.contains(&name))
}

/// The clusters are used: ours count from then on.
async fn use_clusters(subject: &Subject) {
    for path in ["/own", "/"] {
        until("the backend", async || {
            (subject.ask("http", path).await == 200).then_some(())
        })
        .await;
    }
}

async fn heard(plane: &ControlPlane, mark: usize, ty: &str, what: What) {
    let matches = |entry: &Entry| entry.what == what && entry.is_of(ty);
    plane.wait_from(mark, matches, PATIENCE).await.unwrap();
}

async fn play(scene: &Scene, step: &Step) {
    let marks = [scene.plane.mark(), scene.eds.mark()];
    (step.act)(scene);
    for (ty, what) in step.heard {
        match ty.strip_prefix("own ") {
            Some(ty) => heard(&scene.eds, marks[1], ty, *what).await,
            None => heard(&scene.plane, marks[0], ty, *what).await,
        }
    }
}

async fn compare(world: &str, variant: Variant, steps: &[Step]) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let theirs = Scene::set(Some(Path::new(&envoy)), variant).await;
    let ours = Scene::set(None, variant).await;
    for scene in [&theirs, &ours] {
        use_clusters(&scene.subject).await;
    }
    let start = step("start", &[], |_| {});
    for step in std::iter::once(&start).chain(steps) {
        play(&theirs, step).await;
        play(&ours, step).await;
        use_clusters(&theirs.subject).await;
        if let Some((name, value)) = step.comes {
            until(step.name, async || {
                let stats = theirs.subject.stats(&|other| other == name).await;
                stats.values().any(|told| told == value).then_some(())
            })
            .await;
        }
        let told = settled(&theirs.subject).await;
        agree(step.name, &told, &ours.subject, &subscriptions, use_clusters).await;
    }
}

/// What Envoy tells once it tells the same twice, with time enough between for what was on its way.
async fn settled(subject: &Subject) -> BTreeMap<String, String> {
    let mut before = BTreeMap::new();
    until("the same twice", async || {
        let now = subject.stats(&subscriptions).await;
        let is_same = now == before;
        before = now.clone();
        is_same.then_some(now)
    })
    .await
}

const LIFE: Duration = Duration::from_millis(400);

#[tokio::test]
async fn subscriptions_of_state_of_the_world() {
    use What::{Ack, Nack};
    let steps = [
        step("an endpoint changes", &[("eds", Ack)], |scene| {
            let port = scene.backend.port();
            scene
                .plane
                .push_endpoints(endpoints("a", [("127.0.0.1", port), ("127.0.0.1", port + 1)]));
            scene.plane.push_endpoints(endpoints("a", [("127.0.0.1", port)]));
        }),
        step("nothing changes", &[("eds", Ack), ("rds", Ack)], |scene| {
            scene.plane.resend("eds");
            scene.plane.resend("rds");
        }),
        step("twice the same name", &[("eds", Ack)], |scene| {
            scene.plane.fault("eds", Fault::Duplicate);
            scene.plane.resend("eds");
        }),
        step("endpoints that are refused", &[("eds", Nack)], |scene| {
            let beyond = endpoints_of("a").locality(200, "", [endpoint("127.0.0.1", 1)]);
            scene.plane.push_endpoints(beyond);
        }),
        step("good ones again", &[("eds", Ack)], |scene| {
            let port = scene.backend.port();
            scene.plane.push_endpoints(endpoints("a", [("127.0.0.1", port)]));
        }),
        step("a source of its own", &[("own eds", Ack)], |scene| {
            scene.eds.resend("eds")
        }),
        step("the cluster changes", &[("cds", Ack), ("eds", Ack)], |scene| {
            scene.plane.push_cluster(assigned("a", 2, None));
        }),
        step(
            "the streams end",
            &[("cds", Ack), ("lds", Ack), ("eds", Ack), ("rds", Ack)],
            |scene| {
                scene.plane.disconnect(Ending::Unavailable);
            },
        ),
        step("that of its own ends", &[("own eds", Ack)], |scene| {
            scene.eds.disconnect(Ending::Unavailable);
        }),
    ];
    compare("told-sotw", Variant::Sotw, &steps).await;
}

#[tokio::test]
async fn times_to_live_and_what_does_not_come_in_time() {
    use What::Ack;
    let steps = [
        step("mortal endpoints", &[("eds", Ack)], |scene| {
            let port = scene.backend.port();
            scene
                .plane
                .push_with_ttl(endpoints("a", [("127.0.0.1", port)]).build(), LIFE);
        })
        .comes("cluster.a.version_text", ""),
        step("mortal routes", &[("rds", Ack)], |scene| {
            let routes = route_config("routes").vhost(["told.test", "*"]);
            let routes = routes
                .with_route(prefix("/own").cluster("own"))
                .with_route(prefix("/").cluster("a"));
            scene.plane.push_with_ttl(routes.build(), LIFE);
        })
        .comes("http.http.rds.routes.version_text", ""),
        step("a mortal cluster", &[("cds", Ack)], |scene| {
            let mortal = cluster_static("mortal", [("127.0.0.1", 1)]);
            scene.plane.push_with_ttl(mortal.build(), LIFE);
        })
        .comes("cluster_manager.cds.version_text", ""),
        step(
            "no endpoints come for a cluster that has changed",
            &[("cds", Ack)],
            |scene| {
                scene.plane.withhold("eds");
                scene.plane.push_cluster(assigned("a", 2, None));
            },
        )
        .comes("cluster.a.assignment_use_cached", "1"),
        step("they come", &[("eds", Ack)], |scene| scene.plane.release("eds")),
    ];
    compare("told-delta", Variant::Delta, &steps).await;
}

#[tokio::test]
async fn what_is_not_there_at_the_start() {
    let Some(envoy) = envoy_or_skip("told-late") else {
        return;
    };
    let shown = |name: &str| {
        let roots = ["cluster_manager.cds.", "listener_manager.lds.", "http.http.rds.routes."];
        subscriptions(name) && roots.iter().any(|root| name.starts_with(root))
    };
    for withheld in ["cds", "lds", "rds"] {
        let mut told = None;
        for envoy in [Some(Path::new(&envoy)), None] {
            let plane = ControlPlane::start().await.unwrap();
            plane.withhold(withheld);
            let manager = hcm("http").rds("routes").edit(|manager| {
                use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
                if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
                    rds.config_source.get_or_insert_default().initial_fetch_timeout = Some(SHORT);
                }
            });
            plane.push_listener(listener_http("http", "127.0.0.1", 0, manager));
            plane.push_cluster(cluster_static("a", [("127.0.0.1", 1)]));
            let admin = SocketAddr::from(([127, 0, 0, 1], 0));
            let bootstrap = bootstrap_ads_with("told", plane.listen(), admin, Variant::Sotw, |bootstrap| {
                for root in ["cds_config", "lds_config"] {
                    bootstrap["dynamic_resources"][root]["initial_fetch_timeout"] = json!("0.3s");
                }
            });
            let subject = Subject::start(envoy, &bootstrap).await;
            match &told {
                None => told = Some(subject.stats(&shown).await),
                Some(theirs) => agree(withheld, theirs, &subject, &shown, async |_| {}).await,
            }
        }
        let told = told.unwrap_or_default();
        assert!(
            told.iter()
                .any(|(name, value)| name.ends_with("init_fetch_timeout") && value == "1")
        );
    }
}

/// What the cluster that leads to the control plane counts.
fn transport(name: &str) -> bool {
    let names = [
        "upstream_cx_total",
        "upstream_cx_active",
        "upstream_cx_http2_total",
        "upstream_cx_connect_ms",
        "upstream_cx_connect_fail",
        "upstream_cx_destroy",
        "upstream_cx_rx_bytes_total",
        "upstream_cx_tx_bytes_total",
        "upstream_rq_total",
        "upstream_rq_active",
        "upstream_rq_pending_total",
        "upstream_rq_pending_active",
        "upstream_rq_cancelled",
        "upstream_rq_rx_reset",
        "upstream_rq_tx_reset",
        "upstream_rq_completed",
        "upstream_rq_200",
        "upstream_rq_2xx",
        "internal.upstream_rq_200",
        "internal.upstream_rq_2xx",
        "internal.upstream_rq_completed",
        "http2.streams_active",
        "http2.tx_reset",
        "http2.keepalive_timeout",
    ];
    let own = name.strip_prefix("cluster.xds_cluster.");
    own.is_some_and(|name| names.contains(&name))
}

#[tokio::test]
async fn the_cluster_of_the_control_plane() {
    let Some(envoy) = envoy_or_skip("told-transport") else {
        return;
    };
    let theirs = Scene::set(Some(Path::new(&envoy)), Variant::Sotw).await;
    let ours = Scene::set(None, Variant::Sotw).await;
    let again: &[_] = &[
        ("cds", What::Ack),
        ("lds", What::Ack),
        ("eds", What::Ack),
        ("rds", What::Ack),
    ];
    let steps = [
        step("start", &[], |_| {}),
        step("a stream ends", again, |scene| {
            scene.plane.disconnect(Ending::Unavailable)
        }),
        step("a stream is reset", again, |scene| {
            scene.plane.disconnect(Ending::Reset)
        }),
        step("the connection ends", again, |scene| {
            scene.plane.disconnect(Ending::Connection)
        }),
    ];
    for step in &steps {
        for scene in [&theirs, &ours] {
            play(scene, step).await;
        }
        let told = theirs.subject.stats(&transport).await;
        agree(step.name, &told, &ours.subject, &transport, async |_| {}).await;
    }
}
