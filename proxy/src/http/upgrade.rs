//! Upgrades and CONNECT: what a request asks for, and the tunnel after the answer.

/// What a request wants to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeKind {
    /// `upgrade: <token>`, lower-cased (`websocket`), or extended CONNECT's `:protocol`.
    Upgrade(String),
    Connect,
}
