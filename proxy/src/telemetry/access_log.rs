//! Access logs: compiled formats, and sinks that write off the request path.

/// Every open log file by path, shared by the logs that write to it.
#[derive(Default)]
pub struct Sinks;
