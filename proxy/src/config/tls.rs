//! `DownstreamTlsContext`, `UpstreamTlsContext` and `Secret` → TLS contexts.
