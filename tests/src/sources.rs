//! Sources of configuration beside ADS.

use control_plane_mock::{ControlPlane, Listen};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use serde_json::{Value, json};

/// A stream of its own to the control plane behind the cluster `cluster`.
pub fn grpc_source(cluster: &str, api_type: core::api_config_source::ApiType) -> core::ConfigSource {
    use core::config_source::ConfigSourceSpecifier;
    use core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let service = core::GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..core::GrpcService::default()
    };
    let api = core::ApiConfigSource {
        api_type: api_type.into(),
        transport_api_version: core::ApiVersion::V3.into(),
        grpc_services: vec![service],
        ..core::ApiConfigSource::default()
    };
    core::ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(api)),
        resource_api_version: core::ApiVersion::V3.into(),
        ..core::ConfigSource::default()
    }
}

/// Another control plane as a static cluster of the bootstrap.
pub fn add_control_plane(bootstrap: &mut Value, name: &str, control_plane: &ControlPlane) {
    let address = match control_plane.listen() {
        Listen::Tcp(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        Listen::Unix(path) => json!({"pipe": {"path": path.display().to_string()}}),
    };
    let mut cluster = bootstrap["static_resources"]["clusters"][0].clone();
    cluster["name"] = json!(name);
    cluster["load_assignment"] = json!({
        "cluster_name": name,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    });
    bootstrap["static_resources"]["clusters"]
        .as_array_mut()
        .unwrap()
        .push(cluster);
}

/// Has every secret of a context come from `source`.
pub fn set_secret_source(common: &mut Option<tls::CommonTlsContext>, source: &core::ConfigSource) {
    use tls::common_tls_context::ValidationContextType;
    let common = common.get_or_insert_default();
    let certificates = common.tls_certificate_sds_secret_configs.iter_mut();
    let validation = match &mut common.validation_context_type {
        Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => Some(config),
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.validation_context_sds_secret_config.as_mut()
        }
        _ => None,
    };
    for config in certificates.chain(validation) {
        config.sds_config = Some(source.clone());
    }
}
