//! What an operator sees: stats under Envoy's names, access logs, response flags.
//!
//! In: handles resolved when a target is built, bumped by traffic. Out: text, JSON and Prometheus, formatted only when asked for.

pub mod access_log;
pub mod flags;
pub mod format;
pub mod histogram;
pub mod labelled;
pub mod logging;
pub mod number;
pub mod prometheus;
pub mod render;
pub mod server;
pub mod stats;
pub mod tags;
