//! Upstream connections: pools per worker, keyed by everything that makes connections differ.
