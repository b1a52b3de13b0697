//! What a peer says before the connection's task has had a turn: the requests that come first must know it.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::server::Connection;
use http::{Request, Response};
use tokio::io::DuplexStream;

use super::support::fed;
use crate::http::body::Body;
use crate::http::codec::SendError;
use crate::http::codec::h2::{ClientConnection, H2Options};
use crate::http::failure::Failure;
use crate::runtime::io::Io;

/// A connection that one request has gone over, and its peer, which moves only when it is polled here.
async fn used() -> (ClientConnection, Connection<DuplexStream, Bytes>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = ClientConnection::handshake(Io::Duplex(near), &H2Options::default())
        .await
        .unwrap();
    let mut server = h2::server::handshake(far).await.unwrap();
    let asking = client.send(request("GET", Body::Empty), None);
    let answering = async {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        turn(&mut server).await;
    };
    let (answer, ()) = tokio::join!(asking, answering);
    assert_eq!(answer.unwrap().status(), 200);
    // The acknowledgements of both sides.
    for _ in 0..10 {
        tokio::task::yield_now().await;
        turn(&mut server).await;
    }
    (client, server)
}

/// Lets the peer read and write, and nobody else.
async fn turn(server: &mut Connection<DuplexStream, Bytes>) {
    poll_fn(|cx| {
        let _ = server.poll_closed(cx);
        Poll::Ready(())
    })
    .await;
}

fn request(method: &str, body: Body) -> Request<Body> {
    let builder = Request::builder().method(method).uri("/").header("host", "a.example");
    builder.body(body).unwrap()
}

#[tokio::test]
async fn an_end_that_its_task_has_not_read() {
    let (client, server) = used().await;
    assert!(client.is_available());
    drop(server);
    assert!(!client.is_available() && !client.can_take_stream());
}

#[tokio::test]
async fn a_goaway_that_its_task_has_not_read() {
    let (client, mut server) = used().await;
    assert!(client.is_available());
    server.graceful_shutdown();
    turn(&mut server).await;
    assert!(!client.is_available() && !client.can_take_stream());
    assert!(client.was_asked_to_leave());
}

#[tokio::test]
async fn what_says_nothing_of_the_end_changes_nothing() {
    let (client, mut server) = used().await;
    server.set_target_window_size(1 << 20);
    turn(&mut server).await;
    assert!(client.is_available());
}

/// The request goes out, and the connection ends before it is answered.
async fn unanswered(method: &str, body: Body) -> SendError {
    let (client, mut server) = used().await;
    let asking = client.send(request(method, body), None);
    let ending = async {
        let held = server.accept().await.unwrap().unwrap();
        drop(server);
        held
    };
    let (answer, _) = tokio::join!(asking, ending);
    answer.unwrap_err()
}

#[tokio::test]
async fn a_body_that_is_still_there_comes_back_from_a_connection_that_ended() {
    for body in [Body::Empty, Body::from("small"), Body::Full(vec![b'x'; 100_000].into())] {
        let lost = unanswered("PUT", body).await;
        assert_eq!(lost.failure, Failure::ConnectionTermination);
        assert!(lost.body.is_some());
    }
    let (_feed, body) = fed(1);
    assert!(unanswered("PUT", body).await.body.is_none(), "nobody has all of it");
}

#[tokio::test]
async fn after_an_interim_response_nothing_comes_back() {
    let (client, mut server) = used().await;
    let asking = client.send(request("GET", Body::Empty), None);
    let ending = async {
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        let hints = Response::builder().status(103).body(()).unwrap();
        respond.send_informational(hints).unwrap();
        turn(&mut server).await;
        tokio::task::yield_now().await;
        drop(server);
    };
    let (answer, ()) = tokio::join!(asking, ending);
    let lost = answer.unwrap_err();
    assert_eq!(lost.failure, Failure::ConnectionTermination);
    assert!(lost.body.is_none());
}
