//! HTTP/1: a sans-IO machine over `httparse`, and the two drivers around it.
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::body::BodyError;

/// A request body read from a downstream connection.
pub struct RequestBody;
impl RequestBody {
    pub fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }
    pub fn is_end_stream(&self) -> bool {
        true
    }
    pub fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A response body read from a leased upstream connection.
pub struct ResponseBody;
impl ResponseBody {
    pub fn poll_frame(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }
    pub fn poll_progress(&mut self, _cx: &mut Context<'_>) {}
    pub fn is_end_stream(&self) -> bool {
        true
    }
    pub fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
