//! This thread's pools.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use tokio::sync::watch;

use super::home::{ConnectionHome, Place};
use super::room;
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
    /// ALPN chose HTTP/1 for an earlier connection: the next ones will not be shared either.
    speaks_http1: bool,
}

/// A connection that nobody uses now.
pub(super) struct Idle {
    pub connection: Box<h1::ClientConnection>,
    pub home: Arc<ConnectionHome>,
}

impl Idle {
    /// Whether a request may go over it. Bytes or an end on an idle connection: it is dying, and a request on it would be lost.
    fn is_good(&mut self, now: Instant) -> bool {
        let is_expired = self.home.is_expired(now, self.connection.idle_since);
        if is_expired {
            self.home.cluster.stats.upstream_cx_idle_timeout.inc();
        }
        let is_good = !is_expired && self.connection.is_quiet() && self.home.is_wanted();
        if !is_good {
            self.home.count_if_worn();
        }
        is_good
    }

    /// The connection for a request, which takes its place with it; back where there is none.
    fn admit(self, reused: bool) -> Result<Lease, Self> {
        if !self.home.admit_only() {
            return Err(self);
        }
        self.home.count_request();
        Ok(Lease::H1 {
            connection: self.connection,
            reused,
            origin: self.home.origin.clone(),
        })
    }
}

/// HTTP/2 connections that take no more requests. They are let go where no pool is borrowed, and those that their peers asked for are counted.
#[derive(Default)]
struct Gone(Vec<(h2::ClientConnection, Arc<ConnectionHome>)>);

impl Drop for Gone {
    fn drop(&mut self) {
        for (connection, home) in &self.0 {
            home.count_if_worn();
            if connection.was_asked_to_leave() {
                home.cluster.stats.upstream_cx_close_notify.inc();
            }
        }
    }
}

/// A connection that can take a request now.
///
/// # Errors
/// [`Failure::Overflow`] where there is one, but no place for the request among the cluster's.
pub(super) fn take(key: &PoolKey) -> Result<Option<Lease>, Failure> {
    // Closing a connection runs its home's hooks, which may look at the pools: not under the borrow.
    let mut dead = Vec::new();
    let mut gone = Gone::default();
    POOLS.with_borrow_mut(|pools| {
        let Some(pool) = pools.get_mut(key) else {
            return Ok(None);
        };
        let now = clock::now();
        while let Some(mut idle) = pool.idle.pop() {
            if !idle.is_good(now) {
                dead.push(idle);
                continue;
            }
            return idle.admit(true).map(Some).map_err(|idle| {
                pool.idle.push(idle);
                Failure::Overflow
            });
        }
        gone.0
            .extend(pool.shared.extract_if(.., |(connection, _)| !connection.is_available()));
        let has_room = |(connection, home): &(h2::ClientConnection, Arc<ConnectionHome>)| {
            let is_expired = |since| home.is_expired(now, since);
            connection.can_take_stream() && home.is_usable() && !home.idle_since().is_some_and(is_expired)
        };
        let Some((connection, home)) = pool.shared.iter().find(|entry| has_room(entry)) else {
            return Ok(None);
        };
        let place = Place::take(home).ok_or(Failure::Overflow)?;
        let is_first = home.count_request();
        Ok(Some(Lease::H2 {
            connection: connection.clone(),
            reused: !is_first,
            place,
        }))
    })
}

/// A connection that another request has just given back, if it is still good.
///
/// # Errors
/// As [`take`]: the connection is for whoever is next.
pub(super) fn reuse(mut idle: Idle) -> Result<Option<Lease>, Failure> {
    match idle.is_good(clock::now()) {
        true => lend(idle, true).map(Some),
        false => Ok(None),
    }
}

/// A connection that has just been made.
///
/// # Errors
/// As [`reuse`].
pub(super) fn lend_new(idle: Idle) -> Result<Lease, Failure> {
    lend(idle, false)
}

fn lend(idle: Idle, reused: bool) -> Result<Lease, Failure> {
    idle.admit(reused).map_err(|idle| {
        give_back(idle);
        Failure::Overflow
    })
}

/// Takes back a connection: whoever waits for one gets it, else it idles.
pub(super) fn put_idle(home: Arc<ConnectionHome>, connection: Box<h1::ClientConnection>) {
    give_back(Idle { connection, home });
}

pub(super) fn give_back(idle: Idle) {
    let key = idle.home.key;
    if let Some(idle) = room::offer(&key, idle) {
        POOLS.with_borrow_mut(|pools| pools.entry(key).or_default().idle.push(idle));
    }
}

pub(super) fn put_shared(home: Arc<ConnectionHome>, connection: h2::ClientConnection) {
    POOLS.with_borrow_mut(|pools| pools.entry(home.key).or_default().shared.push((connection, home)));
}

/// Lets go of shared connections whose peers allow no stream at all; whether there was one.
pub(super) fn retire_useless(key: &PoolKey) -> bool {
    POOLS.with_borrow(|pools| {
        let shared = pools.get(key).into_iter().flat_map(|pool| &pool.shared);
        let useless = shared.filter(|(connection, _)| connection.is_available() && connection.max_streams() == 0);
        useless.map(|(connection, _)| connection.retire()).count() > 0
    })
}

/// Of one pool: idle connections; streams, what all shared connections can carry, and their number.
pub(super) fn occupancy(key: &PoolKey) -> (u64, u64, u64, u64) {
    POOLS.with_borrow(|pools| {
        let Some(pool) = pools.get(key) else {
            return (0, 0, 0, 0);
        };
        let usable = || {
            let wanted = |entry: &&(h2::ClientConnection, _)| entry.0.max_streams() > 0;
            pool.shared.iter().filter(wanted)
        };
        let streams = usable()
            .map(|(connection, _)| u64::from(connection.active_streams()))
            .sum();
        let carried = usable()
            .map(|(connection, _)| u64::from(connection.max_streams()))
            .sum();
        (pool.idle.len() as u64, streams, carried, usable().count() as u64)
    })
}

pub(super) fn speaks_http1(key: &PoolKey) -> bool {
    POOLS.with_borrow(|pools| pools.get(key).is_some_and(|pool| pool.speaks_http1))
}

pub(super) fn set_speaks_http1(key: &PoolKey) {
    POOLS.with_borrow_mut(|pools| pools.entry(*key).or_default().speaks_http1 = true);
}

/// Closes a pool of the same cluster and priority that has no request, to make room for another; false if there is none.
pub(super) fn close_an_idle_pool(wanted: &PoolKey) -> bool {
    let closed = POOLS.with_borrow_mut(|pools| {
        let is_idle = |(key, pool): &(&PoolKey, &mut HostPool)| {
            let streams = pool
                .shared
                .iter()
                .all(|(connection, _)| connection.active_streams() == 0);
            let open = pool.idle.len() + pool.shared.len();
            (key.cluster, key.high_priority) == (wanted.cluster, wanted.high_priority)
                && streams
                && open > 0
                && open == room::connections(key) as usize
        };
        let (_, pool) = pools.iter_mut().find(is_idle)?;
        for (connection, _) in &pool.shared {
            connection.retire();
        }
        Some((std::mem::take(&mut pool.idle), std::mem::take(&mut pool.shared)))
    });
    closed.is_some()
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
    let mut gone = Gone::default();
    POOLS.with_borrow_mut(|pools| {
        pools.retain(|_, pool| {
            let idle = std::mem::take(&mut pool.idle);
            for mut entry in idle {
                let expired = entry.home.is_expired(now, entry.connection.idle_since);
                if expired {
                    entry.home.cluster.stats.upstream_cx_idle_timeout.inc();
                }
                entry.home.count_if_worn();
                if !expired && entry.home.is_wanted() && entry.connection.is_quiet() {
                    pool.idle.push(entry);
                } else {
                    dead.push(entry);
                }
            }
            gone.0.extend(pool.shared.extract_if(.., |(connection, home)| {
                let is_expired = |since| home.is_expired(now, since);
                let expired = connection.is_available() && home.idle_since().is_some_and(is_expired);
                if expired {
                    home.cluster.stats.upstream_cx_idle_timeout.inc();
                }
                if expired || !home.is_wanted() {
                    connection.retire();
                }
                !connection.is_available()
            }));
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
    drop((dead, gone));
}

/// How often a worker sweeps: the longest that a dead idle connection keeps its descriptor.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
