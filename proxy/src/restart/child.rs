//! The child's side: what it asks of the epoch before.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::link::{Link, Reply, Request};
use super::{RestartError, VERSION};
use crate::listener::Inherit;
use crate::runtime::io::Address;

/// The epoch before, from its child's point of view.
pub struct Parent {
    /// `None` once it is gone.
    link: Mutex<Option<Link>>,
    first_started_at: SystemTime,
}

impl Parent {
    pub(super) fn greet(link: Link) -> Result<Self, RestartError> {
        let lost = |error| RestartError::Socket {
            name: "to the epoch before".to_owned(),
            error,
        };
        let hello = Request::Hello {
            version: VERSION.to_owned(),
        };
        let (reply, _) = exchange(&link, &hello).map_err(lost)?;
        let Reply::Hello {
            version,
            first_started_at,
        } = reply
        else {
            return Err(lost(io::ErrorKind::InvalidData.into()));
        };
        if version != VERSION {
            return Err(RestartError::Version(version));
        }
        Ok(Self {
            link: Mutex::new(Some(link)),
            first_started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(first_started_at),
        })
    }

    pub fn first_started_at(&self) -> SystemTime {
        self.first_started_at
    }

    /// Has it close its admin server.
    pub fn stop_admin(&self) {
        self.ask(&Request::StopAdmin);
    }

    /// Has it stop accepting and ask its connections to leave.
    pub fn drain(&self) {
        self.ask(&Request::Drain);
    }

    /// Has it end.
    pub fn terminate(&self) {
        self.ask(&Request::Terminate);
        *self.link.lock() = None;
    }

    fn ask(&self, request: &Request) -> Vec<OwnedFd> {
        let mut link = self.link.lock();
        let Some(open) = link.as_ref() else { return Vec::new() };
        match collect(open, request) {
            Ok(descriptors) => descriptors,
            Err(error) => {
                // It may have run out of connections, which is its end.
                tracing::info!(%error, ?request, "the epoch before is gone");
                *link = None;
                Vec::new()
            }
        }
    }
}

impl Inherit for Parent {
    fn sockets(&self, listener: &str, address: &Address) -> Vec<OwnedFd> {
        self.ask(&Request::Sockets {
            listener: listener.to_owned(),
            address: address.to_string(),
        })
    }
}

fn collect(link: &Link, request: &Request) -> io::Result<Vec<OwnedFd>> {
    let (mut reply, mut all) = exchange(link, request)?;
    while reply == (Reply::Sockets { more: true }) {
        let (next, descriptors) = link.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        all.extend(descriptors);
        reply = next;
    }
    Ok(all)
}

fn exchange(link: &Link, request: &Request) -> io::Result<(Reply, Vec<OwnedFd>)> {
    link.send(request, &[])?;
    let answer = link.receive()?;
    answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
