//! gRPC to a control plane through one of our own clusters: TLS, pipes and balancing as the cluster says.

mod counted;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::select;
use http::{HeaderMap, Request, Response, Uri};
use http_body_util::BodyExt;
use tokio::sync::Mutex;
use tonic::Status;
use tonic::body::Body as TonicBody;
use tower::{BoxError, Service};

use crate::cluster::{Cluster, PickContext};
use crate::http::body::{Body, BodyError};
use crate::http::codec::h2::client::ClientConnection;
use crate::http::codec::h2::{H2Options, KeepaliveOptions};
use crate::http::failure::Failure;
use crate::pool::PeerName;
use crate::runtime::clock;
use crate::snapshot::SnapshotCell;
use crate::tcp::connect::{Overrides, connect_with};
use counted::{Counted, Pending};

/// PINGs that find a half-open connection, where the cluster has no `connection_keepalive`: Envoy sends none then, and its silence means
/// stale configuration for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long an answer to one may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control window of a stream, bytes: a push of tens of MB should not crawl.
const WINDOW: u32 = 4 << 20;

/// Where gRPC tells how a call has ended, and that it ended well.
const STATUS: &str = "grpc-status";
const OK: &str = "0";

/// A tower service that carries gRPC over the cluster called `cluster`: over one connection, or as many as the peer's limit of streams makes
/// necessary.
#[derive(Clone)]
pub struct ClusterTransport {
    snapshot: Arc<SnapshotCell>,
    cluster: Arc<str>,
    /// Held while one is opened: who comes meanwhile shares it.
    connections: Arc<Mutex<Vec<(ClientConnection, Arc<Counted>)>>>,
}

impl ClusterTransport {
    pub fn new(snapshot: Arc<SnapshotCell>, cluster: impl Into<Arc<str>>) -> Self {
        Self {
            snapshot,
            cluster: cluster.into(),
            connections: Arc::default(),
        }
    }

    /// Sends over a connection that has room, opened if need be; completes with the response's head.
    async fn send(&self, request: Request<Body>) -> Result<Response<Answer>, BoxError> {
        let mut connections = self.connections.lock().await;
        connections.retain(|(connection, _)| connection.is_available());
        let found = connections.iter().find(|(connection, _)| connection.can_take_stream());
        let (connection, counted) = match found.cloned() {
            Some(found) => found,
            None => {
                let opened = self.open(request.headers(), request.uri()).await?;
                connections.push(opened.clone());
                opened
            }
        };
        counted.request();
        let mut sending = pin!(connection.send(request, None));
        // The stream takes its place in the first poll; who comes next sees it taken.
        let sent = match futures_util::poll!(&mut sending) {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                drop(connections);
                sending.await
            }
        };
        match sent {
            Ok(response) => {
                counted.answered(response.status().as_u16());
                // One that consists of trailers alone is over.
                let success = response.headers().get(STATUS).map(|code| code == OK);
                success.iter().for_each(|success| counted.ended(*success));
                Ok(response.map(|body| Answer {
                    body,
                    cluster: self.cluster.clone(),
                    counted: Some(counted).filter(|_| success.is_none()),
                }))
            }
            Err(error) => {
                counted.failed(&error.failure);
                let reason = format!("cluster '{}': {}", self.cluster, error.failure.details());
                Err(status(&error.failure, reason).into())
            }
        }
    }

    /// All requests go to one service: what the first calls its upstream, they all do.
    async fn open(&self, headers: &HeaderMap, uri: &Uri) -> Result<(ClientConnection, Arc<Counted>), BoxError> {
        let cluster = self.snapshot.load().cluster(&self.cluster);
        let cluster = cluster.ok_or_else(|| unavailable(format!("there is no cluster '{}'", self.cluster)))?;
        let host = cluster.pick(&PickContext::default());
        let host = host.map_err(|_| unavailable(format!("cluster '{}' has no healthy host", self.cluster)))?;
        let failed = |failure: Failure| {
            let reason = failure
                .transport_reason()
                .unwrap_or_else(|| failure.details())
                .to_owned();
            unavailable(format!("cluster '{}', {}: {reason}", self.cluster, host.address))
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let name = PeerName::of(&cluster.http, headers, authority.as_bytes());
        let mut overrides = Overrides::default();
        if let Some(name) = &name {
            name.ask(&cluster.http, &mut overrides);
        }
        let pending = Pending::new(cluster.clone(), host.clone());
        let connected = match connect_with(&cluster, &host, overrides).await {
            Ok(connected) => connected,
            Err(failure) => {
                pending.failed(&failure);
                return Err(failed(failure));
            }
        };
        let counted = pending.connected();
        let io = connected.io.metered(counted.clone());
        let connection = ClientConnection::handshake_with(io, &options(&cluster), Some(counted.clone())).await;
        let connection = connection.map_err(failed)?;
        // Without the peer's SETTINGS nobody knows how many streams it takes. A peer that keeps them to itself is used all the same.
        select(pin!(connection.settled()), pin!(clock::sleep(cluster.connect_timeout))).await;
        Ok((connection, counted))
    }
}

fn options(cluster: &Cluster) -> H2Options {
    let keepalive = KeepaliveOptions {
        interval: cluster.http.keepalive_interval.unwrap_or(KEEPALIVE),
        timeout: cluster.http.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT),
    };
    H2Options {
        initial_stream_window: WINDOW,
        initial_connection_window: WINDOW,
        keepalive: Some(keepalive),
        stream_idle: None,
        ..cluster.http.h2_options()
    }
}

impl Service<Request<TonicBody>> for ClusterTransport {
    type Response = Response<Answer>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<TonicBody>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let request = request.map(|body| {
                let body = body.map_err(|status| BodyError::Other(status.message().to_owned()));
                Body::Boxed(Box::pin(body))
            });
            this.send(request).await
        })
    }
}

/// A response's body whose failures keep their code and text on the way through the gRPC client.
pub struct Answer {
    body: Body,
    cluster: Arc<str>,
    /// Until it has ended.
    counted: Option<Arc<Counted>>,
}

impl Answer {
    /// Counts how it has ended, if it has.
    fn count(&mut self, frame: Option<&Result<http_body::Frame<bytes::Bytes>, BodyError>>) {
        let success = match frame {
            Some(Ok(frame)) => {
                let Some(trailers) = frame.trailers_ref() else { return };
                trailers.get(STATUS).is_some_and(|code| code == OK)
            }
            Some(Err(_)) => {
                self.counted.take().iter().for_each(|counted| counted.broke());
                return;
            }
            None => false,
        };
        self.counted.take().iter().for_each(|counted| counted.ended(success));
    }
}

impl http_body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.count(frame.as_ref());
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                let reason = format!("cluster '{}': {error}", self.cluster);
                match &error {
                    BodyError::Failed(failure) => status(failure, reason),
                    BodyError::Other(_) => Status::internal(reason),
                }
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// As Envoy tells its own gRPC clients: a stream that was reset is an internal error, one that never was is unavailable.
fn status(failure: &Failure, reason: String) -> Status {
    match failure {
        Failure::RemoteReset | Failure::ProtocolError(_) => Status::internal(reason),
        _ => Status::unavailable(reason),
    }
}

fn unavailable(reason: String) -> BoxError {
    Status::unavailable(reason).into()
}
