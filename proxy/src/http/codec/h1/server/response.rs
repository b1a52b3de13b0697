//! The way out: head, body and trailers of the response, written as the client takes them.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, StatusCode, Version};
use http_body::{Body as _, Frame};

use super::{Driver, poll_deadline, record_cut};
use crate::http::access_log;
use crate::http::body::{Body, BodyError};
use crate::http::codec::h1::decode::{BodyDecoder, Decoded};
use crate::http::codec::h1::encode::{self, Framing};
use crate::http::codec::h1::stream::take_buffer;
use crate::http::codec::h1::{MAX_READ, case};
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::service::{ConnectionEvent, Response, Service};
use crate::runtime::clock;

impl<S: Service> Driver<S> {
    /// Writes the response. Says whether all of it went out.
    pub(super) async fn respond(&mut self, exchange: &mut Exchange, response: Response, reply: &mut Reply) -> bool {
        let (parts, mut body) = response.into_parts();
        let framing = reply.framing(&parts, &body);
        let connected = *exchange.request.method() == Method::CONNECT && parts.status.is_success();
        let upgraded = parts.status == StatusCode::SWITCHING_PROTOCOLS || (reply.tunnel && connected);
        if exchange.request_abandoned && exchange.upstream.host.is_some() {
            self.take_buffered();
        }
        // A request whose rest nobody will read ends its connection (Envoy's `downstream_rq_response_before_rq_complete`).
        let unread = !self.conn.lock().body.is_done();
        exchange.answered_early |= unread;
        self.linger |= unread;
        if reply.tunnel && !upgraded {
            // The upgrade was declined: nothing of the stream was read as a tunnel.
            self.conn.lock().body = BodyDecoder::length(0);
        }
        let closes = exchange.close_downstream
            || upgraded
            || unread
            || framing == Framing::UntilClose
            || self.drain.is_draining();
        if reply.keep_alive && self.drain.is_draining() {
            self.service.event(ConnectionEvent::DrainClose);
        }
        reply.keep_alive &= !closes;
        let connection = match (reply.keep_alive || upgraded, reply.version) {
            (false, _) => Some("close"),
            (true, Version::HTTP_10) => Some("keep-alive"),
            (true, _) => None,
        };
        if self.out.capacity() == 0 {
            self.out = take_buffer();
        }
        let before = self.out.len();
        let version = if reply.version == Version::HTTP_10 {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        };
        let framing = if upgraded { Framing::UntilClose } else { framing };
        encode::response_head(
            &mut self.out,
            version,
            parts.status,
            &parts.headers,
            framing,
            connection,
        );
        let names = parts.extensions.get();
        case::spell(&mut self.out[before..], names, self.options.header_case);
        exchange.bytes.response_headers = (self.out.len() - before) as u64;
        exchange.timing.first_downstream_tx = Some(exchange.elapsed());
        if upgraded {
            self.service.established(exchange);
        }
        let sent = self.send_body(exchange, &mut body, framing).await;
        if let Err(failure) = &sent {
            record_cut(exchange, failure);
        }
        sent.is_ok()
    }

    /// A request that nobody reads any more may be here in full all the same, and then its connection goes on.
    fn take_buffered(&mut self) {
        let mut conn = self.conn.lock();
        let conn = &mut *conn;
        while let Ok(decoded) = conn.body.decode(&mut conn.stream.read, self.options.trailers()) {
            match decoded {
                Decoded::Data(data) => conn.received += data.len() as u64,
                Decoded::Trailers(_) => {}
                Decoded::End | Decoded::NeedMore => return,
            }
        }
    }

    async fn send_body(&mut self, exchange: &mut Exchange, body: &mut Body, framing: Framing) -> Result<(), Failure> {
        if matches!(framing, Framing::None | Framing::HeadChunked) || body.is_end_stream() {
            exchange.upstream.body_ends();
            if framing == Framing::Chunked {
                encode::last_chunk(&mut self.out, None);
            }
            return self.flush(body, Some(exchange)).await;
        }
        let mut ended = false;
        loop {
            let out_is_empty = self.out.is_empty();
            let stream_idle = self.stream_idle;
            let mut waiting_since = None;
            let frame = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Step::Frame(frame)),
                Poll::Pending if !out_is_empty => Poll::Ready(Step::Flush),
                Poll::Pending => {
                    let since = *waiting_since.get_or_insert_with(clock::now);
                    self.poll_lines(cx, exchange);
                    self.poll_cut(cx, since, stream_idle)
                }
            });
            match frame.await {
                Step::Flush => self.flush(body, Some(exchange)).await?,
                Step::Cut(failure) => return Err(failure),
                Step::Frame(Some(Ok(frame))) => {
                    ended |= self.encode_frame(exchange, frame, framing);
                    if self.out.len() >= MAX_READ {
                        self.flush(body, Some(exchange)).await?;
                    }
                }
                Step::Frame(Some(Err(error))) => {
                    // What came is passed on, then the connection is cut: the client must see the truncation.
                    let _ = self.flush(&mut Body::Empty, None).await;
                    return Err(match error {
                        BodyError::Failed(failure) => failure,
                        BodyError::Other(_) => Failure::LocalReset,
                    });
                }
                Step::Frame(None) => {
                    exchange.upstream.body_ends();
                    if framing == Framing::Chunked && !ended {
                        encode::last_chunk(&mut self.out, None);
                    }
                    return self.flush(body, Some(exchange)).await;
                }
            }
        }
    }

    /// Says whether the frame was the last.
    fn encode_frame(&mut self, exchange: &mut Exchange, frame: Frame<Bytes>, framing: Framing) -> bool {
        match frame.into_data() {
            Ok(data) => {
                exchange.upstream.body_moves();
                exchange.bytes.sent += data.len() as u64;
                match framing {
                    Framing::Chunked => encode::chunk(&mut self.out, &data),
                    _ => self.out.extend_from_slice(&data),
                }
                false
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                exchange.upstream.body_ends();
                exchange.log_trailers(&trailers);
                if framing == Framing::Chunked {
                    encode::last_chunk(&mut self.out, self.options.enable_trailers.then_some(&trailers));
                }
                true
            }
        }
    }

    /// Writes the line of the access log that is due, and asks to be woken for the next.
    fn poll_lines(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) {
        while let Some(due) = access_log::write_due(exchange) {
            if !poll_deadline(self.timer.as_mut(), Some(due), cx) {
                return;
            }
        }
    }

    /// While waiting for the upstream: has the client gone, or has nothing moved for too long?
    fn poll_cut(&mut self, cx: &mut Context<'_>, since: Instant, idle: Option<Duration>) -> Poll<Step> {
        let mut conn = self.conn.lock();
        while conn.body.is_done() && conn.stream.read.len() < MAX_READ {
            match conn.stream.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Step::Cut(Failure::DownstreamDisconnect)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        let request_complete = conn.body.is_done();
        // What goes up counts too: a tunnel may be busy in one direction alone.
        let since = conn.stream.last_activity.map_or(since, |at| at.max(since));
        drop(conn);
        if self.leave.poll_over_when_busy(cx) {
            return Poll::Ready(Step::Cut(Failure::DrainOver));
        }
        if poll_deadline(self.timer.as_mut(), idle.map(|limit| since + limit), cx) {
            return Poll::Ready(Step::Cut(Failure::StreamIdleTimeout { request_complete }));
        }
        Poll::Pending
    }

    /// Writes `out`; the request side of `body` goes on meanwhile, or two peers that only write would wait for ever.
    pub(super) async fn flush(&mut self, body: &mut Body, mut exchange: Option<&mut Exchange>) -> Result<(), Failure> {
        let mut blocked_since = None;
        let mut written = 0;
        let result = poll_fn(|cx| {
            let mut conn = self.conn.lock();
            let result = conn.stream.poll_write_all(cx, &self.out, &mut written);
            drop(conn);
            if result.is_pending() {
                body.poll_progress(cx);
                if let Some(exchange) = &mut exchange {
                    self.poll_lines(cx, exchange);
                }
                if self.leave.poll_over_when_busy(cx) {
                    return Poll::Ready(Err(Failure::DrainOver));
                }
                let since = *blocked_since.get_or_insert_with(clock::now);
                let deadline = self.stream_idle.map(|limit| since + limit);
                if poll_deadline(self.timer.as_mut(), deadline, cx) {
                    let request_complete = self.conn.lock().body.is_done();
                    return Poll::Ready(Err(Failure::StreamIdleTimeout { request_complete }));
                }
            }
            result.map_err(|_| Failure::DownstreamDisconnect)
        })
        .await;
        self.out.clear();
        result
    }
}

enum Step {
    Frame(Option<Result<Frame<Bytes>, BodyError>>),
    Flush,
    Cut(Failure),
}

/// What of the request decides how the response is framed.
pub(super) struct Reply {
    pub version: Version,
    pub is_head: bool,
    pub keep_alive: bool,
    pub tunnel: bool,
}

impl Reply {
    fn framing(&self, head: &http::response::Parts, body: &Body) -> Framing {
        let status = head.status;
        let bodiless =
            status.is_informational() || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        if bodiless {
            return Framing::None;
        }
        if self.is_head {
            let untold = self.version != Version::HTTP_10 && !head.headers.contains_key(CONTENT_LENGTH);
            return if untold { Framing::HeadChunked } else { Framing::None };
        }
        match body.size_hint().exact() {
            Some(length) => Framing::Length(length),
            None if self.version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        }
    }
}
