//! What people get to see of an engine.

use super::{Engine, StreamId};
use crate::store::status::TypeStatus;
use crate::store::{PathSource, Source};
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
    /// The state of every type, for people.
    pub fn status(&self) -> Vec<TypeStatus> {
        let mut types = self.store.types();
        types.extend(self.roots.iter().map(|root| root.ty()));
        types.sort_by_key(|ty| (ty.rank, ty.url));
        types.dedup();
        let status = |ty| {
            let mut status = self.store.status_of(ty);
            status.sources = self.sources_of(ty);
            status.failures = self.failures_of(ty);
            self.records.fill(&mut status);
            status
        };
        types.into_iter().map(status).collect()
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

    fn sources_of(&self, ty: ResourceType) -> Vec<String> {
        let carrying = self
            .streams
            .iter()
            .filter(|stream| stream.mux.types().any(|carried| carried == ty));
        let mut sources: Vec<_> = carrying.map(|stream| describe(&stream.source)).collect();
        sources.dedup();
        sources
    }

    fn failures_of(&self, ty: ResourceType) -> Vec<String> {
        let carrying = self
            .streams
            .iter()
            .filter(|stream| stream.mux.types().any(|carried| carried == ty));
        let failed = carrying.filter_map(|stream| match &stream.state {
            State::Failed(reason) => Some(reason.clone()),
            State::New | State::Open => None,
        });
        let mut failures: Vec<_> = failed.collect();
        failures.dedup();
        failures
    }
}

/// A source as text.
pub(super) fn describe(source: &Source) -> String {
    match source {
        Source::Ads => "ads".to_owned(),
        Source::Named(name) => name.to_string(),
        Source::Path(PathSource { path, .. }) => path.to_string(),
    }
}
