//! Drain signals: one owner says "finish", every connection under it hears so, idle or not.
//!
//! Said gradually, each connection hears it at a moment of its own, drawn evenly over the drain time: the share of connections that were asked
//! grows from none to all, and clients do not come back in one wave.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::clock;

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum DrainPhase {
    /// Serve as usual.
    #[default]
    Serving,
    /// Ask peers to leave: `connection: close`, GOAWAY; finish what runs.
    Draining,
    /// Close now.
    Closed,
}

/// The moments at which connections are asked to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    from: Instant,
    over: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    phase: DrainPhase,
    /// Of `Draining`; `None`: all are asked at once.
    spread: Option<Spread>,
    /// Peers are asked to leave for as long as it is so (`/healthcheck/fail`).
    unhealthy: bool,
}

/// The owner's end. Dropping it counts as [`DrainPhase::Draining`]: what nobody owns any more must go.
#[derive(Debug)]
pub struct Drain(watch::Sender<State>);

impl Drain {
    pub fn new() -> (Self, DrainSignal) {
        let drain = Self(watch::Sender::new(State::default()));
        let signal = drain.signal();
        (drain, signal)
    }

    /// Moves to `phase`; a drain never goes back.
    pub fn advance(&self, phase: DrainPhase) {
        self.0.send_if_modified(|state| {
            let forward = phase > state.phase || (phase == state.phase && state.spread.is_some());
            if forward {
                state.phase = phase;
                state.spread = None;
            }
            forward
        });
    }

    /// Asks the connections one by one, the last of them when `over` has passed.
    pub fn spread(&self, over: Duration) {
        self.0.send_if_modified(|state| {
            let forward = state.phase < DrainPhase::Draining;
            if forward {
                state.phase = DrainPhase::Draining;
                let from = clock::now();
                state.spread = Some(Spread { from, over });
            }
            forward
        });
    }

    /// Has connections leave with their next answer while `unhealthy`; unlike a drain it can be taken back, and nobody is told who asks nothing.
    pub fn set_unhealthy(&self, unhealthy: bool) {
        self.0
            .send_if_modified(|state| std::mem::replace(&mut state.unhealthy, unhealthy) != unhealthy);
    }

    pub fn signal(&self) -> DrainSignal {
        DrainSignal {
            state: self.0.subscribe(),
            share: fastrand::f32(),
        }
    }

    /// Connections (signals) that still live.
    pub fn listeners(&self) -> usize {
        self.0.receiver_count()
    }
}

/// A connection's end; cheap to clone. Clones share the moment of a gradual drain.
#[derive(Clone, Debug)]
pub struct DrainSignal {
    state: watch::Receiver<State>,
    /// Of a spread, from 0 to 1: when this connection is asked.
    share: f32,
}

impl DrainSignal {
    pub fn phase(&self) -> DrainPhase {
        let state = *self.state.borrow();
        match (state.phase, state.spread) {
            (DrainPhase::Serving, _) if state.unhealthy || self.state.has_changed().is_err() => DrainPhase::Draining,
            (DrainPhase::Draining, Some(spread)) if !state.unhealthy && clock::now() < self.moment(spread) => {
                DrainPhase::Serving
            }
            (phase, _) => phase,
        }
    }

    /// Whether nothing has been said yet: not even that this connection is to be asked later.
    pub fn is_quiet(&self) -> bool {
        let state = *self.state.borrow();
        state.phase == DrainPhase::Serving && !state.unhealthy && self.state.has_changed().is_ok()
    }

    pub fn is_draining(&self) -> bool {
        self.phase() >= DrainPhase::Draining
    }

    /// Completes when a drain has come to `phase` (at once if it has already). Cancel safe.
    pub async fn reached(&mut self, phase: DrainPhase) {
        let is_there = |state: &State| state.phase >= phase;
        // An error means that the owner is gone, which counts as draining.
        let state = self.state.wait_for(is_there).await.map(|state| *state);
        let Ok(State {
            phase: DrainPhase::Draining,
            spread: Some(spread),
            ..
        }) = state
        else {
            return;
        };
        let moment = self.moment(spread);
        // Boxed: most connections never come here, and each holds a place for this future.
        let waiting = Box::pin(clock::sleep(moment.saturating_duration_since(clock::now())));
        tokio::select! {
            () = waiting => {}
            _ = self.state.wait_for(|state| state.spread.is_none()) => {}
        }
    }

    fn moment(&self, spread: Spread) -> Instant {
        spread.from + spread.over.mul_f32(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVER: Duration = Duration::from_secs(1000);

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_asks_a_share_of_the_connections_that_grows_with_time() {
        fastrand::seed(7);
        let (drain, _) = Drain::new();
        let signals: Vec<DrainSignal> = (0..1000).map(|_| drain.signal()).collect();
        let asked = || signals.iter().filter(|signal| signal.is_draining()).count();
        assert_eq!(asked(), 0);
        drain.spread(OVER);
        assert!(asked() <= 2, "{}", asked());
        for quarter in 1..=4_usize {
            clock::sleep(OVER / 4).await;
            let expected = quarter * 250;
            assert!(asked().abs_diff(expected) < 50, "{} after {quarter} quarters", asked());
        }
        assert_eq!(asked(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_and_looking_agree_and_what_is_more_urgent_is_not_waited_for() {
        fastrand::seed(7);
        let (drain, mut signal) = Drain::new();
        drain.spread(OVER);
        let started = clock::now();
        signal.reached(DrainPhase::Draining).await;
        assert!(signal.is_draining() && clock::now() > started);
        // Somebody who has not been asked yet is, as soon as all are.
        let mut other = (0..100)
            .map(|_| drain.signal())
            .find(|signal| !signal.is_draining())
            .unwrap();
        let before = clock::now();
        let (_, ()) = tokio::join!(other.reached(DrainPhase::Draining), async {
            clock::sleep(Duration::from_millis(1)).await;
            drain.advance(DrainPhase::Draining);
        });
        assert!(other.is_draining() && clock::now() - before < Duration::from_secs(1));
        drain.advance(DrainPhase::Closed);
        other.reached(DrainPhase::Closed).await;
        assert_eq!(other.phase(), DrainPhase::Closed);
    }

    #[tokio::test]
    async fn failed_health_is_seen_by_who_asks_and_is_taken_back() {
        use futures_util::FutureExt;
        let (drain, mut signal) = Drain::new();
        drain.set_unhealthy(true);
        assert!(signal.is_draining());
        assert_eq!(signal.reached(DrainPhase::Draining).now_or_never(), None);
        drain.set_unhealthy(false);
        assert!(!signal.is_draining());
        drop(drain);
        assert!(signal.is_draining(), "what nobody owns must go");
    }
}
