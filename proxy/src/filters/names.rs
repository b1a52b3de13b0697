//! The extensions of this program by Envoy's categories and names: for `--disable-extensions`, `/server_info` and the node that control planes are
//! told of. Configuration never finds one by its name. What has no configuration of its own is not listed (kinds of clusters and of subscriptions,
//! built-in formatters, and Envoy's older names of what is): it cannot be taken away.

use std::sync::OnceLock;

use remora_proto::pb::envoy::config::core::v3 as pb;

use crate::config::fields;

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Where it can stand: `envoy.filters.http`.
    pub category: &'static str,
    pub name: &'static str,
    /// Full names of the messages that configure it.
    pub types: &'static [&'static str],
}

const fn extension(category: &'static str, name: &'static str, types: &'static [&'static str]) -> Extension {
    Extension { category, name, types }
}

/// As Envoy 1.40 (and Istio, for its own) names them.
#[rustfmt::skip]
pub const EXTENSIONS: &[Extension] = &[
    extension("envoy.access_loggers", "envoy.access_loggers.file", &["envoy.extensions.access_loggers.file.v3.FileAccessLog"]),
    extension("envoy.access_loggers", "envoy.access_loggers.stderr", &["envoy.extensions.access_loggers.stream.v3.StderrAccessLog"]),
    extension("envoy.access_loggers", "envoy.access_loggers.stdout", &["envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"]),
    extension("envoy.bootstrap", "envoy.bootstrap.internal_listener", &["envoy.extensions.bootstrap.internal_listener.v3.InternalListener"]),
    extension("envoy.clusters", "envoy.cluster.dns", &["envoy.extensions.clusters.dns.v3.DnsCluster"]),
    extension("envoy.compression.compressor", "envoy.compression.brotli.compressor", &["envoy.extensions.compression.brotli.compressor.v3.Brotli"]),
    extension("envoy.compression.compressor", "envoy.compression.gzip.compressor", &["envoy.extensions.compression.gzip.compressor.v3.Gzip"]),
    extension("envoy.compression.compressor", "envoy.compression.zstd.compressor", &["envoy.extensions.compression.zstd.compressor.v3.Zstd"]),
    extension("envoy.filters.http", "envoy.filters.http.alpn", &["istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"]),
    extension("envoy.filters.http", "envoy.filters.http.compressor", &["envoy.extensions.filters.http.compressor.v3.Compressor"]),
    extension("envoy.filters.http", "envoy.filters.http.cors", &["envoy.extensions.filters.http.cors.v3.Cors", "envoy.extensions.filters.http.cors.v3.CorsPolicy"]),
    extension("envoy.filters.http", "envoy.filters.http.ext_authz", &["envoy.extensions.filters.http.ext_authz.v3.ExtAuthz", "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"]),
    extension("envoy.filters.http", "envoy.filters.http.fault", &["envoy.extensions.filters.http.fault.v3.HTTPFault"]),
    extension("envoy.filters.http", "envoy.filters.http.grpc_stats", &["envoy.extensions.filters.http.grpc_stats.v3.FilterConfig"]),
    extension("envoy.filters.http", "envoy.filters.http.jwt_authn", &["envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication", "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig"]),
    extension("envoy.filters.http", "envoy.filters.http.local_ratelimit", &["envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"]),
    extension("envoy.filters.http", "envoy.filters.http.peer_metadata", &["io.istio.http.peer_metadata.Config"]),
    extension("envoy.filters.http", "envoy.filters.http.rbac", &["envoy.extensions.filters.http.rbac.v3.RBAC", "envoy.extensions.filters.http.rbac.v3.RBACPerRoute"]),
    extension("envoy.filters.http", "envoy.filters.http.router", &["envoy.extensions.filters.http.router.v3.Router"]),
    extension("envoy.filters.http", "envoy.filters.http.set_filter_state", &["envoy.extensions.filters.http.set_filter_state.v3.Config"]),
    extension("envoy.filters.listener", "envoy.filters.listener.http_inspector", &["envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"]),
    extension("envoy.filters.listener", "envoy.filters.listener.local_ratelimit", &["envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit"]),
    extension("envoy.filters.listener", "envoy.filters.listener.original_dst", &["envoy.extensions.filters.listener.original_dst.v3.OriginalDst"]),
    extension("envoy.filters.listener", "envoy.filters.listener.original_src", &["envoy.extensions.filters.listener.original_src.v3.OriginalSrc"]),
    extension("envoy.filters.listener", "envoy.filters.listener.proxy_protocol", &["envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"]),
    extension("envoy.filters.listener", "envoy.filters.listener.tls_inspector", &["envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"]),
    extension("envoy.filters.network", "envoy.filters.network.connection_limit", &["envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit"]),
    extension("envoy.filters.network", "envoy.filters.network.direct_response", &["envoy.extensions.filters.network.direct_response.v3.Config"]),
    extension("envoy.filters.network", "envoy.filters.network.echo", &["envoy.extensions.filters.network.echo.v3.Echo"]),
    extension("envoy.filters.network", "envoy.filters.network.ext_authz", &["envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"]),
    extension("envoy.filters.network", "envoy.filters.network.http_connection_manager", &["envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"]),
    extension("envoy.filters.network", "envoy.filters.network.local_ratelimit", &["envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"]),
    extension("envoy.filters.network", "envoy.filters.network.rbac", &["envoy.extensions.filters.network.rbac.v3.RBAC"]),
    extension("envoy.filters.network", "envoy.filters.network.set_filter_state", &["envoy.extensions.filters.network.set_filter_state.v3.Config"]),
    extension("envoy.filters.network", "envoy.filters.network.sni_cluster", &["envoy.extensions.filters.network.sni_cluster.v3.SniCluster"]),
    extension("envoy.filters.network", "envoy.filters.network.tcp_proxy", &["envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"]),
    extension("envoy.formatter", "envoy.formatter.metadata", &["envoy.extensions.formatter.metadata.v3.Metadata"]),
    extension("envoy.formatter", "envoy.formatter.req_without_query", &["envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"]),
    extension("envoy.health_check.event_sinks", "envoy.health_check.event_sink.file", &["envoy.extensions.health_check.event_sinks.file.v3.HealthCheckEventFileSink"]),
    extension("envoy.health_checkers", "envoy.health_checkers.grpc", &["envoy.config.core.v3.HealthCheck.GrpcHealthCheck"]),
    extension("envoy.health_checkers", "envoy.health_checkers.http", &["envoy.config.core.v3.HealthCheck.HttpHealthCheck"]),
    extension("envoy.health_checkers", "envoy.health_checkers.tcp", &["envoy.config.core.v3.HealthCheck.TcpHealthCheck"]),
    extension("envoy.http.original_ip_detection", "envoy.http.original_ip_detection.custom_header", &["envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig"]),
    extension("envoy.http.original_ip_detection", "envoy.http.original_ip_detection.xff", &["envoy.extensions.http.original_ip_detection.xff.v3.XffConfig"]),
    extension("envoy.http.stateful_header_formatters", "envoy.http.stateful_header_formatters.preserve_case", &["envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"]),
    extension("envoy.internal_redirect_predicates", "envoy.internal_redirect_predicates.allow_listed_routes", &["envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig"]),
    extension("envoy.internal_redirect_predicates", "envoy.internal_redirect_predicates.previous_routes", &["envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig"]),
    extension("envoy.internal_redirect_predicates", "envoy.internal_redirect_predicates.safe_cross_scheme", &["envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.cluster_provided", &["envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.least_request", &["envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.maglev", &["envoy.extensions.load_balancing_policies.maglev.v3.Maglev"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.random", &["envoy.extensions.load_balancing_policies.random.v3.Random"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.ring_hash", &["envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.round_robin", &["envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.subset", &["envoy.extensions.load_balancing_policies.subset.v3.Subset"]),
    extension("envoy.load_balancing_policies", "envoy.load_balancing_policies.wrr_locality", &["envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality"]),
    extension("envoy.matching.action", "envoy.matching.actions.format_string", &["envoy.config.core.v3.SubstitutionFormatString"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.destination_ip", &["envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.destination_port", &["envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.direct_source_ip", &["envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.dns_san", &["envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.filter_state", &["envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.request_headers", &["envoy.type.matcher.v3.HttpRequestHeaderMatchInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.server_name", &["envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.source_ip", &["envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.source_port", &["envoy.extensions.matching.common_inputs.network.v3.SourcePortInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.subject", &["envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput"]),
    extension("envoy.matching.http.input", "envoy.matching.inputs.uri_san", &["envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"]),
    extension("envoy.matching.input_matchers", "envoy.matching.matchers.ip", &["envoy.extensions.matching.input_matchers.ip.v3.Ip"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.destination_ip", &["envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.destination_port", &["envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.direct_source_ip", &["envoy.extensions.matching.common_inputs.network.v3.DirectSourceIPInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.dns_san", &["envoy.extensions.matching.common_inputs.ssl.v3.DnsSanInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.filter_state", &["envoy.extensions.matching.common_inputs.network.v3.FilterStateInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.server_name", &["envoy.extensions.matching.common_inputs.network.v3.ServerNameInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.source_ip", &["envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.source_port", &["envoy.extensions.matching.common_inputs.network.v3.SourcePortInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.subject", &["envoy.extensions.matching.common_inputs.ssl.v3.SubjectInput"]),
    extension("envoy.matching.network.input", "envoy.matching.inputs.uri_san", &["envoy.extensions.matching.common_inputs.ssl.v3.UriSanInput"]),
    extension("envoy.network.dns_resolver", "envoy.network.dns_resolver.cares", &["envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"]),
    extension("envoy.network.dns_resolver", "envoy.network.dns_resolver.getaddrinfo", &["envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig"]),
    extension("envoy.path.match", "envoy.path.match.uri_template.uri_template_matcher", &["envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"]),
    extension("envoy.path.rewrite", "envoy.path.rewrite.uri_template.uri_template_rewriter", &["envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig"]),
    extension("envoy.request_id", "envoy.request_id.uuid", &["envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"]),
    extension("envoy.retry_host_predicates", "envoy.retry_host_predicates.omit_canary_hosts", &["envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate"]),
    extension("envoy.retry_host_predicates", "envoy.retry_host_predicates.omit_host_metadata", &["envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig"]),
    extension("envoy.retry_host_predicates", "envoy.retry_host_predicates.previous_hosts", &["envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"]),
    extension("envoy.retry_priorities", "envoy.retry_priorities.previous_priorities", &["envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig"]),
    extension("envoy.transport_sockets.downstream", "envoy.transport_sockets.raw_buffer", &["envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"]),
    extension("envoy.transport_sockets.downstream", "envoy.transport_sockets.tls", &["envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"]),
    extension("envoy.transport_sockets.upstream", "envoy.transport_sockets.raw_buffer", &["envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"]),
    extension("envoy.transport_sockets.upstream", "envoy.transport_sockets.tls", &["envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"]),
    extension("envoy.transport_sockets.upstream", "envoy.transport_sockets.upstream_proxy_protocol", &["envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"]),
    extension("envoy.upstream_options", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", &["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]),
];

static DISABLED: OnceLock<Vec<Extension>> = OnceLock::new();

/// Takes away what `--disable-extensions` lists as `category/name`: from now on it does not exist. To be called once, before configuration is
/// loaded. As Envoy does, only warns of what does not exist anyway.
pub fn disable(listed: &[String]) {
    let (found, unknown) = find(listed);
    for warning in unknown {
        tracing::warn!("{warning}");
    }
    let types: Vec<&str> = found.iter().flat_map(|extension| extension.types).copied().collect();
    if !types.is_empty() {
        fields::forbid(&types);
    }
    for extension in DISABLED.get_or_init(|| found) {
        tracing::info!("disabled extension '{}/{}'", extension.category, extension.name);
    }
}

/// Whether [`disable`] took it away.
pub fn is_disabled(extension: &Extension) -> bool {
    DISABLED.get().is_some_and(|disabled| disabled.contains(extension))
}

/// All of them, as a control plane is told.
pub fn announced() -> Vec<pb::Extension> {
    let announced = |extension: &Extension| pb::Extension {
        name: extension.name.to_owned(),
        category: extension.category.to_owned(),
        disabled: is_disabled(extension),
        type_urls: extension.types.iter().map(|name| (*name).to_owned()).collect(),
        ..pb::Extension::default()
    };
    EXTENSIONS.iter().map(announced).collect()
}

/// The extensions that are listed, and what to say of the others.
fn find(listed: &[String]) -> (Vec<Extension>, Vec<String>) {
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    for entry in listed {
        let Some((category, name)) = entry.split_once('/') else {
            unknown.push(format!("failed to disable invalid extension name '{entry}'"));
            continue;
        };
        let known = EXTENSIONS
            .iter()
            .find(|own| own.category == category && own.name == name);
        match known {
            Some(known) => found.push(*known),
            None => unknown.push(format!("failed to disable unknown extension '{entry}'")),
        }
    }
    (found, unknown)
}

#[cfg(test)]
mod tests {
    use remora_proto::schema;

    use super::*;

    #[test]
    fn every_type_is_one_that_the_tables_list() {
        let ledger = fields::ledger();
        for name in EXTENSIONS.iter().flat_map(|extension| extension.types) {
            let message = schema::message(name).unwrap_or_else(|| panic!("{name} does not exist"));
            assert!(ledger.lists(message), "{name} is not supported");
        }
    }

    #[test]
    fn what_cannot_be_disabled_is_told_in_envoys_words() {
        let listed = [
            "junk",
            "envoy.filters.http/nosuch",
            "envoy.filters.http/envoy.filters.http.cors",
        ];
        let (found, unknown) = find(&listed.map(str::to_owned));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].types[0], "envoy.extensions.filters.http.cors.v3.Cors");
        assert_eq!(
            unknown,
            [
                "failed to disable invalid extension name 'junk'",
                "failed to disable unknown extension 'envoy.filters.http/nosuch'"
            ]
        );
    }
}
