//! Circuit breakers per priority, counted across workers, released by guards.
/// A cluster's thresholds and counts.
#[derive(Default)]
pub struct Breakers;
