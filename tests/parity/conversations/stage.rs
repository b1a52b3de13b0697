//! The control planes of a conversation, and how what they send names its sources.

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use control_plane_mock::resources::{
    ClusterBuilder, ListenerBuilder, UpstreamTlsBuilder, Variant, bootstrap_ads_with, cluster_eds, hcm, listener_http,
    tls_upstream,
};
use control_plane_mock::{ControlPlane, Handle};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use remora_tests::sources::{add_control_plane, grpc_source, set_secret_source};
use serde_json::json;
use tempfile::TempDir;

/// Which streams there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One for everything.
    Ads,
    /// One for each type, or for each resource of a type that is named.
    Separate,
    /// ADS, but for endpoints and secrets, which have control planes of their own; that of the secrets is a unix socket's.
    Own,
}

/// What steps have in hand. Is the handle of the main control plane, too.
pub struct Stage {
    form: Form,
    variant: Variant,
    planes: Vec<(&'static str, ControlPlane)>,
    main: Handle,
    _directory: TempDir,
}

impl Deref for Stage {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.main
    }
}

impl Stage {
    pub async fn set(form: Form, variant: Variant) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut planes = vec![("ads", ControlPlane::start().await.unwrap())];
        if form == Form::Own {
            planes.push(("eds", ControlPlane::start().await.unwrap()));
            let sds = ControlPlane::builder().unix(directory.path().join("sds")).start();
            planes.push(("sds", sds.await.unwrap()));
        }
        Self {
            form,
            variant,
            main: planes[0].1.handle(),
            planes,
            _directory: directory,
        }
    }

    pub fn bootstrap(&self) -> String {
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        bootstrap_ads_with("parity", self.main.listen(), admin, self.variant, |bootstrap| {
            for (name, plane) in self.planes.iter().skip(1) {
                add_control_plane(bootstrap, name, plane);
            }
            if self.form == Form::Separate {
                let api_type = match self.variant {
                    Variant::Sotw => "GRPC",
                    Variant::Delta => "DELTA_GRPC",
                };
                // Neither says its version, which means the third.
                let source = json!({"api_config_source": {
                    "api_type": api_type,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds_cluster"}}],
                }});
                bootstrap["dynamic_resources"] = json!({"lds_config": source, "cds_config": source});
            }
        })
    }

    /// All control planes by name, the main one first.
    pub fn planes(&self) -> impl Iterator<Item = (&'static str, Handle)> {
        self.planes.iter().map(|(name, plane)| (*name, plane.handle()))
    }

    pub fn main(&self) -> Handle {
        self.main.clone()
    }

    /// Which of [`planes`](Self::planes) serves a type.
    pub fn place_of(&self, ty: &str) -> usize {
        let named = self.planes.iter().position(|(name, _)| *name == ty);
        named.unwrap_or_default()
    }

    /// The control plane that serves a type.
    pub fn of(&self, ty: &str) -> Handle {
        self.planes[self.place_of(ty)].1.handle()
    }

    /// A cluster whose endpoints come from where they are to.
    pub fn cluster(&self, name: &str, seconds: u64) -> ClusterBuilder {
        let cluster = cluster_eds(name).connect_timeout(Duration::from_secs(seconds));
        cluster.edit(|cluster| {
            if let Some(source) = self.source("eds") {
                cluster.eds_cluster_config.get_or_insert_default().eds_config = Some(source);
            }
        })
    }

    /// What a cluster needs whose connections take a certificate and an authority from the control plane.
    pub fn tls(&self) -> UpstreamTlsBuilder {
        tls_upstream("cert", "ca").edit(|context| {
            if let Some(source) = self.source("sds") {
                set_secret_source(&mut context.common_tls_context, &source);
            }
        })
    }

    /// A listener that takes its routes from where they are to come from.
    pub fn listener(&self, routes: &str) -> ListenerBuilder {
        let manager = hcm("http").rds(routes).edit(|manager| {
            if let (Some(source), Some(RouteSpecifier::Rds(rds))) = (self.source("rds"), &mut manager.route_specifier) {
                rds.config_source = Some(source);
            }
        });
        listener_http("http", "127.0.0.1", 0, manager)
    }

    /// `None`: ADS.
    fn source(&self, ty: &str) -> Option<core::ConfigSource> {
        use core::api_config_source::ApiType;
        let api_type = match self.variant {
            Variant::Sotw => ApiType::Grpc,
            Variant::Delta => ApiType::DeltaGrpc,
        };
        match self.form {
            Form::Ads => None,
            Form::Separate => Some(grpc_source("xds_cluster", api_type)),
            Form::Own => (self.place_of(ty) > 0).then(|| grpc_source(ty, api_type)),
        }
    }
}
