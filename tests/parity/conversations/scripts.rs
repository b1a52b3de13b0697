//! What the control plane does.

use std::time::Duration;

use control_plane_mock::resources::{
    ClusterBuilder, ListenerBuilder, Variant, cluster_eds, cluster_static, endpoints, hcm, listener_http, prefix,
    route_config,
};
use control_plane_mock::{Ending, Fault, Handle, Snapshot};

use super::play::Said::{Ack, Answer, Dropped, Nack, Request};
use super::play::{Step, step};

fn listener(routes: &str) -> ListenerBuilder {
    listener_http("http", "127.0.0.1", 0, hcm("http").rds(routes))
}

fn routes(name: &str) -> control_plane_mock::resources::VhostBuilder {
    route_config(name).vhost(["*"]).with_route(prefix("/").cluster("a"))
}

fn changed(name: &str, seconds: u64) -> ClusterBuilder {
    cluster_eds(name).connect_timeout(Duration::from_secs(seconds))
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

/// A life over ADS.
pub fn ads(variant: Variant) -> Vec<Step> {
    // A new stream: state of the world is told anew and accepted; of what a delta client says it has, nothing is told.
    let again: &[_] = match variant {
        Variant::Sotw => &[Ack("cds"), Ack("lds"), Ack("eds"), Ack("rds")],
        Variant::Delta => &[Request("cds"), Request("lds"), Request("eds"), Request("rds")],
    };
    vec![
        step("start", &[Ack("cds"), Ack("eds"), Ack("lds"), Ack("rds")], |handle| {
            push(handle, [changed("a", 1), changed("b", 1), changed("gone", 1)]);
            for name in ["a", "b", "gone"] {
                handle.push_endpoints(endpoints(name, [("127.0.0.1", 1)]));
            }
            handle.push_route(routes("routes"));
            handle.push_route(routes("others"));
            handle.push_listener(listener("routes"));
        }),
        step("an endpoint changes", &[Ack("eds")], |handle| {
            handle.push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
        }),
        step("routes change", &[Ack("rds")], |handle| {
            handle.push_route(route_config("routes").vhost(["*"]).with_route(prefix("/").cluster("b")));
        }),
        step("nothing changes", &[Ack("eds"), Ack("rds")], |handle| {
            handle.resend("eds");
            handle.resend("rds");
        }),
        step("a cluster comes", &[Ack("cds"), Ack("eds")], |handle| {
            handle.push_endpoints(endpoints("late", [("127.0.0.1", 3)]));
            push(handle, [changed("late", 1)]);
        }),
        step("a cluster goes", &[Ack("cds"), Request("eds")], |handle| {
            handle.remove("cds", "gone").unwrap();
        }),
        step("a bad cluster", &[Nack("cds")], |handle| push(handle, [bad()])),
        step("an endpoint changes meanwhile", &[Ack("eds")], |handle| {
            handle.push_endpoints(endpoints("b", [("127.0.0.1", 4)]));
        }),
        step(
            "a cluster comes beside a bad one",
            &[Nack("cds"), Request("eds"), Ack("eds")],
            |handle| {
                handle.push_endpoints(endpoints("beside", [("127.0.0.1", 5)]));
                push(handle, [bad(), changed("beside", 1)]);
            },
        ),
        step("the bad one goes", &[Ack("cds")], |handle| {
            handle.remove("cds", "bad").unwrap();
        }),
        step("bad routes", &[Nack("rds")], |handle| {
            handle.push_route(route_config("routes").vhost(["*"]).vhost(["*"]));
        }),
        step(
            "other routes are wanted after a NACK",
            &[Ack("lds"), Request("rds"), Ack("rds"), Dropped("rds", "routes")],
            |handle| {
                handle.push_listener(listener("others"));
            },
        ),
        step("the same resource twice", &[Answer("eds")], |handle| {
            handle.fault("eds", Fault::Duplicate);
            handle.resend("eds");
        }),
        step("after that", &[Ack("eds")], |handle| handle.resend("eds")),
        step("another type inside", &[Nack("rds")], |handle| {
            handle.fault("rds", Fault::WrongType);
            handle.resend("rds");
        }),
        step("bytes that do not decode", &[Nack("eds")], |handle| {
            handle.push_raw("eds", "a", [0x0a, 0x7f]);
        }),
        step("and good ones again", &[Ack("eds")], |handle| {
            handle.push_endpoints(endpoints("a", [("127.0.0.1", 2)]));
        }),
        step("after that, too", &[Ack("eds"), Ack("rds")], |handle| {
            handle.resend("eds");
            handle.resend("rds");
        }),
        step("a type that nobody asked for", &[], |handle| handle.unsolicited("sds")),
        step("the stream is reset", again, |handle| {
            handle.disconnect(Ending::Reset);
        }),
        step("the stream ends well", again, |handle| {
            handle.disconnect(Ending::Ok);
        }),
        step("life goes on", &[Ack("eds"), Ack("rds")], |handle| {
            handle.push_endpoints(endpoints("a", [("127.0.0.1", 6)]));
            handle.push_route(route_config("others").vhost(["*"]).with_route(prefix("/").cluster("b")));
        }),
        step("the listener goes", &[Ack("lds"), Request("rds")], |handle| {
            handle.remove("lds", "http").unwrap();
        }),
        step("the listener comes back", &[Ack("lds"), Ack("rds")], |handle| {
            handle.push_listener(listener("routes"));
            handle.push_route(routes("routes"));
        }),
    ]
}
