//! Mirrors: what they get, and that nobody waits for them.

use control_plane_mock::resources::{VhostBuilder, cluster_static, prefix};
use remora_proto::pb::envoy::config::route::v3::InternalRedirectPolicy;
use remora_proto::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use remora_tests::{Backend, until};

use super::{One, Refusing, cluster, everything};

fn mirrored_to(mirrors: &[&str]) -> VhostBuilder {
    let route = prefix("/").cluster("a").edit_action(|action| {
        action.request_mirror_policies = mirrors
            .iter()
            .map(|cluster| RequestMirrorPolicy {
                cluster: (*cluster).to_owned(),
                ..RequestMirrorPolicy::default()
            })
            .collect();
    });
    everything().with_route(route)
}

#[tokio::test]
async fn a_mirror_gets_the_whole_request_and_its_answer_goes_nowhere() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    b.fail_with(Some(500));
    let one = One::start([cluster(&a), cluster(&b)], mirrored_to(&["b"])).await;
    let mut client = one.client().await;
    // In pieces, so that the mirror has begun before the body is there.
    client
        .send("POST /some?x=1 HTTP/1.1\r\nhost: m\r\ncontent-length: 200000\r\n\r\n")
        .await;
    for _ in 0..20 {
        client.send("x".repeat(10_000)).await;
    }
    let answer = client.response("POST").await;
    assert_eq!((answer.status, answer.header("x-backend")), (200, Some("a")));
    let seen = until("the mirrored request", async || b.seen().first().cloned()).await;
    assert!(seen.starts_with("POST /some?x=1 HTTP/1.1\n"), "{seen:.200}");
    assert!(seen.contains("host: m-shadow\n"), "{seen:.400}");
    let (_, body) = seen.split_once("\n\n").unwrap();
    assert!(body.len() == 200_000 && body.bytes().all(|byte| byte == b'x'));
    // Counted where it went, and as of the proxy's own making.
    until("its stats", async || {
        (one.sidecar.stat("cluster.b.internal.upstream_rq_500").await == 1).then_some(())
    })
    .await;
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_200").await, 1);
}

#[tokio::test]
async fn a_mirror_that_fails_or_is_not_there_harms_nobody() {
    let a = Backend::start("a").await;
    let refusing = Refusing::new();
    let closed = cluster_static("closed", [("127.0.0.1", refusing.port())]);
    let one = One::start([cluster(&a), closed], mirrored_to(&["closed", "nowhere"])).await;
    for _ in 0..3 {
        assert_eq!(one.get("/", "").await.status, 200);
    }
    until("three failures", async || {
        (one.sidecar.stat("cluster.closed.upstream_rq_503").await == 3).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_internal_redirect_goes_on_inside_the_mesh_with_its_body() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let first = prefix("/first").cluster("a").edit_action(|action| {
        action.internal_redirect_policy = Some(InternalRedirectPolicy {
            redirect_response_codes: vec![307],
            ..InternalRedirectPolicy::default()
        });
    });
    let routes = everything()
        .with_route(first)
        .with_route(prefix("/second").cluster("b"));
    let one = One::start([cluster(&a), cluster(&b)], routes).await;
    let mut client = one.client().await;
    client
        .send(
            "POST /first HTTP/1.1\r\nhost: m\r\ncontent-length: 5\r\n\
             x-do: status=307,header=location:http://other.test/second\r\n\r\nhello",
        )
        .await;
    // `b` does what it is told as well: its redirect has no policy and comes back.
    let answer = client.response("POST").await;
    assert_eq!((answer.status, answer.header("x-backend")), (307, Some("b")));
    let seen = b.seen().concat();
    assert!(
        seen.starts_with("POST /second HTTP/1.1\n") && seen.ends_with("hello"),
        "{seen}"
    );
    assert!(seen.contains("host: other.test\n"), "{seen}");
    assert!(seen.contains("x-envoy-original-url: http://m/first\n"), "{seen}");
    let followed = "cluster.a.upstream_internal_redirect_succeeded_total";
    assert_eq!(one.sidecar.stat(followed).await, 1);
    assert_eq!(client.get("m", "/second", "").await.status, 200);
}
