//! Which worker serves a connection, and how many the process may have.
//!
//! The kernel spreads connections over the workers' sockets by hash: few long ones may all land on one. A socket is handed over once, before
//! its first read: to the worker with the fewest connections where the listener asks for exactly that, else only where the difference is large.

use std::net::TcpStream as StdTcp;
use std::os::unix::net::UnixStream as StdUnix;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};

use super::active::ActiveListener;
use crate::runtime::io::Io;

/// A listener's connections by worker, from accept to end.
#[derive(Default)]
pub struct Loads {
    workers: Box<[AtomicUsize]>,
    /// Held while a worker is chosen exactly: two that choose at once would choose the same.
    exact: Mutex<()>,
}

/// `connection_balance_config`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Where the kernel put it, unless that worker has far more than another.
    #[default]
    Even,
    /// `exact_balance`
    Exact,
}

/// A connection in its worker's count, until it is dropped.
pub struct Placed {
    listener: Arc<ActiveListener>,
    worker: usize,
}

/// What a worker may have more than the least loaded one, besides a quarter, before connections are handed over: moving one costs two system calls.
const SLACK: usize = 16;

impl Loads {
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            exact: Mutex::default(),
        }
    }

    /// Chooses the worker for a connection that was accepted `here`, and counts it there.
    fn choose(&self, here: usize, balance: Balance) -> usize {
        let _exact = (balance == Balance::Exact).then(|| self.exact.lock());
        let loads = self.workers.iter().map(|load| load.load(Ordering::Relaxed));
        let least = loads.enumerate().min_by_key(|(_, load)| *load);
        let mine = self.workers.get(here).map_or(0, |load| load.load(Ordering::Relaxed));
        let worker = match (least, balance) {
            (Some((worker, load)), Balance::Exact) if load < mine => worker,
            (Some((worker, load)), Balance::Even) if mine > load + load / 4 + SLACK => worker,
            _ => here,
        };
        if let Some(load) = self.workers.get(worker) {
            load.fetch_add(1, Ordering::Relaxed);
        }
        worker
    }
}

impl Placed {
    /// As the choice of the least loaded.
    pub fn new(listener: &Arc<ActiveListener>, here: usize, balance: Balance) -> Self {
        Self {
            worker: listener.loads.choose(here, balance),
            listener: listener.clone(),
        }
    }

    pub fn worker(&self) -> usize {
        self.worker
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(load) = self.listener.loads.workers.get(self.worker) {
            load.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A socket between two workers.
pub enum Parcel {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Parcel {
    /// Takes a socket off this worker.
    ///
    /// # Errors
    /// What the system says; the connection is lost.
    pub fn pack(io: Io) -> std::io::Result<Self> {
        match io {
            Io::Tcp(stream) => stream.into_std().map(Self::Tcp),
            Io::Unix(stream) => stream.into_std().map(Self::Unix),
            _ => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }

    /// Puts it on the worker that this runs on.
    ///
    /// # Errors
    /// As [`Parcel::pack`].
    pub fn unpack(self) -> std::io::Result<Io> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(Io::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(Io::Unix),
        }
    }
}

/// Of the process (`envoy.resource_monitors.global_downstream_max_connections`), or of one listener
/// (`envoy.resource_limits.listener.<name>.connection_limit` in the runtime).
#[derive(Debug, Default)]
pub struct ConnectionLimit {
    /// `None`: no limit.
    max: Option<u64>,
    open: Arc<AtomicU64>,
}

/// A connection within the limit, until it is dropped.
#[derive(Debug)]
pub struct Admitted(Option<Arc<AtomicU64>>);

impl ConnectionLimit {
    pub fn new(max: Option<u64>) -> Self {
        Self {
            max,
            open: Arc::default(),
        }
    }

    /// `None`: there are as many as there may be. Listeners that ignore the limit do not count towards it.
    pub fn admit(&self, ignored: bool) -> Option<Admitted> {
        let Some(max) = self.max.filter(|_| !ignored) else {
            return Some(Admitted(None));
        };
        // Taken first: a check before it would let two connections through at once.
        let admitted = Admitted(Some(self.open.clone()));
        (self.open.fetch_add(1, Ordering::Relaxed) < max).then_some(admitted)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_balance_evens_out_and_the_default_only_what_is_far_off() {
        let exact = Loads::new(3);
        for _ in 0..30 {
            exact.choose(0, Balance::Exact);
        }
        let loads = |loads: &Loads| {
            loads
                .workers
                .iter()
                .map(|load| load.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        assert_eq!(loads(&exact), [10, 10, 10]);
        let even = Loads::new(2);
        for _ in 0..100 {
            even.choose(0, Balance::Even);
        }
        let [here, there] = loads(&even)[..] else {
            panic!("two workers")
        };
        assert!(
            here > there && here <= there + there / 4 + SLACK + 1,
            "{here} and {there}"
        );
    }

    #[test]
    fn the_limit_counts_what_is_open_and_nothing_that_ignores_it() {
        let limit = ConnectionLimit::new(Some(1));
        let first = limit.admit(false).expect("the first");
        assert!(limit.admit(false).is_none());
        assert!(limit.admit(true).is_some());
        drop(first);
        assert!(limit.admit(false).is_some());
    }
}
