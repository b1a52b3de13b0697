//! `tunneling_config`: the connection's bytes as the body of an HTTP request (CONNECT, or POST), over the cluster's pools.
//!
//! Between the copy and the request stands a stream in memory: the copy sees an upstream like any other, the request a body. [`Driver`] carries
//! the answer's bytes back.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body::Body as _;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::TunnelingConfig;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::Upstream;
use super::lease::Lease;
use crate::cluster::{Cluster, Host};
use crate::config::route::{Under, each, header_name, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::http::body::Body;
use crate::http::codec::Head;
use crate::http::exchange::{DynamicMetadata, Object, ObjectState, Protocol};
use crate::http::failure::Failure;
use crate::http::header_policy::X_REQUEST_ID;
use crate::http::header_policy::compile::uuid_config;
use crate::http::header_policy::mutations::Mutations;
use crate::http::header_policy::request_id::generate;
use crate::http::upgrade::reader_body;
use crate::pool::{self, Asked};
use crate::runtime::io::Io;
use crate::telemetry::access_log::known_formatter;
use crate::telemetry::format::{Format, LogView, TcpRecord};

/// Completes when all bytes of both directions are delivered, or when the tunnel breaks.
pub(super) type Driver = Pin<Box<dyn Future<Output = TunnelEnd> + Send>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TunnelEnd {
    Delivered,
    Broken,
}

/// Keys in the filter state.
const RESPONSE_HEADERS: &str = "envoy.tcp_proxy.propagate_response_headers";
const RESPONSE_TRAILERS: &str = "envoy.tcp_proxy.propagate_response_trailers";
/// The namespace of request ids.
const METADATA: &str = "envoy.filters.network.tcp_proxy";
/// Bytes in memory per direction.
const BUFFER: usize = 64 * 1024;

/// A compiled `TunnelingConfig`.
pub(super) struct Tunneling {
    hostname: Format,
    method: Method,
    target: Uri,
    headers: Mutations,
    request_id: Option<RequestId>,
    /// `propagate_response_headers`
    keeps_headers: bool,
    /// `propagate_response_trailers`
    keeps_trailers: bool,
}

/// `request_id_extension`: each attempt has an id.
struct RequestId {
    header: HeaderName,
    metadata_key: String,
}

impl RequestId {
    fn compile(extension: &RequestIdExtension, config: &TunnelingConfig) -> Compiled<Self> {
        uuid_config(extension)?;
        let or = |text: &str, default: &str| if text.is_empty() { default } else { text }.to_owned();
        Ok(Self {
            header: header_name(
                "request_id_header",
                &or(&config.request_id_header, X_REQUEST_ID.as_str()),
            )?,
            metadata_key: or(&config.request_id_metadata_key, "tunnel_request_id"),
        })
    }
}

impl Tunneling {
    pub(super) fn compile(config: &TunnelingConfig) -> Compiled<Self> {
        refuse("hostname", config.hostname.is_empty(), "required")?;
        refuse(
            "post_path",
            !config.post_path.is_empty() && !config.use_post,
            "can't set a post path when POST method isn't used",
        )?;
        each("formatters", &config.formatters, known_formatter)?;
        let path = if config.post_path.is_empty() {
            "/"
        } else {
            &config.post_path
        };
        let target = path.parse().map_err(|_| Problems::one("post_path", "not a path"))?;
        Ok(Self {
            hostname: Format::text(&config.hostname).under("hostname")?,
            method: if config.use_post { Method::POST } else { Method::CONNECT },
            target,
            headers: Mutations::compile(("headers_to_add", ""), &config.headers_to_add, &[])?,
            request_id: optional(
                "request_id_extension",
                config.request_id_extension.as_ref(),
                |extension| RequestId::compile(extension, config),
            )?,
            keeps_headers: config.propagate_response_headers,
            keeps_trailers: config.propagate_response_trailers,
        })
    }

    /// One attempt: a request to `host`, answered by 2xx.
    pub(super) async fn open(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        record: &mut TcpRecord,
    ) -> Result<Upstream, Failure> {
        let headers = self.headers(record)?;
        let client = pool::Client::of(&record.connection);
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (lease, _) = pool::lease(cluster, host, false, Protocol::Http11, Asked::default(), client).await?;
        record.upstream.local = lease.origin().local.clone();
        record.upstream.tls = lease.origin().tls.clone();
        record.upstream.protocol = Some(lease.protocol());
        let active = Lease::request(cluster, host);
        let (reader, writer) = tokio::io::split(theirs);
        let head = Head {
            method: &self.method,
            uri: &self.target,
            headers: &headers,
            interim: None,
            names: None,
            meter: None,
        };
        let (end, said) = oneshot::channel();
        let sent = lease.send(head, reader_body(Said { reader, _end: end })).await;
        let response = sent.map_err(|error| error.failure)?;
        if self.keeps_headers {
            keep(record, RESPONSE_HEADERS, Some(response.status()), response.headers());
        }
        // Envoy takes 200 for a CONNECT, and any success for a POST.
        if !response.status().is_success() {
            let reason = format!("tunnel_response:{}", response.status().as_u16());
            return Err(Failure::ConnectFailure(Some(reason)));
        }
        let (trailers, kept) = match self.keeps_trailers {
            true => Some(oneshot::channel()).unzip(),
            false => (None, None),
        };
        Ok(Upstream {
            io: Io::Duplex(ours),
            lease: active,
            driver: Some(Box::pin(drive(response.into_body(), writer, said, trailers))),
            trailers: kept,
        })
    }

    fn headers(&self, record: &mut TcpRecord) -> Result<HeaderMap, Failure> {
        let id = self.request_id.as_ref().map(|id| (id, generate(fastrand::u128(..))));
        if let Some((RequestId { metadata_key, .. }, value)) = &id {
            let metadata = record.extensions_mut().get_or_insert_default::<DynamicMetadata>();
            metadata.set_text(METADATA, metadata_key.clone(), value.to_str().unwrap_or_default());
        }
        let mut hostname = Vec::new();
        let view = LogView::of_tcp(record);
        self.hostname.write(&view, &mut hostname);
        let host = HeaderValue::from_bytes(&hostname).map_err(|_| Failure::UpgradeFailed)?;
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host);
        if let Some((RequestId { header, .. }, value)) = id {
            headers.insert(header, value);
        }
        self.headers.apply_view(&view, &mut headers);
        Ok(headers)
    }
}

/// The answer's trailers, if they have come.
pub(super) fn keep_trailers(record: &mut TcpRecord, kept: Option<oneshot::Receiver<HeaderMap>>) {
    if let Some(trailers) = kept.and_then(|mut kept| kept.try_recv().ok()) {
        keep(record, RESPONSE_TRAILERS, None, &trailers);
    }
}

/// Puts headers into the filter state that the access log sees: as Envoy's `HeaderMap` in JSON.
fn keep(record: &mut TcpRecord, key: &'static str, status: Option<StatusCode>, headers: &HeaderMap) {
    let line = |key: &str, value: &[u8]| serde_json::json!({"key": key, "value": String::from_utf8_lossy(value)});
    let status = status.map(|status| line(":status", status.as_str().as_bytes()));
    let fields = headers
        .iter()
        .map(|(name, value)| line(name.as_str(), value.as_bytes()));
    let lines: Vec<_> = status.into_iter().chain(fields).collect();
    let object = Object {
        json: serde_json::json!({ "headers": lines }).to_string(),
        ..Object::default()
    };
    let objects = record.extensions_mut().get_or_insert_default::<ObjectState>();
    objects.0.insert(key, object);
}

/// Writes the answer's bytes to the copy's end. The request goes on while a write waits, and after the answer's end until it is `said`.
async fn drive(
    mut body: Body,
    mut writer: WriteHalf<DuplexStream>,
    said: oneshot::Receiver<()>,
    mut trailers: Option<oneshot::Sender<HeaderMap>>,
) -> TunnelEnd {
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let data = match frame {
            None => break,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    if let (Ok(found), Some(trailers)) = (frame.into_trailers(), trailers.take()) {
                        // Nobody waits for them any more: the tunnel is over.
                        let _ = trailers.send(found);
                    }
                    continue;
                }
            },
            Some(Err(_)) => return TunnelEnd::Broken,
        };
        let mut writing = std::pin::pin!(writer.write_all(&data));
        let written = poll_fn(|cx| {
            body.poll_progress(cx);
            writing.as_mut().poll(cx)
        });
        if written.await.is_err() {
            return TunnelEnd::Broken;
        }
    }
    // The copy sees the end; a failure here means that it is over.
    let _ = writer.shutdown().await;
    let mut said = std::pin::pin!(said);
    poll_fn(|cx| {
        body.poll_progress(cx);
        // An error is what it waits for: the request body, which holds the other end, is gone.
        said.as_mut().poll(cx).map(|_| TunnelEnd::Delivered)
    })
    .await
}

/// What the copy sends upstream; dropped when the request has taken all of it.
struct Said {
    reader: ReadHalf<DuplexStream>,
    _end: oneshot::Sender<()>,
}

impl AsyncRead for Said {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().reader).poll_read(cx, buf)
    }
}
