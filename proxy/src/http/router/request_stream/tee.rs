//! A copy of a request body for a mirror, which may be slower than the request itself and is dropped when it falls too far behind.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;

use crate::http::body::BodyError;

/// One mirror's queue: written by whoever reads the request, read by the mirror.
#[derive(Clone)]
pub(super) struct Tee {
    queue: Arc<Mutex<Queue>>,
    /// Bytes of the whole body, if that is known before.
    length: Option<u64>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    end: Option<Result<(), BodyError>>,
    waker: Option<Waker>,
}

/// Bytes that a mirror may be behind.
const LIMIT: usize = 1024 * 1024;

impl Tee {
    pub fn new(length: Option<u64>) -> Self {
        Self {
            queue: Arc::default(),
            length,
        }
    }

    pub fn push(&self, frame: &Frame<Bytes>) {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            queue.bytes += data.len();
            if queue.bytes > LIMIT {
                queue.frames.clear();
                queue.end = Some(Err(BodyError::Other("the mirror is too slow".to_owned())));
            } else {
                queue.frames.push_back(Frame::data(data.clone()));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            queue.frames.push_back(Frame::trailers(trailers.clone()));
        }
        queue.wake();
    }

    pub fn end(&self, error: Option<BodyError>) {
        let mut queue = self.queue.lock();
        queue.end.get_or_insert(error.map_or(Ok(()), Err));
        queue.wake();
    }
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl http_body::Body for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut queue = self.queue.lock();
        if let Some(frame) = queue.frames.pop_front() {
            queue.bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        match &queue.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let queue = self.queue.lock();
        queue.frames.is_empty() && queue.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body;

    use super::*;

    fn poll(tee: &mut Tee) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut cx = Context::from_waker(Waker::noop());
        let frame = Pin::new(tee).poll_frame(&mut cx);
        frame.map_ok(|frame| frame.into_data().unwrap_or_default())
    }

    #[test]
    fn a_mirror_gets_what_was_read_and_its_end() {
        let tee = Tee::new(Some(3));
        let mut reader = tee.clone();
        assert_eq!(reader.size_hint().exact(), Some(3));
        assert!(poll(&mut reader).is_pending());
        tee.push(&Frame::data(Bytes::from_static(b"one")));
        assert_eq!(poll(&mut reader), Poll::Ready(Some(Ok(Bytes::from_static(b"one")))));
        assert!(poll(&mut reader).is_pending());
        tee.end(None);
        assert!(reader.is_end_stream());
        assert_eq!(poll(&mut reader), Poll::Ready(None));
    }

    #[test]
    fn a_mirror_that_falls_behind_is_cut_and_holds_nothing() {
        let tee = Tee::new(None);
        let mut reader = tee.clone();
        for _ in 0..3 {
            tee.push(&Frame::data(Bytes::from(vec![0; LIMIT / 2])));
        }
        assert!(matches!(poll(&mut reader), Poll::Ready(Some(Err(_)))));
        tee.end(None);
        assert!(matches!(poll(&mut reader), Poll::Ready(Some(Err(_)))));
        assert!(tee.queue.lock().frames.is_empty());
    }
}
