//! What the tour found.

use std::time::Duration;

use super::tally::Counts;

/// One scene, after it was played.
#[derive(Clone, Debug)]
pub struct SceneReport {
    pub title: &'static str,
    /// What was seen; the last line is the reason when it did not hold.
    pub evidence: Vec<String>,
    pub held: bool,
    /// Requests that ended during the scene, well or not.
    pub requests: u64,
    pub failed: u64,
    pub took: Duration,
}

/// The whole tour.
#[derive(Clone, Debug)]
pub struct Report {
    pub scenes: Vec<SceneReport>,
    /// Everything the app sent, between scenes too.
    pub counts: Counts,
    /// The first failures, in words.
    pub failures: Vec<String>,
    pub took: Duration,
}

impl Report {
    pub fn requests(&self) -> u64 {
        self.counts.requests()
    }

    /// Requests that failed, were reset or cut short, or came back otherwise than they should.
    pub fn failed(&self) -> u64 {
        self.counts.failed
    }

    /// Every scene held and no request failed.
    pub fn is_good(&self) -> bool {
        self.failed() == 0 && self.scenes.iter().all(|scene| scene.held)
    }
}
