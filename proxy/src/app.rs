//! Construction of every long-lived object, once; and how the process ends.
//!
//! In: parsed options and a loaded bootstrap. Out: a running [`Proxy`]. Errors before anything listens are all reported together.

mod control;
mod follow;
mod interpreter;
mod transport;

use std::process::ExitCode;
use std::sync::Arc;

use remora_xds::{Client, ClientHandle, GrpcConnector, Mode, Root, SourceConfig, types};

pub use control::ProxyControl;
pub use transport::ClusterTransport;

use crate::admin::{self, AdminState};
use crate::bootstrap::{Bootstrap, Source};
use crate::cli::Options;
use crate::cluster::discovery::SystemResolver;
use crate::cluster::maintain::maintain;
use crate::config::{BuildContext, Problems, fields};
use crate::listener::ListenerManager;
use crate::listener::manager::OnBindError;
use crate::runtime::clock;
use crate::runtime::spawn::{self, spawn};
use crate::runtime::worker::Workers;
use crate::snapshot::build::{Builder, LISTENER_OWNER};
use crate::telemetry::access_log::Sinks;
use interpreter::Meaning;

/// Why a proxy did not start. Nothing of it listens.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(Problems),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Bind(Vec<crate::listener::bind::BindError>),
    #[error("admin address {address}: {error}")]
    Admin { address: String, error: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("DNS resolver: {0}")]
    Resolver(String),
}

/// A running proxy. Dropping it stops it at once.
pub struct Proxy {
    pub control: Arc<ProxyControl>,
    pub context: Arc<BuildContext>,
    /// Where the admin server really listens.
    pub admin: Option<std::net::SocketAddr>,
    pub xds: Option<ClientHandle>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Proxy {
    /// Starts everything on the current runtime (the main one) and on worker threads of its own. Listeners of the bootstrap that need nothing
    /// from a control plane accept connections when this returns.
    ///
    /// # Errors
    /// Everything that is wrong with the bootstrap, or an address that is in use.
    pub async fn start(options: Arc<Options>, bootstrap: Bootstrap) -> Result<Self, StartError> {
        let started = clock::now();
        let context = Arc::new(BuildContext {
            access_logs: Arc::new(Sinks::new(options.file_flush_interval, options.file_flush_min_size)),
            node: bootstrap.node.clone(),
            ..BuildContext::default()
        });
        let check = fields::check("envoy.config.bootstrap.v3.Bootstrap", &bootstrap.bytes, options.unsupported);
        for warning in check.map_err(StartError::Config)? {
            tracing::warn!(path = %warning.path, reason = %warning.reason, "tolerated");
        }
        let mut builder = Builder::new(context.clone());
        let pins = add_static(&mut builder, &bootstrap, &context).map_err(StartError::Config)?;
        let resolver = SystemResolver::new().map_err(|error| StartError::Resolver(error.to_string()))?;
        let admin = match &bootstrap.admin {
            Some(admin) => Some(admin::bind(&admin.address).await.map_err(|error| StartError::Admin {
                address: admin.address.to_string(),
                error,
            })?),
            None => None,
        };
        let workers = Arc::new(Workers::start(options.concurrency)?);
        workers.run_all("pool sweep", || async {
            loop {
                clock::sleep(crate::pool::SWEEP_INTERVAL).await;
                crate::pool::sweep();
            }
        });
        let manager = Arc::new(ListenerManager::new(workers, &context.stats, options.drain_time));
        let snapshot = builder.publish();
        manager
            .apply(snapshot.listeners.iter().map(|(_, listener)| listener.clone()), OnBindError::ApplyNothing)
            .map_err(StartError::Bind)?;
        let control = Arc::new(ProxyControl::new(manager.clone(), options.clone(), started));
        let mut tasks = vec![spawn("cluster maintenance", maintain(context.hosts.clone(), Arc::new(resolver)))];
        let xds = client(&bootstrap, &context, &options, pins);
        let xds = xds.map(|(handle, driver)| {
            tasks.push(spawn("xds", driver.run()));
            let follow = follow::follow(handle.clone(), builder, manager.clone(), control.clone());
            tasks.push(spawn("configuration", follow));
            handle
        });
        if xds.is_none() {
            control.set_live();
        }
        let mut admin_address = None;
        if let Some(listener) = admin {
            admin_address = listener.local_addr();
            let state = AdminState::new(&context, options, &bootstrap, xds.clone(), control.clone());
            let serve = admin::serve(listener, Arc::new(state));
            tasks.push(spawn("admin", serve));
        }
        Ok(Self { control, context, admin: admin_address, xds, tasks })
    }

    /// Completes when the proxy was told to quit (admin, [`ProxyControl::quit`]) and has drained as far as it was told to.
    pub async fn finished(&self) {
        self.control.finished().await;
        self.context.access_logs.flush();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.control.close();
    }
}

/// What static resources refer to: owners and references for the xDS client.
type Pins = Vec<(String, Vec<remora_xds::Reference>)>;

fn add_static(builder: &mut Builder, bootstrap: &Bootstrap, context: &BuildContext) -> Result<Pins, Problems> {
    let mut problems = Problems::default();
    let mut pins = Pins::new();
    for (index, secret) in bootstrap.secrets.iter().enumerate() {
        if let Err(wrong) = context.secrets.update(&secret.name, Some(&secret.bytes)) {
            problems.0.extend(wrong.under(&format!("static_resources.secrets[{index}]")).0);
        }
    }
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        let added = builder.add_cluster(cluster.bytes.clone()).and_then(|needs| interpreter::cluster_references(&needs));
        match added {
            Ok(references) if references.is_empty() => {}
            Ok(references) => pins.push((format!("cluster/{}", cluster.name), references)),
            Err(wrong) => problems.0.extend(wrong.under(&format!("static_resources.clusters[{index}]")).0),
        }
    }
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let needs = crate::config::listener::needs(&listener.bytes);
        let references = needs.and_then(|needs| interpreter::listener_references(&needs));
        let added = references.and_then(|references| {
            builder.add_listener(&listener.bytes, !references.is_empty())?;
            Ok(references)
        });
        match added {
            Ok(references) if references.is_empty() => {}
            Ok(references) => pins.push((format!("{LISTENER_OWNER}{}", listener.name), references)),
            Err(wrong) => problems.0.extend(wrong.under(&format!("static_resources.listeners[{index}]")).0),
        }
    }
    if problems.0.is_empty() { Ok(pins) } else { Err(problems) }
}

/// The xDS client, if anything is to come from a control plane or a file.
fn client(
    bootstrap: &Bootstrap,
    context: &Arc<BuildContext>,
    options: &Options,
    pins: Pins,
) -> Option<(ClientHandle, remora_xds::Driver)> {
    if bootstrap.ads.is_none() && bootstrap.cds.is_none() && bootstrap.lds.is_none() && pins.is_empty() {
        return None;
    }
    let connector = |snapshot: &Arc<crate::snapshot::SnapshotCell>, cluster: &str| {
        let origin = http::Uri::try_from(format!("http://{cluster}")).unwrap_or_default();
        GrpcConnector::new(ClusterTransport::new(snapshot.clone(), cluster)).origin(origin)
    };
    let mut builder = Client::builder(&context.node)
        .interpreter(Meaning { context: context.clone(), unsupported: options.unsupported })
        .fixed(&types::CLUSTER, bootstrap.clusters.iter().map(|cluster| cluster.name.clone()))
        .fixed(&types::LISTENER, bootstrap.listeners.iter().map(|listener| listener.name.clone()))
        .decode_files(crate::bootstrap::decode_discovery_file);
    if let Some(ads) = &bootstrap.ads {
        let mode = if ads.delta { Mode::Delta } else { Mode::Sotw };
        builder = builder.ads(SourceConfig::aggregated(mode), connector(&context.snapshot, &ads.cluster_name));
    }
    let snapshot = context.snapshot.clone();
    builder = builder.named(move |cluster| {
        let connector: Arc<dyn remora_xds::Connect> = Arc::new(connector(&snapshot, cluster));
        Some((SourceConfig::separate(Mode::Sotw), connector))
    });
    for (ty, source) in [(&types::CLUSTER, &bootstrap.cds), (&types::LISTENER, &bootstrap.lds)] {
        if let Some(source) = source {
            builder = builder.root(Root { source: source_of(source), ..Root::new(ty) });
        }
    }
    for (owner, references) in pins {
        builder = builder.pin(owner, references);
    }
    Some(builder.build())
}

fn source_of(source: &Source) -> remora_xds::Source {
    match source {
        Source::Ads => remora_xds::Source::Ads,
        Source::Path(path) => remora_xds::Source::Path(path.clone()),
        Source::Grpc { cluster } => remora_xds::Source::Named(cluster.clone()),
    }
}

/// Runs the process for `options` until it is told to quit.
pub fn run(options: Options) -> ExitCode {
    spawn::install_panic_hook();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let bootstrap = match Bootstrap::load(&options) {
        Ok(bootstrap) => bootstrap,
        Err(error) => return fail(&error.to_string()),
    };
    let options = Arc::new(options);
    runtime.block_on(async {
        let proxy = match Proxy::start(options, bootstrap).await {
            Ok(proxy) => proxy,
            Err(error) => return fail(&error.to_string()),
        };
        control::quit_on_signals(proxy.control.clone());
        proxy.finished().await;
        ExitCode::SUCCESS
    })
}

#[allow(clippy::print_stderr, reason = "the last words of a process that does not start")]
fn fail(message: &str) -> ExitCode {
    tracing::error!("{message}");
    eprintln!("remora: {message}");
    ExitCode::FAILURE
}
