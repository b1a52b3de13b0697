//! Deadlines without a timer each: whoever drives a task lends its one timer to the futures it polls.
//!
//! A driver polls a future through [`lend`]; a future inside that has to be polled again at some time says so with [`at`]. The driver then arms the timer
//! that it has anyway. A request's time limit costs a comparison that way, instead of an allocation and two turns of the timer wheel.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
struct Loan {
    /// Somebody will look at `earliest` after this poll.
    lent: bool,
    earliest: Option<Instant>,
    patience: Option<Patience>,
}

/// How long the driver is to wait for a sign of life from now on; `None`: for ever.
pub type Patience = Option<Duration>;

/// What came out of a poll beside its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The earliest time at which something inside wants to be polled again.
    pub at: Option<Instant>,
    /// Something inside said how patient the driver is to be.
    pub patience: Option<Patience>,
}

const NONE: Loan = Loan {
    lent: false,
    earliest: None,
    patience: None,
};

thread_local! {
    static LOAN: Cell<Loan> = const { Cell::new(NONE) };
}

/// Polls, and gives back what something inside wants of its driver.
pub fn lend<T>(poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, Wish) {
    let before = LOAN.replace(Loan { lent: true, ..NONE });
    let polled = poll();
    let after = LOAN.replace(before);
    let wish = Wish {
        at: after.earliest,
        patience: after.patience,
    };
    (polled, wish)
}

/// Tells the driver how long to wait for a sign of life.
pub fn be_patient(patience: Patience) {
    let loan = LOAN.get();
    LOAN.set(Loan {
        patience: Some(patience),
        ..loan
    });
}

/// Asks to be polled again at `deadline`, at the latest. False: nobody drives this task that way, so a timer is needed.
pub fn at(deadline: Instant) -> bool {
    let loan = LOAN.get();
    if !loan.lent {
        return false;
    }
    let earliest = Some(loan.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    LOAN.set(Loan { earliest, ..loan });
    true
}

/// Asks to be polled again when all tasks that can run have run and the sockets have been looked at.
pub fn next_turn(cx: &mut Context<'_>) {
    // The runtime keeps the waker; the future has no further use.
    let _ = pin!(tokio::task::yield_now()).as_mut().poll(cx);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_wish_comes_out_and_loans_nest() {
        let now = crate::runtime::clock::now();
        let later = now + Duration::from_secs(1);
        assert!(!at(now));
        let (_, outer) = lend(|| {
            assert!(at(later));
            let (_, inner) = lend(|| {
                assert!(at(now));
                Poll::<()>::Pending
            });
            assert_eq!((inner.at, inner.patience), (Some(now), None));
            be_patient(Some(Duration::from_secs(2)));
            Poll::<()>::Pending
        });
        assert_eq!(
            (outer.at, outer.patience),
            (Some(later), Some(Some(Duration::from_secs(2))))
        );
        assert!(!at(now));
    }
}
