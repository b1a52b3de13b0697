//! Several control planes side by side: clusters and listeners over ADS, endpoints and secrets from sources of their own.

use control_plane_mock::ControlPlane;
use control_plane_mock::pki::{Authority, Leaf};
use control_plane_mock::resources::{
    Variant, cluster_eds, cluster_static, endpoints, hcm, listener_http, prefix, route_config, tls_downstream,
    tls_upstream,
};
use control_plane_mock::{Ending, Entry, PATIENCE, What};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::google::protobuf::Duration;
use remora_tests::sources::{add_control_plane, grpc_source, set_secret_source};
use remora_tests::{Backend, Http1, Load, Mesh, Sidecar, until};
use serde_json::json;

use crate::connections::trusting;

/// Endpoints and secrets come from control planes of their own; what each is asked for, and in which protocol, is looked at.
#[tokio::test]
async fn endpoints_and_secrets_from_sources_of_their_own() {
    use core::api_config_source::ApiType;
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("root").unwrap();
    let identity = authority.issue(&Leaf::new().dns("inner")).unwrap();
    let backend = Backend::start("a").await;
    let mesh = Mesh::start(Variant::Delta).await;
    let eds = ControlPlane::start().await.unwrap();
    let sds = ControlPlane::builder()
        .unix(directory.path().join("sds"))
        .start()
        .await
        .unwrap();
    eds.push_endpoints(endpoints("a", [("127.0.0.1", backend.port())]));
    sds.push_secret(identity.secret("cert"));
    sds.push_secret(authority.secret("ca"));

    let from_sds = |common: &mut Option<_>| set_secret_source(common, &grpc_source("sds", ApiType::Grpc));
    let own_eds = cluster_eds("a").edit(|cluster| {
        let config = cluster.eds_cluster_config.get_or_insert_default();
        config.eds_config = Some(grpc_source("eds", ApiType::DeltaGrpc));
    });
    mesh.control_plane.push_cluster(own_eds);
    let server = tls_downstream("cert").validation("ca").require_client_certificate();
    let server = server.edit(|context| from_sds(&mut context.common_tls_context));
    let routes = route_config("inner").vhost(["*"]).with_route(prefix("/").cluster("a"));
    let inner = listener_http("inner", "127.0.0.1", 0, hcm("inner").inline(routes)).tls(server);
    mesh.control_plane.push_listener(inner);
    let sidecar = mesh
        .sidecar_with("one", |bootstrap| {
            add_control_plane(bootstrap, "eds", &eds);
            add_control_plane(bootstrap, "sds", &sds);
        })
        .await;
    let inner = sidecar.listener("inner").await;
    let client = tls_upstream("cert", "ca").sni("inner");
    let client = client.edit(|context| from_sds(&mut context.common_tls_context));
    mesh.control_plane
        .push_cluster(cluster_static("inner", [("127.0.0.1", inner.port())]).tls(client));
    let routes = route_config("outer")
        .vhost(["*"])
        .with_route(prefix("/").cluster("inner"));
    mesh.control_plane
        .push_listener(listener_http("outer", "127.0.0.1", 0, hcm("outer").inline(routes)));
    let outer = sidecar.listener("outer").await;
    let answer = Http1::connect(outer).await.unwrap().get("mesh.test", "/", "").await;
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("a")),
        "{answer:?}"
    );

    let opened = |plane: &ControlPlane| -> Vec<String> {
        let entries = plane.transcript();
        entries
            .iter()
            .filter(|entry| entry.what == What::Open)
            .map(|entry| entry.note.clone())
            .collect()
    };
    let paths = opened(&eds);
    assert!(
        paths
            .iter()
            .all(|path| path.ends_with("EndpointDiscoveryService/DeltaEndpoints")),
        "{paths:?}"
    );
    let paths = opened(&sds);
    assert!(
        paths
            .iter()
            .all(|path| path.ends_with("SecretDiscoveryService/StreamSecrets")),
        "{paths:?}"
    );
    let asked: Vec<_> = mesh
        .control_plane
        .transcript()
        .iter()
        .map(|entry| entry.type_url.clone())
        .collect();
    assert!(
        asked
            .iter()
            .all(|url| !url.ends_with("Secret") && !url.ends_with("ClusterLoadAssignment")),
        "{asked:?}"
    );

    // Each goes on, and fails, for itself.
    let load = Load::on(outer, "mesh.test");
    eds.disconnect(Ending::Reset);
    mesh.control_plane.disconnect(Ending::Connection);
    let rotated = authority.issue(&Leaf::new().dns("inner")).unwrap();
    let version = sds.push_secret(rotated.secret("cert"));
    sds.wait_ack("sds", &version).await.unwrap();
    load.more(20).await;
    load.none_failed().await;
    until("the counters", async || {
        let good = sidecar.stat("sds.cert.update_success").await >= 2;
        let back = sidecar.stat("control_plane.connected_state").await == 1;
        let endpoints = sidecar.stat("cluster.a.update_success").await >= 1
            && sidecar.stat("cluster.a.update_failure").await >= 1
            && sidecar.stat("cluster.a.control_plane.connected_state").await == 1;
        let secrets = sidecar.stat("sds.cert.control_plane.connected_state").await == 1;
        (good && back && endpoints && secrets).then_some(())
    })
    .await;
}

/// CDS and LDS each over a stream of its own, in either protocol.
#[tokio::test]
async fn separate_streams_for_clusters_and_listeners() {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let backend = Backend::start("a").await;
        let mesh = Mesh::start(Variant::Delta).await;
        mesh.control_plane
            .push_cluster(cluster_static("a", [("127.0.0.1", backend.port())]));
        let routes = route_config("inline").vhost(["*"]).with_route(prefix("/").cluster("a"));
        mesh.control_plane
            .push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").inline(routes)));
        let sidecar = mesh
            .sidecar_with("one", |bootstrap| {
                let dynamic = &mut bootstrap["dynamic_resources"];
                let mut api = dynamic["ads_config"].take();
                api["api_type"] = json!(api_type);
                let source = json!({"resource_api_version": "V3", "api_config_source": api});
                *dynamic = json!({"cds_config": source, "lds_config": source});
            })
            .await;
        let address = sidecar.listener("http").await;
        assert_eq!(
            Http1::connect(address)
                .await
                .unwrap()
                .get("mesh.test", "/", "")
                .await
                .status,
            200
        );
        let entries = mesh.control_plane.transcript();
        let opened: Vec<_> = entries.iter().filter(|entry| entry.what == What::Open).collect();
        assert_eq!(opened.len(), 2, "{opened:?}");
        assert!(
            opened
                .iter()
                .all(|entry| entry.note.contains("ClusterDiscovery") || entry.note.contains("ListenerDiscovery"))
        );
        assert_eq!(
            sidecar.stat("cluster_manager.cds.control_plane.connected_state").await,
            1
        );
        assert_eq!(sidecar.stat("listener_manager.lds.update_success").await, 1);
    }
}

/// `rate_limit_settings`: what is over the limit waits, and nothing is lost.
#[tokio::test]
async fn requests_over_the_rate_limit_wait() {
    let backend = Backend::start("a").await;
    let mesh = Mesh::start(Variant::Delta).await;
    mesh.control_plane
        .push_cluster(cluster_static("a", [("127.0.0.1", backend.port())]));
    let sidecar = mesh
        .sidecar_with("one", |bootstrap| {
            bootstrap["dynamic_resources"]["ads_config"]["rate_limit_settings"] =
                json!({"max_tokens": 3, "fill_rate": 20.0});
        })
        .await;
    for index in 0..10 {
        let mark = mesh.control_plane.mark();
        mesh.control_plane
            .push_cluster(cluster_static(&format!("more-{index}"), [("127.0.0.1", 1)]));
        let answered = |entry: &Entry| entry.what == What::Ack && entry.is_of("cds");
        mesh.control_plane.wait_from(mark, answered, PATIENCE).await.unwrap();
    }
    assert!(sidecar.stat("control_plane.rate_limit_enforced").await > 0);
    assert_eq!(sidecar.stat("control_plane.pending_requests").await, 0);
}

/// `initial_fetch_timeout` of a listener's routes: it serves without them when they do not come, and takes them when they do.
#[tokio::test]
async fn a_listener_does_not_wait_longer_for_its_routes_than_it_is_told_to() {
    let mesh = Mesh::start(Variant::Sotw).await;
    mesh.control_plane.withhold("rds");
    mesh.control_plane.push_route(
        route_config("routes")
            .vhost(["*"])
            .with_route(prefix("/").direct_response(200, "here")),
    );
    let short = |source: &mut core::ConfigSource| {
        source.initial_fetch_timeout = Some(remora_proto::pb::google::protobuf::Duration {
            seconds: 0,
            nanos: 50_000_000,
        });
    };
    let manager = hcm("http").rds("routes").edit(|manager| {
        use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
        if let Some(RouteSpecifier::Rds(rds)) = &mut manager.route_specifier {
            rds.config_source.as_mut().into_iter().for_each(short);
        }
    });
    mesh.control_plane
        .push_listener(listener_http("http", "127.0.0.1", 0, manager));
    let sidecar = mesh.sidecar("one").await;
    let address = sidecar.listener("http").await;
    let status = async || {
        Http1::connect(address)
            .await
            .unwrap()
            .get("mesh.test", "/", "")
            .await
            .status
    };
    assert_eq!(status().await, 404);
    assert_eq!(sidecar.stat("http.http.rds.routes.init_fetch_timeout").await, 1);
    mesh.control_plane.release("rds");
    until("the routes", async || (status().await == 200).then_some(())).await;
}

/// A source must lead through a static cluster, and be one that exists.
#[tokio::test]
async fn sources_that_do_not_exist_are_refused_with_a_reason() {
    use core::api_config_source::ApiType;
    let mesh = Mesh::start(Variant::Delta).await;
    let sidecar = mesh.sidecar("one").await;
    let cluster = cluster_eds("a").edit(|cluster| {
        cluster.eds_cluster_config.get_or_insert_default().eds_config = Some(grpc_source("nowhere", ApiType::Grpc));
    });
    mesh.control_plane.push_cluster(cluster);
    let reason = mesh.control_plane.wait_nack("cds").await.unwrap();
    assert!(
        reason.contains("statically defined non-EDS cluster: 'nowhere'"),
        "{reason}"
    );
    let named = cluster_eds("a").edit(|cluster| {
        cluster.eds_cluster_config.get_or_insert_default().service_name = "xdstp://there/x".to_owned();
    });
    let mark = mesh.control_plane.mark();
    mesh.control_plane.push_cluster(named);
    let is_nack = |entry: &Entry| entry.what == What::Nack && entry.is_of("cds");
    let nack = mesh.control_plane.wait_from(mark, is_nack, PATIENCE).await.unwrap();
    let (_, reason) = nack.error.unwrap();
    assert!(
        reason.contains("'xdstp://there/x': xdstp:// names are not supported"),
        "{reason}"
    );
    drop(sidecar);
    let google = mesh.bootstrap_with("one", |bootstrap| {
        bootstrap["dynamic_resources"]["ads_config"]["grpc_services"] =
            json!([{"google_grpc": {"target_uri": "127.0.0.1:1", "stat_prefix": "x"}}]);
    });
    let error = Sidecar::start(&google).await.err().unwrap();
    assert!(error.contains("only envoy_grpc"), "{error}");
    let rest = mesh.bootstrap_with("one", |bootstrap| {
        bootstrap["dynamic_resources"]["cds_config"] = json!({
            "resource_api_version": "V3",
            "api_config_source": {"api_type": "REST", "transport_api_version": "V3", "cluster_names": ["xds_cluster"], "refresh_delay": "1s"},
        });
    });
    let error = Sidecar::start(&rest).await.err().unwrap();
    assert!(error.contains("api_type"), "{error}");
}

/// A server in the manner of go-control-plane answers a named type only if the request names every resource of its snapshot, and reads no
/// request whose nonce is old: one wrong list or nonce, and nothing comes any more.
#[tokio::test]
async fn go_control_plane_is_understood() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let mesh = Mesh::start(variant).await;
        let plane = &mesh.control_plane;
        plane.manner(control_plane_mock::Manner::GoControlPlane);
        let to = |cluster: &str| {
            route_config("routes")
                .vhost(["*"])
                .with_route(prefix("/").cluster(cluster))
        };
        plane.push_cluster(cluster_eds("a"));
        plane.push_endpoints(endpoints("a", [("127.0.0.1", a.port())]));
        plane.push_route(to("a"));
        plane.push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").rds("routes")));
        let sidecar = mesh.sidecar("one").await;
        let address = sidecar.listener("http").await;
        let load = Load::on(address, "mesh.test");
        load.more(10).await;
        // A NACK in between, a second cluster, the first one gone.
        plane.push_route(to("a").vhost(["*"]));
        plane.wait_nack("rds").await.unwrap();
        plane.push_cluster(cluster_eds("b"));
        plane.push_endpoints(endpoints("b", [("127.0.0.1", b.port())]));
        until("the second cluster", async || {
            sidecar
                .admin("GET", "/clusters")
                .await
                .text()
                .contains("b::")
                .then_some(())
        })
        .await;
        plane.push_route(to("b"));
        until("the second backend", async || (b.requests() > 0).then_some(())).await;
        plane.remove("cds", "a");
        plane.remove("eds", "a");
        plane.push_endpoints(endpoints("b", [("127.0.0.1", a.port())]));
        let before = a.requests();
        until("the first backend, in the second cluster", async || {
            (a.requests() > before).then_some(())
        })
        .await;
        load.none_failed().await;
    }
}

/// More streams than the control plane takes on a connection: there is another connection, and not one for each.
#[tokio::test]
async fn streams_beyond_the_limit_of_a_connection_get_another_one() {
    use core::api_config_source::ApiType;
    let backend = Backend::start("a").await;
    let mesh = Mesh::start(Variant::Delta).await;
    let eds = ControlPlane::builder().max_streams(10).start().await.unwrap();
    let names: Vec<String> = (0..25).map(|number| format!("c{number}")).collect();
    for name in &names {
        eds.push_endpoints(endpoints(name, [("127.0.0.1", backend.port())]));
    }
    let own = |name: &String| {
        cluster_eds(name).edit(|cluster| {
            let config = cluster.eds_cluster_config.get_or_insert_default();
            config.eds_config = Some(grpc_source("eds", ApiType::Grpc));
        })
    };
    mesh.control_plane.push_cluster(own(&names[0]));
    let sidecar = mesh
        .sidecar_with("one", |bootstrap| add_control_plane(bootstrap, "eds", &eds))
        .await;
    names[1..]
        .iter()
        .for_each(|name| drop(mesh.control_plane.push_cluster(own(name))));
    until("all clusters", async || {
        (sidecar.stat("cluster_manager.active_clusters").await >= 25
            && sidecar.stat("cluster_manager.warming_clusters").await == 0)
            .then_some(())
    })
    .await;
    assert_eq!(sidecar.stat("cluster.eds.upstream_cx_total").await, 3);
    assert_eq!(sidecar.stat("cluster.eds.upstream_rq_total").await, 25);
}

/// Whoever waits for a secret waits no longer than it is told to: the listener is there then, and shakes no hand before the secret is.
#[tokio::test]
async fn a_listener_whose_secret_is_late_is_active_and_refuses_handshakes_until_it_comes() {
    let authority = Authority::new("root").unwrap();
    let identity = authority.issue(&Leaf::new().dns("a.test")).unwrap();
    let backend = Backend::start("a").await;
    // In the delta protocol the control plane says that there is none.
    let mesh = Mesh::start(Variant::Sotw).await;
    let source = core::ConfigSource {
        initial_fetch_timeout: Some(Duration {
            seconds: 0,
            nanos: 300_000_000,
        }),
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource::default(),
        )),
        ..core::ConfigSource::default()
    };
    let tls = tls_downstream("late").edit(|context| set_secret_source(&mut context.common_tls_context, &source));
    let routes = route_config("routes").vhost(["*"]).with_route(prefix("/").cluster("a"));
    mesh.control_plane
        .push_cluster(cluster_static("a", [("127.0.0.1", backend.port())]));
    mesh.control_plane
        .push_listener(listener_http("late", "127.0.0.1", 0, hcm("late").inline(routes)).tls(tls));
    let sidecar = mesh.sidecar("one").await;
    // Which is known of listeners that are active.
    let address = sidecar.listener("late").await;
    assert_eq!(sidecar.stat("sds.late.init_fetch_timeout").await, 1);
    assert!(trusting(authority.certificate_der(), address).await.is_none());
    let not_ready = format!(
        "listener.127.0.0.1_{}.server_ssl_socket_factory.downstream_context_secrets_not_ready",
        address.port()
    );
    assert_eq!(sidecar.stat(&not_ready).await, 1);
    mesh.control_plane.push_secret(identity.secret("late"));
    let stream = until("the secret", async || {
        trusting(authority.certificate_der(), address).await
    })
    .await;
    let answer = Http1::over(Box::new(stream)).get("a.test", "/", "").await;
    assert_eq!(answer.status, 200);
}
