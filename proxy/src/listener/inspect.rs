//! Drives the listener filters over the first bytes of a connection.
//!
//! The bytes are peeked at first: mostly one look is enough, and the socket goes on as it was. When it is not, they are read, and stand before
//! the stream from then on.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::AsyncReadExt;

use super::detect::{Detection, client_hello, http as http_detect};
use super::stats::InspectorStats;
use super::{ListenerFilterKind, ListenerSettings, TlsInspection};
use crate::filters::listener::proxy_protocol::{Outcome, ProxyProtocol};
use crate::runtime::io::{Address, Io, unmapped};

/// What the listener filters found out.
#[derive(Debug, Default)]
pub struct Findings {
    /// `tls` or `raw_buffer`; empty while nobody looked.
    pub transport_protocol: &'static str,
    pub server_name: Option<String>,
    pub alpn: Vec<Vec<u8>>,
    pub original_destination: Option<SocketAddr>,
    /// From a PROXY header: source and destination.
    pub proxied: Option<(SocketAddr, SocketAddr)>,
    /// Dynamic metadata and filter state.
    pub extensions: http::Extensions,
}

/// Why a connection ends before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The peer closed (`downstream_listener_filter_remote_close`).
    RemoteClose,
    /// A filter refused it, and has counted that.
    Filter,
}

/// Keeps what was read over a timeout: the connection may go on with it.
pub struct Inspection {
    io: Io,
    /// Bytes seen. Still in the socket as long as `peeking`.
    seen: BytesMut,
    peeking: bool,
    pub findings: Findings,
}

/// Bytes that one look takes.
const LOOK: usize = 4096;
/// More than any filter wants to see.
const LIMIT: usize = 64 * 1024;

impl Inspection {
    pub fn new(io: Io) -> Self {
        Self {
            peeking: matches!(io, Io::Tcp(_)),
            io,
            seen: BytesMut::new(),
            findings: Findings::default(),
        }
    }

    /// Runs the filters in their order.
    ///
    /// # Cancel safety
    /// May be dropped at any time; [`finish`](Self::finish) then yields the stream with nothing lost.
    pub async fn run(
        &mut self,
        settings: &ListenerSettings,
        local: &Address,
        remote: &Address,
        stats: &InspectorStats,
    ) -> Result<(), Refusal> {
        for filter in &settings.listener_filters {
            let destination = self.findings.original_destination.or(local.ip());
            let port = destination.map(|address| address.port());
            if filter.disabled.as_ref().is_some_and(|rule| rule.matches(port)) {
                continue;
            }
            match &filter.kind {
                ListenerFilterKind::OriginalDst => self.original_destination(),
                ListenerFilterKind::TlsInspector(inspection) => self.tls(*inspection, stats).await?,
                ListenerFilterKind::HttpInspector => self.http(stats).await?,
                ListenerFilterKind::ProxyProtocol(filter) => self.proxy_protocol(filter).await?,
                ListenerFilterKind::LocalRateLimit(filter) if filter.admits() => {}
                ListenerFilterKind::LocalRateLimit(_) => return Err(Refusal::Filter),
                ListenerFilterKind::OriginalSrc(filter) => {
                    let proxied = self.findings.proxied.map(|(source, _)| Address::Ip(source));
                    if let Some(source) = filter.source(proxied.as_ref().unwrap_or(remote)) {
                        self.findings.extensions.insert(source);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends a connection that is refused. What the client has sent was not for us: it hears of a reset, as it would had nobody read it.
    pub fn refuse(self) {
        if !self.peeking && !self.seen.is_empty() {
            self.io.reset_on_close();
        }
    }

    /// The stream, with whatever was read off it in front.
    pub fn finish(self) -> (Io, Findings) {
        let io = match self.peeking {
            true => self.io,
            false => Io::prefixed(self.seen.freeze(), self.io),
        };
        (io, self.findings)
    }

    /// `SO_ORIGINAL_DST` of a redirected connection; a TPROXY one has it as its local address already.
    fn original_destination(&mut self) {
        let Some(stream) = self.io.as_tcp() else { return };
        let socket = SockRef::from(stream);
        let original = match stream.local_addr().map(unmapped) {
            Ok(SocketAddr::V4(_)) => socket.original_dst_v4(),
            Ok(SocketAddr::V6(_)) => socket.original_dst_v6(),
            Err(_) => return,
        };
        self.findings.original_destination = original.ok().and_then(|address| address.as_socket());
    }

    async fn tls(&mut self, inspection: TlsInspection, stats: &InspectorStats) -> Result<(), Refusal> {
        let stats = &stats.tls;
        let limit = inspection.max_hello;
        let found = self.detect(|bytes| client_hello::parse(bytes, limit)).await?;
        stats.bytes_processed.record(looked_at(&self.seen, &found));
        let hello = match found {
            Detection::Found(hello) => hello,
            Detection::Broken(reason) if reason.ends_with("too large") => {
                stats.client_hello_too_large.inc();
                return Err(Refusal::Filter);
            }
            found => {
                stats.tls_not_found.inc();
                // What is no TLS at all is as wrong there as what is broken.
                return match found != Detection::NeedMore && inspection.close_on_error {
                    true => Err(Refusal::Filter),
                    false => Ok(()),
                };
            }
        };
        stats.tls_found.inc();
        let found = |found: bool, yes: &crate::telemetry::stats::Counter, no: &crate::telemetry::stats::Counter| {
            if found { yes.inc() } else { no.inc() }
        };
        found(hello.server_name.is_some(), &stats.sni_found, &stats.sni_not_found);
        found(!hello.alpn.is_empty(), &stats.alpn_found, &stats.alpn_not_found);
        if inspection.fingerprints.any()
            && let Detection::Found(message) = client_hello::message(&self.seen, limit)
        {
            let taken = inspection.fingerprints.take(&message);
            taken.map(|taken| self.findings.extensions.insert(taken));
        }
        self.findings.transport_protocol = "tls";
        self.findings.server_name = hello.server_name;
        self.findings.alpn = hello.alpn;
        Ok(())
    }

    async fn http(&mut self, stats: &InspectorStats) -> Result<(), Refusal> {
        let stats = &stats.http;
        // Envoy's looks at plaintext only, and only where nothing is known yet.
        if self.findings.transport_protocol == "tls" {
            return Ok(());
        }
        match self.detect(http_detect::parse).await? {
            Detection::Found(found) => {
                match found {
                    http_detect::Http::Http10 => stats.http10_found.inc(),
                    http_detect::Http::Http11 => stats.http11_found.inc(),
                    http_detect::Http::Http2 => stats.http2_found.inc(),
                }
                self.findings.alpn = vec![found.protocol().as_bytes().to_vec()];
            }
            Detection::Broken(_) => {
                stats.read_error.inc();
                return Err(Refusal::Filter);
            }
            _ => stats.http_not_found.inc(),
        }
        Ok(())
    }

    async fn proxy_protocol(&mut self, filter: &ProxyProtocol) -> Result<(), Refusal> {
        let found = self.detect(|bytes| filter.look(bytes)).await?;
        match filter.judge(&self.seen, found) {
            Outcome::Header(header) => {
                self.consume(header.length).await?;
                self.findings.proxied = header.addresses;
                filter.store(header, &mut self.findings.extensions);
                Ok(())
            }
            Outcome::Absent => Ok(()),
            Outcome::Refused => Err(Refusal::Filter),
        }
    }

    /// Asks `parse` over ever more bytes until it knows. [`Detection::NeedMore`] comes back only at the limit.
    async fn detect<T>(&mut self, parse: impl Fn(&[u8]) -> Detection<T>) -> Result<Detection<T>, Refusal> {
        loop {
            if !self.seen.is_empty() {
                match parse(&self.seen) {
                    Detection::NeedMore if self.seen.len() < LIMIT => {}
                    known => return Ok(known),
                }
            }
            match self.more().await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(Refusal::RemoteClose),
            }
        }
    }

    /// Sees more bytes; `false`: there are none to come.
    async fn more(&mut self) -> io::Result<bool> {
        if let (true, true, Io::Tcp(stream)) = (self.peeking, self.seen.is_empty(), &self.io) {
            let mut look = vec![0; LOOK];
            let count = stream.peek(&mut look).await?;
            self.seen.extend_from_slice(&look[..count]);
            return Ok(count > 0);
        }
        if self.peeking {
            // What was peeked at is read again, from its start.
            self.peeking = false;
            self.seen.clear();
            self.seen.reserve(LOOK);
            let first = self.io.read_buf(&mut self.seen).await?;
            return Ok(first > 0);
        }
        self.seen.reserve(LOOK);
        Ok(self.io.read_buf(&mut self.seen).await? > 0)
    }

    /// Takes `count` seen bytes off the stream.
    async fn consume(&mut self, count: usize) -> Result<(), Refusal> {
        if !self.peeking {
            self.seen.advance(count);
            return Ok(());
        }
        let mut taken = vec![0; count];
        // They are in the socket's buffer already: this does not wait.
        self.io.read_exact(&mut taken).await.map_err(|_| Refusal::RemoteClose)?;
        self.seen.clear();
        Ok(())
    }
}

/// How many bytes it took to know: those of a hello's record, or of a record's head where there is no hello.
fn looked_at<T>(seen: &[u8], found: &Detection<T>) -> u64 {
    const HEAD: usize = 5;
    let needed = match (found, seen.get(3..HEAD)) {
        (Detection::Found(_), Some(&[high, low])) => HEAD + usize::from(u16::from_be_bytes([high, low])),
        _ => HEAD,
    };
    needed.min(seen.len()) as u64
}
