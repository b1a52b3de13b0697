//! The mesh: a PKI, four replicas, two sidecars, a control plane for each.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use control_plane_mock::pki::{Authority, Identity, Leaf};
use control_plane_mock::resources::{Variant, bootstrap_ads};
use control_plane_mock::{ControlPlane, Handle, Listen, Snapshot, Store};

use super::config::{self, CA, CLIENT_CERT, Inbound, OUTBOUND_HTTP, OUTBOUND_TCP, SERVER_CERT};
use super::load::Targets;
use super::replica::{NAMES, Replica};
use super::tour::{DemoError, Settings};
use crate::app::Proxy;
use crate::bootstrap::Bootstrap;
use crate::cli::{self, Command};
use crate::runtime::clock;
use crate::telemetry::stats::Value;

/// DNS name of the service, and the SPIFFE ids of both ends.
pub const SERVER_NAME: &str = "echo.demo.local";
pub const SERVER_SPIFFE: &str = "spiffe://demo.local/ns/demo/sa/server";
pub const CLIENT_SPIFFE: &str = "spiffe://demo.local/ns/demo/sa/client";

/// How long anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often what has no event of its own is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Everything that runs.
pub struct Mesh {
    pub authority: Authority,
    pub identities: Identities,
    pub replicas: Vec<Replica>,
    pub inbound: Vec<Inbound>,
    pub server: Sidecar,
    pub client: Sidecar,
}

/// One generation of certificates.
pub struct Identities {
    pub server: Identity,
    pub client: Identity,
}

/// A proxy and who tells it what to do.
pub struct Sidecar {
    pub proxy: Proxy,
    plane: Plane,
    /// Where the plane listens, restarts included.
    listen: Listen,
}

/// The control plane is down between a kill and a restart; what it knew is kept.
enum Plane {
    Up(ControlPlane),
    Down(Store),
}

impl Mesh {
    /// Starts everything; when it returns, requests are answered.
    pub async fn start(settings: &Settings) -> Result<Self, DemoError> {
        let authority = Authority::new("demo root")?;
        let identities = Identities::issue(&authority)?;
        let mut replicas = Vec::new();
        for name in NAMES {
            replicas.push(Replica::start(name).await?);
        }
        let known = config::server(&replicas)
            .with(identities.server.secret(SERVER_CERT))
            .with(authority.secret(CA));
        let server = Sidecar::start("server-sidecar", known, Variant::Sotw, settings.concurrency, 0).await?;
        let mut inbound = Vec::new();
        for name in NAMES {
            let [http, tcp] = config::inbound_names(name);
            inbound.push(Inbound {
                http: server.address(&http).await?,
                tcp: server.address(&tcp).await?,
            });
        }
        let known = config::client(&inbound)
            .with(identities.client.secret(CLIENT_CERT))
            .with(authority.secret(CA));
        let client = Sidecar::start(
            "client-sidecar",
            known,
            Variant::Delta,
            settings.concurrency,
            settings.admin_port,
        )
        .await?;
        Ok(Self {
            authority,
            identities,
            replicas,
            inbound,
            server,
            client,
        })
    }

    /// Where the app is to send its traffic.
    pub async fn targets(&self) -> Result<Targets, DemoError> {
        let http = self.client.address(OUTBOUND_HTTP).await?;
        Ok(Targets {
            http,
            tcp: self.client.address(OUTBOUND_TCP).await?,
        })
    }
}

impl Identities {
    /// New keys and certificates for both ends.
    pub fn issue(authority: &Authority) -> Result<Self, DemoError> {
        let server = authority.issue(&Leaf::new().uri(SERVER_SPIFFE).dns(SERVER_NAME))?;
        let client = authority.issue(&Leaf::new().uri(CLIENT_SPIFFE))?;
        Ok(Self { server, client })
    }
}

impl Sidecar {
    async fn start(
        node: &str,
        known: Snapshot,
        variant: Variant,
        concurrency: u32,
        admin_port: u16,
    ) -> Result<Self, DemoError> {
        let plane = ControlPlane::builder().snapshot(&known).start().await?;
        let listen = plane.listen().clone();
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port));
        let bootstrap = bootstrap_ads(node, &listen, admin, variant);
        let concurrency = concurrency.to_string();
        let arguments = [
            "remora",
            "--config-yaml",
            bootstrap.as_str(),
            "--concurrency",
            concurrency.as_str(),
            "--drain-time-s",
            "5",
        ];
        let options = match cli::parse(arguments) {
            Ok(Command::Run(options)) => Arc::new(*options),
            Ok(other) => return Err(DemoError::Bootstrap(format!("the arguments ask for {other:?}"))),
            Err(exit) => return Err(DemoError::Bootstrap(exit.message)),
        };
        let bootstrap = Bootstrap::load(&options).map_err(|error| DemoError::Bootstrap(error.to_string()))?;
        let proxy = Proxy::start(options, bootstrap).await?;
        Ok(Self {
            proxy,
            plane: Plane::Up(plane),
            listen,
        })
    }

    /// The control plane.
    ///
    /// # Errors
    /// It is down.
    pub fn plane(&self) -> Result<Handle, DemoError> {
        match &self.plane {
            Plane::Up(plane) => Ok(plane.handle()),
            Plane::Down(_) => Err(DemoError::Waited("a control plane that is up".to_owned())),
        }
    }

    /// Kills the control plane.
    pub async fn kill_plane(&mut self) {
        let Plane::Up(plane) = &self.plane else { return };
        let store = plane.store();
        if let Plane::Up(plane) = std::mem::replace(&mut self.plane, Plane::Down(store)) {
            plane.shutdown().await;
        }
    }

    /// Starts it again at the same address with what it knew.
    pub async fn restart_plane(&mut self) -> Result<(), DemoError> {
        if let Plane::Down(store) = &self.plane {
            let builder = ControlPlane::builder().listen(self.listen.clone()).state(store.clone());
            self.plane = Plane::Up(builder.start().await?);
        }
        Ok(())
    }

    /// Where a listener listens, as soon as it does.
    pub async fn address(&self, listener: &str) -> Result<SocketAddr, DemoError> {
        let mut found = None;
        let manager = &self.proxy.control.manager;
        let what = format!("listener {listener}");
        let wait = until(&what, || {
            found = manager.addresses(listener).first().and_then(|address| address.ip());
            found.is_some()
        });
        match wait.await {
            Ok(()) => found.ok_or_else(|| DemoError::Waited(listener.to_owned())),
            Err(error) => Err(self.with_refusals(error)),
        }
    }

    /// A stat by its full name; zero while it does not exist.
    pub fn stat(&self, wanted: &str) -> u64 {
        let mut found = 0;
        self.proxy.context.stats.visit(&mut |prefix, name, value| {
            if wanted.strip_prefix(prefix) == Some(name)
                && let Value::Counter(value) | Value::Gauge(value) = value
            {
                found = value;
            }
        });
        found
    }

    /// What the proxy has refused is the likely reason why it waits.
    fn with_refusals(&self, error: DemoError) -> DemoError {
        let transcript = self.plane().map(|plane| plane.transcript()).unwrap_or_default();
        let refused = transcript.iter().filter_map(|entry| entry.error.as_ref());
        let refused: Vec<&str> = refused.map(|(_, text)| text.as_str()).collect();
        match refused.is_empty() {
            true => error,
            false => DemoError::Waited(format!("{error}; refused: {}", refused.join("; "))),
        }
    }
}

/// Waits until `ready` says so.
///
/// # Errors
/// It did not within [`PATIENCE`].
pub async fn until(what: &str, mut ready: impl FnMut() -> bool) -> Result<(), DemoError> {
    let end = clock::now() + PATIENCE;
    while !ready() {
        if clock::now() >= end {
            return Err(DemoError::Waited(what.to_owned()));
        }
        clock::sleep(POLL).await;
    }
    Ok(())
}
