//! Upgrades and CONNECT: what a request asks for, and the tunnel after the answer.

/// What a request wants to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeKind {
    /// `upgrade: <token>`, lower-cased (`websocket`), or extended CONNECT's `:protocol`.
    Upgrade(String),
    Connect,
}

impl UpgradeKind {
    /// What a request asks for: `connection: upgrade` with an `upgrade` header, or CONNECT.
    pub fn of<B>(request: &http::Request<B>) -> Option<Self> {
        if request.method() == http::Method::CONNECT {
            return Some(Self::Connect);
        }
        let upgrade = request.headers().get(http::header::UPGRADE)?;
        let connection = request.headers().get(http::header::CONNECTION)?;
        let asked = connection.as_bytes().split(|byte| *byte == b',').any(|token| {
            token.trim_ascii().eq_ignore_ascii_case(b"upgrade")
        });
        let token = upgrade.to_str().ok()?;
        asked.then(|| Self::Upgrade(token.to_ascii_lowercase()))
    }
}
