use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::runtime::drain::DrainPhase;

#[tokio::test]
async fn requests_on_one_connection_are_answered_in_order() {
    let answers = exchange(
        "POST /collect HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\noneGET /b HTTP/1.1\r\nhost: x\r\n\r\n\
         POST /c HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(
        answers,
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\noneHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n\
         HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn what_is_no_request_is_refused_once_and_the_connection_closes() {
    for (request, status, details) in [
        ("GARBAGE\r\n\r\n", "400 Bad Request", "http1.codec_error"),
        (
            "GET / HTTP/1.0\r\nhost: x\r\n\r\n",
            "426 Upgrade Required",
            "low_version",
        ),
        (
            "FROBNICATE / HTTP/1.1\r\nhost: x\r\n\r\n",
            "400 Bad Request",
            "http1.codec_error",
        ),
        (
            "GET / HTTP/1.1\r\nhost: x/y\r\n\r\n",
            "400 Bad Request",
            "http.invalid_authority",
        ),
        (
            "GET / HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
            "400 Bad Request",
            "http1.invalid_characters",
        ),
        (
            "GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
            "400 Bad Request",
            "http1.codec_error",
        ),
        (
            "GET / HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n",
            "400 Bad Request",
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "400 Bad Request",
            "http1.content_length_and_chunked_not_allowed",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
            "400 Bad Request",
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +4\r\n\r\n",
            "400 Bad Request",
            "http1.codec_error",
        ),
        (
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "501 Not Implemented",
            "http1.invalid_transfer_encoding",
        ),
        (
            "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\ntransfer-encoding: chunked\r\n\r\n",
            "501 Not Implemented",
            "http1.invalid_transfer_encoding",
        ),
        (
            "CONNECT x:1 HTTP/1.1\r\nhost: x:1\r\ncontent-length: 3\r\n\r\n",
            "400 Bad Request",
            "http1.body_disallowed",
        ),
    ] {
        let mut served = served(64 * 1024);
        let both = format!("{request}GET /second HTTP/1.1\r\nhost: x\r\n\r\n");
        served.client.write_all(both.as_bytes()).await.expect("open");
        let answer = read_all(&mut served.client).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{request:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(
            served.finished.recv().await.map(|record| record.0).as_deref(),
            Some(details)
        );
    }
}

#[tokio::test]
async fn heads_over_the_limits_are_431() {
    let many: String = (0..101).map(|index| format!("h{index}: v\r\n")).collect();
    let long = format!("a: {}\r\n", "x".repeat(70 * 1024));
    for (headers, details) in [(many, "http1.too_many_headers"), (long, "http1.headers_too_large")] {
        let mut served = served(256 * 1024);
        let request = format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        served.client.write_all(request.as_bytes()).await.expect("open");
        let answer = read_all(&mut served.client).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert_eq!(
            served.finished.recv().await.map(|record| record.0).as_deref(),
            Some(details)
        );
    }
}

#[tokio::test]
async fn expect_continue_is_answered_before_the_body() {
    let mut served = served(4096);
    let head = "POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\n";
    served.client.write_all(head.as_bytes()).await.expect("open");
    let mut interim = [0; 25];
    served.client.read_exact(&mut interim).await.expect("open");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    served.client.write_all(b"ok").await.expect("open");
    assert!(read_all(&mut served.client).await.ends_with("\r\n\r\nok"));
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_closes_behind_it() {
    let mut served = served(4096);
    let head = "POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nsome";
    served.client.write_all(head.as_bytes()).await.expect("open");
    let answer = read_all(&mut served.client).await;
    assert!(answer.ends_with("\r\n\r\nearly"), "{answer}");
    served.task.await.expect("closed without a panic");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let mut served = served(4096);
    served
        .client
        .write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("open");
    drop(served.client);
    let record = served.finished.recv().await.expect("finished");
    assert_eq!(record.0, "downstream_remote_disconnect");
    served.task.await.expect("no panic");
}

/// Whatever is answered to the error of its body has nobody to go to.
#[tokio::test]
async fn a_client_that_leaves_in_its_upload_was_answered_nothing() {
    let mut served = served(4096);
    let part = b"POST /collect HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\nabc";
    served.client.write_all(part).await.expect("open");
    drop(served.client);
    let record = served.finished.recv().await.expect("finished");
    assert_eq!((record.0.as_str(), record.2), ("downstream_remote_disconnect", None));
    served.task.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_drain_answers_one_more_request_and_closes_what_stays_idle() {
    let get = b"GET /sized HTTP/1.1\r\nhost: x\r\n\r\n";
    // A request that was on its way when the drain began.
    let mut crossing = served(4096);
    tokio::task::yield_now().await;
    crossing.drain.advance(DrainPhase::Draining);
    tokio::time::sleep(Duration::from_secs(1)).await;
    crossing.client.write_all(get).await.expect("still open");
    let answer = read_all(&mut crossing.client).await;
    assert!(
        answer.starts_with("HTTP/1.1 ") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
    let started = tokio::time::Instant::now();
    let mut idle = served(4096);
    idle.drain.advance(DrainPhase::Draining);
    assert_eq!(read_all(&mut idle.client).await, "");
    assert_eq!(started.elapsed().as_secs(), 5);
    let mut ended = served(4096);
    ended.drain.advance(DrainPhase::Draining);
    tokio::task::yield_now().await;
    ended.drain.advance(DrainPhase::Closed);
    assert_eq!(read_all(&mut ended.client).await, "");
    assert_eq!(started.elapsed().as_secs(), 5);
    let mut busy = served(4096);
    busy.client
        .write_all(b"POST /collect HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n")
        .await
        .expect("open");
    tokio::task::yield_now().await;
    busy.drain.advance(DrainPhase::Draining);
    busy.client.write_all(b"ok").await.expect("open");
    let answer = read_all(&mut busy.client).await;
    assert!(answer.ends_with("connection: close\r\n\r\nok"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_still_runs_when_a_drain_is_over_is_cut() {
    let mut served = served(4096);
    let get = b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n";
    served.client.write_all(get).await.expect("open");
    tokio::task::yield_now().await;
    served.drain.advance(DrainPhase::Draining);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(
        served.finished.try_recv().is_err(),
        "it may go on for as long as the drain does"
    );
    served.drain.advance(DrainPhase::Closed);
    assert_eq!(read_all(&mut served.client).await, "");
    let record = served.finished.recv().await.expect("finished");
    assert_eq!(record.0, "downstream_local_disconnect");
    served.task.await.expect("no panic");
}

#[tokio::test]
async fn a_connection_takes_as_many_requests_as_it_may() {
    let options = H1Options {
        max_requests: Some(2),
        ..H1Options::default()
    };
    let mut served = served_with(4096, options, Timeouts::default());
    let get = "GET /sized HTTP/1.1\r\nhost: x\r\n\r\n";
    served.client.write_all(get.repeat(3).as_bytes()).await.expect("open");
    let answers = read_all(&mut served.client).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert!(answers.ends_with("connection: close\r\n\r\n"), "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_becomes_as_old_as_it_may() {
    let timeouts = Timeouts {
        max_age: Some(Duration::from_secs(60)),
        ..Timeouts::default()
    };
    let mut idle = served_with(4096, H1Options::default(), timeouts.clone());
    let began = crate::runtime::clock::now();
    assert_eq!(read_all(&mut idle.client).await, "", "it ends without a request too");
    let lasted = crate::runtime::clock::now() - began;
    assert_eq!(lasted.as_secs(), 60, "nobody is told");
    let mut served = served_with(4096, H1Options::default(), timeouts);
    let get = "GET /sized HTTP/1.1\r\nhost: x\r\n\r\n";
    served.client.write_all(get.as_bytes()).await.expect("open");
    crate::runtime::clock::sleep(Duration::from_secs(61)).await;
    served.client.write_all(get.as_bytes()).await.expect("open");
    let answers = read_all(&mut served.client).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_and_slow_heads_are_timed_out() {
    let limit = Some(Duration::from_secs(10));
    let timeouts = Timeouts {
        idle: limit,
        request_headers: limit,
        stream_idle: limit,
        ..Timeouts::default()
    };
    let mut idle = served_with(4096, H1Options::default(), timeouts.clone());
    assert_eq!(read_all(&mut idle.client).await, "");
    let mut slow = served_with(4096, H1Options::default(), timeouts.clone());
    slow.client.write_all(b"GET / HT").await.expect("open");
    let answer = read_all(&mut slow.client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut stuck = served_with(4096, H1Options::default(), timeouts);
    stuck
        .client
        .write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("open");
    read_all(&mut stuck.client).await;
    assert_eq!(
        stuck.finished.recv().await.map(|record| record.0).as_deref(),
        Some("stream_idle_timeout")
    );
}

/// Whatever the pieces, the bytes that come back are the bytes that went in.
async fn echoes(pipe: usize, chunks: Vec<Vec<u8>>, chunked: bool) {
    let served = served(pipe);
    let body: Vec<u8> = chunks.concat();
    let mut wire = Vec::new();
    if chunked {
        wire.extend_from_slice(
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        );
        for chunk in &chunks {
            super::super::encode::chunk(&mut wire, chunk);
        }
        super::super::encode::last_chunk(&mut wire, None);
    } else {
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        wire.extend_from_slice(head.as_bytes());
        wire.extend_from_slice(&body);
    }
    let (mut reader, mut writer) = tokio::io::split(served.client);
    let mut answer = Vec::new();
    let (written, read) = tokio::join!(writer.write_all(&wire), reader.read_to_end(&mut answer));
    written.expect("taken");
    read.expect("closed");
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
    let mut rest = bytes::BytesMut::from(&answer[end..]);
    let mut decoder = if chunked {
        super::super::decode::BodyDecoder::chunked()
    } else {
        super::super::decode::BodyDecoder::length(body.len() as u64)
    };
    let mut got = Vec::new();
    while let super::super::decode::Decoded::Data(data) = decoder
        .decode(&mut rest, H1Options::default().trailers())
        .expect("well framed")
    {
        got.extend_from_slice(&data);
    }
    assert!(decoder.is_done() && rest.is_empty());
    assert!(got == body);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn bytes_in_equal_bytes_out(
        pipe in 1_usize..3000,
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 0..8),
        chunked in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let limit = Duration::from_secs(60);
        runtime.block_on(async { tokio::time::timeout(limit, echoes(pipe, chunks, chunked)).await }).expect("no dead end");
    }

    #[test]
    fn any_bytes_at_all_do_no_harm(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = bytes::BytesMut::from(&input[..]);
        let _ = super::super::parse::request(&mut buffer, &H1Options::default());
        let mut buffer = bytes::BytesMut::from(&input[..]);
        let _ = super::super::parse::response(&mut buffer, &http::Method::GET, &H1Options::default());
        let mut buffer = bytes::BytesMut::from(&input[..]);
        let _ = super::super::decode::BodyDecoder::chunked().decode(&mut buffer, H1Options::default().trailers());
    }
}
