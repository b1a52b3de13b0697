//! Rung 4: a control plane, sidecars, backends and clients in one process; each behaviour that a user sees.

#![allow(clippy::unwrap_used, clippy::panic)]

mod balancing;
mod change;
mod connections;
mod counted;
mod custom_filter;
mod draining;
mod files;
mod large;
mod library;
mod mirroring;
mod mtls;
mod names;
mod pools;
mod process;
mod protocols;
mod resilience;
mod restart;
mod routing;
mod sources;
mod storm;
mod transport;
mod upstream;
mod warming;

use std::net::SocketAddr;

use control_plane_mock::Handle;
use control_plane_mock::resources::{
    ClusterBuilder, Variant, VhostBuilder, cluster_static, hcm, listener_http, prefix, route_config,
};
use remora_tests::{Answer, Backend, Http1, Mesh, Sidecar};

/// One sidecar with a listener `http` that takes the route configuration `routes`.
struct One {
    mesh: Mesh,
    sidecar: Sidecar,
    address: SocketAddr,
}

impl One {
    /// With these clusters, and routes of one virtual host for everything.
    async fn start(clusters: impl IntoIterator<Item = ClusterBuilder>, routes: VhostBuilder) -> Self {
        Self::start_with(Variant::Delta, clusters, routes, |_| {}).await
    }

    /// The same, `more` pushed before the sidecar starts.
    async fn start_with(
        variant: Variant,
        clusters: impl IntoIterator<Item = ClusterBuilder>,
        routes: VhostBuilder,
        more: impl FnOnce(&Handle),
    ) -> Self {
        let mesh = Mesh::start(variant).await;
        for cluster in clusters {
            mesh.control_plane.push_cluster(cluster);
        }
        mesh.control_plane.push_route(routes);
        mesh.control_plane.push_listener(listener_http(
            "http",
            "127.0.0.1",
            0,
            hcm("http").rds("routes").websocket(),
        ));
        more(&mesh.control_plane);
        let sidecar = mesh.sidecar("one").await;
        let address = sidecar.listener("http").await;
        Self { mesh, sidecar, address }
    }

    async fn client(&self) -> Http1 {
        Http1::connect(self.address).await.unwrap()
    }

    /// A GET on a connection of its own.
    async fn get(&self, path: &str, headers: &str) -> Answer {
        self.client().await.get("mesh.test", path, headers).await
    }
}

/// Everything to cluster `a`.
fn all_to_a() -> VhostBuilder {
    everything().with_route(prefix("/").cluster("a"))
}

fn everything() -> VhostBuilder {
    route_config("routes").vhost(["*"])
}

/// A cluster named after its only backend.
fn cluster(backend: &Backend) -> ClusterBuilder {
    cluster_static(backend.name(), [("127.0.0.1", backend.port())])
}

/// A port that nobody listens on while the guard lives.
struct Refusing(tokio::net::TcpSocket);

impl Refusing {
    fn new() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}
