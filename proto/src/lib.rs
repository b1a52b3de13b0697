//! Envoy's types, and what one generic walker over compact tables does with them.
//!
//! In: bytes. Out: typed messages, JSON, problems with their path. No I/O, no policy: the ledger of what is honoured is handed in.

pub use envoy_types::pb;
