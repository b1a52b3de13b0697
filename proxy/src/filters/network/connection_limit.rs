//! `envoy.filters.network.connection_limit`: at most so many connections through one filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit as Config;

use super::{Closing, NetworkFilter, Verdict};
use crate::config::live::Switch;
use crate::config::{BuildContext, Compiled, Problems};
use crate::listener::ConnectionInfo;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";

crate::stat_group! {
    /// Under `connection_limit.<prefix>.`.
    pub struct LimitStats {
        counters: { limited_connections }
        gauges: { active_connections }
        histograms: {}
    }
}

struct ConnectionLimit(Arc<Shared>);

struct Shared {
    limit: u64,
    enabled: Switch,
    delay: Duration,
    open: AtomicU64,
    stats: Arc<LimitStats>,
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let limit = match config.max_connections.as_ref().map(|wrapped| wrapped.value) {
        Some(limit) if limit > 0 => limit,
        _ => return Err(Problems::one("max_connections", "must be at least 1")),
    };
    Ok(Arc::new(ConnectionLimit(Arc::new(Shared {
        limit,
        enabled: Switch::compile(config.runtime_enabled.as_ref(), true),
        delay: crate::config::listener::duration(config.delay.as_ref()).unwrap_or_default(),
        open: AtomicU64::new(0),
        stats: cx.stats.group(&format!("connection_limit.{}.", config.stat_prefix)),
    }))))
}

impl NetworkFilter for ConnectionLimit {
    fn on_new_connection(&self, _connection: &mut ConnectionInfo) -> Verdict {
        let shared = &self.0;
        if !shared.enabled.is_on() {
            return Verdict::Continue;
        }
        // Taken first: a check before it would let two connections through at once.
        let before = shared.open.fetch_add(1, Ordering::Relaxed);
        shared.stats.active_connections.inc();
        let held = Box::new(Held(shared.clone()));
        if before < shared.limit {
            return Verdict::Hold(held);
        }
        shared.stats.limited_connections.inc();
        // It counts until it is closed: while it is made to wait, it keeps others out too.
        Verdict::Close(Closing {
            delay: shared.delay,
            reason: "over_connection_limit",
            held: Some(held),
            ..Closing::default()
        })
    }
}

struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.stats.active_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::pb::google::protobuf::UInt64Value;

    use super::*;

    #[test]
    fn one_that_waits_to_be_closed_keeps_others_out() {
        let cx = BuildContext::default();
        let config = Config {
            stat_prefix: "l".into(),
            max_connections: Some(UInt64Value { value: 1 }),
            ..Default::default()
        };
        let filter = compile(&config.encode_to_vec(), &cx).expect("compiles");
        let stats = cx.stats.group::<LimitStats>("connection_limit.l.");
        let come = || filter.on_new_connection(&mut crate::testing::connection(None));
        let first = come();
        assert!(matches!(first, Verdict::Hold(_)));
        let Verdict::Close(second) = come() else {
            panic!("one too many");
        };
        assert_eq!(stats.active_connections.value(), 2);
        drop(first);
        assert!(matches!(come(), Verdict::Close(_)));
        drop(second);
        assert!(matches!(come(), Verdict::Hold(_)));
        assert_eq!(stats.limited_connections.value(), 2);
        assert_eq!(stats.active_connections.value(), 0);
    }
}
