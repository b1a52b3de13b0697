//! Deadlines without a timer each: whoever drives a task lends its one timer to the futures it polls.
//!
//! A driver polls a future through [`lend`]; a future inside that has to be polled again at some time says so with [`at`]. The driver then arms the timer
//! that it has anyway. A request's time limit costs a comparison that way, instead of an allocation and two turns of the timer wheel.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Instant;

#[derive(Clone, Copy)]
struct Loan {
    /// Somebody will look at `earliest` after this poll.
    lent: bool,
    earliest: Option<Instant>,
}

thread_local! {
    static LOAN: Cell<Loan> = const { Cell::new(Loan { lent: false, earliest: None }) };
}

/// Polls, and gives back the earliest time at which something inside wants to be polled again.
pub fn lend<T>(poll: impl FnOnce() -> Poll<T>) -> (Poll<T>, Option<Instant>) {
    let before = LOAN.replace(Loan {
        lent: true,
        earliest: None,
    });
    let polled = poll();
    let after = LOAN.replace(before);
    (polled, after.earliest)
}

/// Asks to be polled again at `deadline`, at the latest. False: nobody drives this task that way, so a timer is needed.
pub fn at(deadline: Instant) -> bool {
    let loan = LOAN.get();
    if !loan.lent {
        return false;
    }
    let earliest = Some(loan.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    LOAN.set(Loan { lent: true, earliest });
    true
}

/// Asks to be polled again when all tasks that can run have run and the sockets have been looked at.
pub fn next_turn(cx: &mut Context<'_>) {
    // The runtime keeps the waker; the future has no further use.
    let _ = pin!(tokio::task::yield_now()).as_mut().poll(cx);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            assert_eq!(inner, Some(now));
            Poll::<()>::Pending
        });
        assert_eq!(outer, Some(later));
        assert!(!at(now));
    }
}
