//! What both sides share of a TLS context.
