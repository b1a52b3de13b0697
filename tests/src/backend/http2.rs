//! The backend's HTTP/2, gRPC included: each message frame is echoed as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};
use remora::runtime::clock;
use remora::runtime::spawn::spawn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{Request, Response, Shared, Step};

/// Serves one connection whose first bytes were read already.
pub(super) async fn serve(stream: TcpStream, first: &[u8], shared: Arc<Shared>) {
    let rewound = Rewound {
        first: first.to_vec(),
        stream,
    };
    let Ok(mut connection) = h2::server::handshake(rewound).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        spawn("backend stream", exchange(request, respond, shared.clone()));
    }
}

async fn exchange(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: Arc<Shared>) {
    let (head, mut incoming) = request.into_parts();
    let mut shown = Request {
        line: format!(
            "{} {} HTTP/2",
            head.method,
            head.uri.path_and_query().map_or("", |path| path.as_str())
        ),
        headers: pairs(&head.headers),
        ..Request::default()
    };
    shown.headers.push((
        ":authority".to_owned(),
        head.uri.authority().map_or("", |host| host.as_str()).to_owned(),
    ));
    shown
        .headers
        .push((":scheme".to_owned(), head.uri.scheme_str().unwrap_or("").to_owned()));
    let plan = shown.plan(&shared);
    for step in &plan {
        match step {
            Step::Delay(time) => clock::sleep(*time).await,
            Step::Hang => {
                std::future::pending::<()>().await;
            }
            Step::Reset => return respond.send_reset(Reason::REFUSED_STREAM),
            Step::Abort => return respond.send_reset(Reason::INTERNAL_ERROR),
            Step::Early(status) => {
                let interim = http::Response::builder()
                    .status(*status)
                    .header("link", "</a.css>")
                    .body(());
                let _ = respond.send_informational(interim.unwrap());
            }
            Step::Grpc(status) => {
                let mut response = http::Response::new(());
                response
                    .headers_mut()
                    .insert("content-type", HeaderValue::from_static("application/grpc"));
                response.headers_mut().insert("grpc-status", HeaderValue::from(*status));
                let _ = respond.send_response(response, true);
                return;
            }
            _ => {}
        }
    }
    if shown
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("application/grpc"))
        && plan.is_empty()
    {
        return echo(&mut incoming, respond, &shared).await;
    }
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        shown.body.extend_from_slice(&data);
    }
    if let Ok(Some(trailers)) = incoming.trailers().await {
        shown.trailers = pairs(&trailers);
    }
    respond_with(&Response::of(&shown, &plan, &shared), &plan, respond).await;
}

async fn respond_with(response: &Response, plan: &[Step], mut respond: SendResponse<Bytes>) {
    let mut head = http::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        head = head.header(name, value);
    }
    let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else {
        return;
    };
    if plan.contains(&Step::Cut) || plan.contains(&Step::Stall) {
        send(&mut stream, &response.body[..response.body.len() / 2], false).await;
        if plan.contains(&Step::Stall) {
            std::future::pending::<()>().await;
        }
        return stream.send_reset(Reason::INTERNAL_ERROR);
    }
    send(&mut stream, &response.body, response.trailers.is_empty()).await;
    if !response.trailers.is_empty() {
        let _ = stream.send_trailers(map(&response.trailers));
    }
}

async fn echo(incoming: &mut RecvStream, mut respond: SendResponse<Bytes>, shared: &Shared) {
    let head = http::Response::builder()
        .header("content-type", "application/grpc")
        .header("x-backend", &*shared.name);
    let Ok(mut stream) = respond.send_response(head.body(()).unwrap(), false) else {
        return;
    };
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        send(&mut stream, &data, false).await;
    }
    let _ = stream.send_trailers(map(&[("grpc-status".to_owned(), "0".to_owned())]));
}

/// Sends data as the peer's window allows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, data: &[u8], end: bool) {
    let mut rest = data;
    while !rest.is_empty() {
        stream.reserve_capacity(rest.len());
        let Some(Ok(capacity)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await else {
            return;
        };
        let (now, later) = rest.split_at(capacity.min(rest.len()));
        if stream
            .send_data(Bytes::copy_from_slice(now), end && later.is_empty())
            .is_err()
        {
            return;
        }
        rest = later;
    }
    if data.is_empty() && end {
        let _ = stream.send_data(Bytes::new(), true);
    }
}

pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

pub(crate) fn map(pairs: &[(String, String)]) -> HeaderMap {
    let parsed = |(name, value): &(String, String)| {
        (
            HeaderName::try_from(name.as_str()).unwrap(),
            HeaderValue::try_from(value.as_str()).unwrap(),
        )
    };
    pairs.iter().map(parsed).collect()
}

/// A stream with some bytes put back.
struct Rewound {
    first: Vec<u8>,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
