//! TLS on both sides: rustls configurations behind `ArcSwap`, SPIFFE/SAN verification, ALPN policy, rotation.
//!
//! In: transport sockets and secrets. Out: [`Io`](crate::runtime::io::Io) with a verified [`PeerInfo`]. New certificates apply to new handshakes only.
