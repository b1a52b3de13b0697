//! One stream, or one watched file, of an engine.

use std::time::Instant;

use hashbrown::HashSet;

use super::{ADS_DELTA, ADS_SOTW, Stream};
use crate::client::message::{self, Received, Response};
use crate::client::mux::Mode;
use crate::client::request::Failure;
use crate::stats::{Stats, TypeStats};
use crate::store::{Action, Source, SubscriptionChange};
use crate::types::ResourceType;

impl Stream {
    pub(super) fn path(&self) -> &'static str {
        match (&*self.source, self.ty, self.mux.mode()) {
            (Source::Path(_), ..) => "",
            (_, Some(ty), Mode::Sotw) => ty.sotw_path,
            (_, Some(ty), Mode::Delta) => ty.delta_path,
            (_, None, Mode::Sotw) => ADS_SOTW,
            (_, None, Mode::Delta) => ADS_DELTA,
        }
    }

    pub(super) fn change(&mut self, change: &SubscriptionChange) {
        match change.action {
            Action::Subscribe => self.mux.subscribe(change.ty, change.name.clone()),
            Action::Unsubscribe => self.mux.unsubscribe(change.ty, &change.name),
            Action::Refresh => self.mux.refresh(change.ty, &change.name),
        }
    }

    pub(super) fn count_failure(&self, stats: &Stats) {
        let count = |counters: &TypeStats| {
            counters.update_failure.add(1);
            counters.update_attempt.add(1);
        };
        self.mux.types().for_each(|ty| count(&stats.of(ty)));
        for (ty, name) in self.mux.names().filter(|(ty, _)| stats.counts_some(ty)) {
            let counters = stats.counters_of(ty, &self.source, name);
            counters.iter().for_each(|own| count(own));
        }
    }

    /// Counts that a response was refused for everybody who has something of its type on the stream: whatever is wrong with it, and though it was
    /// good for them, as in Envoy. A file is read by each subscriber for itself.
    pub(super) fn count_refused(&self, stats: &Stats, ty: ResourceType, failures: &[Failure]) {
        if failures.is_empty() || !stats.counts_some(ty) {
            return;
        }
        let failed: HashSet<&str> = failures.iter().map(|failure| &*failure.name).collect();
        let is_refused = |name: &str| !self.source.is_file() || failed.contains(name);
        let names = self
            .mux
            .names()
            .filter(|(other, name)| *other == ty && is_refused(name));
        for own in names.flat_map(|(_, name)| stats.counters_of(ty, &self.source, name)) {
            own.update_attempt.add(1);
            own.update_rejected.add(1);
        }
    }

    /// A file gets no requests; saying them to nobody keeps the machine going.
    pub(super) fn drain_file(&mut self, now: Instant) {
        if self.source.is_file() {
            while self.mux.poll_transmit(now).is_some() {}
        }
    }

    /// Whether a file says nothing of what is subscribed by name, where that is all right. Where it is not, notes on everything that is subscribed
    /// what is wrong: in Envoy each subscriber reads the file for itself, and wants to find what it has asked for alone.
    pub(super) fn check_file(&self, response: &mut Response) -> bool {
        let Some(ty) = self.ty.filter(|ty| self.source.is_file() && !ty.full_state) else {
            return false;
        };
        if response.resources.is_empty() && ty.may_be_silent {
            return true;
        }
        let wrong =
            |name: &str| match response.resources.as_slice() {
                [] => Some(format!("Missing {} resources for {name}", ty.short.to_uppercase())),
                [one] if *one.name == *name => None,
                [one] => Some(one.problem.clone().unwrap_or_else(|| {
                    format!("Unexpected {} (expecting {name}): {}", message::kind_of(ty), one.name)
                })),
                many => Some(format!(
                    "Unexpected {} resource length: {}",
                    ty.short.to_uppercase(),
                    many.len()
                )),
            };
        let problems = self
            .mux
            .names()
            .filter_map(|(_, name)| Some((name.clone(), wrong(name)?)));
        let problems: Vec<Received> = problems
            .map(|(name, problem)| Received::refused(name, problem))
            .collect();
        if response.resources.len() > 1 {
            response.resources.clear();
        }
        response.resources.extend(problems);
        false
    }
}
