//! `istio.stats` in chains without HTTP: it decides nothing, and reports on the connections that `tcp_proxy` passes on.

use std::sync::Arc;

use super::{NetworkFilter, Observer, Verdict};
use crate::config::{BuildContext, Compiled};
use crate::filters::http::istio_stats::{IstioStats, TcpObserver};
use crate::listener::ConnectionInfo;

pub const TYPE_URL: &str = "type.googleapis.com/stats.PluginConfig";

struct TcpStats(Arc<TcpObserver>);

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let stats = IstioStats::compile(bytes, "istio.stats", cx)?;
    Ok(Arc::new(TcpStats(Arc::new(TcpObserver(Arc::new(stats))))))
}

impl NetworkFilter for TcpStats {
    fn on_new_connection(&self, _connection: &mut ConnectionInfo) -> Verdict {
        Verdict::Continue
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(self.0.clone())
    }
}
