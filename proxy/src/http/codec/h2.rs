//! HTTP/2 over the `h2` crate: server driver, client connections.
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::http::body::BodyError;

/// A received body of either side, with its flow control.
pub struct RecvBody;
impl RecvBody {
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
