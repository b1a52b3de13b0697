//! This thread's pools.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tokio::sync::watch;

use super::home::ConnectionHome;
use super::{Lease, PoolKey};
use crate::http::codec::{h1, h2};
use crate::http::failure::Failure;
use crate::runtime::clock;

thread_local! {
    static POOLS: RefCell<HashMap<PoolKey, HostPool, FixedState>> = const { RefCell::new(HashMap::with_hasher(FixedState::with_seed(0))) };
}

/// What came of an HTTP/2 connect that several requests wait for; `None` while it runs.
pub(super) type Connecting = watch::Receiver<Option<Result<(), Failure>>>;

/// Connections of one key.
#[derive(Default)]
struct HostPool {
    /// Most recently used last: the ones at the front age and are swept.
    idle: Vec<Idle>,
    shared: Vec<(h2::ClientConnection, Arc<ConnectionHome>)>,
    connecting: Option<Connecting>,
}

struct Idle {
    connection: Box<h1::ClientConnection>,
    home: Arc<ConnectionHome>,
}

/// A connection that can take a request now.
pub(super) fn take(key: &PoolKey) -> Option<Lease> {
    POOLS.with_borrow_mut(|pools| {
        let pool = pools.get_mut(key)?;
        while let Some(Idle { mut connection, home }) = pool.idle.pop() {
            // Bytes or an end on an idle connection: it is dying, and a request on it would be lost.
            if connection.is_quiet() && home.is_wanted() {
                return Some(Lease::H1 {
                    connection,
                    reused: true,
                    origin: home.origin.clone(),
                });
            }
        }
        pool.shared.retain(|(connection, _)| connection.is_available());
        let (connection, home) = pool
            .shared
            .iter()
            .find(|(connection, _)| connection.can_take_stream())?;
        Some(Lease::H2 {
            connection: connection.clone(),
            reused: true,
            origin: home.origin.clone(),
        })
    })
}

pub(super) fn put_idle(home: Arc<ConnectionHome>, connection: Box<h1::ClientConnection>) {
    POOLS.with_borrow_mut(|pools| pools.entry(home.key).or_default().idle.push(Idle { connection, home }));
}

pub(super) fn put_shared(home: Arc<ConnectionHome>, connection: h2::ClientConnection) {
    POOLS.with_borrow_mut(|pools| pools.entry(home.key).or_default().shared.push((connection, home)));
}

/// The connect that already runs for `key`, if one does.
pub(super) fn connecting(key: &PoolKey) -> Option<Connecting> {
    POOLS.with_borrow_mut(|pools| {
        let pool = pools.get_mut(key)?;
        pool.connecting = pool
            .connecting
            .take()
            .filter(|connecting| connecting.has_changed().is_ok());
        pool.connecting.clone()
    })
}

pub(super) fn set_connecting(key: &PoolKey, connecting: Connecting) {
    POOLS.with_borrow_mut(|pools| pools.entry(*key).or_default().connecting = Some(connecting));
}

/// See [`super::sweep`].
pub(super) fn sweep() {
    let now = clock::now();
    let mut dead = Vec::new();
    POOLS.with_borrow_mut(|pools| {
        pools.retain(|_, pool| {
            let idle = std::mem::take(&mut pool.idle);
            for mut entry in idle {
                let expired = entry
                    .home
                    .idle_timeout
                    .is_some_and(|limit| now.saturating_duration_since(entry.connection.idle_since) >= limit);
                if expired {
                    entry.home.cluster.stats.upstream_cx_idle_timeout.inc();
                }
                if !expired && entry.home.is_wanted() && entry.connection.is_quiet() {
                    pool.idle.push(entry);
                } else {
                    dead.push(entry);
                }
            }
            pool.shared.retain(|(connection, home)| {
                if !home.is_wanted() {
                    connection.retire();
                }
                connection.is_available()
            });
            let connecting = pool
                .connecting
                .as_ref()
                .is_some_and(|connecting| connecting.has_changed().is_ok());
            if !connecting {
                pool.connecting = None;
            }
            !pool.idle.is_empty() || !pool.shared.is_empty() || connecting
        });
    });
    // Outside the borrow: closing a connection runs its home's hooks.
    drop(dead);
}

/// How often a worker sweeps: the longest that a dead idle connection keeps its descriptor.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
