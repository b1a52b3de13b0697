//! A connection of our own to a host, bytes as they are.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Upstream;
use super::lease::Lease;
use super::tlvs::AddedTlvs;
use crate::cluster::{Cluster, Host};
use crate::http::failure::Failure;
use crate::pool::place::place;
use crate::runtime::clock;
use crate::tcp::connect::{Connected, OriginalSource, Overrides, connect_with};
use crate::tcp::proxy_header::{PassedTlvs, Proxied};
use crate::telemetry::format::TcpRecord;

/// One attempt at a connection of our own.
///
/// # Errors
/// [`Failure::QueueOverflow`] where nobody else may wait for a connection; why there is none, else.
pub(super) async fn straight(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    tlvs: Option<&AddedTlvs>,
    record: &mut TcpRecord,
) -> Result<Upstream, Failure> {
    let connection = record.connection.clone();
    let source: Option<OriginalSource> = connection.extensions.get().copied();
    // Nobody watches the client meanwhile: it must not hold its place in line for ever.
    let waiting = tokio::time::timeout(cluster.connect_timeout, place(cluster, host, source));
    let (queued, place) = waiting.await.map_err(|_| Failure::ConnectTimeout)??;
    let mut lease = Lease::connection(queued, place, cluster, host);
    let added = tlvs
        .filter(|_| host.proxy_header.is_some())
        .map(|tlvs| tlvs.merge(record));
    let passed = connection
        .extensions
        .get::<PassedTlvs>()
        .map_or(&[][..], |passed| &passed.0);
    let proxied = Proxied {
        source: connection.remote.ip(),
        destination: connection.local.ip(),
        tlvs: added.as_deref().unwrap_or(passed),
    };
    let overrides = Overrides {
        source,
        proxied: Some(&proxied),
        ..Overrides::default()
    };
    let connected = connect_with(cluster, host, overrides).await;
    match connected {
        Ok(Connected {
            io,
            peer,
            local,
            workload,
            times,
        }) => {
            let took = clock::now().saturating_duration_since(lease.started);
            cluster
                .stats
                .upstream_cx_connect_ms
                .record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            record.upstream.local = local;
            record.upstream.tls = peer;
            record.upstream.connected = Some(times);
            record.workload = workload;
            cluster.observe_connected(host, true);
            lease.established();
            Ok(Upstream {
                io,
                lease,
                driver: None,
                trailers: None,
            })
        }
        Err(failure) => {
            cluster.stats.upstream_cx_connect_fail.inc();
            host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
            match failure {
                Failure::ConnectTimeout => cluster.stats.upstream_cx_connect_timeout.inc(),
                // Not the host's doing: it heard nothing of it.
                Failure::BindFailure(_) => return Err(failure),
                _ => lease.ends_by_host(),
            }
            cluster.observe_failure(host, &failure, clock::now());
            Err(failure)
        }
    }
}
