//! Extensions: one file each (config type URL, parse-and-validate, behaviour), found by type URL in one static table.
//!
//! In: an `Any`. Out: a compiled [`http::Filter`], network filter or listener filter that a filter chain holds.

pub mod filter_state;
pub mod http;
pub mod listener;
pub mod names;
pub mod network;
pub mod rbac;
