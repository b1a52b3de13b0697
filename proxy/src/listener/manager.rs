//! Which listeners exist: applies a snapshot's listeners to the workers.
/// Owns every listener of the process.
pub struct ListenerManager;
