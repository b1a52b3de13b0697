//! Messages between two epochs: one JSON value each, file descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen as start_listening, recvmsg,
    sendmsg, socket_with,
};
use serde::{Deserialize, Serialize};

/// What a child asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First of all; it names its version.
    Hello { version: String },
    /// Close the admin server: the address is wanted.
    StopAdmin,
    /// The sockets that listen on an address, written as the configuration has it. The name counts where the port is 0.
    Sockets { listener: String, address: String },
    /// Stop accepting; ask connections to leave.
    Drain,
    /// End now.
    Terminate,
}

/// What its parent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Hello {
        version: String,
        /// Of the first epoch, in milliseconds since 1970.
        first_started_at: u64,
    },
    Done,
    /// Descriptors stand beside it; `more` answers follow.
    Sockets {
        more: bool,
    },
}

/// One end of a conversation.
pub struct Link(OwnedFd);

impl Link {
    /// Connects to the epoch that listens at `name`, which must be of the same user.
    ///
    /// # Errors
    /// Nobody listens, or somebody else does.
    pub fn connect(name: &str) -> io::Result<Self> {
        let socket = socket()?;
        connect(&socket, &address(name)?)?;
        let link = Self::checked(socket)?;
        // A parent that hangs must not make its child hang.
        set_socket_timeout(&link.0, Timeout::Recv, Some(PATIENCE))?;
        Ok(link)
    }

    /// Waits for the next epoch.
    ///
    /// # Errors
    /// What `accept` says, or that somebody else knocks.
    pub fn accept(listening: BorrowedFd<'_>) -> io::Result<Self> {
        Self::checked(accept_with(listening, SocketFlags::CLOEXEC)?)
    }

    fn checked(socket: OwnedFd) -> io::Result<Self> {
        let peer = socket_peercred(&socket)?.uid;
        if peer != rustix::process::geteuid() {
            let reason = format!("the other side is user {}", peer.as_raw());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        Ok(Self(socket))
    }

    /// Sends a message with at most [`MAX_DESCRIPTORS`] descriptors.
    ///
    /// # Errors
    /// What `sendmsg` says.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
        }
        // A packet is sent whole or not at all.
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for a message. `None`: the other side is gone.
    ///
    /// # Errors
    /// What `recvmsg` says, or a message that is none.
    pub fn receive<T: for<'a> Deserialize<'a>>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut buffers = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut buffers, &mut beside, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in beside.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        match bytes.get(..received.bytes) {
            None | Some([]) => Ok(None),
            Some(text) => Ok(Some((serde_json::from_slice(text)?, descriptors))),
        }
    }
}

/// Starts to listen at `name`: abstract if it starts with `@`, else a path with these permissions.
///
/// # Errors
/// `AddrInUse` if somebody listens there already, or what the system says.
pub fn listen(name: &str, mode: u32) -> io::Result<OwnedFd> {
    let socket = socket()?;
    let address = address(name)?;
    match bind(&socket, &address) {
        // A path that nobody listens on any more stays when its process dies.
        Err(rustix::io::Errno::ADDRINUSE) if !name.starts_with('@') && is_dead(name) => {
            std::fs::remove_file(name)?;
            bind(&socket, &address)?;
        }
        other => other?,
    }
    if !name.starts_with('@') {
        std::fs::set_permissions(name, std::fs::Permissions::from_mode(mode))?;
    }
    start_listening(&socket, 1)?;
    Ok(socket)
}

fn is_dead(name: &str) -> bool {
    Link::connect(name).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

fn address(name: &str) -> io::Result<SocketAddrUnix> {
    Ok(match name.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(name)?,
    })
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Descriptors beside one message; the kernel allows 253.
pub const MAX_DESCRIPTORS: usize = 64;
/// Names are short.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a child waits for an answer of its parent.
const PATIENCE: Duration = Duration::from_secs(10);
