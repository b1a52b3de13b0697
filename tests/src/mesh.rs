//! A control plane and the sidecars it steers, in this process.

use std::net::SocketAddr;

use control_plane_mock::resources::{Variant, bootstrap_ads_with};
use control_plane_mock::{ControlPlane, Handle};

use crate::sidecar::Sidecar;

/// Ends, with all its sidecars, when dropped.
pub struct Mesh {
    pub control_plane: ControlPlane,
    pub variant: Variant,
}

impl Mesh {
    /// A control plane with nothing to serve.
    pub async fn start(variant: Variant) -> Self {
        Self {
            control_plane: ControlPlane::start().await.unwrap(),
            variant,
        }
    }

    /// A sidecar that takes everything from the control plane.
    pub async fn sidecar(&self, node: &str) -> Sidecar {
        self.sidecar_with(node, |_| {}).await
    }

    /// The same, with a last word on its bootstrap.
    pub async fn sidecar_with(&self, node: &str, change: impl FnOnce(&mut serde_json::Value)) -> Sidecar {
        Sidecar::start(&self.bootstrap_with(node, change)).await.unwrap()
    }

    /// The bootstrap of such a sidecar.
    pub fn bootstrap_with(&self, node: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        bootstrap_ads_with(node, self.control_plane.listen(), admin, self.variant, change)
    }

    pub fn handle(&self) -> Handle {
        self.control_plane.handle()
    }

    /// Another control plane at the same address with the same resources, as after a crash.
    pub async fn restart(self) -> Self {
        Self {
            control_plane: self.control_plane.restart().await.unwrap(),
            variant: self.variant,
        }
    }
}
