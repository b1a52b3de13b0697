//! Bodies of a chain in which some filter asked for body phases.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, HeaderMap};
use http_body::Frame;

use crate::filters::http::{Filter, FilterList, Flow, Stage};
use crate::http::body::{Body, BodyError};
use crate::http::exchange::Exchange;
use crate::http::service::Response;

pub(super) fn filter_request(filters: &Arc<FilterList>, exchange: &mut Exchange) {
    let inner = exchange.request.body_mut().take();
    if inner.is_empty() {
        *exchange.request.body_mut() = inner;
        return;
    }
    exchange.request.headers_mut().remove(http::header::CONTENT_LENGTH);
    *exchange.request.body_mut() = wrap(filters, exchange, inner, Direction::Request);
}

pub(super) fn filter_response(filters: &Arc<FilterList>, exchange: &mut Exchange, response: &mut Response) {
    let inner = response.body_mut().take();
    if inner.is_empty() || !is_changed(filters, exchange) {
        *response.body_mut() = inner;
        return;
    }
    // A filter may change the length: the codec frames what comes.
    response.headers_mut().remove(http::header::CONTENT_LENGTH);
    *response.body_mut() = wrap(filters, exchange, inner, Direction::Response);
}

fn is_changed(filters: &FilterList, exchange: &Exchange) -> bool {
    let stages = filters.stages().iter().enumerate();
    let mut present = stages.filter(|(index, _)| exchange.filters_off & FilterList::bit(*index) == 0);
    present.any(|(_, stage)| match stage {
        Stage::Filter(filter) => filter.phases().response_body && filter.changes_response(&exchange.extensions),
        Stage::Tower(_) => false,
    })
}

fn wrap(filters: &Arc<FilterList>, exchange: &Exchange, inner: Body, direction: Direction) -> Body {
    let state = exchange.extensions.clone();
    Body::Boxed(Box::pin(FilteredBody {
        filters: filters.clone(),
        inner,
        state,
        off: exchange.filters_off,
        direction,
        waiting: None,
        trailers: None,
        done: false,
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

struct FilteredBody {
    filters: Arc<FilterList>,
    inner: Body,
    state: Extensions,
    /// Filters that the stream passes by.
    off: u64,
    direction: Direction,
    waiting: Option<Waiting>,
    /// What came instead of a last chunk: it goes on after the filters have seen that the data is over.
    trailers: Option<HeaderMap>,
    done: bool,
}

/// A frame held by a filter that waits, and which filter is next.
struct Waiting {
    frame: Part,
    next: usize,
    flow: Pin<Box<dyn Future<Output = Flow> + Send>>,
}

enum Part {
    Data(Bytes, bool),
    Trailers(HeaderMap),
}

impl FilteredBody {
    fn phase(&self, filter: &dyn Filter, part: &mut Part) -> Flow {
        match (self.direction, part) {
            (Direction::Request, Part::Data(data, end)) => filter.request_body(&self.state, data, *end),
            (Direction::Request, Part::Trailers(trailers)) => filter.request_trailers(&self.state, trailers),
            (Direction::Response, Part::Data(data, end)) => filter.response_body(&self.state, data, *end),
            (Direction::Response, Part::Trailers(trailers)) => filter.response_trailers(&self.state, trailers),
        }
    }

    /// Runs the filters from `next` on; response filters in reverse order.
    fn run(&mut self, mut part: Part, from: usize) -> Result<Option<Part>, BodyError> {
        let filters = self.filters.clone();
        let count = filters.stages().len();
        for next in from..count {
            let index = if self.direction == Direction::Request {
                next
            } else {
                count - 1 - next
            };
            let Stage::Filter(filter) = &filters.stages()[index] else {
                continue;
            };
            if self.off & FilterList::bit(index) != 0 {
                continue;
            }
            match self.phase(filter.as_ref(), &mut part) {
                Flow::Continue => {}
                Flow::Wait(flow) => {
                    self.waiting = Some(Waiting {
                        frame: part,
                        next: next + 1,
                        flow,
                    });
                    return Ok(None);
                }
                Flow::Respond(_) | Flow::Then(_) => return Err(cut()),
            }
        }
        Ok(Some(part))
    }
}

fn cut() -> BodyError {
    // The head is on its way: all a filter can still do is to end the stream.
    BodyError::Failed(crate::http::failure::Failure::LocalReset)
}

impl http_body::Body for FilteredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let flow = std::task::ready!(waiting.flow.as_mut().poll(cx));
                let Some(Waiting { frame, next, .. }) = this.waiting.take() else {
                    continue;
                };
                let ready = match flow {
                    Flow::Continue => this.run(frame, next),
                    Flow::Wait(flow) => {
                        this.waiting = Some(Waiting { frame, next, flow });
                        continue;
                    }
                    Flow::Respond(_) | Flow::Then(_) => Err(cut()),
                };
                match ready {
                    Ok(Some(part)) => return Poll::Ready(Some(Ok(part.into_frame()))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if let Some(trailers) = this.trailers.take() {
                match this.run(Part::Trailers(trailers), 0) {
                    Ok(Some(part)) => return Poll::Ready(Some(Ok(part.into_frame()))),
                    Ok(None) => continue,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
            if this.done {
                return Poll::Ready(None);
            }
            let part = match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Part::Data(data, http_body::Body::is_end_stream(&this.inner)),
                    // Whoever keeps something back must hear that no more data comes.
                    Err(frame) => {
                        this.trailers = Some(frame.into_trailers().unwrap_or_default());
                        Part::Data(Bytes::new(), true)
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => Part::Data(Bytes::new(), true),
            };
            this.done = matches!(part, Part::Data(_, true));
            match this.run(part, 0) {
                Ok(Some(Part::Data(data, true))) if data.is_empty() => {}
                Ok(Some(part)) => return Poll::Ready(Some(Ok(part.into_frame()))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.trailers.is_none() && (self.done || self.inner.is_empty())
    }
}

impl Part {
    fn into_frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data, _) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}
