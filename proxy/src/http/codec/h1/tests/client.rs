use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http::codec::h1::client::{ClientConnection, Closed, Home};
use crate::http::codec::{Head, SendError};
use crate::http::failure::Failure;
use crate::runtime::clock;

/// Keeps what comes home.
#[derive(Default)]
#[allow(clippy::vec_box, reason = "connections travel in their boxes")]
struct Shelf {
    idle: Mutex<Vec<Box<ClientConnection>>>,
    closed: Mutex<u32>,
}

impl Home for Shelf {
    fn release(&self, connection: Box<ClientConnection>) {
        self.idle.lock().push(connection);
    }

    fn closed(&self, _: Closed) {
        *self.closed.lock() += 1;
    }
}

fn connection() -> (Box<ClientConnection>, DuplexStream, Arc<Shelf>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let shelf = Arc::new(Shelf::default());
    let options = H1Options {
        enable_trailers: true,
        ..H1Options::default()
    };
    let mut connection = ClientConnection::new(Io::Duplex(near), options, clock::now());
    connection.home = Some(shelf.clone());
    (Box::new(connection), far, shelf)
}

/// Sends one request, lets `upstream` answer with these bytes, and gives back what came of it.
async fn send(body: Body, answer: &[u8], close: bool) -> (Result<Response, SendError>, String, Arc<Shelf>) {
    let (connection, mut far, shelf) = connection();
    let request = http::Request::post("/path?q=1")
        .header("host", "up")
        .header("a", "b")
        .body(())
        .expect("valid");
    let head = Head {
        interim: None,
        names: None,
        meter: None,
        method: request.method(),
        uri: request.uri(),
        headers: request.headers(),
    };
    let upstream = async {
        let mut seen = vec![0; 4096];
        let count = far.read(&mut seen).await.expect("open");
        far.write_all(answer).await.expect("open");
        if close {
            far.shutdown().await.expect("open");
        }
        seen.truncate(count);
        (String::from_utf8_lossy(&seen).into_owned(), far)
    };
    let (result, (seen, _far)) = tokio::join!(connection.send(head, body), upstream);
    (result, seen, shelf)
}

#[tokio::test]
async fn a_short_answer_frees_the_connection_at_once() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok";
    let (response, seen, shelf) = send(Body::from("hi"), answer, false).await;
    assert_eq!(
        seen,
        "POST /path?q=1 HTTP/1.1\r\nhost: up\r\na: b\r\ncontent-length: 2\r\n\r\nhi"
    );
    assert_eq!(shelf.idle.lock().len(), 1);
    let response = response.expect("answered");
    assert!(!response.headers().contains_key("connection"));
    assert_eq!(response.into_body().collect().await.expect("whole").to_bytes(), "ok");
}

#[tokio::test]
async fn a_chunked_answer_frees_it_at_its_end_and_keeps_trailers() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n";
    let (response, _, shelf) = send(Body::Empty, answer, false).await;
    let response = response.expect("answered");
    let body = response.into_body().collect().await.expect("whole");
    assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "ok");
    assert_eq!(shelf.idle.lock().len(), 1);
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_does_not_free_it() {
    let (response, _, shelf) = send(Body::Empty, b"HTTP/1.1 200 OK\r\n\r\nall of it", true).await;
    let body = response.expect("answered").into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "all of it");
    assert_eq!((shelf.idle.lock().len(), *shelf.closed.lock()), (0, 1));
}

#[tokio::test]
async fn bytes_behind_the_answer_put_the_connection_out_of_step() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let (response, _, shelf) = send(Body::Empty, answer, false).await;
    assert_eq!(
        response
            .expect("answered")
            .into_body()
            .collect()
            .await
            .expect("whole")
            .to_bytes(),
        "ok"
    );
    assert_eq!(shelf.idle.lock().len(), 0);
}

#[tokio::test]
async fn a_connection_that_ends_before_an_answer_gives_the_body_back() {
    let (result, _, shelf) = send(Body::from("hi"), b"", true).await;
    let error = result.expect_err("no answer");
    assert_eq!(error.failure, Failure::ConnectionTermination);
    assert!(matches!(error.body, Some(Body::Full(bytes)) if &bytes[..] == b"hi"));
    assert_eq!(*shelf.closed.lock(), 1);
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_protocol_errors() {
    for answer in [
        &b"SPAM\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let (result, _, _) = send(Body::Empty, answer, false).await;
        assert!(
            matches!(result.expect_err("refused").failure, Failure::ProtocolError(_)),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_truncated_answer_is_an_error_within_the_body() {
    let (response, _, _) = send(Body::Empty, b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", true).await;
    assert!(response.expect("a head").into_body().collect().await.is_err());
}

#[tokio::test]
async fn interim_answers_are_skipped() {
    let answer =
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    let (response, _, shelf) = send(Body::Empty, answer, false).await;
    assert_eq!(response.expect("answered").status(), 204);
    assert_eq!(shelf.idle.lock().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_that_hears_anything_is_not_quiet() {
    let (mut quiet, _far, _shelf) = connection();
    assert!(quiet.is_quiet());
    let (mut ended, far, _shelf) = connection();
    drop(far);
    assert!(!ended.is_quiet());
    let (mut spoken, mut far, _shelf) = connection();
    far.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        .await
        .expect("open");
    assert!(!spoken.is_quiet());
}

/// Who refuses a tunnel would read what was to go through it as a request.
#[tokio::test]
async fn what_is_for_a_tunnel_waits_until_there_is_one() {
    for (answer, sent) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "GET /inner"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", ""),
    ] {
        let (connection, mut far, shelf) = connection();
        let request = http::Request::connect("far:1")
            .header("host", "far:1")
            .body(())
            .expect("valid");
        let head = Head {
            interim: None,
            names: None,
            meter: None,
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        };
        let (mut client, early) = tokio::io::duplex(64);
        client.write_all(b"GET /inner").await.expect("open");
        let body = crate::http::upgrade::reader_body(early);
        let upstream = async {
            let mut seen = vec![0; 4096];
            let count = far.read(&mut seen).await.expect("open");
            assert!(
                seen[..count].ends_with(b"\r\n\r\n"),
                "{:?}",
                String::from_utf8_lossy(&seen[..count])
            );
            far.write_all(answer.as_bytes()).await.expect("open");
        };
        let (response, ()) = tokio::join!(connection.send(head, body), upstream);
        let mut response = response.map_err(|error| error.failure).expect("answered").into_body();
        drop(client);
        std::future::poll_fn(|cx| {
            response.poll_progress(cx);
            std::task::Poll::Ready(())
        })
        .await;
        drop(response);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.expect("it ends");
        assert_eq!(rest, sent, "{answer}");
        assert!(shelf.idle.lock().is_empty(), "{answer}");
    }
}
