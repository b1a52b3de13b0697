//! The listening side: binds, accepts HTTP/2 connections, and turns each xDS method call into a stream of `stream.rs`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::grpc::{self, ReplyBody, Requests, code};
use crate::handle::Handle;
use crate::script::{Manner, Script};
use crate::session::delta::DeltaSession;
use crate::session::sotw::SotwSession;
use crate::session::{Session, StreamInfo};
use crate::shared::Shared;
use crate::store::{Snapshot, Store};
use crate::stream::Stream;
use crate::task;
use crate::transcript::{Entry, What};
use crate::types::{self, Method};

/// Where a control plane listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// TCP; port 0 picks a free one.
    Tcp(SocketAddr),
    /// A unix socket; a file left behind at the path is removed first.
    Unix(PathBuf),
}

/// A running control plane. Dropping it stops the server; [`ControlPlane::shutdown`] also waits until the port is free again.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use control_plane_mock::{ControlPlane, resources};
/// let control_plane = ControlPlane::start().await?;
/// control_plane.push(resources::cluster_static("echo", [("127.0.0.1", 8080)]));
/// println!("point a sidecar at {}", control_plane.listen());
/// control_plane.shutdown().await;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct ControlPlane {
    handle: Handle,
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
}

/// Settings of a control plane that is about to start.
#[derive(Debug)]
pub struct Builder {
    listen: Listen,
    store: Store,
    script: Script,
    identifier: String,
}

impl ControlPlane {
    /// Starts on 127.0.0.1 with a free port and nothing to serve.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub async fn start() -> io::Result<Self> {
        Self::builder().start().await
    }

    /// Settings for one that starts otherwise.
    pub fn builder() -> Builder {
        Builder {
            listen: Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            store: Store::default(),
            script: Script::default(),
            identifier: "control-plane-mock".to_owned(),
        }
    }

    /// A handle to push and to observe through, which does not keep the server alive.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Closes every connection and waits until nothing listens any more; the same address can be bound again at once.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            // It only ends early by a panic, and then nothing listens either.
            let _ = accepting.await;
        }
    }

    /// Kills the server and starts another one at the same address with the same resources (and none of the script or transcript), as when
    /// a control plane crashes and comes back.
    ///
    /// # Errors
    /// The address was taken by another process in between.
    pub async fn restart(self) -> io::Result<Self> {
        let builder = Self::builder().listen(self.listen().clone()).state(self.store());
        self.shutdown().await;
        builder.start().await
    }
}

impl Deref for ControlPlane {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Builder {
    /// Where to listen.
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen = listen;
        self
    }

    /// Listens on this TCP address.
    pub fn tcp(self, address: SocketAddr) -> Self {
        self.listen(Listen::Tcp(address))
    }

    /// Listens on this unix socket.
    pub fn unix(self, path: impl AsRef<Path>) -> Self {
        self.listen(Listen::Unix(path.as_ref().to_owned()))
    }

    /// Serves these resources from the start.
    pub fn snapshot(mut self, snapshot: &Snapshot) -> Self {
        self.store.replace(snapshot);
        self
    }

    /// Goes on from the state of another control plane, versions included.
    pub fn state(mut self, store: Store) -> Self {
        self.store = store;
        self
    }

    /// Which implementation to behave like.
    pub fn manner(mut self, manner: Manner) -> Self {
        self.script.manner = manner;
        self
    }

    /// Takes this many streams at once on a connection.
    pub fn max_streams(mut self, max: u32) -> Self {
        self.script.max_streams = Some(max);
        self
    }

    /// Starts with this script.
    pub fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Value of `control_plane.identifier`; empty for none.
    pub fn identifier(mut self, identifier: &str) -> Self {
        identifier.clone_into(&mut self.identifier);
        self
    }

    /// Binds and starts serving on the current tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub async fn start(self) -> io::Result<ControlPlane> {
        let (listener, listen) = bind(self.listen)?;
        let shared = Arc::new(Shared::new(self.store, self.script, self.identifier));
        let (stop, stopped) = watch::channel(false);
        let accepting = task::spawn(accept_loop(listener, Arc::clone(&shared), stopped));
        let handle = Handle::new(shared, listen);
        Ok(ControlPlane {
            handle,
            stop,
            accepting: Some(accepting),
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Someone else may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(listen: Listen) -> io::Result<(Acceptor, Listen)> {
    match listen {
        Listen::Tcp(address) => {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()?
            } else {
                TcpSocket::new_v6()?
            };
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(1024)?;
            let bound = listener.local_addr()?;
            Ok((Acceptor::Tcp(listener), Listen::Tcp(bound)))
        }
        Listen::Unix(path) => {
            if path.exists() {
                std::fs::remove_file(&path)?;
            }
            let listener = UnixListener::bind(&path)?;
            Ok((Acceptor::Unix(listener, path.clone()), Listen::Unix(path)))
        }
    }
}

async fn accept_loop(acceptor: Acceptor, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            accepted = accept(&acceptor, &shared) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(Some(connection)) => {
                connections.spawn(connection);
            }
            Ok(None) => {}
            // Out of descriptors, or a peer that left before it was accepted: neither ends the server.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    connections.shutdown().await;
}

type Connection = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn accept(acceptor: &Acceptor, shared: &Arc<Shared>) -> io::Result<Option<Connection>> {
    let refused = || shared.lock().script.refuse_connections;
    match acceptor {
        Acceptor::Tcp(listener) => {
            let (socket, _) = listener.accept().await?;
            // Only latency is lost where the option is refused.
            let _ = socket.set_nodelay(true);
            Ok((!refused()).then(|| -> Connection { Box::pin(serve(socket, Arc::clone(shared))) }))
        }
        Acceptor::Unix(listener, _) => {
            let (socket, _) = listener.accept().await?;
            Ok((!refused()).then(|| -> Connection { Box::pin(serve(socket, Arc::clone(shared))) }))
        }
    }
}

async fn serve<T>(socket: T, shared: Arc<Shared>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let kill = Arc::new(Notify::new());
    let max_streams = shared.lock().script.max_streams;
    let for_calls = Arc::clone(&kill);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = call(request, &shared, &for_calls);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    if let Some(max) = max_streams {
        server.max_concurrent_streams(max);
    }
    let connection = server.serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        // How a connection ended is of no interest: each of its streams says so in the transcript.
        _ = connection => {}
        () = kill.notified() => {}
    }
}

fn call(request: Request<Incoming>, shared: &Arc<Shared>, kill: &Arc<Notify>) -> Response<ReplyBody> {
    let Some(method) = types::method(request.uri().path()) else {
        return grpc::status_only(code::UNIMPLEMENTED, "not an xDS method");
    };
    let mut inner = shared.lock();
    if let Some(status) = inner.script.refuse_streams {
        return grpc::status_only(status, "scripted");
    }
    if inner.script.only_delta.is_some_and(|delta| delta != method.delta) {
        return grpc::status_only(code::UNIMPLEMENTED, "this variant is switched off");
    }
    inner.streams += 1;
    let id = inner.streams;
    let commands_seen = inner.script.commands.len();
    let mut entry = Entry::new(id, method.delta, What::Open, "");
    request.uri().path().clone_into(&mut entry.note);
    inner.transcript.record(entry);
    drop(inner);
    shared.announce_record();
    let info = StreamInfo {
        id,
        only: method.only,
        identifier: shared.identifier.clone(),
    };
    let requests = Requests::new(request.into_body());
    if method.delta {
        open(
            DeltaSession::new(info),
            id,
            method,
            commands_seen,
            requests,
            shared,
            kill,
        )
    } else {
        open(
            SotwSession::new(info),
            id,
            method,
            commands_seen,
            requests,
            shared,
            kill,
        )
    }
}

fn open<S: Session>(
    session: S,
    id: u64,
    method: Method,
    commands_seen: usize,
    requests: Requests,
    shared: &Arc<Shared>,
    kill: &Arc<Notify>,
) -> Response<ReplyBody> {
    let (pieces, receiver) = mpsc::channel(16);
    let stream = Stream {
        session,
        shared: Arc::clone(shared),
        id,
        delta: method.delta,
        pieces,
        kill_connection: Arc::clone(kill),
        commands_seen,
        holds: BTreeMap::new(),
        responses: 0,
    };
    task::spawn(stream.run(requests));
    grpc::streaming(ReplyBody::channel(receiver))
}
