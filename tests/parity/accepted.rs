//! What differs on purpose.

/// Lines that one side has and the other has not, and why that is right.
pub struct Accepted {
    /// `world/case`
    pub case: &'static str,
    pub envoy: &'static [&'static str],
    pub remora: &'static [&'static str],
    pub reason: &'static str,
}

pub const ACCEPTED: &[Accepted] = &[];
