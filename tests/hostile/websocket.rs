//! WebSocket with a real client and a real server: over HTTP/1 all the way, and with HTTP/2 (extended CONNECT) between two proxies.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use remora::runtime::spawn::spawn;
use remora_tests::{Sidecar, until, within};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use super::{HTTP2, bootstrap, cluster};

const MANAGER: &str = r#"
codec_type: AUTO
http2_protocol_options: {allow_connect: true}
upgrade_configs: [{upgrade_type: websocket}]
route_config:
  name: routes
  virtual_hosts:
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: next}}]}
"#;

fn limits() -> Option<WebSocketConfig> {
    Some(WebSocketConfig::default().max_message_size(None).max_frame_size(None))
}

/// Sends back what it gets; `count` as text, when it is asked for the end.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn("websocket server", async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn("websocket connection", async move {
                let Ok(mut socket) = accept_async_with_config(stream, limits()).await else {
                    return;
                };
                while let Some(Ok(message)) = socket.next().await {
                    let answer = match message {
                        Message::Text(text) if text == "please close" => Message::Close(Some(CloseFrame {
                            code: CloseCode::Library(4321),
                            reason: "as asked".into(),
                        })),
                        Message::Text(_) | Message::Binary(_) => message,
                        // Pings are answered by the library.
                        _ => continue,
                    };
                    if socket.send(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

async fn proxy(to: SocketAddr, fields: &str) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&bootstrap(MANAGER, &cluster("next", to.port(), fields)))
        .await
        .unwrap();
    let address = sidecar.listener("http").await;
    (sidecar, address)
}

async fn client(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, answer) = within(
        "the upgrade",
        client_async_with_config("ws://socket.test/chat", stream, limits()),
    )
    .await
    .unwrap();
    assert_eq!(answer.status(), 101);
    socket
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Message {
    within("a message", socket.next()).await.unwrap().unwrap()
}

/// Every kind of frame, and messages of every size that has a form of its own.
async fn talk(address: SocketAddr) {
    let mut socket = client(address).await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
        let text = "t".repeat(length);
        socket.send(Message::text(text.clone())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::text(text));
    }
    let binary: Vec<u8> = (0..10_000_000u32).map(|number| (number % 251) as u8).collect();
    let (mut sink, mut stream) = socket.split();
    let sent = binary.clone();
    // At the same time: the echo begins before the message has ended.
    let (sent, received) = tokio::join!(sink.send(Message::binary(sent)), within("10 MB", stream.next()));
    sent.unwrap();
    assert!(
        received.unwrap().unwrap().into_data() == binary,
        "10 MB came back changed"
    );
    let mut socket = sink.reunite(stream).unwrap();
    socket.send(Message::Ping("are you there".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong("are you there".into()));
    socket.send(Message::text("please close")).await.unwrap();
    let Message::Close(Some(frame)) = next(&mut socket).await else {
        panic!("no close frame");
    };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4321, "as asked"));
    assert!(within("the end", socket.next()).await.is_none_or(|end| end.is_err()));
}

/// The client closes.
async fn leave(address: SocketAddr) {
    let mut socket = client(address).await;
    let frame = CloseFrame {
        code: CloseCode::Away,
        reason: "bye".into(),
    };
    socket.close(Some(frame.clone())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Close(Some(frame)));
    // And one that goes without a word.
    drop(client(address).await);
}

async fn all_released(sidecar: &Sidecar) {
    until("all tunnels to be over", async || {
        let active = sidecar.stat("http.http.downstream_rq_active").await
            + sidecar.stat("cluster.next.upstream_rq_active").await;
        (active == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn over_http1() {
    let (sidecar, address) = proxy(echo_server().await, "").await;
    talk(address).await;
    leave(address).await;
    all_released(&sidecar).await;
}

#[tokio::test]
async fn over_http2_between_two_proxies() {
    let (far, far_address) = proxy(echo_server().await, "").await;
    let (near, address) = proxy(far_address, HTTP2).await;
    talk(address).await;
    leave(address).await;
    assert!(
        far.stat("http.http.downstream_cx_http2_total").await > 0,
        "the hop between was HTTP/2"
    );
    all_released(&near).await;
    all_released(&far).await;
}
