//! Istio's own network filters that observe and never decide: `istio.stats` and `istio.metadata_exchange`.
//!
//! Neither changes what a peer receives here. The metadata preamble is only sent on connections whose ALPN agreed on `istio-peer-exchange`,
//! and our TLS contexts never agree on it (see `tls/context.rs`): peers then fall back to `istio`, without a preamble.

use std::sync::Arc;

use super::{NetworkFilter, Verdict};
use crate::config::{BuildContext, Compiled};
use crate::listener::ConnectionInfo;

pub const STATS: &str = "type.googleapis.com/stats.PluginConfig";
pub const METADATA_EXCHANGE: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

struct Observer;

pub fn compile(_bytes: &[u8], _cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    Ok(Arc::new(Observer))
}

impl NetworkFilter for Observer {
    fn on_new_connection(&self, _connection: &mut ConnectionInfo) -> Verdict {
        Verdict::Continue
    }
}
