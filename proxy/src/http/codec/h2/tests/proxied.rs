//! A client, the server driver, a client connection, and a server in a row.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use proptest::prelude::*;

use super::support::{Server, get, raw_client, raw_client_with, read, serve};
use crate::http::body::Body;
use crate::http::codec::h2::{ClientConnection, H2Options};
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;

/// The test's own ends take frames of any size in any number.
const NO_FLOOD: usize = usize::MAX >> 1;

/// A client writes its preface (24 bytes, RFC 9113 3.4) whole before it reads, a server its SETTINGS, and both write what they owe (acknowledgements,
/// windows) before they read on: with no room in the pipes for that, each end waits for the other. No socket buffer is so small.
const SMALLEST_PIPE: usize = 256;

/// Proxies one connection to an echo server; all pipes hold `pipe` bytes and all windows are `window`.
async fn proxy(pipe: usize, window: u32) -> (tokio::io::DuplexStream, Server) {
    let (near, far) = tokio::io::duplex(pipe);
    spawn("echo server", async move {
        let mut builder = h2::server::Builder::new();
        let mut connection = builder.data_frame_budget(NO_FLOOD).handshake(far).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            spawn("echo", echo(request, respond));
        }
    });
    let options = H2Options {
        initial_stream_window: window,
        initial_connection_window: window.max(65_535),
        ..H2Options::default()
    };
    let upstream = ClientConnection::handshake(Io::Duplex(near), &options).await.unwrap();
    serve(options, pipe, move |exchange| {
        let upstream = upstream.clone();
        Box::pin(async move {
            let request = std::mem::take(&mut exchange.request);
            match upstream.send(request, None).await {
                Ok(response) => response,
                Err(error) => {
                    let mut response = Response::new(Body::Empty);
                    *response.status_mut() = error.failure.row().status;
                    response
                }
            }
        })
    })
}

/// Sends each frame back as it comes, then trailers that count them.
async fn echo(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    if request.uri().path() == "/reset" {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    }
    let mut body = request.into_body();
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    let mut bytes = 0;
    while let Some(Ok(mut data)) = body.data().await {
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
        while !data.is_empty() {
            out.reserve_capacity(data.len());
            while out.capacity() == 0 {
                if std::future::poll_fn(|cx| out.poll_capacity(cx)).await.is_none() {
                    return;
                }
            }
            let part = data.split_to(out.capacity().min(data.len()));
            out.send_data(part, false).unwrap();
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-bytes", HeaderValue::from(bytes));
    let _ = out.send_trailers(trailers);
}

#[tokio::test]
async fn a_conversation_goes_word_by_word() {
    let (io, mut server) = proxy(64 * 1024, 65_535).await;
    let (mut sender, _task) = raw_client(io).await;
    let (response, mut up) = sender.send_request(get("/"), false).unwrap();
    let mut down = response.await.unwrap().into_body();
    for word in ["a", "conversation", "word by word"] {
        up.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(down.data().await.unwrap().unwrap(), word);
        down.flow_control().release_capacity(word.len()).unwrap();
    }
    up.send_data(Bytes::new(), true).unwrap();
    assert!(down.data().await.is_none());
    assert_eq!(down.trailers().await.unwrap().unwrap()["x-bytes"], "25");
    let finished = server.finished.recv().await.unwrap();
    assert_eq!((finished.received, finished.sent), (25, 25));
}

#[tokio::test]
async fn a_reset_upstream_is_answered() {
    let (io, _server) = proxy(64 * 1024, 65_535).await;
    let (mut sender, _task) = raw_client(io).await;
    let (response, _) = sender.send_request(get("/reset"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 503);
}

async fn round_trip(pipe: usize, window: u32, chunks: Vec<usize>) {
    let (io, mut server) = proxy(pipe, window).await;
    let (mut sender, _task) = raw_client_with(h2::client::Builder::new().data_frame_budget(NO_FLOOD), io).await;
    let (response, mut up) = sender.send_request(get("/"), false).unwrap();
    let sent: Vec<u8> = (0..chunks.iter().sum()).map(|at: usize| (at % 251) as u8).collect();
    let mut rest = Bytes::from(sent.clone());
    for chunk in chunks {
        up.send_data(rest.split_to(chunk), false).unwrap();
    }
    up.send_data(Bytes::new(), true).unwrap();
    let mut down = response.await.unwrap().into_body();
    assert!(read(&mut down).await.unwrap() == sent);
    let trailers = down.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["x-bytes"], sent.len().to_string().as_str());
    let finished = server.finished.recv().await.unwrap();
    assert_eq!(
        (finished.received, finished.sent),
        (sent.len() as u64, sent.len() as u64)
    );
}

/// Whether it comes to its end. With its clock paused, a runtime in which nothing can go on jumps to the next timer: ours, which is due sooner than
/// any of the proxy's.
fn ends(future: impl Future<Output = ()>) -> bool {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await.is_ok() })
}

/// One read of the socket brings more small frames than anybody could have taken up between them.
#[test]
fn a_burst_of_small_frames_is_no_flood() {
    assert!(ends(round_trip(64 * 1024, 65_535, vec![3; 4000])));
}

#[test]
fn a_window_of_one_byte_is_slow_only() {
    assert!(ends(round_trip(4096, 1, vec![3000])));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_is_lost_whatever_the_pieces(
        pipe in SMALLEST_PIPE..5000,
        window in 1_u32..5000,
        chunks in proptest::collection::vec(0_usize..3000, 0..12),
    ) {
        prop_assert!(ends(round_trip(pipe, window, chunks)), "nothing moves any more");
    }
}
