//! Room for connections: the breakers that a new one must pass, and the queue of requests that wait until one is free.
//!
//! A pool (one [`PoolKey`] on one thread) without any connection may always open one, so whoever waits has a connection of its own pool to
//! wait for: it is woken when that one is free, gone, or takes another stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use tokio::sync::oneshot;

use super::local::{self, Idle};
use super::{PoolKey, Wanted};
use crate::cluster::breaker::{Permit, RoutingPriority};
use crate::cluster::{Cluster, Host};
use crate::http::failure::Failure;

thread_local! {
    static ROOMS: RefCell<HashMap<PoolKey, Room, FixedState>> = const { RefCell::new(HashMap::with_hasher(FixedState::with_seed(0))) };
    static PENDING: RefCell<HashMap<PoolKey, u32, FixedState>> = const { RefCell::new(HashMap::with_hasher(FixedState::with_seed(0))) };
    /// How many wait on this thread: mostly nobody, and then no map is looked at.
    static WAITING: Cell<usize> = const { Cell::new(0) };
}

/// What a pool has under way. It is there while there are connections or somebody waits for one.
struct Room {
    /// Open and connecting ones.
    connections: u32,
    /// Of them, those on their way that no request asked for.
    ahead: u32,
    waiting: VecDeque<Ticket>,
    /// The `max_connection_pools` breaker's; connections without HTTP are no matter of its.
    _permit: Option<Permit>,
}

/// `None`: look again.
type Ticket = oneshot::Sender<Option<Idle>>;

/// A place in line. Given up at the very moment that its turn comes, it lets the next one in.
pub(super) struct Turn {
    key: PoolKey,
    call: oneshot::Receiver<Option<Idle>>,
}

impl Turn {
    /// Waits for the turn: a connection, or word to look again.
    pub(super) async fn comes(mut self) -> Option<Idle> {
        (&mut self.call).await.ok().flatten()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.call.try_recv() {
            Ok(Some(idle)) => local::give_back(idle),
            Ok(None) => {
                wake(&self.key);
                tidy(&self.key);
            }
            Err(_) => {}
        }
    }
}

/// A connection's place in its pool and in the breakers, given back on drop.
pub(super) struct Slot {
    key: PoolKey,
    host: Arc<Host>,
    _permit: Permit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.host.state.cx_claimed.fetch_sub(1, Ordering::Relaxed);
        // At the end of the thread the rooms may be gone before the pools.
        let _ = ROOMS.try_with(|rooms| {
            if let Some(room) = rooms.borrow_mut().get_mut(&self.key) {
                room.connections -= 1;
            }
        });
        wake(&self.key);
        tidy(&self.key);
    }
}

/// A place for a new connection; `None` where the request has to wait for one of those that the pool has.
///
/// # Errors
/// [`Failure::NoHealthyUpstream`] when there may be no more pools, as Envoy answers it.
pub(super) fn claim(key: &PoolKey, cluster: &Cluster, host: &Arc<Host>) -> Result<Option<Slot>, Failure> {
    let priority = priority(key);
    let connections = enter(key, cluster)?;
    let breakers = &cluster.breakers;
    let is_full = breakers
        .connections_per_host(priority)
        .is_some_and(|limit| host.state.cx_claimed.load(Ordering::Relaxed) >= limit);
    let permit = match is_full {
        true => None,
        false => breakers.try_connection(priority),
    };
    let permit = match permit {
        Some(permit) => permit,
        None => {
            cluster.stats.upstream_cx_overflow.inc();
            if connections > 0 {
                return Ok(None);
            }
            breakers.force_connection(priority)
        }
    };
    host.state.cx_claimed.fetch_add(1, Ordering::Relaxed);
    ROOMS.with_borrow_mut(|rooms| {
        if let Some(room) = rooms.get_mut(key) {
            room.connections += 1;
        }
    });
    Ok(Some(Slot {
        key: *key,
        host: host.clone(),
        _permit: permit,
    }))
}

/// Makes sure that the pool is counted; its connections.
fn enter(key: &PoolKey, cluster: &Cluster) -> Result<u32, Failure> {
    let priority = priority(key);
    for is_last_try in [false, true] {
        let entered = ROOMS.with_borrow_mut(|rooms| match rooms.entry(*key) {
            Entry::Occupied(entry) => Some(entry.get().connections),
            Entry::Vacant(entry) => {
                entry.insert(Room {
                    connections: 0,
                    ahead: 0,
                    waiting: VecDeque::new(),
                    _permit: match key.protocol {
                        Wanted::Raw => None,
                        _ => Some(cluster.breakers.try_pool(priority)?),
                    },
                });
                Some(0)
            }
        });
        if let Some(connections) = entered {
            return Ok(connections);
        }
        if is_last_try || !local::close_an_idle_pool(key) {
            break;
        }
    }
    cluster.stats.upstream_cx_pool_overflow.inc();
    Err(Failure::NoHealthyUpstream)
}

/// Gets in line, at the front if the request stood there before.
pub(super) fn wait(key: &PoolKey, again: bool) -> Turn {
    let (ticket, call) = oneshot::channel();
    ROOMS.with_borrow_mut(|rooms| {
        let Some(room) = rooms.get_mut(key) else {
            // Nobody will come: the ticket is dropped, and the request looks again.
            return;
        };
        // Requests that gave up make room for those that did not.
        let before = room.waiting.len();
        room.waiting.retain(|ticket| !ticket.is_closed());
        WAITING.set(WAITING.get() + room.waiting.len() + 1 - before);
        match again {
            true => room.waiting.push_front(ticket),
            false => room.waiting.push_back(ticket),
        }
    });
    Turn { key: *key, call }
}

/// Gives a free connection to whoever waits longest; back if nobody does.
pub(super) fn offer(key: &PoolKey, idle: Idle) -> Option<Idle> {
    let mut parcel = Some(idle);
    while let Some(ticket) = next(key) {
        match ticket.send(parcel.take()) {
            Ok(()) => return None,
            Err(back) => parcel = back,
        }
    }
    parcel
}

/// Lets whoever waits longest look again.
pub(super) fn wake(key: &PoolKey) {
    while let Some(ticket) = next(key) {
        if ticket.send(None).is_ok() {
            return;
        }
    }
}

/// Forgets a pool without connections that nobody waits for.
fn tidy(key: &PoolKey) {
    let _ = ROOMS.try_with(|rooms| {
        let mut rooms = rooms.borrow_mut();
        let is_empty = |room: &mut Room| room.connections == 0 && room.waiting.is_empty();
        if rooms.get_mut(key).is_some_and(is_empty) {
            rooms.remove(key);
        }
    });
}

fn next(key: &PoolKey) -> Option<Ticket> {
    if WAITING.get() == 0 {
        return None;
    }
    let first =
        |rooms: &RefCell<HashMap<PoolKey, Room, FixedState>>| rooms.borrow_mut().get_mut(key)?.waiting.pop_front();
    let ticket = ROOMS.try_with(first).ok().flatten()?;
    WAITING.set(WAITING.get() - 1);
    Some(ticket)
}

/// What a pool has under way, for [`super::preconnect`].
#[derive(Clone, Copy, Default)]
pub(super) struct Occupancy {
    pub connections: u32,
    pub ahead: u32,
    /// Requests in line for a connection to be given back.
    pub waiting: u32,
    /// Requests without a connection, those in line included.
    pub pending: u32,
}

pub(super) fn occupancy(key: &PoolKey) -> Occupancy {
    let pending = PENDING.with_borrow(|pending| pending.get(key).copied().unwrap_or(0));
    ROOMS.with_borrow(|rooms| {
        rooms.get(key).map_or(Occupancy::default(), |room| Occupancy {
            connections: room.connections,
            ahead: room.ahead,
            waiting: room.waiting.len() as u32,
            pending,
        })
    })
}

/// Whether a connection is on its way that nobody waits for yet.
pub(super) fn comes_ahead(key: &PoolKey) -> bool {
    let has = |room: &Room| room.ahead as usize > room.waiting.len();
    is_exclusive(key) && ROOMS.with_borrow(|rooms| rooms.get(key).is_some_and(has))
}

/// The pools of a cluster that have connections or need some.
pub(super) fn keys(cluster: u64) -> Vec<PoolKey> {
    ROOMS.with_borrow(|rooms| rooms.keys().filter(|key| key.cluster == cluster).copied().collect())
}

/// One pending request more or less; counted only where there is a `preconnect_policy`.
pub(super) fn count_pending(key: &PoolKey, change: i32) {
    // At the end of the thread the counts may be gone before the requests.
    let _ = PENDING.try_with(|pending| {
        let mut pending = pending.borrow_mut();
        let count = pending.entry(*key).or_default();
        *count = count.saturating_add_signed(change);
        if *count == 0 {
            pending.remove(key);
        }
    });
}

/// A connection on its way that no request asked for, until it is up or has failed.
pub(super) struct Ahead(PoolKey);

impl Ahead {
    /// Of a pool that a place was claimed in.
    pub(super) fn new(key: PoolKey) -> Self {
        Self::count(&key, 1);
        Self(key)
    }

    fn count(key: &PoolKey, change: i32) {
        let _ = ROOMS.try_with(|rooms| {
            if let Some(room) = rooms.borrow_mut().get_mut(key) {
                room.ahead = room.ahead.saturating_add_signed(change);
            }
        });
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        Self::count(&self.0, -1);
    }
}

/// How many connections the pool has, open or connecting.
pub(super) fn connections(key: &PoolKey) -> u32 {
    ROOMS.with_borrow(|rooms| rooms.get(key).map_or(0, |room| room.connections))
}

pub(super) fn priority(key: &PoolKey) -> RoutingPriority {
    match key.high_priority {
        true => RoutingPriority::High,
        false => RoutingPriority::Default,
    }
}

/// Whether a pool of this kind has connections that only one request at a time can use.
pub(super) fn is_exclusive(key: &PoolKey) -> bool {
    matches!(key.protocol, Wanted::Http1 | Wanted::Raw) || (key.protocol == Wanted::Auto && local::speaks_http1(key))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use remora_proto::pb::envoy::config::cluster::v3 as pb;

    use super::*;
    use crate::config::BuildContext;
    use crate::runtime::io::Address;

    fn cluster() -> Cluster {
        let config = pb::Cluster {
            name: "c".to_owned(),
            ..Default::default()
        };
        let built = crate::config::cluster::compile(&config.encode_to_vec(), &BuildContext::default());
        built.unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn key(host: &Host) -> PoolKey {
        PoolKey {
            cluster: 1,
            host: host.state.id,
            socket: 0,
            high_priority: false,
            protocol: Wanted::Http1,
            alpn: 0,
            name: 0,
            source: None,
            downstream: 0,
        }
    }

    #[test]
    fn who_gives_up_when_called_lets_the_next_one_in() {
        let (cluster, host) = (cluster(), Arc::new(Host::new(Address::Ip(([10, 0, 0, 1], 80).into()))));
        let key = key(&host);
        let slot = claim(&key, &cluster, &host).expect("a pool").expect("a place");
        let (first, mut second) = (wait(&key, false), wait(&key, false));
        assert!(second.call.try_recv().is_err());
        drop(slot);
        // It was called, and never looked.
        drop(first);
        assert!(matches!(second.call.try_recv(), Ok(None)));
        drop(second);
        assert_eq!((connections(&key), WAITING.get()), (0, 0));
    }

    #[test]
    fn who_gave_up_before_is_passed_over() {
        let (cluster, host) = (cluster(), Arc::new(Host::new(Address::Ip(([10, 0, 0, 2], 80).into()))));
        let key = key(&host);
        let slot = claim(&key, &cluster, &host).expect("a pool").expect("a place");
        let (first, mut second) = (wait(&key, false), wait(&key, false));
        drop(first);
        drop(slot);
        assert!(matches!(second.call.try_recv(), Ok(None)));
        ROOMS.with_borrow(|rooms| assert!(!rooms.contains_key(&key), "nobody is left"));
    }
}
