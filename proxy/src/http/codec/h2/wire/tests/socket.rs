//! What a connection does with its socket.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::rustls;

use super::super::Connection;
use super::*;
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;

/// A server whose client has said hello and asked `streams` times, and the client's end.
async fn asked(streams: u32) -> (Connection, Vec<Incoming>, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let mut connection = Connection::server(Io::Duplex(near), &H2Options::default());
    let hello = [frame::PREFACE.to_vec(), settings(&[])].concat();
    far.write_all(&hello).await.unwrap();
    for number in 0..streams {
        far.write_all(&headers(1 + 2 * number, true, &GET)).await.unwrap();
    }
    let mut asked = Vec::new();
    while asked.len() < streams as usize {
        asked.push(poll_fn(|cx| connection.poll_accept(cx)).await.unwrap().unwrap());
    }
    // What the server says to a hello.
    poll_fn(|cx| {
        let _ = connection.poll_accept(cx);
        Poll::Ready(())
    })
    .await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
        turn(&mut connection).await;
    }
    let mut hello = [0; 1024];
    let _ = far.read(&mut hello).await.unwrap();
    (connection, asked, far)
}

/// One turn of the connection's task.
async fn turn(connection: &mut Connection) {
    poll_fn(|cx| {
        assert!(connection.poll_accept(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

fn say(incoming: &mut Incoming) {
    incoming
        .respond
        .send_informational(StatusCode::EARLY_HINTS, &HeaderMap::new())
        .unwrap();
}

/// Frames that can be read at once.
async fn written(far: &mut DuplexStream) -> usize {
    let mut bytes = vec![0; 64 * 1024];
    let count = poll_fn(|cx| {
        let mut space = tokio::io::ReadBuf::new(&mut bytes);
        let _ = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut *far), cx, &mut space);
        Poll::Ready(space.filled().len())
    })
    .await;
    frames(&bytes[..count]).len()
}

#[tokio::test]
async fn what_turns_bring_leaves_in_one_write() {
    let (mut connection, mut asked, mut far) = asked(3).await;
    for incoming in &mut asked {
        say(incoming);
        turn(&mut connection).await;
        assert_eq!(written(&mut far).await, 0);
    }
    // A turn that brought nothing ends the wait.
    turn(&mut connection).await;
    assert_eq!(written(&mut far).await, 3);
}

#[tokio::test]
async fn patience_ends() {
    let (mut connection, mut asked, mut far) = asked(3).await;
    for _ in 0..4 {
        say(&mut asked[0]);
        turn(&mut connection).await;
        assert_eq!(written(&mut far).await, 0);
    }
    say(&mut asked[0]);
    turn(&mut connection).await;
    assert_eq!(written(&mut far).await, 5);
}

#[tokio::test]
async fn a_single_stream_and_a_last_word_wait_for_nothing() {
    let (mut connection, mut one, mut far) = asked(1).await;
    say(&mut one[0]);
    turn(&mut connection).await;
    assert_eq!(written(&mut far).await, 1);

    let (mut connection, mut many, mut far) = asked(3).await;
    say(&mut many[0]);
    connection.abrupt_shutdown(Reason::NO_ERROR);
    assert!(poll_fn(|cx| connection.poll_accept(cx)).await.is_none());
    assert_eq!(written(&mut far).await, 2);
}

/// A TLS server's end and its client's, with `room` bytes between them.
async fn over_tls(room: usize) -> (Io, tokio_rustls::TlsStream<DuplexStream>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(room);
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    let (ours, theirs) = tokio::join!(
        tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(Io::Duplex(near)),
        tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, far),
    );
    (Io::Tls(Box::new(ours.unwrap().into())), theirs.unwrap().into())
}

/// TLS takes all of what is written and keeps what the socket has no room for: it has to be flushed until it is gone, although there is nothing more to write.
#[tokio::test(start_paused = true)]
async fn what_tls_holds_back_is_flushed() {
    let (near, mut far) = over_tls(256).await;
    let serving = spawn("server", async move {
        let mut connection = Connection::server(near, &H2Options::default());
        let mut incoming = poll_fn(|cx| connection.poll_accept(cx)).await.unwrap().unwrap();
        incoming
            .respond
            .send_response(StatusCode::OK, &HeaderMap::new(), false)
            .unwrap();
        let mut stream = incoming.respond.into_stream();
        let mut data = Bytes::from(vec![7; 20_000]);
        poll_fn(|cx| stream.poll_send(&mut data, true, cx)).await.unwrap();
        drop((stream, incoming.body));
        // It ends with the client, who says nothing.
        let _ = poll_fn(|cx| connection.poll_accept(cx)).await;
    });
    let hello = [frame::PREFACE.to_vec(), settings(&[]), headers(1, true, &GET)].concat();
    far.write_all(&hello).await.unwrap();
    far.flush().await.unwrap();
    let mut bytes = Vec::new();
    let whole = async {
        loop {
            // Slowly: the socket is full all the time.
            let mut part = [0; 100];
            let count = far.read(&mut part).await.unwrap();
            bytes.extend_from_slice(&part[..count]);
            let ends = |seen: &Seen| seen.kind == frame::DATA && seen.flags == frame::END_STREAM;
            if bytes.len() > 20_000 && frames_of(&bytes).last().is_some_and(ends) {
                return;
            }
        }
    };
    // The clock is paused: when nothing moves any more, this is over at once.
    tokio::time::timeout(Duration::from_secs(60), whole).await.unwrap();
    drop(far);
    serving.await.unwrap();
}

/// Frames that are whole.
fn frames_of(bytes: &[u8]) -> Vec<Seen> {
    let mut whole = 0;
    while let Some(head) = bytes.get(whole..).and_then(Head::parse) {
        if whole + frame::HEAD + head.length > bytes.len() {
            break;
        }
        whole += frame::HEAD + head.length;
    }
    frames(&bytes[..whole])
}

#[tokio::test]
async fn all_that_was_said_is_written_before_the_end() {
    let (near, mut far) = tokio::io::duplex(100);
    let serving = spawn("server", async move {
        let mut connection = Connection::server(Io::Duplex(near), &H2Options::default());
        let mut incoming = poll_fn(|cx| connection.poll_accept(cx)).await.unwrap().unwrap();
        connection.graceful_shutdown();
        incoming
            .respond
            .send_response(StatusCode::OK, &HeaderMap::new(), false)
            .unwrap();
        let mut stream = incoming.respond.into_stream();
        let mut data = Bytes::from(vec![7; 20_000]);
        poll_fn(|cx| stream.poll_send(&mut data, true, cx)).await.unwrap();
        drop((stream, incoming.body));
        assert!(poll_fn(|cx| connection.poll_accept(cx)).await.is_none());
    });
    let hello = [frame::PREFACE.to_vec(), settings(&[]), headers(1, true, &GET)].concat();
    far.write_all(&hello).await.unwrap();
    let mut bytes = Vec::new();
    let mut answered = false;
    loop {
        let mut part = [0; 100];
        let count = far.read(&mut part).await.unwrap();
        bytes.extend_from_slice(&part[..count]);
        let seen = frames_of(&bytes);
        let ping = seen.iter().find(|seen| seen.kind == frame::PING);
        if let Some(ping) = ping.filter(|_| !answered) {
            answered = true;
            far.write_all(&frame(frame::PING, frame::ACK, 0, &ping.payload))
                .await
                .unwrap();
        }
        if count == 0 {
            break;
        }
    }
    serving.await.unwrap();
    let seen = frames_of(&bytes);
    let sent: usize = seen
        .iter()
        .filter(|seen| seen.kind == frame::DATA)
        .map(|seen| seen.payload.len())
        .sum();
    assert_eq!(sent, 20_000);
    assert_eq!(seen.last().unwrap().kind, frame::GOAWAY);
}
