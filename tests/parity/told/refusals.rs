//! Of subscriptions over one stream: what a server takes away, and responses that are refused, whole or in part. Each subscription counts for itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use control_plane_mock::pki::{Authority, Identity, Leaf};
use control_plane_mock::resources::{
    ListenerBuilder, Variant, VhostBuilder, bootstrap_ads_with, cluster_eds, cluster_static, endpoint, endpoints,
    endpoints_of, hcm, listener_http, prefix, route_config, secret_ca, secret_cert, tls_downstream, tls_upstream,
};
use control_plane_mock::{ControlPlane, Entry, Fault, PATIENCE, Snapshot, What};
use remora_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use remora_tests::{Backend, until};

use super::{LOOKS, PAUSE, Subject};
use crate::harness::{envoy_or_skip, only_in};

pub(super) struct Scene {
    pub(super) plane: ControlPlane,
    backend: Backend,
    identities: [Identity; 2],
    subject: Subject,
}

fn routes(name: &str, domain: &str) -> VhostBuilder {
    let table = route_config(name).vhost([domain, "*"]);
    let table = table
        .with_route(prefix("/t2").cluster("t2"))
        .with_route(prefix("/t").cluster("t"))
        .with_route(prefix("/b").cluster("b"));
    table.with_route(prefix("/").cluster("a"))
}

/// A listener that has its certificate from the control plane.
fn secure(name: &str, manager: &str) -> ListenerBuilder {
    let tls = listener_http(name, "127.0.0.1", 0, hcm(manager).rds("third")).tls(tls_downstream("cert"));
    tls.edit(|listener| listener.stat_prefix = name.to_owned())
}

/// No assignment may have a priority beyond 128.
fn bad(name: &str) -> ClusterLoadAssignment {
    endpoints_of(name).locality(200, "", [endpoint("127.0.0.1", 1)]).build()
}

impl Scene {
    async fn set(envoy: Option<&Path>, variant: Variant) -> Self {
        let plane = ControlPlane::start().await.unwrap();
        let backend = Backend::start("a").await;
        let authority = Authority::new("root").unwrap();
        let identities: [_; 2] = std::array::from_fn(|_| authority.issue(&Leaf::new().dns("told.test")).unwrap());
        for name in ["a", "b"] {
            plane.push_endpoints(endpoints(name, [("127.0.0.1", backend.port())]));
            plane.push_cluster(cluster_eds(name));
        }
        plane.push_cluster(cluster_static("t", [("127.0.0.1", 1)]).tls(tls_upstream("cert", "ca")));
        for (listener, table) in [("one", "routes"), ("two", "others"), ("three", "third")] {
            plane.push_route(routes(table, "told.test"));
            plane.push_listener(listener_http(listener, "127.0.0.1", 0, hcm(listener).rds(table)));
        }
        plane.push_listener(secure("tls", "tls"));
        plane.push_secret(secret_cert("cert", &identities[0].chain_pem, &identities[0].key_pem));
        plane.push_secret(secret_ca("ca", authority.root_pem()));
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        let bootstrap = bootstrap_ads_with("told", plane.listen(), admin, variant, |_| {});
        let subject = Subject::start(envoy, &bootstrap).await;
        Self {
            plane,
            backend,
            identities,
            subject,
        }
    }

    pub(super) fn endpoints(&self, name: &str, more: u16) -> ClusterLoadAssignment {
        let port = self.backend.port();
        let hosts = (0..=more).map(|at| ("127.0.0.1", port + at));
        endpoints(name, hosts.collect::<Vec<_>>()).build()
    }

    fn certificate(&self, at: usize) {
        let own = &self.identities[at];
        self.plane
            .push_secret(secret_cert("cert", &own.chain_pem, &own.key_pem));
    }

    /// Ours count what is used.
    async fn use_clusters(&self) {
        for path in ["/t2", "/t", "/b", "/"] {
            self.subject.ask("one", path).await;
        }
    }
}

/// Something that happens, and what the control plane must have heard before the next: the last word of each type.
pub(super) struct Step {
    name: &'static str,
    heard: &'static [(&'static str, What)],
    act: fn(&Scene),
}

pub(super) fn step(name: &'static str, heard: &'static [(&'static str, What)], act: fn(&Scene)) -> Step {
    Step { name, heard, act }
}

pub(super) type Shown = dyn Fn(&str) -> bool + Sync;

pub(super) fn shown(name: &str) -> bool {
    let names = [
        "update_attempt",
        "update_success",
        "update_failure",
        "update_rejected",
        "update_empty",
        "update_no_rebuild",
        "update_time",
        "version",
        "version_text",
        "config_reload",
        "ssl_context_update_by_sds",
    ];
    let prefixes = [
        "cluster.a.",
        "cluster.b.",
        "cluster_manager.cds.",
        "listener_manager.lds.",
        "http.one.rds.routes.",
        "http.two.rds.others.",
        "sds.cert.",
        "sds.ca.",
        "listener.tls.server_ssl_socket_factory.",
        "cluster.t.client_ssl_socket_factory.",
        "cluster.t2.client_ssl_socket_factory.",
        "listener.tls2.server_ssl_socket_factory.",
    ];
    let own = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix));
    own.is_some_and(|name| names.contains(&name))
}

async fn play(scene: &Scene, step: &Step) {
    let mark = scene.plane.mark();
    (step.act)(scene);
    for (ty, what) in step.heard {
        let matches = |entry: &Entry| entry.what == *what && entry.is_of(ty);
        scene.plane.wait_from(mark, matches, PATIENCE).await.unwrap();
    }
}

/// What a proxy tells once it tells the same twice.
async fn settled(scene: &Scene, shown: &Shown) -> BTreeMap<String, String> {
    let mut before = BTreeMap::new();
    until("the same twice", async || {
        scene.use_clusters().await;
        let now = scene.subject.stats(shown).await;
        let is_same = now == before;
        before = now.clone();
        is_same.then_some(now)
    })
    .await
}

pub(super) async fn compare(world: &str, variant: Variant, steps: &[Step], shown: &Shown) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let theirs = Scene::set(Some(Path::new(&envoy)), variant).await;
    let ours = Scene::set(None, variant).await;
    let mut wrong = String::new();
    let start = step("start", &[], |_| {});
    for step in std::iter::once(&start).chain(steps) {
        play(&theirs, step).await;
        play(&ours, step).await;
        let told = settled(&theirs, shown).await;
        let mut found = settled(&ours, shown).await;
        for _ in 0..LOOKS / 10 {
            if found == told {
                break;
            }
            remora::runtime::clock::sleep(PAUSE).await;
            found = settled(&ours, shown).await;
        }
        let text = |stats: &BTreeMap<String, String>| {
            let lines = stats.iter().map(|(name, value)| format!("{name}: {value}"));
            lines.collect::<Vec<_>>().join("\n")
        };
        let (told, found) = (text(&told), text(&found));
        if told != found {
            let (missing, extra) = (only_in(&told, &found), only_in(&found, &told));
            wrong += &format!("{}:\n  Envoy:  {missing:?}\n  Remora: {extra:?}\n", step.name);
        }
    }
    assert!(wrong.is_empty(), "{world}\n{wrong}");
}

#[tokio::test]
async fn removals_and_refusals_of_delta() {
    use What::{Ack, Nack};
    let steps = [
        step("endpoints are removed", &[("eds", Ack)], |scene| {
            scene.plane.remove("eds", "a").unwrap();
        }),
        step("endpoints come back", &[("eds", Ack)], |scene| {
            scene.plane.push(scene.endpoints("a", 0));
        }),
        step("routes are removed", &[("rds", Ack)], |scene| {
            scene.plane.remove("rds", "routes").unwrap();
        }),
        step("routes come back", &[("rds", Ack)], |scene| {
            scene.plane.push_route(routes("routes", "told.test"));
        }),
        step("a secret is removed", &[("sds", Ack)], |scene| {
            scene.plane.remove("sds", "cert").unwrap();
        }),
        step("the secret comes back", &[("sds", Ack)], |scene| scene.certificate(0)),
        step("another certificate", &[("sds", Ack)], |scene| scene.certificate(1)),
        step("others use it", &[("cds", Ack), ("lds", Ack)], |scene| {
            scene
                .plane
                .push_cluster(cluster_static("t2", [("127.0.0.1", 1)]).tls(tls_upstream("cert", "ca")));
            scene.plane.push_listener(secure("tls2", "tls2"));
        }),
        step("those change", &[("cds", Ack), ("lds", Ack)], |scene| {
            scene
                .plane
                .push_cluster(cluster_static("t2", [("127.0.0.1", 2)]).tls(tls_upstream("cert", "ca")));
            scene.plane.push_listener(secure("tls2", "other"));
        }),
        step("bad endpoints", &[("eds", Nack)], |scene| {
            scene.plane.push(bad("a"));
        }),
        step("good ones", &[("eds", Ack)], |scene| {
            scene.plane.push(scene.endpoints("a", 1));
        }),
        step("the endpoints twice", &[("eds", Nack)], |scene| {
            scene.plane.fault("eds", Fault::Duplicate);
            scene.plane.push(scene.endpoints("a", 4));
        }),
        step("what nobody wants does not decode", &[("eds", Ack)], |scene| {
            scene.plane.fault("eds", Fault::Undecodable);
            scene.plane.push(scene.endpoints("a", 2));
        }),
        step("the routes twice", &[("rds", Nack)], |scene| {
            scene.plane.fault("rds", Fault::Duplicate);
            scene.plane.push_route(routes("routes", "twice.test"));
        }),
    ];
    compare("refusals-delta", Variant::Delta, &steps, &shown).await;
}

/// What is good in a bad response is used, which Envoy does of clusters and listeners only: of the others it is compared who counts the refusal.
#[tokio::test]
async fn refusals_of_state_of_the_world() {
    use What::{Ack, Nack};
    let steps = [
        step("a certificate without its key", &[("sds", Nack)], |scene| {
            let [one, other] = &scene.identities;
            scene
                .plane
                .push_secret(secret_cert("cert", &one.chain_pem, &other.key_pem));
        }),
        step("a good one again", &[("sds", Ack)], |scene| scene.certificate(0)),
        step("bad endpoints beside good ones", &[("eds", Nack)], |scene| {
            scene
                .plane
                .push_all(&Snapshot::new().with(bad("a")).with(scene.endpoints("b", 1)));
        }),
        step("another type among endpoints", &[("eds", Nack)], |scene| {
            scene.plane.fault("eds", Fault::WrongType);
            scene.plane.push(scene.endpoints("a", 2));
        }),
        step("bytes that do not decode among endpoints", &[("eds", Nack)], |scene| {
            scene.plane.fault("eds", Fault::Undecodable);
            scene.plane.push(scene.endpoints("a", 0));
        }),
        step("good ones after these", &[("eds", Ack)], |scene| {
            scene.plane.push(scene.endpoints("a", 3));
        }),
        step("bad routes", &[("rds", Nack)], |scene| {
            scene.plane.push_route(route_config("routes").vhost(["*"]).vhost(["*"]));
        }),
        step("good routes", &[("rds", Ack)], |scene| {
            scene.plane.push_route(routes("routes", "good.test"));
        }),
        step("bad clusters", &[("cds", Nack)], |scene| {
            scene.plane.push_cluster(cluster_static("bad", [("not an address", 1)]));
        }),
    ];
    let shown = |name: &str| {
        let of_all = name.starts_with("cluster_manager.") || name.starts_with("listener_manager.");
        shown(name) && (of_all || name.ends_with("update_rejected"))
    };
    compare("refusals-sotw", Variant::Sotw, &steps, &shown).await;
}
