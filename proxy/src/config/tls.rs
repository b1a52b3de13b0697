//! Transport sockets → [`DownstreamTls`] and [`UpstreamTls`], and the secrets they name.

use std::sync::Arc;

use pb::common_tls_context::ValidationContextType;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use remora_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use remora_proto::pb::google::protobuf::Any;

use super::route::Under;
use super::source::ConfigSource;
use super::{BuildContext, Compiled, Problems, gather};
use crate::tcp::proxy_header::ProxyHeader;
use crate::tls::{DownstreamTls, UpstreamSocket, UpstreamTls};

const DOWNSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const INTERNAL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
const PROXY_PROTOCOL: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
const RAW_BUFFER: &str = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// A listener side's transport socket; `None` is plaintext.
///
/// # Errors
/// An unknown kind of socket, or what [`DownstreamTls::compile`] finds.
pub fn downstream(socket: &TransportSocket, cx: &BuildContext) -> Compiled<Option<Arc<DownstreamTls>>> {
    let Some(any) = typed_config(socket, DOWNSTREAM)? else {
        return Ok(None);
    };
    let context: pb::DownstreamTlsContext = decode(any)?;
    DownstreamTls::compile(&context, cx)
        .map(Some)
        .map_err(|problems| problems.under("typed_config"))
}

/// A cluster side's transport socket.
///
/// # Errors
/// An unknown kind of socket, or what [`UpstreamTls::compile`] finds.
pub fn upstream(socket: &TransportSocket, cx: &BuildContext) -> Compiled<UpstreamSocket> {
    if let Some(outer) = proxy_protocol(socket)? {
        let config = outer.config.unwrap_or_default();
        let missing = || Problems::one("", "required");
        let inner = outer.transport_socket.as_ref().ok_or_else(missing);
        gather! {
            let header = ProxyHeader::compile(&config).under("typed_config.config");
            let inner = inner.and_then(|inner| upstream(inner, cx)).under("typed_config.transport_socket");
        }
        return Ok(UpstreamSocket {
            header: Some(Arc::new(header)),
            ..inner
        });
    }
    if is_internal(socket) {
        return Ok(UpstreamSocket {
            unusable: true,
            ..UpstreamSocket::default()
        });
    }
    let Some(any) = typed_config(socket, UPSTREAM)? else {
        return Ok(UpstreamSocket::default());
    };
    let context: pb::UpstreamTlsContext = decode(any)?;
    let tls = UpstreamTls::compile(&context, cx).map_err(|problems| problems.under("typed_config"))?;
    Ok(UpstreamSocket {
        tls: Some(tls),
        ..UpstreamSocket::default()
    })
}

/// A way into an internal listener, which the tables refuse unless the operator wants warnings.
fn is_internal(socket: &TransportSocket) -> bool {
    matches!(&socket.config_type, Some(transport_socket::ConfigType::TypedConfig(any)) if any.type_url == INTERNAL)
}

/// The socket's configuration if it is one that sends a PROXY header and wraps another.
fn proxy_protocol(socket: &TransportSocket) -> Compiled<Option<ProxyProtocolUpstreamTransport>> {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) if any.type_url == PROXY_PROTOCOL => decode(any).map(Some),
        _ => Ok(None),
    }
}

/// One secret that a transport socket needs before it can do handshakes.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretRef {
    pub name: String,
    /// `None`: `static_resources` of the bootstrap.
    pub source: Option<ConfigSource>,
    /// Where in the resource it is named, for whoever finds that there is none.
    pub path: String,
}

impl SecretRef {
    /// Whether both mean one secret.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.source == other.source
    }
}

/// The secrets of a transport socket, either side; none for sockets that are not TLS.
///
/// # Errors
/// Bytes that do not decode, or a source that does not exist here.
pub fn secret_refs(socket: &TransportSocket) -> Compiled<Vec<SecretRef>> {
    if let Some(inner) = proxy_protocol(socket)?.and_then(|outer| outer.transport_socket) {
        return secret_refs(&inner);
    }
    let Some(transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Ok(Vec::new());
    };
    let common = match any.type_url.as_str() {
        DOWNSTREAM => decode::<pb::DownstreamTlsContext>(any)?.common_tls_context,
        UPSTREAM => decode::<pb::UpstreamTlsContext>(any)?.common_tls_context,
        _ => None,
    };
    let Some(common) = common else {
        return Ok(Vec::new());
    };
    let mut configs: Vec<&pb::SdsSecretConfig> = common.tls_certificate_sds_secret_configs.iter().collect();
    match &common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => configs.push(secret),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            configs.extend(&combined.validation_context_sds_secret_config);
        }
        _ => {}
    }
    let mut refs = Vec::new();
    for config in configs {
        let source = config.sds_config.as_ref().map(ConfigSource::compile).transpose();
        refs.push(SecretRef {
            name: config.name.clone(),
            source: source.map_err(|problems| problems.under("typed_config.common_tls_context.sds_config"))?,
            path: "transport_socket.typed_config.common_tls_context".to_owned(),
        });
    }
    Ok(refs)
}

/// The socket's configuration if it is of type `wanted`; `None` for plaintext.
fn typed_config<'a>(socket: &'a TransportSocket, wanted: &str) -> Compiled<Option<&'a Any>> {
    match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) if any.type_url == wanted => Ok(Some(any)),
        Some(transport_socket::ConfigType::TypedConfig(any)) if any.type_url == RAW_BUFFER => Ok(None),
        Some(transport_socket::ConfigType::TypedConfig(any)) => Err(Problems::one(
            "typed_config",
            format!("transport socket {} is not supported here", any.type_url),
        )),
        // Found by its type, never by its name: the name alone is of no socket, `envoy.transport_sockets.raw_buffer` neither.
        None => Err(Problems::one("typed_config", "required")),
    }
}

fn decode<M: Message + Default>(any: &Any) -> Compiled<M> {
    M::decode(any.value.as_slice()).map_err(|error| Problems::one("typed_config", error.to_string()))
}
