//! `envoy.filters.network.sni_cluster`: the SNI is the name of the cluster that `tcp_proxy` goes to.

use std::sync::Arc;

use super::{NetworkFilter, Verdict};
use crate::config::{BuildContext, Compiled};
use crate::http::exchange::FilterState;
use crate::listener::ConnectionInfo;
use crate::tcp::proxy::CLUSTER_KEY;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.sni_cluster.v3.SniCluster";

struct SniCluster;

pub fn compile(_bytes: &[u8], _cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    Ok(Arc::new(SniCluster))
}

impl NetworkFilter for SniCluster {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict {
        if let Some(name) = connection.sni.as_deref().filter(|name| !name.is_empty()) {
            let name = name.to_owned();
            let state = connection.extensions.get_or_insert_default::<FilterState>();
            state.0.insert(CLUSTER_KEY.to_owned(), name);
        }
        Verdict::Continue
    }
}
