//! The admin API: one handler per endpoint.
