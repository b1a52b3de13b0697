//! The sans-IO protocol machine: every type's session on one stream, SotW or delta.
//!
//! In: [`subscribe`](Mux::subscribe) and its kin, [`on_connected`](Mux::on_connected), [`on_response`](Mux::on_response) followed by
//! [`finish`](Mux::finish), [`on_disconnected`](Mux::on_disconnected), [`tick`](Mux::tick). Out:
//! [`poll_transmit`](Mux::poll_transmit), [`next_deadline`](Mux::next_deadline). Every response to a known type is answered exactly
//! once; answers leave before subscription changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashSet;

use super::batch::Batch;
use super::message::Response;
use super::pacing::{Backoff, Bucket, RateLimit};
use super::request::{self, Body, Failure, Request};
use super::session::Session;
use super::ttl::Ttl;
use crate::bugs::{Bug, planted};
use crate::stats::ControlPlaneStats;
use crate::types::ResourceType;

/// Which of the two protocols a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// State of the world.
    Sotw,
    Delta,
}

/// What a machine is made with.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    pub mode: Mode,
    /// `set_node_on_first_message_only`.
    pub node_on_first_message_only: bool,
    pub rate_limit: Option<RateLimit>,
    pub backoff: Backoff,
}

impl MuxConfig {
    /// Envoy's defaults but for the node, which goes only on the first message of a stream.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            node_on_first_message_only: true,
            rate_limit: None,
            backoff: Backoff::default(),
        }
    }
}

#[derive(Clone)]
struct Answer {
    session: usize,
    nonce: Arc<str>,
    /// SotW: `version_info` at the time of the verdict.
    version: Arc<str>,
    error: Option<String>,
}

enum Link {
    /// No stream; the next attempt may start at this time.
    Down(Option<Instant>),
    Up,
}

/// See the top of this file.
pub struct Mux {
    config: MuxConfig,
    sessions: Vec<Session>,
    answers: VecDeque<Answer>,
    link: Link,
    node_sent: bool,
    bucket: Option<Bucket>,
    /// No token before this time.
    throttled: Option<Instant>,
    ttl: Ttl,
    /// Types that may send nothing, once for each pause.
    paused: Vec<ResourceType>,
    open: usize,
    rng: fastrand::Rng,
    stats: Arc<ControlPlaneStats>,
}

impl Mux {
    pub fn new(config: MuxConfig, rng: fastrand::Rng, stats: Arc<ControlPlaneStats>) -> Self {
        Self {
            bucket: config.rate_limit.map(Bucket::new),
            config,
            sessions: Vec::new(),
            answers: VecDeque::new(),
            link: Link::Down(None),
            node_sent: false,
            throttled: None,
            ttl: Ttl::default(),
            paused: Vec::new(),
            open: 0,
            rng,
            stats,
        }
    }

    /// Its counters, those of the control plane that it speaks to.
    pub fn stats(&self) -> &ControlPlaneStats {
        &self.stats
    }

    pub fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Subscribes to everything of `ty` that the server cares to send.
    pub fn subscribe_wildcard(&mut self, ty: ResourceType) {
        self.session(ty).set_wildcard(true);
    }

    pub fn unsubscribe_wildcard(&mut self, ty: ResourceType) {
        self.session(ty).set_wildcard(false);
    }

    pub fn subscribe(&mut self, ty: ResourceType, name: Arc<str>) {
        self.session(ty).subscribe(name);
    }

    pub fn unsubscribe(&mut self, ty: ResourceType, name: &Arc<str>) {
        self.session(ty).unsubscribe(name);
        self.ttl.cancel(ty, name);
    }

    /// Asks again for a subscribed name.
    pub fn refresh(&mut self, ty: ResourceType, name: &Arc<str>) {
        self.session(ty).refresh(name);
    }

    /// Holds back requests of `ty` (answers too) until as many [`resume`](Self::resume)s.
    pub fn pause(&mut self, ty: ResourceType) {
        self.paused.push(ty);
    }

    pub fn resume(&mut self, ty: ResourceType) {
        if let Some(at) = self.paused.iter().position(|paused| *paused == ty) {
            self.paused.swap_remove(at);
        }
    }

    /// Whether anything is subscribed.
    pub fn wants_anything(&self) -> bool {
        self.sessions.iter().any(Session::wants_anything)
    }

    /// Whether a stream is to be opened now. The caller then reports [`on_connected`](Self::on_connected).
    pub fn wants_stream(&self, now: Instant) -> bool {
        matches!(self.link, Link::Down(at) if at.is_none_or(|at| at <= now)) && self.wants_anything()
    }

    /// A stream is there to write to, answered or not: a server may wait for the first request. All state of every type is due again, in the order of first subscription.
    pub fn on_connected(&mut self, _now: Instant) {
        self.link = Link::Up;
        self.node_sent = false;
        self.throttled = None;
        self.answers.clear();
        self.open = 0;
        self.paused.clear();
        if planted(Bug::ForgetsTtlOnReconnect) {
            self.ttl = Ttl::default();
        }
        self.sessions.iter_mut().for_each(Session::reset);
    }

    /// The stream is gone, or could not be opened. Nothing held is lost; the next attempt is due after a back-off.
    pub fn on_disconnected(&mut self, now: Instant) {
        let delay = self.config.backoff.delay(&mut self.rng);
        self.link = Link::Down(Some(now + delay));
        self.answers.clear();
        self.open = 0;
        self.stats.connected_state.set(0);
        self.stats.pending_requests.set(0);
    }

    /// The server has taken the stream, though it may not have said anything yet.
    pub fn on_accepted(&mut self) {
        self.stats.connected_state.set(1);
    }

    /// The types that something is subscribed of.
    pub fn types(&self) -> impl Iterator<Item = ResourceType> {
        self.sessions
            .iter()
            .filter(|session| session.wants_anything())
            .map(|session| session.ty)
    }

    /// Whether `name` is subscribed by name.
    pub fn names_one(&self, ty: ResourceType, name: &str) -> bool {
        self.sessions
            .iter()
            .any(|session| session.ty == ty && session.explicit.contains(name))
    }

    /// The resources that are subscribed by name.
    pub fn names(&self) -> impl Iterator<Item = (ResourceType, &Arc<str>)> {
        let sessions = self.sessions.iter();
        sessions.flat_map(|session| session.explicit.iter().map(|name| (session.ty, name)))
    }

    pub fn is_connected(&self) -> bool {
        matches!(self.link, Link::Up)
    }

    /// Sorts a response out. `None`: nobody asked for that type on this stream; it gets no answer.
    pub fn on_response(&mut self, mut response: Response, now: Instant) -> Option<Batch> {
        self.config.backoff.reset();
        self.stats.connected_state.set(1);
        if let Some(identifier) = response
            .control_plane
            .take()
            .filter(|identifier| !identifier.is_empty())
        {
            self.stats.identify(identifier);
        }
        let index = self
            .sessions
            .iter()
            .position(|session| session.ty.url == response.type_url)?;
        let session = &mut self.sessions[index];
        if !session.started {
            return None;
        }
        if planted(Bug::IgnoresRepeatedNonce) && *session.nonce == *response.nonce {
            return None;
        }
        self.open += 1;
        session.nonce = response.nonce.as_str().into();
        if planted(Bug::NonceOfAnotherType) {
            self.mix_nonces(&response.nonce);
        }
        let session = &self.sessions[index];
        Some(Batch::sort(
            session,
            response,
            self.config.mode == Mode::Delta,
            &mut self.ttl,
            now,
        ))
    }

    /// The verdict on a batch: queues its ACK, or its NACK when there are `failures` (those of the batch included).
    pub fn finish(&mut self, batch: Batch, failures: &[Failure]) {
        let Some(index) = self.sessions.iter().position(|session| session.ty == batch.ty) else {
            return;
        };
        let session = &mut self.sessions[index];
        self.open = self.open.saturating_sub(1);
        let nack = !failures.is_empty() && !planted(Bug::AckInsteadOfNack);
        let failed: HashSet<&str> = failures.iter().map(|failure| &*failure.name).collect();
        // What is refused leaves the last good version its own time to live, as in Envoy.
        let counts = |name: &str| !failed.contains(name) || planted(Bug::RefusedTtlCounts);
        let lives = batch.lives.iter().filter(|(name, _)| counts(name));
        for (name, life) in lives {
            self.ttl.refresh(batch.ty, name, *life, batch.at);
        }
        if self.config.mode == Mode::Delta {
            for (name, version) in batch.versions {
                if !failed.contains(&*name) || planted(Bug::RecordsBadVersion) {
                    session.hold(name, version);
                }
            }
            batch.removed.iter().for_each(|name| session.forget(name));
        } else if !nack || planted(Bug::NackWithNewVersion) {
            session.accepted = batch.version;
        }
        batch.removed.iter().for_each(|name| self.ttl.cancel(batch.ty, name));
        if planted(Bug::SilentOnEmpty) && batch.resources.is_empty() && batch.removed.is_empty() {
            return;
        }
        let answer = Answer {
            session: index,
            nonce: batch.nonce,
            version: session.accepted.clone(),
            error: nack.then(|| request::reason(failures)),
        };
        if planted(Bug::AnswersTwice) && nack {
            self.answers.push_back(answer.clone());
        }
        self.answers.push_back(answer);
    }

    /// The next request to send, if there is one and a token for it. Answers first, then subscription changes.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Request> {
        if !matches!(self.link, Link::Up) || self.throttled.is_some_and(|at| now < at) || !self.has_pending() {
            return None;
        }
        if let Some(Err(at)) = self.bucket.as_mut().map(|bucket| bucket.take(now)) {
            self.stats.rate_limit_enforced.add(u64::from(self.throttled.is_none()));
            self.throttled = Some(at);
            self.stats
                .pending_requests
                .set(self.answers.len() as u64 + self.changes() as u64);
            return None;
        }
        self.throttled = None;
        self.stats.pending_requests.set(0);
        let (index, nonce, error, body) = self.next_answer().or_else(|| self.next_change())?;
        let node = !self.node_sent || !self.config.node_on_first_message_only;
        self.node_sent = true;
        Some(Request {
            type_url: self.sessions[index].ty.url,
            node,
            nonce,
            error,
            body,
        })
    }

    /// When [`tick`](Self::tick), [`poll_transmit`](Self::poll_transmit) or [`wants_stream`](Self::wants_stream) may have news.
    pub fn next_deadline(&self) -> Option<Instant> {
        let retry = match self.link {
            Link::Down(at) if self.wants_anything() => at,
            _ => None,
        };
        [retry, self.throttled, self.ttl.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The resources whose TTL has run out by `now`; they are to be treated as removed.
    pub fn tick(&mut self, now: Instant) -> Vec<(ResourceType, Arc<str>)> {
        let expired = self.ttl.expire(now);
        if planted(Bug::IgnoresTtl) {
            return Vec::new();
        }
        for (ty, name) in expired.iter().filter(|_| !planted(Bug::ClaimsExpired)) {
            self.session(ty).forget(name);
        }
        expired
    }

    /// # Panics
    /// The machine is in a state that it must never be in; tests call this after each step.
    pub fn check_invariants(&self) {
        self.sessions.iter().for_each(Session::check_invariants);
        assert!(
            matches!(self.link, Link::Up) || self.answers.is_empty(),
            "answers without a stream"
        );
        assert!(self.open == 0, "{} responses without a verdict", self.open);
    }

    /// How long after a failure the next attempt is due; for logs.
    pub fn retry_in(&self, now: Instant) -> Option<Duration> {
        match self.link {
            Link::Down(Some(at)) => Some(at.saturating_duration_since(now)),
            _ => None,
        }
    }

    fn session(&mut self, ty: ResourceType) -> &mut Session {
        let found = self.sessions.iter().position(|session| session.ty == ty);
        let index = found.unwrap_or_else(|| {
            self.sessions.push(Session::new(ty));
            self.sessions.len() - 1
        });
        &mut self.sessions[index]
    }

    /// One of the planted bugs.
    fn mix_nonces(&mut self, nonce: &str) {
        let started = self.sessions.iter_mut().filter(|session| session.started);
        started.for_each(|session| session.nonce = nonce.into());
    }

    fn has_pending(&self) -> bool {
        self.answers.iter().any(|answer| self.speaks(answer.session)) || self.changes() > 0
    }

    fn changes(&self) -> usize {
        self.sessions
            .iter()
            .filter(|session| session.pending && !self.paused.contains(&session.ty))
            .count()
    }

    /// Whether a session is not paused.
    fn speaks(&self, session: usize) -> bool {
        !self.paused.contains(&self.sessions[session].ty)
    }

    fn next_answer(&mut self) -> Option<Next> {
        let at = self.answers.iter().position(|answer| self.speaks(answer.session))?;
        let mut answer = self.answers.remove(at)?;
        let session = &mut self.sessions[answer.session];
        if planted(Bug::AnswersNewestNonce) {
            answer.nonce = session.nonce.clone();
        }
        if planted(Bug::AnswersNewestVersion) {
            answer.version = session.accepted.clone();
        }
        let body = match self.config.mode {
            Mode::Sotw => {
                // An answer repeats the whole list; only the newest nonce makes a server read it.
                if answer.nonce == session.nonce {
                    session.answered();
                }
                session.sotw(answer.version)
            }
            Mode::Delta => Body::Delta {
                subscribe: Vec::new(),
                unsubscribe: Vec::new(),
                initial: Vec::new(),
            },
        };
        Some((answer.session, answer.nonce, answer.error, body))
    }

    fn next_change(&mut self) -> Option<Next> {
        let (mode, paused) = (self.config.mode, &self.paused);
        self.sessions
            .iter_mut()
            .enumerate()
            .filter(|(_, session)| session.pending && !paused.contains(&session.ty))
            .find_map(|(index, session)| match mode {
                Mode::Sotw => session
                    .next_sotw()
                    .map(|body| (index, spontaneous_nonce(session), None, body)),
                Mode::Delta => session.next_delta().map(|body| (index, Arc::default(), None, body)),
            })
    }
}

type Next = (usize, Arc<str>, Option<String>, Body);

fn spontaneous_nonce(session: &Session) -> Arc<str> {
    if planted(Bug::StaleNonce) {
        session.accepted.clone()
    } else {
        session.nonce.clone()
    }
}
