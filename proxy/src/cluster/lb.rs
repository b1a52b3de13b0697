//! Load balancing policies, one file each, wait-free `pick(&self)`.
/// A cluster's policy.
pub enum Policy {
    RoundRobin,
}
