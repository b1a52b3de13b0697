//! What the control plane does.

use std::sync::LazyLock;
use std::time::Duration;

use control_plane_mock::pki::{Authority, Leaf};
use control_plane_mock::resources::{ClusterBuilder, Variant, cluster_static, endpoints, prefix, route_config};
use control_plane_mock::{Ending, Fault, Handle, Snapshot};
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::play::Said::{Ack, Answer, Dropped, Nack, Request};
use super::play::{Step, step};

fn routes(name: &str) -> control_plane_mock::resources::VhostBuilder {
    route_config(name).vhost(["*"]).with_route(prefix("/").cluster("a"))
}

fn bad() -> ClusterBuilder {
    cluster_static("bad", [("not an address", 1)])
}

fn push(handle: &Handle, clusters: impl IntoIterator<Item = ClusterBuilder>) {
    let snapshot = clusters
        .into_iter()
        .fold(Snapshot::new(), |all, cluster| all.with(cluster.build()));
    handle.push_all(&snapshot);
}

/// A life over whatever streams there are.
pub fn life(variant: Variant) -> Vec<Step> {
    // A new stream: state of the world is told anew and accepted; of what a delta client says it has, nothing is told.
    let again: &[_] = match variant {
        Variant::Sotw => &[Ack("cds"), Ack("lds"), Ack("eds"), Ack("rds")],
        Variant::Delta => &[Request("cds"), Request("lds"), Request("eds"), Request("rds")],
    };
    vec![
        step("start", &[Ack("cds"), Ack("eds"), Ack("lds"), Ack("rds")], |stage| {
            push(
                stage,
                [stage.cluster("a", 1), stage.cluster("b", 1), stage.cluster("gone", 1)],
            );
            for name in ["a", "b", "gone"] {
                stage.push_endpoints(endpoints(name, [("127.0.0.1", 1)]));
            }
            stage.push_route(routes("routes"));
            stage.push_route(routes("others"));
            stage.push_listener(stage.listener("routes"));
        }),
        step("an endpoint changes", &[Ack("eds")], |stage| {
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
        }),
        step("routes change", &[Ack("rds")], |stage| {
            stage.push_route(route_config("routes").vhost(["*"]).with_route(prefix("/").cluster("b")));
        }),
        step("nothing changes", &[Ack("eds"), Ack("rds")], |stage| {
            stage.resend("eds");
            stage.resend("rds");
        }),
        step("a cluster comes", &[Ack("cds"), Ack("eds")], |stage| {
            stage.push_endpoints(endpoints("late", [("127.0.0.1", 3)]));
            push(stage, [stage.cluster("late", 1)]);
        }),
        step("a cluster goes", &[Ack("cds"), Request("eds")], |stage| {
            stage.remove("cds", "gone").unwrap();
        }),
        step("a bad cluster", &[Nack("cds")], |stage| push(stage, [bad()])),
        step("an endpoint changes meanwhile", &[Ack("eds")], |stage| {
            stage.push_endpoints(endpoints("b", [("127.0.0.1", 4)]));
        }),
        step(
            "a cluster comes beside a bad one",
            &[Nack("cds"), Request("eds"), Ack("eds")],
            |stage| {
                stage.push_endpoints(endpoints("beside", [("127.0.0.1", 5)]));
                push(stage, [bad(), stage.cluster("beside", 1)]);
            },
        ),
        step("the bad one goes", &[Ack("cds")], |stage| {
            stage.remove("cds", "bad").unwrap();
        }),
        step("bad routes", &[Nack("rds")], |stage| {
            stage.push_route(route_config("routes").vhost(["*"]).vhost(["*"]));
        }),
        step(
            "other routes are wanted after a NACK",
            &[Ack("lds"), Request("rds"), Ack("rds"), Dropped("rds", "routes")],
            |stage| {
                stage.push_listener(stage.listener("others"));
            },
        ),
        step("the same resource twice", &[Answer("eds")], |stage| {
            stage.fault("eds", Fault::Duplicate);
            stage.resend("eds");
        }),
        step("after that", &[Ack("eds")], |stage| stage.resend("eds")),
        step("another type inside", &[Nack("rds")], |stage| {
            stage.fault("rds", Fault::WrongType);
            stage.resend("rds");
        }),
        step("bytes that do not decode", &[Nack("eds")], |stage| {
            stage.push_raw("eds", "a", [0x0a, 0x7f]);
        }),
        step("and good ones again", &[Ack("eds")], |stage| {
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
        }),
        step("after that, too", &[Ack("eds"), Ack("rds")], |stage| {
            stage.resend("eds");
            stage.resend("rds");
        }),
        step("a type that nobody asked for", &[], |stage| stage.unsolicited("sds")),
        step("the stream is reset", again, |stage| {
            stage.disconnect(Ending::Reset);
        }),
        step("the stream ends well", again, |stage| {
            stage.disconnect(Ending::Ok);
        }),
        step("life goes on", &[Ack("eds"), Ack("rds")], |stage| {
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 6)]));
            stage.push_route(route_config("others").vhost(["*"]).with_route(prefix("/").cluster("b")));
        }),
        step("the listener goes", &[Ack("lds"), Request("rds")], |stage| {
            stage.remove("lds", "http").unwrap();
        }),
        step("the listener comes back", &[Ack("lds"), Ack("rds")], |stage| {
            stage.push_listener(stage.listener("routes"));
            stage.push_route(routes("routes"));
        }),
    ]
}

/// How long a mortal resource lives: long enough for its heartbeat to come in time on a machine that is busy.
const LIFE: Duration = Duration::from_secs(4);

/// The same where each subscription has a stream of its own: one that ends has its stream closed, which says it all. What hits some stream,
/// or the streams in some order, is left out, and so is what follows from a draining listener's hold on its routes.
pub fn separate_lives(variant: Variant) -> Vec<Step> {
    let left_out = [
        "the same resource twice",
        "after that",
        "another type inside",
        "after that, too",
        "the stream is reset",
        "the stream ends well",
        "the listener comes back",
    ];
    let ends = [
        "a cluster goes",
        "the listener goes",
        "other routes are wanted after a NACK",
    ];
    let mut script = life(variant);
    script.retain(|step| !left_out.contains(&step.name));
    for step in script.iter_mut().filter(|step| ends.contains(&step.name)) {
        step.then.retain(|said| matches!(said, Ack(_)));
    }
    script
}

/// Resources that are to be refreshed in time. That one dies is left out where Envoy dies of it: of a cluster whose time is over on a
/// state-of-the-world stream, 1.40 ends with a segmentation fault.
pub fn mortal(variant: Variant) -> Vec<Step> {
    let death = [
        "a mortal cluster",
        "a longer life that is refused",
        "dies",
        "and comes back",
    ];
    let mut script = mortals();
    script.retain(|step| variant == Variant::Delta || !death.contains(&step.name));
    script
}

fn mortals() -> Vec<Step> {
    vec![
        step("start", &[Ack("cds"), Ack("eds"), Ack("lds"), Ack("rds")], |stage| {
            push(stage, [stage.cluster("a", 1)]);
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 1)]));
            stage.push_endpoints(endpoints("mortal", [("127.0.0.1", 1)]));
            stage.push_route(routes("routes"));
            stage.push_listener(stage.listener("routes"));
        }),
        step("a mortal assignment", &[Ack("eds")], |stage| {
            stage.push_with_ttl(endpoints("a", [("127.0.0.1", 2)]).build(), LIFE);
        }),
        step("its heartbeat", &[Ack("eds")], |stage| stage.heartbeat("eds", "a")),
        step("mortal routes", &[Ack("rds")], |stage| {
            stage.push_with_ttl(routes("routes").build(), LIFE);
        }),
        step("their heartbeat", &[Ack("rds")], |stage| {
            stage.heartbeat("rds", "routes")
        }),
        step("a mortal cluster", &[Ack("cds"), Request("eds"), Ack("eds")], |stage| {
            stage.push_with_ttl(stage.cluster("mortal", 1).build(), LIFE);
        }),
        step("a longer life that is refused", &[Nack("cds")], |stage| {
            let refused = cluster_static("mortal", [("not an address", 1)]);
            stage.push_with_ttl(refused.build(), LIFE * 100);
        }),
        step("dies", &[Dropped("eds", "mortal")], |_| {}),
        step("and comes back", &[Ack("cds"), Request("eds"), Ack("eds")], |stage| {
            stage.push_cluster(stage.cluster("mortal", 2));
        }),
        step("an assignment that does not die any more", &[Ack("eds")], |stage| {
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 3)]));
        }),
        step("a heartbeat of what is not mortal", &[Answer("eds")], |stage| {
            stage.heartbeat("eds", "a");
        }),
        step("what the control plane cannot serve", &[Ack("eds")], |stage| {
            let (name, message) = ("a".to_owned(), "no such service".to_owned());
            stage.fault("eds", Fault::Report { name, code: 5, message });
            stage.resend("eds");
        }),
    ]
}

/// What the control plane takes back although something uses it: it stays in use, is no longer held, and may come again.
pub fn withdrawn() -> Vec<Step> {
    vec![
        step("start", &[Ack("cds"), Ack("eds"), Ack("lds"), Ack("rds")], |stage| {
            push(stage, [stage.cluster("a", 1), stage.cluster("b", 1)]);
            for name in ["a", "b"] {
                stage.push_endpoints(endpoints(name, [("127.0.0.1", 1)]));
            }
            stage.push_route(routes("routes"));
            stage.push_listener(stage.listener("routes"));
        }),
        step("an assignment is taken back", &[Ack("eds")], |stage| {
            stage.remove("eds", "a").unwrap();
        }),
        step("routes are taken back", &[Ack("rds")], |stage| {
            stage.remove("rds", "routes").unwrap();
        }),
        step(
            "the stream is reset",
            &[Request("cds"), Request("lds"), Request("eds"), Request("rds")],
            |stage| {
                stage.disconnect(Ending::Reset);
            },
        ),
        step("they come again", &[Ack("eds"), Ack("rds")], |stage| {
            stage.push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
            stage.push_route(routes("routes"));
        }),
        step("the cluster of one goes", &[Ack("cds"), Dropped("eds", "a")], |stage| {
            stage.push_route(route_config("routes").vhost(["*"]).with_route(prefix("/").cluster("b")));
            stage.remove("cds", "a").unwrap();
        }),
    ]
}

/// The secrets `ca` and `cert`, of which there are three: the same for both proxies, as a delta version is the hash of what it is a version of.
static ROOT: LazyLock<(Secret, [Secret; 3])> = LazyLock::new(|| {
    let authority = Authority::new("root").unwrap();
    let identity = |_| authority.issue(&Leaf::new().dns("inner")).unwrap().secret("cert");
    (authority.secret("ca"), std::array::from_fn(identity))
});

fn identity(number: usize) -> Secret {
    ROOT.1[number].clone()
}

/// Endpoints and secrets from control planes of their own.
pub fn own() -> Vec<Step> {
    vec![
        step(
            "start",
            &[Ack("cds"), Ack("lds"), Ack("rds"), Ack("eds"), Ack("sds")],
            |stage| {
                stage.of("sds").push_secret(identity(0));
                stage.of("sds").push_secret(ROOT.0.clone());
                stage.of("eds").push_endpoints(endpoints("a", [("127.0.0.1", 1)]));
                push(stage, [stage.cluster("a", 1).tls(stage.tls())]);
                stage.push_route(routes("routes"));
                stage.push_listener(stage.listener("routes"));
            },
        ),
        step("an endpoint changes", &[Ack("eds")], |stage| {
            stage.of("eds").push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
        }),
        step("a certificate changes", &[Ack("sds")], |stage| {
            stage.of("sds").push_secret(identity(1));
        }),
        step("a secret that is none", &[Nack("sds")], |stage| {
            stage.of("sds").push_raw("sds", "cert", [0x0a, 0x7f]);
        }),
        step("a good one again", &[Ack("sds")], |stage| {
            stage.of("sds").push_secret(identity(2));
        }),
        step(
            "a second cluster with the same secrets",
            &[Ack("cds"), Ack("eds")],
            |stage| {
                stage.of("eds").push_endpoints(endpoints("b", [("127.0.0.1", 3)]));
                push(stage, [stage.cluster("b", 1).tls(stage.tls())]);
            },
        ),
        step("the cluster changes", &[Ack("cds"), Ack("eds")], |stage| {
            push(stage, [stage.cluster("a", 2).tls(stage.tls())]);
        }),
        step("a bad cluster beside", &[Nack("cds")], |stage| push(stage, [bad()])),
        step("which goes", &[Ack("cds")], |stage| {
            stage.remove("cds", "bad").unwrap();
        }),
        step("a cluster goes", &[Ack("cds")], |stage| {
            stage.remove("cds", "b").unwrap();
        }),
    ]
}
