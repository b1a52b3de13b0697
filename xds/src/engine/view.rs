//! What people get to see of an engine.

use std::sync::Arc;

use super::{Engine, Stream, StreamId};
use crate::store::Source;
use crate::store::status::{Status, StreamStatus};
use crate::types::ResourceType;

/// How a stream fares, for people.
#[derive(Default)]
pub(super) enum State {
    #[default]
    New,
    Open,
    /// Why it ended, or could not be opened.
    Failed(String),
}

impl Engine {
    /// The state of every type and stream, for people.
    pub fn status(&self) -> Status {
        let mut types = self.store.types();
        let roots = self.roots.iter().map(|root| (root.ty(), root.source()));
        types.extend(roots);
        types.sort_by_cached_key(|(ty, source)| (ty.rank, ty.url, source.to_string()));
        types.dedup();
        let status = |(ty, source): (ResourceType, Arc<Source>)| {
            let mut status = self.store.status_of(ty, &source);
            self.records.fill(&mut status, &source);
            status
        };
        Status {
            types: types.into_iter().map(status).collect(),
            streams: self.streams.iter().map(Stream::status).collect(),
        }
    }

    /// Keeps why a stream ended, or could not be opened, for the status page. Says whether people should be told now: not of what they know,
    /// nor of the `usual` end of one that was open.
    pub fn note_failure(&mut self, id: StreamId, reason: String, usual: bool) -> bool {
        let Some(stream) = self.stream(id) else { return false };
        let is_news = match &stream.state {
            State::New => true,
            State::Open => !usual,
            State::Failed(known) => *known != reason,
        };
        stream.state = State::Failed(reason);
        is_news
    }
}

impl Stream {
    fn status(&self) -> StreamStatus {
        let carries = match (self.ty, &self.name) {
            (None, _) => "all types".to_owned(),
            (Some(ty), None) => ty.short.to_owned(),
            (Some(ty), Some(name)) => format!("{} {name}", ty.short),
        };
        StreamStatus {
            source: self.source.to_string(),
            is_file: self.source.is_file(),
            carries,
            is_open: matches!(self.state, State::Open),
            identifier: self.mux.stats().identifier(),
            failure: match &self.state {
                State::Failed(reason) => Some(reason.clone()),
                State::New | State::Open => None,
            },
        }
    }
}
