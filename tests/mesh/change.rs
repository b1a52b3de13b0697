//! Configuration changes under traffic: nothing fails.

use control_plane_mock::resources::{
    Variant, cluster_eds, cluster_static, endpoints, hcm, listener_http, prefix, route_config,
};
use control_plane_mock::{Ending, PATIENCE, What};
use remora_proto::pb::envoy::config::route::v3::RouteConfiguration;
use remora_proto::pb::google::protobuf::BoolValue;
use remora_tests::{Backend, Load, Mesh, Sidecar, until};

use super::{One, all_to_a, cluster, everything};

async fn with_endpoints(variant: Variant, backend: &Backend) -> One {
    One::start_with(
        variant,
        [cluster_eds("a"), cluster_eds("b")],
        all_to_a(),
        |control_plane| {
            control_plane.push_endpoints(endpoints("a", [("127.0.0.1", backend.port())]));
            control_plane.push_endpoints(endpoints("b", [("127.0.0.1", backend.port())]));
        },
    )
    .await
}

#[tokio::test]
async fn endpoint_and_route_churn_fails_nothing() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let one = with_endpoints(variant, &a).await;
        let load = Load::on(one.address, "mesh.test");
        for round in 0..20_u16 {
            let port = if round % 2 == 0 { b.port() } else { a.port() };
            one.mesh
                .control_plane
                .push_endpoints(endpoints("a", [("127.0.0.1", port)]));
            let target = if round % 3 == 0 { "b" } else { "a" };
            let routes = everything()
                .with_route(prefix("/").cluster(target))
                .vhost([format!("r{round}.test")]);
            let version = one.mesh.control_plane.push_route(routes);
            one.mesh.control_plane.wait_ack("rds", &version).await.unwrap();
            load.more(10).await;
        }
        load.none_failed().await;
        assert!(a.requests() > 0 && b.requests() > 0);
    }
}

#[tokio::test]
async fn cluster_and_listener_updates_fail_nothing() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let load = Load::on(one.address, "mesh.test");
    for round in 1..=8_u64 {
        let changed = cluster(&a).connect_timeout(std::time::Duration::from_secs(round));
        one.mesh.control_plane.push_cluster(changed);
        let manager = hcm(&format!("http{round}")).rds("routes");
        let version = one
            .mesh
            .control_plane
            .push_listener(listener_http("http", "127.0.0.1", 0, manager));
        one.mesh.control_plane.wait_ack("lds", &version).await.unwrap();
        load.more(20).await;
    }
    load.none_failed().await;
    assert_eq!(one.sidecar.listener("http").await, one.address, "the socket stays");
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let one = with_endpoints(variant, &a).await;
        let load = Load::on(one.address, "mesh.test");
        // No discovery type fits an EDS cluster without a source, and a route may not name both hosts twice.
        let bad = cluster_static("a", [("not an address", 1)]);
        one.mesh.control_plane.push_cluster(bad);
        let reason = one.mesh.control_plane.wait_nack("cds").await.unwrap();
        assert!(reason.contains('a'), "{reason}");
        one.mesh
            .control_plane
            .push_route(route_config("routes").vhost(["*"]).vhost(["*"]));
        one.mesh.control_plane.wait_nack("rds").await.unwrap();
        load.more(50).await;
        load.none_failed().await;
        // And what comes after it is taken again.
        let version = one
            .mesh
            .control_plane
            .push_route(everything().with_route(prefix("/").direct_response(201, "new")));
        one.mesh.control_plane.wait_ack("rds", &version).await.unwrap();
        until("the new routes", async || {
            (one.get("/", "").await.status == 201).then_some(())
        })
        .await;
    }
}

/// `validate_clusters` as in Envoy: on by default for routes inside a listener, off for those that are delivered by name.
#[tokio::test]
async fn routes_to_clusters_that_are_not_there_are_refused_where_they_are_validated() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let one = with_endpoints(variant, &a).await;
        let control_plane = &one.mesh.control_plane;
        let to = |cluster: &str, validate: Option<bool>| {
            let routes = route_config("routes").vhost(["*"]).route("/", cluster).build();
            RouteConfiguration {
                validate_clusters: validate.map(|value| BoolValue { value }),
                ..routes
            }
        };
        let inline = |routes| listener_http("inline", "127.0.0.1", 0, hcm("inline").inline(routes));
        control_plane.push_listener(inline(to("nobody", None)));
        let reason = control_plane.wait_nack("lds").await.unwrap();
        let place =
            "typed_config.route_config.virtual_hosts[0].routes[0].route.cluster: route: unknown cluster 'nobody'";
        assert!(reason.contains(place), "{reason}");
        for fine in [to("nobody", Some(false)), to("a", None)] {
            let version = control_plane.push_listener(inline(fine));
            control_plane.wait_ack("lds", &version).await.unwrap();
        }
        control_plane.push_route(to("nobody", Some(true)));
        let reason = control_plane.wait_nack("rds").await.unwrap();
        assert!(reason.contains("route: unknown cluster 'nobody'"), "{reason}");
        for fine in [to("nobody", None), to("a", Some(true))] {
            let version = control_plane.push_route(fine);
            control_plane.wait_ack("rds", &version).await.unwrap();
        }
        // A cluster that came with the same push, and still warms, is there.
        control_plane.push_cluster(cluster_eds("late"));
        let version = control_plane.push_listener(inline(to("late", None)));
        control_plane.wait_ack("lds", &version).await.unwrap();
    }
}

/// A socket on this port (0: any), which others with SO_REUSEADDR can have too as long as nobody listens.
fn reusable(port: u16) -> (tokio::net::TcpSocket, u16) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

#[tokio::test]
async fn a_listener_that_cannot_bind_is_refused_and_changes_nothing() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let one = with_endpoints(variant, &a).await;
        let load = Load::on(one.address, "mesh.test");
        // One socket keeps the port from being given to others for the whole test, the other one has it for now.
        let (_held, port) = reusable(0);
        let taken = reusable(port).0.listen(1).unwrap();
        let busy = || listener_http("busy", "127.0.0.1", port, hcm("busy").rds("routes"));
        one.mesh.control_plane.push_listener(busy());
        let reason = one.mesh.control_plane.wait_nack("lds").await.unwrap();
        let expected = format!("busy: cannot bind '127.0.0.1:{port}': Address already in use");
        assert!(reason.contains(&expected), "{reason}");
        // It is shown as refused, and as nothing else.
        let dump = one
            .sidecar
            .admin("GET", "/config_dump?resource=dynamic_listeners")
            .await;
        let dump: serde_json::Value = serde_json::from_str(&dump.text()).unwrap();
        let entry = dump["configs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["name"] == "busy");
        let entry = entry.expect("the refused listener");
        assert!(
            entry.get("active_state").is_none() && entry.get("warming_state").is_none(),
            "{entry}"
        );
        let details = entry["error_state"]["details"].as_str().unwrap();
        assert!(details.contains("Address already in use"), "{details}");
        let listeners = one.sidecar.admin("GET", "/listeners").await.text();
        assert!(!listeners.contains("busy"), "{listeners}");
        load.more(30).await;
        load.none_failed().await;
        // Once the port is free, the same listener is taken, and serves.
        drop(taken);
        one.mesh.control_plane.remove("lds", "busy");
        let version = one.mesh.control_plane.push_listener(busy());
        one.mesh.control_plane.wait_ack("lds", &version).await.unwrap();
        assert_eq!(one.sidecar.listener("busy").await.port(), port);
    }
}

/// A cluster whose encoding has field 9999, which is newer than any proxy.
fn newer(backend: &Backend) -> Vec<u8> {
    let mut bytes = prost::Message::encode_to_vec(&cluster(backend).build());
    bytes.extend([0xf8, 0xf0, 0x04, 7]);
    bytes
}

#[tokio::test]
async fn unknown_fields_are_counted_refused_or_passed_over_as_the_flags_say() {
    let a = Backend::start("a").await;
    for (flags, counted, refused) in [
        (&[][..], 1, false),
        (&["--ignore-unknown-dynamic-fields"][..], 0, false),
        (&["--reject-unknown-dynamic-fields"][..], 0, true),
    ] {
        let mesh = Mesh::start(Variant::Sotw).await;
        let version = mesh.control_plane.push_raw("cds", "a", newer(&a));
        let sidecar = Sidecar::start_with(&mesh.bootstrap_with("one", |_| {}), flags)
            .await
            .unwrap();
        if refused {
            let reason = mesh.control_plane.wait_nack("cds").await.unwrap();
            assert!(reason.contains("has no field 9999"), "{reason}");
        } else {
            mesh.control_plane.wait_ack("cds", &version).await.unwrap();
        }
        assert_eq!(
            sidecar.stat("server.dynamic_unknown_fields").await,
            counted,
            "{flags:?}"
        );
    }
}

#[tokio::test]
async fn a_control_plane_that_is_not_there_is_named_with_its_address_and_the_reason() {
    let nobody = super::Refusing::new();
    let mesh = Mesh::start(Variant::Sotw).await;
    let bootstrap = mesh.bootstrap_with("one", |_| {});
    let at = mesh.control_plane.addr().unwrap().port().to_string();
    let sidecar = Sidecar::start(&bootstrap.replace(&at, &nobody.port().to_string()))
        .await
        .unwrap();
    let page = until("the reason", async || {
        let page = sidecar.admin("GET", "/xds").await.text();
        page.contains("closed").then_some(page)
    })
    .await;
    let expected = format!(
        "all types from ads: not connected\n  StreamAggregatedResources gRPC config stream to xds_cluster closed: 14, \
         cluster 'xds_cluster', 127.0.0.1:{}: delayed connect error: Connection refused",
        nobody.port()
    );
    assert!(page.contains(&expected), "{page}");
}

#[tokio::test]
async fn the_status_page_forgets_a_refusal_once_a_later_version_is_accepted() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let one = with_endpoints(variant, &a).await;
        one.mesh
            .control_plane
            .push_endpoints(endpoints("a", [("not an address", 1)]));
        let reason = one.mesh.control_plane.wait_nack("eds").await.unwrap();
        let place = "a: endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: malformed IP address";
        assert!(reason.contains(place), "{reason}");
        let page = one.sidecar.admin("GET", "/xds").await.text();
        assert!(page.contains("refused version"), "{page}");
        let good = endpoints("a", [("127.0.0.1", a.port())]).edit(|assignment| {
            assignment.policy = Some(Default::default());
        });
        let version = one.mesh.control_plane.push_endpoints(good);
        one.mesh.control_plane.wait_ack("eds", &version).await.unwrap();
        let page = one.sidecar.admin("GET", "/xds").await.text();
        assert!(
            !page.contains("refused version") && !page.contains("is refused"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn the_control_plane_may_vanish_and_return() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let One { mesh, sidecar, address } = with_endpoints(variant, &a).await;
        let load = Load::on(address, "mesh.test");
        mesh.control_plane.disconnect(Ending::Reset);
        load.more(50).await;
        let mesh = mesh.restart().await;
        let back = |entry: &control_plane_mock::Entry| entry.what == What::Ack && entry.is_of("lds");
        mesh.control_plane.wait_for(back, PATIENCE).await.unwrap();
        load.more(50).await;
        load.none_failed().await;
        mesh.control_plane
            .push_route(everything().with_route(prefix("/").direct_response(202, "again")));
        let mut client = remora_tests::Http1::connect(address).await.unwrap();
        until("the new routes", async || {
            (client.get("m", "/", "").await.status == 202).then_some(())
        })
        .await;
        drop(sidecar);
    }
}

#[tokio::test]
async fn a_cluster_waits_for_its_endpoints_before_routes_use_it() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let one = with_endpoints(Variant::Delta, &a).await;
    let load = Load::on(one.address, "mesh.test");
    one.mesh.control_plane.withhold_name("eds", "late");
    one.mesh
        .control_plane
        .push_endpoints(endpoints("late", [("127.0.0.1", b.port())]));
    one.mesh.control_plane.push_cluster(cluster_eds("late"));
    one.mesh.control_plane.wait_subscribed("eds", "late").await.unwrap();
    load.more(20).await;
    one.mesh.control_plane.release("eds");
    until("the cluster", async || {
        (one.sidecar.admin("GET", "/clusters").await.text().contains("late::")).then_some(())
    })
    .await;
    one.mesh
        .control_plane
        .push_route(everything().with_route(prefix("/").cluster("late")));
    until("the new backend", async || (b.requests() > 0).then_some(())).await;
    load.more(20).await;
    load.none_failed().await;
}

/// Nothing refers to the routes of a listener that went or took others, but the connections that it had.
#[tokio::test]
async fn connections_that_drain_go_on_by_the_routes_that_they_had() {
    for variant in [Variant::Sotw, Variant::Delta] {
        for goes in [false, true] {
            let a = Backend::start("a").await;
            let one = with_endpoints(variant, &a).await;
            let control_plane = &one.mesh.control_plane;
            let mut kept = one.client().await;
            assert_eq!(kept.get("mesh.test", "/", "").await.status, 200);
            if goes {
                control_plane.remove("lds", "http");
            } else {
                control_plane.push_route(route_config("others").vhost(["*"]).route("/", "b"));
                control_plane.push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").rds("others")));
            }
            until("the routes are gone", async || {
                let path = "/config_dump?resource=dynamic_route_configs";
                let dump = one.sidecar.admin("GET", path).await.text();
                let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
                let entries = dump["configs"].as_array();
                let mut entries = entries.into_iter().flatten();
                (!entries.any(|entry| entry["route_config"]["name"] == "routes")).then_some(())
            })
            .await;
            let status = kept.get("mesh.test", "/", "").await.status;
            assert_eq!(status, 200, "{variant:?}, the listener goes: {goes}");
        }
    }
}
