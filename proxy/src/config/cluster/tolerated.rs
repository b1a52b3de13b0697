//! What the tables only refuse until the operator asks for warnings, the builders must let pass.

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::google::protobuf::Duration;

use crate::cli::Unsupported;
use crate::config::BuildContext;

#[test]
fn under_a_warning_a_cluster_goes_without_what_is_not_supported() {
    let plain = || pb::Cluster {
        name: "c".to_owned(),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        ..pb::Cluster::default()
    };
    let lrs = pb::Cluster {
        lrs_server: Some(core::ConfigSource {
            config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Self_(
                core::SelfConfigSource::default(),
            )),
            ..core::ConfigSource::default()
        }),
        ..plain()
    };
    let interface = pb::Cluster {
        upstream_connection_options: Some(pb::UpstreamConnectionOptions {
            set_local_interface_name_on_upstream_connections: true,
            ..pb::UpstreamConnectionOptions::default()
        }),
        ..plain()
    };
    let cases = [
        (lrs, "lrs_server"),
        (
            interface,
            "upstream_connection_options.set_local_interface_name_on_upstream_connections",
        ),
    ];
    for (cluster, path) in cases {
        let bytes = cluster.encode_to_vec().into();
        let under = |mode| {
            let cx = BuildContext::default();
            crate::validate::resource("envoy.config.cluster.v3.Cluster", &bytes, &cx, mode)
        };
        let refused = under(Unsupported::Refuse).err().map(|problems| problems.to_string());
        assert!(refused.as_ref().is_some_and(|text| text.contains(path)), "{refused:?}");
        let tolerated = under(Unsupported::Warn).map_err(|problems| problems.to_string());
        let warnings = tolerated.unwrap_or_else(|problems| panic!("{path}: {problems}"));
        assert!(warnings.iter().any(|warning| warning.path == path), "{path}");
    }
}
