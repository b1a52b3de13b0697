//! A whole proxy without sockets: the real connection manager and TCP proxy between two in-memory streams, on the caller's runtime.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use remora::config::{BuildContext, Problems};
use remora::listener::active::{ActiveListener, ListenerState, Shared};
use remora::listener::balance::{ConnectionLimit, Loads};
use remora::listener::connection::serve;
use remora::listener::stats::{InspectorStats, Scope};
use remora::runtime::drain::Drain;
use remora::runtime::internal::{self, Listening};
use remora::runtime::io::{Address, Io};
use remora::runtime::spawn::spawn;
use remora::snapshot::build::Builder;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What the HTTP backend answers.
pub const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: peer\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello, mesh\n";

/// Bytes in flight per direction.
const BUFFER: usize = 64 * 1024;

/// One listener and one cluster whose host is an internal listener.
pub struct Proxy {
    shared: Arc<Shared>,
    listener: Arc<ActiveListener>,
    _backend: Listening,
}

impl Proxy {
    /// Compiles `listener` and `cluster`; connections to the internal name `backend` are served by `answer`.
    ///
    /// # Errors
    /// What is wrong with either of them, or `backend` is taken.
    pub fn new<F, S>(listener: &[u8], cluster: Bytes, backend: &str, answer: F) -> Result<Self, Problems>
    where
        F: Fn(DuplexStream) -> S + Send + Sync + 'static,
        S: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let context = Arc::new(BuildContext::default());
        let mut builder = Builder::new(context.clone());
        builder.add_cluster(cluster)?;
        builder.add_listener(listener, false)?;
        let snapshot = builder.publish();
        let config = snapshot.listeners.iter().next().map(|(_, config)| config.clone());
        let config = config.ok_or_else(|| Problems::one("", "no listener"))?;
        let accept = move |stream| drop(spawn("backend", answer(stream)));
        let listening = internal::listen(backend, Arc::new(accept));
        Ok(Self {
            shared: Arc::new(Shared::new(InspectorStats::new(&context.stats))),
            listener: Arc::new(ActiveListener {
                name: config.name.clone(),
                addresses: Vec::new(),
                configured: Vec::new(),
                bind_to_port: false,
                reuse_port: true,
                state: ArcSwap::from_pointee(ListenerState::new(&config, None)),
                stats: Scope::new(&context.stats, None, None, 1),
                loads: Loads::default(),
                limit: ConnectionLimit::default(),
                stop: Drain::new().0,
                sockets: Default::default(),
            }),
            _backend: listening.map_err(|error| Problems::one(backend, error.to_string()))?,
        })
    }

    /// A connection to the listener; served on the current runtime.
    pub fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let local = Address::Ip(([127, 0, 0, 1], 80).into());
        let remote = Address::Ip(([127, 0, 0, 1], 50_000).into());
        let serving = serve(
            self.shared.clone(),
            self.listener.clone(),
            Io::Duplex(theirs),
            local,
            remote,
        );
        drop(spawn("connection", serving));
        ours
    }
}

/// Answers each request (none has a body) with [`RESPONSE`].
///
/// # Errors
/// The stream's.
pub async fn answer_http(mut stream: DuplexStream) -> std::io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    while stream.read_buf(&mut buffer).await? > 0 {
        while let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            buffer.drain(..end + 4);
            stream.write_all(RESPONSE).await?;
        }
    }
    Ok(())
}

/// Sends back what it gets.
///
/// # Errors
/// The stream's.
pub async fn echo(mut stream: DuplexStream) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}
