//! Counters of resources that somebody has asked to have counted: those of types that come by the ten thousand.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{ControlPlaneStats, Stats, TypeStats};
use crate::store::Source;
use crate::types::ResourceType;

/// By type URL, then by name.
#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<&'static str, HashMap<Arc<str>, Vec<Watched>>>>);

/// What is known of a resource of one source.
#[derive(Debug)]
struct Watched {
    source: Arc<Source>,
    counters: Vec<Arc<TypeStats>>,
    /// The stream that carries nothing else.
    control_plane: Option<Arc<ControlPlaneStats>>,
}

/// Has a resource counted for as long as it lives.
#[derive(Debug)]
pub struct Watching {
    stats: Arc<Stats>,
    counters: Arc<TypeStats>,
    source: Arc<Source>,
    name: Arc<str>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stats
            .watched
            .change(self.counters.ty, &self.source, &self.name, |watched| {
                let mine = watched
                    .counters
                    .iter()
                    .position(|other| Arc::ptr_eq(other, &self.counters));
                mine.into_iter().for_each(|at| drop(watched.counters.swap_remove(at)));
            });
    }
}

impl Registry {
    /// Changes what is known of a resource, which is forgotten if nothing is left of it.
    fn change(&self, ty: ResourceType, source: &Arc<Source>, name: &Arc<str>, change: impl FnOnce(&mut Watched)) {
        let mut types = self.0.lock();
        let names = types.entry(ty.url).or_default();
        let sources = names.entry(name.clone()).or_default();
        let found = sources.iter().position(|watched| watched.source == *source);
        let at = found.unwrap_or_else(|| {
            sources.push(Watched {
                source: source.clone(),
                counters: Vec::new(),
                control_plane: None,
            });
            sources.len() - 1
        });
        change(&mut sources[at]);
        if sources[at].counters.is_empty() && sources[at].control_plane.is_none() {
            sources.swap_remove(at);
        }
        if sources.is_empty() {
            names.remove(name);
        }
    }

    /// Every set of counters of a resource, once.
    pub(super) fn of(&self, ty: ResourceType, source: &Source, name: &str) -> Vec<Arc<TypeStats>> {
        let types = self.0.lock();
        let sources = types.get(ty.url).and_then(|names| names.get(name));
        let counters = sources
            .into_iter()
            .flatten()
            .filter(|watched| *watched.source == *source)
            .flat_map(|watched| &watched.counters);
        let mut all: Vec<Arc<TypeStats>> = Vec::new();
        for own in counters {
            // Two versions of one owner may watch side by side.
            if !all.iter().any(|other| Arc::ptr_eq(other, own)) {
                all.push(own.clone());
            }
        }
        all
    }

    /// Whether any resource of the type is.
    pub(super) fn has_any(&self, ty: ResourceType) -> bool {
        self.0.lock().get(ty.url).is_some_and(|names| !names.is_empty())
    }

    /// A resource has, or no longer has, a stream of its own.
    pub(super) fn set_control_plane(
        &self,
        ty: ResourceType,
        source: &Arc<Source>,
        name: &Arc<str>,
        stats: Option<&Arc<ControlPlaneStats>>,
    ) {
        self.change(ty, source, name, |watched| {
            for own in &watched.counters {
                stats.into_iter().for_each(|stats| own.set_control_plane(stats.clone()));
            }
            watched.control_plane = stats.cloned();
        });
    }

    fn add(&self, stats: &Arc<Stats>, source: &Source, name: &Arc<str>, counters: Arc<TypeStats>) -> Watching {
        let source = Arc::new(source.clone());
        self.change(counters.ty, &source, name, |watched| {
            if let Some(own) = &watched.control_plane {
                counters.set_control_plane(own.clone());
            }
            watched.counters.push(counters.clone());
        });
        Watching {
            stats: stats.clone(),
            counters,
            source,
            name: name.clone(),
        }
    }
}

impl Stats {
    /// Counts what comes of a resource into `counters` from now on, for as long as what is returned lives. For types that are not counted by name
    /// ([`TypeInfo::counted_by_name`]): what is counted of those costs memory only where somebody wants it.
    ///
    /// [`TypeInfo::counted_by_name`]: crate::TypeInfo::counted_by_name
    pub fn watch(self: &Arc<Self>, source: &Source, name: &Arc<str>, counters: Arc<TypeStats>) -> Watching {
        self.watched.add(self, source, name, counters)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::ASSIGNMENT;

    #[test]
    fn a_resource_is_counted_once_for_each_owner_while_it_is_watched() {
        let stats = Arc::new(Stats::default());
        let (one, other) = (
            Arc::new(TypeStats::new(&ASSIGNMENT)),
            Arc::new(TypeStats::new(&ASSIGNMENT)),
        );
        let name: Arc<str> = "a".into();
        let elsewhere = Source::Named("eds".into());
        let watching = [
            stats.watch(&Source::Ads, &name, one.clone()),
            stats.watch(&Source::Ads, &name, one.clone()),
            stats.watch(&Source::Ads, &name, other.clone()),
        ];
        let count = |source: &Source| {
            let counters = stats.counters_of(&ASSIGNMENT, source, "a");
            counters.iter().for_each(|own| own.update_attempt.add(1));
        };
        count(&Source::Ads);
        count(&elsewhere);
        assert_eq!((one.update_attempt.value(), other.update_attempt.value()), (1, 1));
        let [first, second, third] = watching;
        drop((first, third));
        count(&Source::Ads);
        assert_eq!((one.update_attempt.value(), other.update_attempt.value()), (2, 1));
        drop(second);
        assert!(stats.counters_of(&ASSIGNMENT, &Source::Ads, "a").is_empty());
        assert!(stats.watched.0.lock().values().all(HashMap::is_empty));
    }

    #[test]
    fn who_watches_later_has_the_stream_too() {
        let stats = Arc::new(Stats::default());
        let source = Arc::new(Source::Named("eds".into()));
        let (name, plane): (Arc<str>, _) = ("a".into(), Arc::<ControlPlaneStats>::default());
        stats.set_control_plane(&ASSIGNMENT, &source, &name, Some(&plane));
        let counters = Arc::new(TypeStats::new(&ASSIGNMENT));
        let watching = stats.watch(&source, &name, counters.clone());
        assert!(Arc::ptr_eq(&counters.control_plane().unwrap(), &plane));
        stats.set_control_plane(&ASSIGNMENT, &source, &name, None);
        drop(watching);
        assert!(stats.watched.0.lock().values().all(HashMap::is_empty));
    }
}
