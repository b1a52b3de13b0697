//! How connections end: by a goodbye, by a fault, or with their sockets; and the PINGs that tell whether they should.

use super::error::{Broken, By, Error, Reason, VIOLATION};
use super::machine::{Leaving, Machine};

/// Says when the peer has seen the first of two GOAWAYs, and whether it still answers.
const FAREWELL: [u8; 8] = *b"farewell";
const KEEPALIVE: [u8; 8] = *b"are here";

/// A last stream that turns nobody away yet.
const ALL: u32 = 0x7fff_ffff;

impl Machine {
    /// The end of the connection, and of all that has not ended.
    pub(super) fn finish(&mut self, end: Result<(), Error>) {
        self.end.get_or_insert(end);
        for id in std::mem::take(&mut self.pending) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_pending = false;
            }
        }
        self.fail_all(end.err().unwrap_or(Error::Transport), |_| true);
        self.input = Vec::new();
        self.block = None;
        self.call();
    }

    fn fail_all(&mut self, error: Error, which: impl Fn(u32) -> bool) {
        let concerned: Vec<u32> = self.streams.keys().copied().filter(|id| which(*id)).collect();
        for id in concerned {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.fail(error);
            }
            self.settle(id);
        }
    }

    /// Streams above `last` were not looked at by a peer that leaves.
    pub(super) fn fail_above(&mut self, last: u32, reason: Reason) {
        self.fail_all(Error::GoAway(reason, By::Peer), |id| id > last);
    }

    /// The peer broke the rules of the connection.
    pub(super) fn break_off(&mut self, broken: Broken) {
        match broken {
            Broken::Rules(reason) => {
                self.out.goaway(self.processed, reason);
                self.finish(Err(Error::GoAway(reason, By::Rules(VIOLATION))));
            }
            Broken::Flood(details) => {
                self.flood = Some(details);
                self.out.discard();
                self.finish(Err(Error::GoAway(Reason::ENHANCE_YOUR_CALM, By::Rules(details))));
            }
        }
    }

    /// Ends the connection with all its streams.
    pub(super) fn shut(&mut self, reason: Reason) {
        if self.end.is_none() {
            self.out.goaway(self.processed, reason);
            self.finish(if reason == Reason::NO_ERROR {
                Ok(())
            } else {
                Err(Error::GoAway(reason, By::Us))
            });
        }
    }

    /// The peer has closed.
    pub(super) fn closed_by_peer(&mut self) {
        let end = match self.peer_leaves {
            Some(reason) if reason != Reason::NO_ERROR => Err(Error::GoAway(reason, By::Peer)),
            _ if self.active > 0 => Err(Error::Transport),
            _ => Ok(()),
        };
        self.fail_all(Error::Transport, |_| true);
        self.finish(end);
    }

    /// The connection broke.
    pub(super) fn transport_failed(&mut self) {
        self.out.discard();
        self.finish(Err(Error::Transport));
    }

    /// A goodbye that streams which are on their way survive.
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No && self.end.is_none() {
            self.leaving = Leaving::Announced;
            self.out.goaway(ALL, Reason::NO_ERROR);
            self.out.ping(0, FAREWELL);
        }
    }

    /// Ends the connection if nobody has a use for it any more.
    pub(super) fn end_if_over(&mut self) {
        if self.end.is_some() || self.active > 0 || !self.pending.is_empty() || !self.is_leaving() {
            return;
        }
        self.out.goaway(self.processed, Reason::NO_ERROR);
        self.finish(match self.peer_leaves {
            Some(reason) if reason != Reason::NO_ERROR => Err(Error::GoAway(reason, By::Peer)),
            _ => Ok(()),
        });
    }

    /// Whether it ends with its last stream.
    pub(super) fn is_leaving(&self) -> bool {
        let nobody_asks = !self.is_server && self.senders == 0;
        nobody_asks || self.leaving == Leaving::Said || self.peer_leaves.is_some()
    }

    pub(super) fn ping(&mut self) -> bool {
        if self.end.is_none() {
            self.ping_is_out = true;
            self.out.ping(0, KEEPALIVE);
            self.call();
        }
        self.end.is_none()
    }

    pub(super) fn pong(&mut self, payload: [u8; 8]) {
        if payload == KEEPALIVE {
            self.ping_is_out = false;
        } else if payload == FAREWELL && self.leaving == Leaving::Announced {
            self.leaving = Leaving::Said;
            self.allowed = self.processed;
            self.out.goaway(self.processed, Reason::NO_ERROR);
        }
    }
}
