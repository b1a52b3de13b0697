//! Addresses and byte streams, whatever they are made of.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Where a listener binds or a host lives (`envoy.config.core.v3.Address`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    /// A unix socket: a path, or `@name` in the abstract namespace.
    Pipe(Arc<str>),
    /// `envoy_internal_address`: a listener in this process.
    Internal(Arc<Internal>),
}

/// A listener by its name; `endpoint` tells apart what is reached through the same one (`endpoint_id`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Internal {
    pub listener: String,
    pub endpoint: String,
}

impl Address {
    /// Either end of an accepted connection. A listener of both families gets to know IPv4 clients by mapped addresses (RFC 4291, 2.5.5.2); here
    /// they are what they are.
    pub fn accepted(address: SocketAddr) -> Self {
        Self::Ip(unmapped(address))
    }

    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            _ => None,
        }
    }
}

/// The IPv4 address that is mapped; any other as it is, with its scope.
pub fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => path.fmt(f),
            Self::Internal(internal) => write!(f, "envoy://{}/{}", internal.listener, internal.endpoint),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// A connected byte stream. One enum instead of a box, so that the common case costs no indirect call.
pub enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<tokio_rustls::TlsStream<Io>>),
    /// In memory: internal listeners, and measurements without a kernel.
    Duplex(DuplexStream),
    /// Bytes already read (by protocol detection), then the stream.
    Prefixed(Box<Prefixed>),
    /// What comes first is not the stream's.
    Introduced(Box<Introduced>),
    /// Somebody keeps account of what passes.
    Metered(Box<Metered>),
}

/// Reads what a peer says before its stream begins.
pub trait Introduction: Send {
    /// Takes from the front of `received`, all that has come so far, what is not the stream's. True: what is left is. `ended`: no more will come.
    fn take(&mut self, received: &mut BytesMut, ended: bool) -> bool;
}

/// See [`Io::Introduced`].
pub struct Introduced {
    inner: Io,
    received: BytesMut,
    /// `None`: it is over.
    introduction: Option<Box<dyn Introduction>>,
}

impl Introduced {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let mut ended = false;
        while let Some(introduction) = &mut self.introduction {
            let mut space = [0; 1024];
            let mut read = ReadBuf::new(&mut space);
            std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, &mut read))?;
            ended = read.filled().is_empty();
            self.received.extend_from_slice(read.filled());
            if introduction.take(&mut self.received, ended) || ended {
                self.introduction = None;
            }
        }
        if self.received.is_empty() && !ended {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let take = self.received.len().min(buf.remaining());
        buf.put_slice(&self.received.split_to(take));
        Poll::Ready(Ok(()))
    }
}

/// Keeps account of one connection: told of each read and write that is done anyway.
pub trait Account: Send + Sync {
    fn received(&self, bytes: u64);
    fn sent(&self, bytes: u64);
    /// So many bytes that were to be sent wait for the peer to take others first; it was `before`.
    fn unsent(&self, before: u64, now: u64) {
        let _ = (before, now);
    }
    /// The peer has said that no more will come.
    fn peer_said_end(&self) {}
    /// The peer has closed the connection, or it broke. May be said more than once.
    fn ended_by_peer(&self) {}
    /// We have said that no more will come. May be said more than once.
    fn ended_by_us(&self) {}
}

/// See [`Io::Metered`].
pub struct Metered {
    inner: Io,
    account: Arc<dyn Account>,
    /// Of the last write.
    unsent: u64,
}

impl Metered {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let result = std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        match (&result, buf.filled().len() - before) {
            (Ok(()), 0) if buf.remaining() == 0 => {}
            (Ok(()), 0) => {
                self.account.peer_said_end();
                self.account.ended_by_peer();
            }
            (Err(_), _) => self.account.ended_by_peer(),
            (Ok(()), count) => self.account.received(count as u64),
        }
        Poll::Ready(result)
    }

    /// `offered` bytes were to be written.
    fn wrote(&mut self, offered: usize, result: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        let unsent = match &result {
            Poll::Ready(Ok(count)) => {
                self.account.sent(*count as u64);
                offered.saturating_sub(*count) as u64
            }
            Poll::Ready(Err(_)) => {
                self.account.ended_by_peer();
                0
            }
            Poll::Pending => offered as u64,
        };
        self.note_unsent(unsent);
        result
    }

    fn note_unsent(&mut self, unsent: u64) {
        let before = std::mem::replace(&mut self.unsent, unsent);
        if before != unsent {
            self.account.unsent(before, unsent);
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        self.note_unsent(0);
    }
}

/// See [`Io::Prefixed`].
pub struct Prefixed {
    prefix: bytes::Bytes,
    inner: Io,
}

impl Io {
    /// Puts bytes that were read too early in front of the stream again.
    pub fn prefixed(prefix: bytes::Bytes, inner: Io) -> Self {
        if prefix.is_empty() {
            return inner;
        }
        Self::Prefixed(Box::new(Prefixed { prefix, inner }))
    }

    /// Has `introduction` read what comes before the stream. Nobody waits for it: it is read when the stream is.
    pub fn introduced(self, introduction: Box<dyn Introduction>) -> Self {
        Self::Introduced(Box::new(Introduced {
            inner: self,
            received: BytesMut::new(),
            introduction: Some(introduction),
        }))
    }

    /// Has `account` told of what passes.
    pub fn metered(self, account: Arc<dyn Account>) -> Self {
        Self::Metered(Box::new(Metered {
            inner: self,
            account,
            unsent: 0,
        }))
    }

    /// The TCP stream, if it is one and nothing stands in front of it (socket options, splice).
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => stream.get_ref().0.as_tcp(),
            Self::Prefixed(prefixed) => prefixed.inner.as_tcp(),
            Self::Introduced(introduced) => introduced.inner.as_tcp(),
            Self::Metered(metered) => metered.inner.as_tcp(),
            _ => None,
        }
    }

    /// Whether TLS is spoken over it.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Tls(_) => true,
            Self::Prefixed(prefixed) => prefixed.inner.is_tls(),
            Self::Introduced(introduced) => introduced.inner.is_tls(),
            Self::Metered(metered) => metered.inner.is_tls(),
            Self::Tcp(_) | Self::Unix(_) | Self::Duplex(_) => false,
        }
    }

    /// Has a TCP connection reset when it is dropped.
    pub fn reset_on_close(&self) {
        if let Some(stream) = self.as_tcp() {
            // A connection that is gone cannot be reset, and need not be.
            let _ = stream.set_zero_linger();
        }
    }

    pub fn local_address(&self) -> Option<Address> {
        Some(Address::Ip(self.as_tcp()?.local_addr().ok()?))
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Self::Duplex(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Prefixed(prefixed) => {
                if prefixed.prefix.is_empty() {
                    return Pin::new(&mut prefixed.inner).poll_read(cx, buf);
                }
                let take = prefixed.prefix.len().min(buf.remaining());
                buf.put_slice(&prefixed.prefix.split_to(take));
                Poll::Ready(Ok(()))
            }
            Self::Introduced(introduced) => introduced.poll_read(cx, buf),
            Self::Metered(metered) => metered.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
            Self::Duplex(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.inner).poll_write(cx, buf),
            Self::Introduced(introduced) => Pin::new(&mut introduced.inner).poll_write(cx, buf),
            Self::Metered(metered) => {
                let result = Pin::new(&mut metered.inner).poll_write(cx, buf);
                metered.wrote(buf.len(), result)
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            // `send` costs the kernel less than `writev`.
            Self::Tcp(stream) => match bufs {
                [one] => Pin::new(stream).poll_write(cx, one),
                _ => Pin::new(stream).poll_write_vectored(cx, bufs),
            },
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, bufs),
            Self::Duplex(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.inner).poll_write_vectored(cx, bufs),
            Self::Introduced(introduced) => Pin::new(&mut introduced.inner).poll_write_vectored(cx, bufs),
            Self::Metered(metered) => {
                let result = Pin::new(&mut metered.inner).poll_write_vectored(cx, bufs);
                metered.wrote(bufs.iter().map(|buf| buf.len()).sum(), result)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Duplex(stream) => stream.is_write_vectored(),
            Self::Prefixed(prefixed) => prefixed.inner.is_write_vectored(),
            Self::Introduced(introduced) => introduced.inner.is_write_vectored(),
            Self::Metered(metered) => metered.inner.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::Duplex(stream) => Pin::new(stream).poll_flush(cx),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.inner).poll_flush(cx),
            Self::Introduced(introduced) => Pin::new(&mut introduced.inner).poll_flush(cx),
            Self::Metered(metered) => Pin::new(&mut metered.inner).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::Duplex(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Prefixed(prefixed) => Pin::new(&mut prefixed.inner).poll_shutdown(cx),
            Self::Introduced(introduced) => Pin::new(&mut introduced.inner).poll_shutdown(cx),
            Self::Metered(metered) => {
                metered.account.ended_by_us();
                Pin::new(&mut metered.inner).poll_shutdown(cx)
            }
        }
    }
}
