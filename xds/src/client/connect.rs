//! How streams are opened: over any tower service that carries gRPC, a tonic channel to begin with.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri, Version};
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::stream::{self, Events, Outgoing, Requests};

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

impl<S> GrpcConnector<S> {
    /// The call of the rpc at `path`.
    fn request(&self, path: &'static str, requests: Requests) -> Result<http::Request<Body>, Status> {
        if path.is_empty() {
            return Err(Status::unimplemented("the type has no such rpc"));
        }
        let mut uri = self.origin.clone().into_parts();
        uri.path_and_query = Some(PathAndQuery::from_static(path));
        let uri = Uri::from_parts(uri).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut request = http::Request::new(Body::new(requests));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.metadata.clone().into_headers();
        request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        let grpc = HeaderValue::from_static("application/grpc");
        request.headers_mut().insert(CONTENT_TYPE, grpc);
        Ok(request)
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
        let mut service = self.service.clone();
        let (requests, begun) = Requests::new(outgoing);
        let request = self.request(path, requests);
        let call = async move {
            let request = request?;
            let error = |error: S::Error| Status::from_error(error.into());
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(error)?;
            service.call(request).await.map_err(error)
        };
        stream::events(call, begun)
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
