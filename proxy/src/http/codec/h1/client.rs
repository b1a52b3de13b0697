//! The client driver: one request at a time on a leased connection, which goes home when the response has ended.

mod pump;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use super::decode::{BodyDecoder, Decoded};
use super::encode::{self, Framing};
use super::parse::{self, ResponseHead};
use super::stream::{Stream, take_buffer};
use super::{H1Options, case};
use crate::http::body::{Body, BodyError};
use crate::http::codec::{Head, InterimStatus, SendError, UpstreamMeter};
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::runtime::io::Io;
use pump::{PumpError, RequestPump, request_framing};

/// An upstream HTTP/1 connection, between requests or leased.
pub struct ClientConnection {
    stream: Stream,
    out: Vec<u8>,
    options: H1Options,
    /// The peer closed it, or broke the protocol, within a response.
    ending: Closed,
    /// Requests sent so far.
    pub requests: u64,
    pub created: Instant,
    pub idle_since: Instant,
    /// Takes the connection home; `None` and it closes after one response.
    pub home: Option<Arc<dyn Home>>,
    /// The running request's meter, and what the connection had carried before.
    metered: Option<Box<(Arc<UpstreamMeter>, u64, u64)>>,
}

/// Where a connection goes when it is free.
pub trait Home: Send + Sync {
    fn release(&self, connection: Box<ClientConnection>);
    /// The connection will not come home.
    fn closed(&self, how: Closed);
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    /// By the peer; else by us.
    pub remote: bool,
    pub protocol_error: bool,
    /// A request was on it.
    pub active: bool,
    /// The peer's last answer said that it would.
    pub announced: bool,
}

impl ClientConnection {
    pub fn new(io: Io, options: H1Options, now: Instant) -> Self {
        Self {
            stream: Stream::new(io),
            out: Vec::new(),
            ending: Closed::default(),
            options,
            requests: 0,
            created: now,
            idle_since: now,
            home: None,
            metered: None,
        }
    }

    /// Whether nothing has arrived on the idle connection, neither bytes nor its end: only then may a request go out on it.
    pub fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.stream.read.is_empty() && self.stream.poll_fill(&mut cx).is_pending()
    }

    pub fn io(&self) -> &Io {
        self.stream.io()
    }

    /// Sends a request and waits for the response's head.
    ///
    /// # Errors
    /// The failure, and the body if it can be sent again: nothing of it was consumed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn send(mut self: Box<Self>, head: Head<'_>, body: Body) -> Result<Response, SendError> {
        let upgrade = head.is_upgrade();
        let framing = request_framing(head.method, &body, upgrade);
        self.out = take_buffer();
        encode::request_head(&mut self.out, head.method, head.uri, head.headers, framing, upgrade);
        case::spell(&mut self.out, head.names, self.options.header_case);
        self.requests += 1;
        if let Some(meter) = head.meter {
            self.start_meter(meter.clone());
        }
        self.ending.active = true;
        let replay = match &body {
            Body::Empty => Some(Body::Empty),
            Body::Full(bytes) => Some(Body::Full(bytes.clone())),
            _ => None,
        };
        let is_connect = *head.method == Method::CONNECT;
        let mut pump = RequestPump {
            // What is to go through a tunnel waits until there is one: who refuses it would read a request there.
            ended: upgrade || is_connect || body.is_end_stream(),
            body,
            framing,
            keep_trailers: self.options.enable_trailers,
            written: 0,
        };
        let mut interim = None;
        if pump.ended && framing == Framing::Chunked {
            encode::last_chunk(&mut self.out, None);
        }
        let response = poll_fn(|cx| {
            let pumped = pump.poll(cx, &mut self);
            if let Poll::Ready(Err(PumpError::Body(error))) = pumped {
                return Poll::Ready(Err(error));
            }
            // A broken write does not hide an early answer (RFC 9112 section 9.5): the read side tells.
            self.poll_head(cx, head, &mut interim)
        })
        .await;
        let response = response.map(|mut response| {
            if let Some(status) = interim {
                response.response.extensions_mut().insert(InterimStatus(status));
            }
            response
        });
        match response {
            Ok(response) if is_tunnel(head.method, response.response.status()) => {
                pump.ended = false;
                pump.framing = Framing::UntilClose;
                Ok(self.into_tunnel(response, pump))
            }
            Ok(mut response) => {
                response.keep_alive &= !is_connect;
                Ok(self.into_response(response, pump))
            }
            Err(failure) => {
                self.discard();
                // An interim response shows that the request has arrived.
                let body = replay.filter(|_| interim.is_none());
                Err(SendError { failure, body })
            }
        }
    }

    /// Gives the connection to `body` and what comes back, without a message of HTTP's around either.
    pub fn tunnel(mut self: Box<Self>, body: Body) -> Response {
        self.requests += 1;
        self.ending.active = true;
        let pump = RequestPump {
            ended: false,
            body,
            framing: Framing::UntilClose,
            keep_trailers: false,
            written: 0,
        };
        let head = ResponseHead {
            response: http::Response::new(()),
            body: BodyDecoder::UntilClose,
            keep_alive: false,
            line_bytes: 0,
        };
        self.into_tunnel(head, pump)
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: Head<'_>,
        interim: &mut Option<StatusCode>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        loop {
            if !self.stream.read.is_empty() {
                match parse::response(&mut self.stream.read, request.method, &self.options) {
                    Ok(Some(head)) if is_interim(head.response.status()) => {
                        let (parts, ()) = head.response.into_parts();
                        interim.get_or_insert(parts.status);
                        if let Some(sink) = request.interim {
                            sink.put(parts.status, parts.headers);
                            // The client's side looks when this task has been polled.
                            cx.waker().wake_by_ref();
                        }
                        continue;
                    }
                    // Nobody asked to switch: what follows is no protocol that the client speaks.
                    Ok(Some(head))
                        if head.response.status() == StatusCode::SWITCHING_PROTOCOLS && !request.is_upgrade() =>
                    {
                        self.ending.protocol_error = true;
                        return Poll::Ready(Err(Failure::ProtocolError("http1.codec_error")));
                    }
                    Ok(Some(head)) => {
                        if let Some(meter) = request.meter {
                            meter.note(|counts| counts.header_received += head.line_bytes as u64);
                        }
                        return Poll::Ready(Ok(head));
                    }
                    Ok(None) => {}
                    Err(failure) => {
                        self.ending.protocol_error = true;
                        return Poll::Ready(Err(failure));
                    }
                }
            }
            match std::task::ready!(self.stream.poll_fill(cx)) {
                Ok(0) | Err(_) => {
                    self.ending.remote = true;
                    if self.stream.read.is_empty() {
                        return Poll::Ready(Err(Failure::ConnectionTermination));
                    }
                    self.ending.protocol_error = true;
                    return Poll::Ready(Err(Failure::ProtocolError("http1.codec_error")));
                }
                Ok(_) => {}
            }
        }
    }

    fn into_response(mut self: Box<Self>, head: ResponseHead, pump: RequestPump) -> Response {
        let ResponseHead {
            response,
            body,
            keep_alive,
            ..
        } = head;
        let pump_done = pump.is_done(&self);
        if pump_done {
            // Most answers are short and here already: the connection is free before the response goes on.
            if let Some(remaining) = body
                .remaining()
                .filter(|remaining| *remaining <= self.stream.read.len() as u64)
            {
                let data = self.stream.read.split_to(remaining as usize).freeze();
                self.release(keep_alive);
                return response.map(|()| Body::from(data));
            }
        }
        if body.is_done() && !pump_done {
            // An empty answer before the request was sent: the rest of the request has no reader.
            self.discard();
            return response.map(|()| Body::Empty);
        }
        let pump = (!pump_done).then_some(pump);
        let body = ResponseBody {
            connection: Some(self),
            decoder: body,
            pump,
            keep_alive,
            cut: None,
        };
        response.map(|()| Body::H1Response(Box::new(body)))
    }

    fn into_tunnel(self: Box<Self>, head: ResponseHead, pump: RequestPump) -> Response {
        let decoder = BodyDecoder::UntilClose;
        let body = ResponseBody {
            connection: Some(self),
            decoder,
            pump: Some(pump),
            keep_alive: false,
            cut: None,
        };
        head.response.map(|()| Body::H1Response(Box::new(body)))
    }

    /// Counts the lines of the head in `out`, and from now on what the connection carries.
    fn start_meter(&mut self, meter: Arc<UpstreamMeter>) {
        let first = memchr::memchr(b'\n', &self.out).map_or(0, |end| end + 1);
        let end = memchr::memmem::find(&self.out, b"\r\n\r\n").map_or(first, |end| end + 2);
        meter.note(|counts| counts.header_sent += end.saturating_sub(first) as u64);
        self.metered = Some(Box::new((meter, self.stream.sent, self.stream.consumed())));
    }

    fn stop_meter(&mut self) {
        if let Some(metered) = self.metered.take() {
            let (meter, sent, received) = *metered;
            meter.note(|counts| {
                counts.wire_sent += self.stream.sent - sent;
                counts.wire_received += self.stream.consumed() - received;
            });
        }
    }

    fn release(mut self: Box<Self>, keep_alive: bool) {
        self.stop_meter();
        match self.home.clone() {
            // Bytes behind the response were not asked for: the connection is out of step.
            Some(home) if keep_alive && self.stream.read.is_empty() => {
                self.stream.read = bytes::BytesMut::new();
                self.ending.active = false;
                home.release(self);
            }
            _ => {
                self.ending.active = false;
                self.ending.announced = !keep_alive;
                self.discard();
            }
        }
    }

    fn discard(self: Box<Self>) {}
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.stop_meter();
        if let Some(home) = self.home.take() {
            home.closed(self.ending);
        }
    }
}

/// A response body read from a leased connection. Dropped early, the connection closes.
pub struct ResponseBody {
    connection: Option<Box<ClientConnection>>,
    decoder: BodyDecoder,
    pump: Option<RequestPump>,
    keep_alive: bool,
    /// The request ended before its end.
    cut: Option<Failure>,
}

impl ResponseBody {
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_progress(cx);
        if let Some(failure) = self.cut.take() {
            return self.broken(failure);
        }
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        loop {
            match self
                .decoder
                .decode(&mut connection.stream.read, connection.options.trailers())
            {
                Ok(Decoded::Data(data)) => {
                    if self.decoder.is_done() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    let keep = connection.options.enable_trailers;
                    self.end();
                    if !keep {
                        return Poll::Ready(None);
                    }
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => {
                    connection.ending.protocol_error = true;
                    return self.broken(Failure::ProtocolError("http1.codec_error"));
                }
            }
            match std::task::ready!(connection.stream.poll_fill(cx)) {
                Ok(0) if self.decoder == BodyDecoder::UntilClose => {
                    connection.ending = Closed {
                        remote: true,
                        ..Closed::default()
                    };
                    self.leave();
                    return Poll::Ready(None);
                }
                // The end of the connection within a message is an error of the message's.
                Ok(0) | Err(_) => {
                    connection.ending.remote = true;
                    connection.ending.protocol_error = true;
                    return self.broken(Failure::ProtocolError("http1.codec_error"));
                }
                Ok(_) => {}
            }
        }
    }

    /// Drives the rest of the request upstream. That it cannot be written shows on the response, which may be here all the same; where there is
    /// no rest, because the client has gone, nobody waits for an answer to it.
    pub fn poll_progress(&mut self, cx: &mut Context<'_>) {
        let (Some(pump), Some(connection)) = (&mut self.pump, &mut self.connection) else {
            return;
        };
        if let Poll::Ready(result) = pump.poll(cx, connection) {
            self.keep_alive &= result.is_ok();
            if let Err(PumpError::Body(failure)) = &result {
                self.cut = Some(failure.clone());
            }
            let tunnel = self.decoder == BodyDecoder::UntilClose && pump.framing == Framing::UntilClose;
            if tunnel && result.is_ok() {
                // Half-close: the client has said all it will.
                let _ = connection.stream.poll_shutdown(cx);
            }
            self.pump = None;
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    pub fn size_hint(&self) -> SizeHint {
        match self.decoder.remaining() {
            Some(remaining) => SizeHint::with_exact(remaining),
            None if self.connection.is_none() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }

    fn end(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        let pump_done = self.pump.take().is_none_or(|pump| pump.is_done(&connection));
        connection.release(self.keep_alive && pump_done);
    }

    /// Nobody is there any more to take the rest of the request, either.
    fn leave(&mut self) {
        self.connection = None;
        self.pump = None;
    }

    fn broken(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.leave();
        Poll::Ready(Some(Err(BodyError::Failed(failure))))
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

fn is_tunnel(method: &Method, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || (*method == Method::CONNECT && status.is_success())
}
