//! Property tests of the whole proxy in memory: whatever way a message is cut into chunks and writes, whatever trailers it has, wherever
//! the client goes away, the bytes that come out are those that went in, and nothing is held when it is over.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::expect_used)]

#[path = "../fuzz/pipeline.rs"]
mod pipeline;

use pipeline::{PATIENCE, Whole, settled, talk};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.expect("it ends") })
}

/// A POST of these chunks, with trailers, and what its body is.
fn chunked(chunks: &[Vec<u8>], trailers: &[(String, String)], last: bool) -> (Vec<u8>, Vec<u8>) {
    let close = if last { "connection: close\r\n" } else { "" };
    let mut bytes = format!("POST /x HTTP/1.1\r\nhost: a\r\n{close}transfer-encoding: chunked\r\n\r\n").into_bytes();
    let mut body = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
        body.extend_from_slice(chunk);
    }
    bytes.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        bytes.extend_from_slice(format!("x-{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    (bytes, body)
}

/// The same with a length instead of chunks.
fn counted(chunks: &[Vec<u8>], last: bool) -> (Vec<u8>, Vec<u8>) {
    let body = chunks.concat();
    let close = if last { "connection: close\r\n" } else { "" };
    let head = format!(
        "POST /x HTTP/1.1\r\nhost: a\r\n{close}content-length: {}\r\n\r\n",
        body.len()
    );
    ([head.as_bytes(), &body].concat(), body)
}

/// Status, body and trailers of each answer.
fn answers(mut bytes: &[u8]) -> Vec<(String, Vec<u8>, Vec<String>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let head = find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("a head in {:?}", String::from_utf8_lossy(bytes)));
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        bytes = &bytes[head + 4..];
        let status = text.lines().next().unwrap().to_owned();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if let Some(length) = length {
            body.extend_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
        } else if text.contains("transfer-encoding: chunked") {
            loop {
                let line = find(bytes, b"\r\n").unwrap();
                let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line]).unwrap(), 16).unwrap();
                bytes = &bytes[line + 2..];
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&bytes[..size]);
                assert_eq!(&bytes[size..size + 2], b"\r\n");
                bytes = &bytes[size + 2..];
            }
            loop {
                let line = find(bytes, b"\r\n").unwrap();
                let trailer = String::from_utf8_lossy(&bytes[..line]).into_owned();
                bytes = &bytes[line + 2..];
                if trailer.is_empty() {
                    break;
                }
                trailers.push(trailer);
            }
        }
        all.push((status, body, trailers));
    }
    all
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}

#[test]
fn a_connect_that_ends_here_is_a_pipe_to_the_cluster() {
    let inside = "POST /x HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\n\r\nhello";
    let input = format!("CONNECT b:80 HTTP/1.1\r\nhost: b:80\r\n\r\n{inside}");
    let answer = block_on(async {
        let whole = Whole::new(100);
        let answer = talk(&whole, input.as_bytes(), 7).await;
        settled(&whole).await;
        String::from_utf8(answer).unwrap()
    });
    let (head, tunnel) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(tunnel, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello");
}

fn bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(6), ..ProptestConfig::default() })]

    #[test]
    fn bytes_in_are_bytes_out(
        first in bodies(),
        second in bodies(),
        trailers in prop::collection::btree_map("[a-z]{1,9}", "[a-z0-9]{0,9}", 0..4),
        step in 1usize..5000,
        pipe in 1usize..9000,
    ) {
        let trailers: Vec<(String, String)> = trailers.into_iter().collect();
        // Each over a connection of its own: the backend answers before it has all, and such an answer closes.
        let (input, one) = chunked(&first, &trailers, true);
        let (more, two) = counted(&second, true);
        let answer = block_on(async {
            let whole = Whole::new(pipe);
            let mut answer = talk(&whole, &input, step).await;
            answer.extend(talk(&whole, &more, step).await);
            settled(&whole).await;
            answer
        });
        let mut told: Vec<String> = trailers.iter().map(|(name, value)| format!("x-{name}: {value}")).collect();
        let mut found = answers(&answer);
        prop_assert_eq!(found.len(), 2);
        found[0].2.sort();
        told.sort();
        prop_assert_eq!(&found[0], &("HTTP/1.1 200 OK".to_owned(), one, told));
        prop_assert_eq!(&found[1], &("HTTP/1.1 200 OK".to_owned(), two, Vec::new()));
    }

    #[test]
    fn a_client_that_goes_away_leaves_nothing_behind(
        chunks in bodies(),
        at in any::<prop::sample::Index>(),
        step in 1usize..5000,
    ) {
        let (input, _) = chunked(&chunks, &[], false);
        let sent = at.index(input.len());
        block_on(async {
            let whole = Whole::new(1000);
            let (mut client, task) = whole.connect(2000);
            for piece in input[..sent].chunks(step) {
                // A pipe that nobody empties fills up: then the client goes away in the middle of its write.
                let written = tokio::time::timeout(std::time::Duration::from_millis(20), client.write_all(piece)).await;
                if !matches!(written, Ok(Ok(()))) {
                    break;
                }
            }
            drop(client);
            let _ = task.await;
            settled(&whole).await;
        });
    }
}
