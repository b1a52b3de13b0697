//! Virtual hosts, routes, weights; access logs.

use control_plane_mock::resources::{Variant, access_log_file, exact, hcm, listener_http, prefix, route_config};
use remora_proto::pb::envoy::config::route::v3::HeaderMatcher;
use remora_proto::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use remora_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;
use remora_proto::pb::envoy::r#type::matcher::v3::RegexMatcher;
use remora_tests::{Backend, until};

use super::{One, all_to_a, cluster, everything};

#[tokio::test]
async fn the_first_route_that_matches_wins() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let by_header = prefix("/").cluster("b").edit(|route| {
        route.r#match.as_mut().unwrap().headers.push(HeaderMatcher {
            name: "x-to-b".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..HeaderMatcher::default()
        });
    });
    let by_regex = prefix("/").cluster("b").edit(|route| {
        let regex = RegexMatcher {
            regex: "/[0-9]+".to_owned(),
            ..RegexMatcher::default()
        };
        route.r#match.as_mut().unwrap().path_specifier = Some(PathSpecifier::SafeRegex(regex));
    });
    let routes = route_config("routes")
        .vhost(["b.test"])
        .route("/", "b")
        .vhost(["*"])
        .with_route(exact("/exact").cluster("b"))
        .with_route(by_regex)
        .with_route(by_header)
        .route("/", "a");
    let one = One::start([cluster(&a), cluster(&b)], routes).await;
    let backend = async |host: &str, path: &str, headers: &str| {
        let answer = one.client().await.get(host, path, headers).await;
        answer.header("x-backend").unwrap_or("none").to_owned()
    };
    assert_eq!(backend("b.test", "/", "").await, "b");
    assert_eq!(backend("a.test", "/exact", "").await, "b");
    assert_eq!(backend("a.test", "/exact/more", "").await, "a");
    assert_eq!(backend("a.test", "/123", "").await, "b");
    assert_eq!(backend("a.test", "/123a", "").await, "a");
    assert_eq!(backend("a.test", "/", "x-to-b: 1\r\n").await, "b");
    assert_eq!(backend("a.test", "/", "").await, "a");
}

#[tokio::test]
async fn weights_share_the_traffic() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let routes = everything().with_route(prefix("/").weighted([("a", 80), ("b", 20)]));
    let one = One::start([cluster(&a), cluster(&b)], routes).await;
    let mut client = one.client().await;
    for _ in 0..400 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    // 80 of 400 expected; seven standard deviations (8 each) to either side.
    assert!((24..=136).contains(&b.requests()), "{}", b.requests());
    assert_eq!(a.requests() + b.requests(), 400);
}

#[tokio::test]
async fn no_route_no_host_and_direct_answers() {
    let routes = route_config("routes")
        .vhost(["only.test"])
        .with_route(exact("/direct").direct_response(418, "teapot"))
        .with_route(exact("/old").redirect_path("/new"));
    let one = One::start([], routes).await;
    let mut client = one.client().await;
    assert_eq!(client.get("other.test", "/direct", "").await.status, 404);
    assert_eq!(client.get("only.test", "/none", "").await.status, 404);
    let answer = client.get("only.test", "/direct", "").await;
    assert_eq!((answer.status, answer.text().as_str()), (418, "teapot"));
    let answer = client.get("only.test", "/old", "").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (301, Some("http://only.test/new"))
    );
}

#[tokio::test]
async fn an_access_log_has_one_line_a_request() {
    let a = Backend::start("a").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("access.log");
    let text = path.display().to_string();
    let one = One::start_with(Variant::Delta, [cluster(&a)], all_to_a(), |control_plane| {
        let format = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %BYTES_SENT%\n";
        let manager = hcm("logged")
            .rds("routes")
            .access_log(access_log_file(&text, Some(format)));
        control_plane.push_listener(listener_http("logged", "127.0.0.1", 0, manager));
    })
    .await;
    let address = one.sidecar.listener("logged").await;
    let mut client = remora_tests::Http1::connect(address).await.unwrap();
    client.get("m", "/first", "x-do: body=10\r\n").await;
    client.get("m", "/second", "x-do: status=500,body=0\r\n").await;
    let lines = until("two lines", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        (text.lines().count() == 2).then_some(text)
    })
    .await;
    assert_eq!(lines, "GET /first 200 - a 10\nGET /second 500 - a 0\n");
}
