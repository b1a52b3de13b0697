//! The request's body on its way upstream, while the response is waited for or already read.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Method;
use http_body::{Body as _, Frame};

use super::ClientConnection;
use crate::http::body::{Body, BodyError};
use crate::http::codec::h1::MAX_READ;
use crate::http::codec::h1::encode::{self, Framing};
use crate::http::codec::h1::stream::give_buffer;
use crate::http::failure::Failure;

/// The request's body on its way upstream.
pub(super) struct RequestPump {
    pub(super) body: Body,
    pub(super) framing: Framing,
    /// `enable_trailers`
    pub(super) keep_trailers: bool,
    pub(super) ended: bool,
    /// Bytes of the connection's `out` that are written.
    pub(super) written: usize,
}

pub(super) enum PumpError {
    /// The downstream side of the body broke.
    Body(Failure),
    /// The upstream takes no more bytes.
    Write,
}

impl RequestPump {
    pub(super) fn is_done(&self, connection: &ClientConnection) -> bool {
        self.ended && connection.out.is_empty()
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        connection: &mut ClientConnection,
    ) -> Poll<Result<(), PumpError>> {
        loop {
            let mut starved = false;
            while !self.ended && connection.out.len() < MAX_READ {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => self.encode(&mut connection.out, frame),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(PumpError::Body(failure_of(error)))),
                    Poll::Ready(None) => self.end(&mut connection.out),
                    Poll::Pending => {
                        starved = true;
                        break;
                    }
                }
            }
            if connection.out.is_empty() {
                return if starved { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let written = connection.stream.poll_write_all(cx, &connection.out, &mut self.written);
            if std::task::ready!(written).is_err() {
                return Poll::Ready(Err(PumpError::Write));
            }
            if self.ended {
                give_buffer(std::mem::take(&mut connection.out));
            } else {
                connection.out.clear();
            }
            self.written = 0;
        }
    }

    fn encode(&mut self, out: &mut Vec<u8>, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) if self.framing == Framing::Chunked => encode::chunk(out, &data),
            Ok(data) => out.extend_from_slice(&data),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                if self.framing == Framing::Chunked {
                    encode::last_chunk(out, self.keep_trailers.then_some(&trailers));
                }
                self.ended = true;
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        self.ended = true;
        if self.framing == Framing::Chunked {
            encode::last_chunk(out, None);
        }
    }
}

pub(super) fn request_framing(method: &Method, body: &Body, upgrade: bool) -> Framing {
    if upgrade || *method == Method::CONNECT {
        return Framing::None;
    }
    match body.size_hint().exact() {
        Some(0) if has_no_content(method) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// Methods whose requests say nothing of an absent body, as Envoy has it.
fn has_no_content(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    )
}

fn failure_of(error: BodyError) -> Failure {
    match error {
        BodyError::Failed(failure) => failure,
        BodyError::Other(_) => Failure::LocalReset,
    }
}
