//! Threads, tasks, time, drain: everything that is about running and nothing that is about traffic.
//!
//! In: the decision how many workers there are. Out: named tasks on them, an injected clock, drain signals.
//! The clock and the spawner here are the only ones in the crate (clippy bans the raw ones elsewhere).

pub mod boxed;
pub mod clock;
pub mod drain;
pub mod internal;
pub mod io;
pub mod spawn;
pub mod sys;
pub mod wake;
pub mod worker;
