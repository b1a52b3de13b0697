use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::filters::http::ext_authz::v3 as pb;

use super::*;
use crate::config::BuildContext;
use crate::filters::http::tests::{compile, route_with};
use crate::testing::exchange;

fn over_grpc() -> pb::ExtAuthz {
    let envoy = core::grpc_service::EnvoyGrpc {
        cluster_name: "nowhere".into(),
        ..Default::default()
    };
    pb::ExtAuthz {
        services: Some(pb::ext_authz::Services::GrpcService(core::GrpcService {
            target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(envoy)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

async fn outcome(filter: &Arc<dyn Filter>, exchange: &mut Exchange) -> Option<StatusCode> {
    let mut flow = filter.request_headers(exchange);
    loop {
        match flow {
            Flow::Continue => return None,
            Flow::Respond(response) => return Some(response.status()),
            Flow::Wait(future) => flow = future.await,
            Flow::Then(go_on) => flow = go_on(exchange),
        }
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_refuses_unless_failures_pass() {
    let build = BuildContext::default();
    let closed = compile(REGISTRATION, &over_grpc(), &build).expect("compiles");
    let mut request = exchange("GET", "/", &[("host", "x")]);
    assert_eq!(outcome(&closed, &mut request).await, Some(StatusCode::FORBIDDEN));
    assert!(request.flags.contains(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE));
    let open = pb::ExtAuthz {
        failure_mode_allow: true,
        failure_mode_allow_header_add: true,
        ..over_grpc()
    };
    let open = compile(REGISTRATION, &open, &build).expect("compiles");
    let mut request = exchange("GET", "/", &[("host", "x")]);
    assert_eq!(outcome(&open, &mut request).await, None);
    assert_eq!(request.headers()[MODE_ALLOWED], "true");
}

#[tokio::test]
async fn another_filters_configuration_under_its_name_is_no_permission() {
    let build = BuildContext::default();
    let filter = compile(REGISTRATION, &over_grpc(), &build).expect("compiles");
    let mut request = exchange("GET", "/", &[("host", "x")]);
    let foreign = remora_proto::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute::default();
    request.route = route_with("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &foreign).expect("a route");
    assert_eq!(outcome(&filter, &mut request).await, Some(StatusCode::FORBIDDEN));
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_path() {
    let build = BuildContext::default();
    let refused = |config: pb::ExtAuthz| {
        compile(REGISTRATION, &config, &build).err().expect("refused").0[0]
            .path
            .clone()
    };
    assert_eq!(refused(pb::ExtAuthz::default()), "services");
    let http = pb::ExtAuthz {
        services: Some(pb::ext_authz::Services::HttpService(pb::HttpService::default())),
        ..Default::default()
    };
    assert_eq!(refused(http), "http_service.server_uri");
    let google = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::GoogleGrpc(Default::default())),
        ..Default::default()
    };
    let google = pb::ExtAuthz {
        services: Some(pb::ext_authz::Services::GrpcService(google)),
        ..Default::default()
    };
    assert_eq!(refused(google), "grpc_service.target_specifier");
}

#[tokio::test]
async fn a_body_that_was_read_is_read_again() {
    use http_body_util::BodyExt;
    let read = |limit| async move { body::read(Body::from("hello world"), limit).await.expect("reads") };
    let (all, again) = read(64).await;
    assert!(all.complete && all.bytes == "hello world");
    assert_eq!(again.collect().await.expect("collects").to_bytes(), "hello world");
    let (some, again) = read(5).await;
    assert!(!some.complete && some.bytes == "hello");
    assert_eq!(again.collect().await.expect("collects").to_bytes(), "hello world");
}
