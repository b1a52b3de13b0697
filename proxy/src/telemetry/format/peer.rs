//! Fields of Istio's peers, which stand in the filter state as `upstream_peer` and `downstream_peer`.

use super::LogView;
use crate::filters::http::peer_metadata::{DownstreamPeer, UpstreamPeer};

/// `FIELD:<name>` of one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerField {
    is_upstream: bool,
    name: String,
}

impl PeerField {
    pub fn parse(key: &str, style: &str) -> Option<Self> {
        let is_upstream = match key {
            "upstream_peer" => true,
            "downstream_peer" => false,
            _ => return None,
        };
        let name = style.strip_prefix("FIELD:")?.to_owned();
        Some(Self { is_upstream, name })
    }

    pub fn of<'a>(&self, view: &LogView<'a>) -> Option<&'a str> {
        let extensions = view.extensions();
        let peer = match self.is_upstream {
            true => extensions.get::<UpstreamPeer>().map(|peer| &peer.0),
            false => extensions
                .get::<DownstreamPeer>()
                .map(|peer| &peer.0)
                .or_else(|| view.connection.workload.as_ref()?.peer()),
        };
        peer?.field(&self.name)
    }
}
