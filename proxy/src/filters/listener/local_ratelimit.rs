//! `envoy.filters.listener.local_ratelimit`: a token bucket for connections that were accepted, before anything is known of them.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::listener::local_ratelimit::v3::LocalRateLimit as Config;

use crate::config::live::Switch;
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::network::local_ratelimit::TokenBucket;
use crate::runtime::clock;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit";

crate::stat_group! {
    /// Under `listener_local_ratelimit.<prefix>.`.
    pub struct ListenerRateStats {
        counters: { rate_limited }
        gauges: {}
        histograms: {}
    }
}

/// The compiled filter; a listener that is updated starts with a full bucket, as in Envoy.
pub struct LocalRateLimit {
    bucket: TokenBucket,
    enabled: Switch,
    stats: Arc<ListenerRateStats>,
}

/// # Errors
/// What is wrong, by path.
pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<LocalRateLimit> {
    let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(LocalRateLimit {
        bucket: TokenBucket::compile(config.token_bucket.as_ref())?,
        enabled: Switch::compile(config.runtime_enabled.as_ref(), true),
        stats: cx
            .stats
            .group(&format!("listener_local_ratelimit.{}.", config.stat_prefix)),
    })
}

impl LocalRateLimit {
    /// Whether the connection may go on.
    pub fn admits(&self) -> bool {
        let admitted = !self.enabled.is_on() || self.bucket.take(clock::now());
        if !admitted {
            self.stats.rate_limited.inc();
        }
        admitted
    }
}
