//! A request body on its way upstream: counted, and kept as far as a retry may need it.

mod tee;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tee::Tee;

use crate::cluster::Cluster;
use crate::http::body::{Body, BodyError};
use crate::http::failure::Failure;
use crate::runtime::clock;

/// The one source of a streaming request body, shared by the attempts that read it.
#[derive(Clone)]
pub(super) struct RequestStream(Arc<Mutex<State>>);

struct State {
    source: Body,
    /// What earlier reads gave, while a retry is possible.
    kept: Option<Vec<Bytes>>,
    kept_bytes: u64,
    limit: u64,
    /// Whose request it is.
    cluster: Arc<Cluster>,
    trailers: Option<HeaderMap>,
    ended_at: Option<Instant>,
    failed: Option<BodyError>,
    received: u64,
    /// A newer attempt took over: older readers get nothing more.
    reader: u64,
    /// Mirrors that read along.
    tees: Vec<Tee>,
}

impl RequestStream {
    /// `keep`: bytes that may be held for retries; `None`: no retries.
    pub fn new(source: Body, keep: Option<u64>, cluster: &Arc<Cluster>) -> Self {
        Self(Arc::new(Mutex::new(State {
            source,
            kept: keep.map(|_| Vec::new()),
            kept_bytes: 0,
            limit: keep.unwrap_or(0),
            cluster: cluster.clone(),
            trailers: None,
            ended_at: None,
            failed: None,
            received: 0,
            reader: 0,
            tees: Vec::new(),
        })))
    }

    /// A body that reads from the beginning. `None`: the beginning is gone.
    pub fn reader(&self) -> Option<Body> {
        let mut state = self.0.lock();
        if state.reader > 0 && state.kept.is_none() {
            return None;
        }
        state.reader += 1;
        let reader = Reader {
            stream: self.clone(),
            id: state.reader,
            position: 0,
            done: false,
        };
        Some(Body::Boxed(Box::pin(reader)))
    }

    /// A body that gets whatever attempts read from downstream, as they read it.
    pub fn tee(&self) -> Body {
        let mut state = self.0.lock();
        let length = state.source.size_hint().exact().filter(|_| state.received == 0);
        let tee = Tee::new(length);
        state.tees.push(tee.clone());
        Body::Boxed(Box::pin(tee))
    }

    /// Nothing more will be read: mirrors that still wait for something have lost.
    pub fn abandon(&self) {
        let mut state = self.0.lock();
        state.kept = None;
        for tee in state.tees.drain(..) {
            tee.end(Some(BodyError::Other("the request ended before its body".to_owned())));
        }
    }

    /// Whether nothing of what was read is gone.
    pub fn is_kept(&self) -> bool {
        let state = self.0.lock();
        state.kept.is_some() || state.reader == 0
    }

    /// The whole body again, if it ended and nothing of it is gone.
    pub fn whole(&self) -> Option<Body> {
        let state = self.0.lock();
        state.ended_at.filter(|_| state.failed.is_none())?;
        let kept = state.kept.as_ref()?;
        let data = match kept.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            more => more.concat().into(),
        };
        Some(match &state.trailers {
            Some(trailers) => Body::Trailers(Some(data).filter(|data| !data.is_empty()), Box::new(trailers.clone())),
            None => Body::from(data),
        })
    }

    /// When the last byte came from downstream.
    pub fn ended_at(&self) -> Option<Instant> {
        self.0.lock().ended_at
    }

    /// Body bytes received so far.
    pub fn received(&self) -> u64 {
        self.0.lock().received
    }

    /// Waits for the next attempt, while what comes of the request is kept for it.
    ///
    /// # Errors
    /// [`Failure::RetryBufferExceeded`] when more came than may be kept.
    pub async fn pause(&self, wait: Duration) -> Result<(), Failure> {
        let mut pause = std::pin::pin!(clock::sleep(wait));
        std::future::poll_fn(|cx| {
            self.read_ahead(cx);
            match self.is_kept() {
                true => pause.as_mut().poll(cx).map(Ok),
                false => Poll::Ready(Err(Failure::RetryBufferExceeded)),
            }
        })
        .await
    }

    /// Reads what has come while no attempt reads, as far as it may be kept.
    fn read_ahead(&self, cx: &mut Context<'_>) {
        let mut state = self.0.lock();
        while state.kept.is_some() && matches!(state.poll_source(cx), Poll::Ready(Some(Ok(_)))) {}
    }

    /// Gives up retries: what was kept is freed, nothing more is.
    pub fn stop_keeping(&self) {
        self.0.lock().kept = None;
    }
}

impl State {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Some(Err(error.clone())));
        }
        if self.ended_at.is_some() {
            return Poll::Ready(None);
        }
        let frame = std::task::ready!(Pin::new(&mut self.source).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(error)) => self.failed = Some(error.clone()),
            None => self.ended_at = Some(clock::now()),
        }
        if self.source.is_end_stream() && self.failed.is_none() {
            self.ended_at.get_or_insert_with(clock::now);
        }
        if self.ended_at.is_some() || self.failed.is_some() {
            for tee in self.tees.drain(..) {
                tee.end(self.failed.clone());
            }
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        for tee in &self.tees {
            tee.push(frame);
        }
        if let Some(data) = frame.data_ref() {
            self.received += data.len() as u64;
            self.kept_bytes += data.len() as u64;
            if self.kept_bytes > self.limit && self.kept.take().is_some() {
                self.cluster.stats.retry_or_shadow_abandoned.inc();
            }
            if let Some(kept) = &mut self.kept {
                kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended_at = Some(clock::now());
        }
    }
}

struct Reader {
    stream: RequestStream,
    id: u64,
    position: usize,
    done: bool,
}

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut state = this.stream.0.lock();
        if this.done {
            return Poll::Ready(None);
        }
        // Attempts that run side by side (hedging) read what is kept, each for itself.
        let is_kept = state.ended_at.is_some() && state.kept.is_some();
        if state.reader != this.id && !is_kept {
            return Poll::Ready(Some(Err(BodyError::Other(
                "another attempt reads the request".to_owned(),
            ))));
        }
        if let Some(data) = state.kept.as_ref().and_then(|kept| kept.get(this.position)) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if state.ended_at.is_some() {
            this.done = true;
            let trailers = state.trailers.clone();
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(state.poll_source(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => this.position += 1,
            _ => this.done = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.stream.0.lock();
        let read_all = state.kept.as_ref().is_none_or(|kept| self.position >= kept.len());
        self.done || (state.ended_at.is_some() && read_all && state.trailers.is_none())
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.stream.0.lock();
        match (state.received, &state.kept, self.position) {
            (0, _, 0) => state.source.size_hint(),
            // A later attempt reads again what was kept: the length is what is kept and what is still to come.
            (received, Some(_), 0) => match state.source.size_hint().exact() {
                Some(rest) => SizeHint::with_exact(received + rest),
                None => SizeHint::default(),
            },
            _ => SizeHint::default(),
        }
    }
}
