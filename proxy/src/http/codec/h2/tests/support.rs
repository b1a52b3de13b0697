//! A scripted service behind the server driver, and bodies fed by hand.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::http::body::{Body, BodyError};
use crate::http::codec::h2::{H2Options, server};
use crate::http::exchange::Exchange;
use crate::http::service::{Response, Service};
use crate::listener::{ConnectionInfo, Direction};
use crate::runtime::clock;
use crate::runtime::drain::{Drain, DrainSignal};
use crate::runtime::io::{Address, Io};
use crate::runtime::spawn::spawn;
use crate::telemetry::flags::ResponseFlags;

pub(super) type Answer<'a> = Pin<Box<dyn Future<Output = Response> + Send + 'a>>;

/// What `finish` saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) code: Option<u16>,
    pub(super) flags: ResponseFlags,
    pub(super) details: String,
    pub(super) received: u64,
    pub(super) sent: u64,
}

pub(super) struct App<F> {
    handler: F,
    finished: mpsc::Sender<Finished>,
}

impl<F> Service for App<F>
where
    F: for<'a> Fn(&'a mut Exchange) -> Answer<'a> + Send + Sync + 'static,
{
    async fn call(&self, exchange: &mut Exchange) -> Response {
        (self.handler)(exchange).await
    }

    fn finish(&self, exchange: &mut Exchange) {
        let finished = Finished {
            code: exchange.response_code.map(|code| code.as_u16()),
            flags: exchange.flags,
            details: exchange.details.to_string(),
            received: exchange.bytes.received,
            sent: exchange.bytes.sent,
        };
        self.finished.try_send(finished).unwrap();
    }
}

/// A running server driver.
pub(super) struct Server {
    pub(super) finished: mpsc::Receiver<Finished>,
    pub(super) drain: Drain,
    pub(super) task: JoinHandle<()>,
}

/// Serves one in-memory connection with `handler`; its client end holds `buffer` bytes.
pub(super) fn serve<F>(options: H2Options, buffer: usize, handler: F) -> (tokio::io::DuplexStream, Server)
where
    F: for<'a> Fn(&'a mut Exchange) -> Answer<'a> + Send + Sync + 'static,
{
    let (near, far) = tokio::io::duplex(buffer);
    let (sender, finished) = mpsc::channel(4096);
    let (drain, signal): (Drain, DrainSignal) = Drain::new();
    let app = Arc::new(App {
        handler,
        finished: sender,
    });
    let task = spawn("server", async move {
        server::serve(Io::Duplex(far), app, connection(), &options, signal).await;
    });
    let server = Server { finished, drain, task };
    (near, server)
}

fn connection() -> Arc<ConnectionInfo> {
    let address = Address::Pipe("test".into());
    Arc::new(ConnectionInfo {
        id: 1,
        local: address.clone(),
        remote: address.clone(),
        direct_remote: address,
        own_local: None,
        original_destination: None,
        sni: None,
        transport_protocol: "raw_buffer",
        alpn: None,
        tls: None,
        workload: None,
        listener_name: "".into(),
        filter_chain_name: "".into(),
        metadata: Default::default(),
        direction: Direction::Inbound,
        accepted_at: clock::now(),
        secured_at: None,
        requests: Default::default(),
        xfcc: Default::default(),
        buffer_limit: 1 << 20,
        extensions: http::Extensions::new(),
    })
}

/// A raw client on `io`; its connection runs until `JoinHandle` is aborted or it ends.
pub(super) async fn raw_client(io: tokio::io::DuplexStream) -> (SendRequest<Bytes>, JoinHandle<()>) {
    raw_client_with(&h2::client::Builder::new(), io).await
}

pub(super) async fn raw_client_with(
    builder: &h2::client::Builder,
    io: tokio::io::DuplexStream,
) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let (sender, connection) = builder.handshake(io).await.unwrap();
    let task = spawn("raw client", async move {
        let _ = connection.await;
    });
    (sender.ready().await.unwrap(), task)
}

pub(super) fn get(path: &str) -> http::Request<()> {
    http::Request::get(format!("http://a.example{path}")).body(()).unwrap()
}

/// Reads a raw body to its end.
pub(super) async fn read(body: &mut h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// A body whose frames come through a channel.
pub(super) struct Fed(mpsc::Receiver<Result<Frame<Bytes>, BodyError>>);

pub(super) fn fed(depth: usize) -> (mpsc::Sender<Result<Frame<Bytes>, BodyError>>, Body) {
    let (sender, receiver) = mpsc::channel(depth);
    (sender, Body::Boxed(Box::pin(Fed(receiver))))
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx)
    }
}

/// The next frame of a body.
pub(super) async fn frame(body: &mut Body) -> Option<Result<Frame<Bytes>, BodyError>> {
    poll_fn(|cx| http_body::Body::poll_frame(Pin::new(body), cx)).await
}

/// All data and the trailers of a body.
pub(super) async fn collect(mut body: Body) -> Result<(Vec<u8>, Option<http::HeaderMap>), BodyError> {
    let mut bytes = Vec::new();
    while let Some(next) = frame(&mut body).await {
        match next?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(trailers) => return Ok((bytes, trailers.into_trailers().ok())),
        }
    }
    Ok((bytes, None))
}

/// Tells when it is dropped.
pub(super) fn guard() -> (Box<dyn Send>, tokio::sync::oneshot::Receiver<()>) {
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    (Box::new(sender), receiver)
}
