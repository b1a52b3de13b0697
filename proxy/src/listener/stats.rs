//! Listener: stats.
