//! How streams are opened: over any tower service that carries gRPC, a tonic channel to begin with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::stream::{self, Events, Outgoing, RawCodec};

/// Opens gRPC streams of one control plane.
pub trait Connect: Send + Sync {
    /// Starts a bidirectional call of the rpc at `path`. Must not wait for response headers before it sends: a server may wait for
    /// the first request.
    fn open(&self, path: &'static str, outgoing: Outgoing) -> Events;

    /// What messages call the control plane.
    fn target(&self) -> &str {
        "the control plane"
    }
}

impl<C: Connect + ?Sized> Connect for Arc<C> {
    fn open(&self, path: &'static str, outgoing: Outgoing) -> Events {
        (**self).open(path, outgoing)
    }

    fn target(&self) -> &str {
        (**self).target()
    }
}

/// [`Connect`] over a cloneable tower service: `Service<http::Request<tonic::body::Body>>`.
#[derive(Clone, Debug)]
pub struct GrpcConnector<S> {
    service: S,
    origin: Uri,
    metadata: MetadataMap,
    target: Option<Arc<str>>,
}

impl<S> GrpcConnector<S> {
    pub fn new(service: S) -> Self {
        Self {
            service,
            origin: Uri::default(),
            metadata: MetadataMap::new(),
            target: None,
        }
    }

    /// What messages call the control plane (Envoy: the cluster's name).
    pub fn called(mut self, target: impl Into<Arc<str>>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// Scheme and authority of the requests, where the service does not set them (`EnvoyGrpc.authority`).
    pub fn origin(mut self, origin: Uri) -> Self {
        self.origin = origin;
        self
    }

    /// `GrpcService.initial_metadata`.
    pub fn metadata(mut self, metadata: MetadataMap) -> Self {
        self.metadata = metadata;
        self
    }
}

impl<S> Connect for GrpcConnector<S>
where
    S: GrpcService<Body> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <S::ResponseBody as http_body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn open(&self, path: &'static str, outgoing: Outgoing) -> Events {
        let mut grpc = Grpc::with_origin(self.service.clone(), self.origin.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let mut request = Request::new(stream::requests(outgoing));
        *request.metadata_mut() = self.metadata.clone();
        stream::events(async move {
            if path.is_empty() {
                return Err(Status::unimplemented("the type has no such rpc"));
            }
            let error = |error: S::Error| Status::from_error(error.into());
            grpc.ready().await.map_err(error)?;
            let response = grpc
                .streaming(request, PathAndQuery::from_static(path), RawCodec)
                .await?;
            Ok(response.into_inner())
        })
    }

    fn target(&self) -> &str {
        self.target.as_deref().unwrap_or("the control plane")
    }
}

/// A channel that connects on first use. `target` is `http://host:port`, or `unix:/path` for a unix socket. HTTP/2 and TCP
/// keepalive are on: a half-open stream would mean stale configuration for ever.
///
/// # Errors
/// `target` is not such an address.
pub fn channel(target: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = match target.strip_prefix("unix:") {
        Some(path) => Endpoint::from_shared(format!("unix://{}", path.trim_start_matches("//")))?,
        None => Endpoint::from_shared(target.to_owned())?,
    };
    let endpoint = endpoint
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024);
    Ok(endpoint.connect_lazy())
}
