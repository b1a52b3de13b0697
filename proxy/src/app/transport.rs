//! gRPC to a control plane through one of our own clusters: TLS, pipes and balancing as the cluster says.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;
use tower::{BoxError, Service};

use crate::cluster::PickContext;
use crate::runtime::spawn::spawn;
use crate::snapshot::SnapshotCell;
use crate::tcp::connect::connect;

/// PINGs that find a half-open connection, where the cluster has no `connection_keepalive`: Envoy sends none then, and its silence means
/// stale configuration for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long an answer to one may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Flow-control window of a stream, bytes: a push of tens of MB should not crawl.
const WINDOW: u32 = 4 << 20;

/// A tower service that carries gRPC over the cluster called `cluster`.
#[derive(Clone)]
pub struct ClusterTransport {
    snapshot: Arc<SnapshotCell>,
    cluster: Arc<str>,
    connection: Arc<Mutex<Option<SendRequest<Body>>>>,
}

impl ClusterTransport {
    pub fn new(snapshot: Arc<SnapshotCell>, cluster: impl Into<Arc<str>>) -> Self {
        Self {
            snapshot,
            cluster: cluster.into(),
            connection: Arc::default(),
        }
    }

    async fn sender(&self) -> Result<SendRequest<Body>, BoxError> {
        let open = self.connection.lock().clone().filter(|sender| !sender.is_closed());
        if let Some(sender) = open {
            return Ok(sender);
        }
        let cluster = self.snapshot.load().cluster(&self.cluster);
        let cluster = cluster.ok_or_else(|| unavailable(format!("there is no cluster '{}'", self.cluster)))?;
        let host = cluster.pick(&PickContext::default());
        let host = host.map_err(|_| unavailable(format!("cluster '{}' has no healthy host", self.cluster)))?;
        let failed = |reason: &str| unavailable(format!("cluster '{}', {}: {reason}", self.cluster, host.address));
        let connected = connect(&cluster, &host)
            .await
            .map_err(|failure| failed(failure.transport_reason().unwrap_or_else(|| failure.details())))?;
        let (sender, connection) = http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(cluster.http.keepalive_interval.unwrap_or(KEEPALIVE))
            .keep_alive_timeout(cluster.http.keepalive_timeout.unwrap_or(KEEPALIVE_TIMEOUT))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(TokioIo::new(connected.io))
            .await
            .map_err(|error| failed(&error.to_string()))?;
        spawn("control plane connection", async move {
            // How it ends shows on its streams.
            let _ = connection.await;
        });
        *self.connection.lock() = Some(sender.clone());
        Ok(sender)
    }
}

impl Service<Request<Body>> for ClusterTransport {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let mut sender = this.sender().await?;
            let broken = |error: hyper::Error| {
                // The outermost error says little: "connection error".
                let error: &(dyn std::error::Error + 'static) = &error;
                let causes = std::iter::successors(Some(error), |error| error.source());
                let text: Vec<_> = causes.map(ToString::to_string).collect();
                unavailable(format!("cluster '{}': {}", this.cluster, text.join(": ")))
            };
            sender.ready().await.map_err(broken)?;
            sender.send_request(request).await.map_err(broken)
        })
    }
}

/// An error that keeps its code and text on the way through the gRPC client.
fn unavailable(reason: String) -> BoxError {
    Box::new(Status::unavailable(reason))
}
