//! Hosts by priority, and how load spills between priorities.
/// All hosts of a cluster at one moment.
#[derive(Default)]
pub struct PrioritySet;
