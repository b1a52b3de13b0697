//! Protocols in, protocols out.

use control_plane_mock::resources::{Variant, cluster_static, listener_tcp, prefix};
use remora_tests::{Backend, Http1, Http2};

use super::{One, all_to_a, cluster, everything};

const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

#[tokio::test]
async fn http1_to_http1_keeps_connections_on_both_sides() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let mut client = one.client().await;
    for _ in 0..3 {
        let answer = client.get("mesh.test", "/x?y", "x-mine: 1\n").await;
        assert_eq!(answer.status, 200);
        assert!(
            answer.text().contains("GET /x?y HTTP/1.1") && answer.text().contains("x-mine: 1"),
            "{answer:?}"
        );
    }
    assert_eq!((a.requests(), a.connections()), (3, 1));
}

#[tokio::test]
async fn bodies_pass_whole_in_both_directions() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let mut client = one.client().await;
    let body = "z".repeat(300_000);
    client
        .send(format!(
            "POST / HTTP/1.1\r\nhost: mesh.test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    let answer = client.response("POST").await;
    assert!(answer.is_whole() && answer.text().ends_with(&body));
    client
        .send(
            "POST / HTTP/1.1\r\nhost: mesh.test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        )
        .await;
    assert!(client.response("POST").await.text().ends_with("abcde"));
}

#[tokio::test]
async fn http2_to_http1_and_http1_to_http2() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let routes = everything()
        .with_route(prefix("/h2").cluster("b"))
        .with_route(prefix("/").cluster("a"));
    let one = One::start([cluster(&a), cluster(&b).http2()], routes).await;
    let mut client = Http2::connect(one.address).await;
    let answer = client.get("mesh.test", "/x", &[]).await;
    assert!(
        answer.status == 200 && answer.text().contains("GET /x HTTP/1.1"),
        "{answer:?}"
    );
    let answer = client.get("mesh.test", "/h2", &[]).await;
    assert!(
        answer.status == 200 && answer.text().contains("GET /h2 HTTP/2"),
        "{answer:?}"
    );
    let answer = one.get("/h2", "").await;
    assert!(
        answer.status == 200 && answer.text().contains(":authority: mesh.test"),
        "{answer:?}"
    );
    assert_eq!((a.connections(), b.connections()), (1, 1), "streams share connections");
}

#[tokio::test]
async fn grpc_in_all_four_kinds() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a).http2()], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let message = b"\0\0\0\0\x05hello";
    let unary = client
        .exchange("POST", "mesh.test", "/s/Unary", &GRPC, message, &[])
        .await;
    assert_eq!(
        (unary.body.as_slice(), unary.trailer("grpc-status")),
        (&message[..], Some("0"))
    );

    let mut streaming = client.open("POST", "mesh.test", "/s/Client", &GRPC, false).await;
    for last in [false, false, true] {
        streaming.data(message, last).await;
    }
    let answer = streaming.answer().await;
    assert_eq!((answer.body, answer.trailers.len()), (message.repeat(3), 1));

    let mut both = client.open("POST", "mesh.test", "/s/Bidi", &GRPC, false).await;
    for round in 0..3_u8 {
        let message = [0, 0, 0, 0, 1, round];
        both.data(&message, false).await;
        // Each answer arrives while the request is still open.
        assert_eq!(both.next().await.unwrap(), message.as_slice());
    }
    both.data(b"", true).await;
    assert_eq!(both.answer().await.trailer("grpc-status"), Some("0"));

    let only = client
        .exchange(
            "POST",
            "mesh.test",
            "/s/F",
            &[GRPC[0], GRPC[1], ("x-do", "grpc=7")],
            message,
            &[],
        )
        .await;
    assert_eq!(only.header("grpc-status"), Some("7"));
}

#[tokio::test]
async fn trailers_pass_in_both_directions_over_http2() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a).http2()], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let answer = client
        .exchange(
            "POST",
            "mesh.test",
            "/",
            &[("x-do", "trailer")],
            b"hi",
            &[("x-sent", "1")],
        )
        .await;
    assert!(answer.text().contains("trailer x-sent: 1"), "{answer:?}");
    assert_eq!(answer.trailer("x-trailer"), Some("yes"));
}

#[tokio::test]
async fn a_websocket_is_a_tunnel() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let mut client = one.client().await;
    client
        .send("GET /ws HTTP/1.1\r\nhost: mesh.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        .await;
    let answer = client.response("GET").await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    for text in ["first", "second"] {
        client.send(text).await;
        assert_eq!(client.exactly(text.len()).await, text.as_bytes());
    }
    client.finish().await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn tcp_is_passed_through() {
    let a = Backend::start("a").await;
    let tcp = cluster_static("tcp", [("127.0.0.1", a.port())]);
    let one = One::start_with(Variant::Sotw, [tcp], all_to_a(), |control_plane| {
        control_plane.push_listener(listener_tcp("tcp", "127.0.0.1", 0, "tcp"));
    })
    .await;
    let address = one.sidecar.listener("tcp").await;
    let mut client = Http1::connect(address).await.unwrap();
    let answer = client.get("over.tcp", "/through", "").await;
    // Nothing was added: these bytes were never HTTP to the sidecar.
    assert_eq!(answer.text(), "GET /through HTTP/1.1\nhost: over.tcp\n\n");
}

#[tokio::test]
async fn bad_requests_are_refused_and_cost_their_connection_alone() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let long = format!("GET / HTTP/1.1\r\nhost: m\r\nx: {}\r\n\r\n", "y".repeat(70 * 1024));
    let both = "POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: m\r\n\r\n";
    let mut good = one.client().await;
    assert_eq!(good.get("m", "/", "").await.status, 200);
    for (bytes, status) in [(long.as_str(), 431), ("\u{1}garbage\r\n\r\n", 400), (both, 400)] {
        let mut client = one.client().await;
        client.send(bytes).await;
        assert_eq!(client.response("GET").await.status, status);
        assert!(client.rest().await.is_empty(), "closed, and nothing more answered");
    }
    assert_eq!(good.get("m", "/", "").await.status, 200);
    assert_eq!(a.requests(), 2);
}
