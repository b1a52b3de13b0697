//! Listeners, the HTTP connection manager, access logs.

use prost::{Message, Name};
use remora_proto::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use remora_proto::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string};
use remora_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use remora_proto::pb::envoy::config::route::v3::RouteConfiguration;
use remora_proto::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use remora_proto::pb::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use remora_proto::pb::envoy::extensions::filters::http::router::v3::Router;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, UpgradeConfig,
};
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use remora_proto::pb::google::protobuf::Any;

use super::{DownstreamTlsBuilder, builder, from_ads, pack, socket_address, tls_socket};

builder! {
    /// A listener; see [`listener_http`] and [`listener_tcp`].
    ListenerBuilder => Listener
}

builder! {
    /// An HTTP connection manager; see [`hcm`]. The router is appended when it becomes a message.
    HcmBuilder => HttpConnectionManager
}

/// A listener with one filter chain that ends in an HTTP connection manager.
pub fn listener_http(name: &str, address: &str, port: u16, hcm: impl Into<HttpConnectionManager>) -> ListenerBuilder {
    listener(
        name,
        address,
        port,
        "envoy.filters.network.http_connection_manager",
        pack(&hcm.into()),
    )
}

/// A listener with one filter chain that proxies TCP to `cluster`.
pub fn listener_tcp(name: &str, address: &str, port: u16, cluster: &str) -> ListenerBuilder {
    let proxy = TcpProxy {
        stat_prefix: name.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    listener(name, address, port, "envoy.filters.network.tcp_proxy", pack(&proxy))
}

/// A connection manager with codec AUTO and nothing else set.
pub fn hcm(stat_prefix: &str) -> HcmBuilder {
    HcmBuilder {
        message: HttpConnectionManager {
            stat_prefix: stat_prefix.to_owned(),
            ..HttpConnectionManager::default()
        },
    }
}

/// An access log on standard output, in `format` or in Envoy's default one.
pub fn access_log_stdout(format: Option<&str>) -> AccessLog {
    let log = StdoutAccessLog {
        access_log_format: format.map(|format| stdout_access_log::AccessLogFormat::LogFormat(text_format(format))),
    };
    access_log("envoy.access_loggers.stdout", pack(&log))
}

/// An access log in a file, in `format` or in Envoy's default one.
pub fn access_log_file(path: &str, format: Option<&str>) -> AccessLog {
    let log = FileAccessLog {
        path: path.to_owned(),
        access_log_format: format.map(|format| file_access_log::AccessLogFormat::LogFormat(text_format(format))),
    };
    access_log("envoy.access_loggers.file", pack(&log))
}

impl ListenerBuilder {
    /// Terminates TLS on every filter chain there is.
    pub fn tls(mut self, context: DownstreamTlsBuilder) -> Self {
        let socket = tls_socket(pack(&context.build()));
        for chain in &mut self.message.filter_chains {
            chain.transport_socket = Some(socket.clone());
        }
        self
    }

    /// Adds a filter chain.
    pub fn chain(mut self, chain: FilterChain) -> Self {
        self.message.filter_chains.push(chain);
        self
    }

    /// Puts a network filter in front of those of every filter chain.
    pub fn network_filter<M: Message + Name>(mut self, name: &str, config: &M) -> Self {
        let filter = network_filter(name, pack(config));
        for chain in &mut self.message.filter_chains {
            chain.filters.insert(0, filter.clone());
        }
        self
    }
}

impl HcmBuilder {
    /// Routes from RDS over the aggregated stream.
    pub fn rds(mut self, route_config_name: &str) -> Self {
        self.message.route_specifier = Some(RouteSpecifier::Rds(Rds {
            config_source: Some(from_ads()),
            route_config_name: route_config_name.to_owned(),
        }));
        self
    }

    /// Routes written into the listener.
    pub fn inline(mut self, routes: impl Into<RouteConfiguration>) -> Self {
        self.message.route_specifier = Some(RouteSpecifier::RouteConfig(routes.into()));
        self
    }

    /// Adds an HTTP filter after those added before.
    pub fn http_filter<M: Message + Name>(mut self, name: &str, config: &M) -> Self {
        self.message.http_filters.push(http_filter(name, pack(config)));
        self
    }

    /// Logs to standard output.
    pub fn access_log_stdout(self, format: Option<&str>) -> Self {
        self.access_log(access_log_stdout(format))
    }

    /// Logs to a file.
    pub fn access_log_file(self, path: &str, format: Option<&str>) -> Self {
        self.access_log(access_log_file(path, format))
    }

    /// Adds an access log.
    pub fn access_log(mut self, log: AccessLog) -> Self {
        self.message.access_log.push(log);
        self
    }

    /// The codec; AUTO when not called.
    pub fn codec(mut self, codec: CodecType) -> Self {
        self.message.codec_type = codec.into();
        self
    }

    /// Allows upgrades to `websocket`.
    pub fn websocket(self) -> Self {
        self.upgrade("websocket")
    }

    /// Allows an upgrade type (`websocket`, `CONNECT` ...).
    pub fn upgrade(mut self, upgrade_type: &str) -> Self {
        let upgrade = UpgradeConfig {
            upgrade_type: upgrade_type.to_owned(),
            ..UpgradeConfig::default()
        };
        self.message.upgrade_configs.push(upgrade);
        self
    }
}

impl From<ListenerBuilder> for Listener {
    fn from(builder: ListenerBuilder) -> Self {
        builder.message
    }
}

impl From<HcmBuilder> for HttpConnectionManager {
    fn from(builder: HcmBuilder) -> Self {
        let mut message = builder.message;
        let router = http_filter("envoy.filters.http.router", pack(&Router::default()));
        if !message
            .http_filters
            .iter()
            .any(|filter| filter.config_type == router.config_type)
        {
            message.http_filters.push(router);
        }
        message
    }
}

fn listener(name: &str, address: &str, port: u16, filter: &str, config: Any) -> ListenerBuilder {
    let chain = FilterChain {
        filters: vec![network_filter(filter, config)],
        ..FilterChain::default()
    };
    ListenerBuilder {
        message: Listener {
            name: name.to_owned(),
            address: Some(socket_address(address, port)),
            filter_chains: vec![chain],
            ..Listener::default()
        },
    }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

fn access_log(name: &str, config: Any) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..AccessLog::default()
    }
}

fn text_format(format: &str) -> SubstitutionFormatString {
    SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(super::inline(
            format,
        ))),
        ..SubstitutionFormatString::default()
    }
}
