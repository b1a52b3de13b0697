use std::cell::Cell;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

#[derive(Default)]
struct Count(Cell<u64>, Cell<u64>);

impl Meter for Count {
    fn passed(&self, from: Side, bytes: u64) {
        let counter = match from {
            Side::Downstream => &self.0,
            Side::Upstream => &self.1,
        };
        counter.set(counter.get() + bytes);
    }
}

fn limits(idle: Option<Duration>) -> Limits {
    Limits { idle, buffer: 1 << 20 }
}

#[tokio::test]
async fn bulk_passes_both_ways_through_narrow_pipes_unharmed() {
    let (mut client, downstream) = duplex(100);
    let (mut server, upstream) = duplex(777);
    let sent: Vec<u8> = (0..300_000_u32).map(|index| (index % 251) as u8).collect();
    let answer: Vec<u8> = sent.iter().rev().copied().collect();
    let count = Count::default();
    let (mut downstream, mut upstream) = (Io::Duplex(downstream), Io::Duplex(upstream));
    let client_side = async {
        let (mut read, mut write) = tokio::io::split(&mut client);
        let mut got = Vec::new();
        let writing = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(writing, read.read_to_end(&mut got));
        read.unwrap();
        got
    };
    let server_side = async {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        server.write_all(&answer).await.unwrap();
        server.shutdown().await.unwrap();
        got
    };
    let copying = both_ways(&mut downstream, &mut upstream, limits(None), &count);
    let (ended, back, forth) = tokio::join!(copying, client_side, server_side);
    assert!(matches!(ended, Ended::Both(_)), "{ended:?}");
    assert_eq!(forth, sent);
    assert_eq!(back, answer);
    assert_eq!((count.0.get(), count.1.get()), (300_000, 300_000));
}

#[tokio::test]
async fn a_half_closed_side_still_receives() {
    let (mut client, downstream) = duplex(1024);
    let (mut server, upstream) = duplex(1024);
    let (mut downstream, mut upstream) = (Io::Duplex(downstream), Io::Duplex(upstream));
    let peers = async {
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        // Ends: the half-close arrived.
        server.read_to_string(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (question, answer)
    };
    let count = Count::default();
    let copying = both_ways(&mut downstream, &mut upstream, limits(None), &count);
    let (ended, (question, answer)) = tokio::join!(copying, peers);
    assert!(matches!(ended, Ended::Both(_)));
    assert_eq!((question.as_str(), answer.as_str()), ("ask", "answer"));
}

#[tokio::test(start_paused = true)]
async fn the_idle_timeout_starts_again_with_every_byte() {
    let (mut client, downstream) = duplex(1024);
    let (_server, upstream) = duplex(1024);
    let (mut downstream, mut upstream) = (Io::Duplex(downstream), Io::Duplex(upstream));
    let started = clock::now();
    let talking = async {
        for _ in 0..5 {
            clock::sleep(Duration::from_secs(7)).await;
            client.write_all(b"x").await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let count = Count::default();
    let copying = both_ways(
        &mut downstream,
        &mut upstream,
        limits(Some(Duration::from_secs(10))),
        &count,
    );
    let ended = tokio::select! {
        ended = copying => ended,
        () = talking => unreachable!("talks for ever"),
    };
    assert!(matches!(ended, Ended::Idle));
    // Virtual time: five bytes at 7 s distance, then ten seconds of silence.
    assert_eq!((clock::now() - started).as_secs(), 45);
}

#[tokio::test]
async fn a_writer_that_is_gone_is_the_other_sides_error() {
    let (mut client, downstream) = duplex(1024);
    let (server, upstream) = duplex(1024);
    let (mut downstream, mut upstream) = (Io::Duplex(downstream), Io::Duplex(upstream));
    drop(server);
    client.write_all(b"hello").await.unwrap();
    let ended = both_ways(&mut downstream, &mut upstream, limits(None), &Count::default()).await;
    assert!(matches!(ended, Ended::Error(Side::Upstream, _)), "{ended:?}");
}
