//! `HttpConnectionManager` → [`ConnectionManager`](crate::http::pipeline::ConnectionManager).
