//! Construction of every long-lived object, once; and how the process ends.
//!
//! In: parsed options and a loaded bootstrap. Out: a running [`Proxy`]. Errors before anything listens are all reported together.

mod client;
mod control;
mod follow;
mod interpreter;
mod restart;
mod secret_files;
mod sources;
mod stats;
mod transport;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use remora_xds::ClientHandle;

use client::{Pins, client, meaning, roots};
use control::AdminControl;
pub use control::ProxyControl;
pub use transport::ClusterTransport;

use crate::admin::{self, AdminState};
use crate::bootstrap::Bootstrap;
use crate::cli::Options;
use crate::cluster::discovery::SystemResolver;
use crate::cluster::host::Locality;
use crate::cluster::lb::LocalCluster;
use crate::cluster::maintain::maintain;
use crate::config::route::each;
use crate::config::{BuildContext, Compiled, Problems, fields};
use crate::listener::manager::OnBindError;
use crate::listener::{Inherit, ListenerManager};
use crate::restart::Restart;
use crate::runtime::clock;
use crate::runtime::drain::Drain;
use crate::runtime::io::Address;
use crate::runtime::spawn::{self, spawn};
use crate::runtime::worker::Workers;
use crate::snapshot::build::{Builder, LISTENER_OWNER};
use crate::telemetry::access_log::{AccessLog, Sink, Sinks};
use crate::telemetry::logging::{self, Logging};
use follow::Awaited;
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
    pub admin: Option<Address>,
    pub xds: Option<ClientHandle>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    stop_admin: Arc<Drain>,
}

impl Proxy {
    /// Starts everything on the current runtime (the main one) and on worker threads of its own. Listeners of the bootstrap that need nothing
    /// from a control plane accept connections when this returns.
    ///
    /// # Errors
    /// Everything that is wrong with the bootstrap, or an address that is in use.
    pub async fn start(options: Arc<Options>, bootstrap: Bootstrap) -> Result<Self, StartError> {
        Self::start_in(options, bootstrap, None).await
    }

    /// As [`start`](Self::start), as a link in a chain of hot restarts: listening sockets and the admin address come from the epoch before, if
    /// there is one.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_in(
        options: Arc<Options>,
        bootstrap: Bootstrap,
        restart: Option<&Restart>,
    ) -> Result<Self, StartError> {
        let times = (clock::now(), clock::system_now());
        let mut context = BuildContext {
            access_logs: Arc::new(Sinks::new(options.file_flush_interval, options.file_flush_min_size)),
            node: bootstrap.node.clone(),
            ..BuildContext::default()
        };
        if !bootstrap.local_cluster.is_empty() {
            let own = bootstrap.node.locality.clone().map(Locality::from);
            let local = LocalCluster::new(bootstrap.local_cluster.clone(), own);
            context.hosts.set_local(local);
        }
        context.outlier_events = outlier_events(&bootstrap, &context).map_err(StartError::Config)?;
        let context = Arc::new(context);
        let mut builder = Builder::new(context.clone());
        let meaning = meaning(&bootstrap, &context, &options);
        let pins = check(&bootstrap, &options, &meaning)
            .and_then(|()| add_static(&mut builder, &bootstrap, &context, &meaning))
            .map_err(StartError::Config)?;
        let roots = roots(&bootstrap, &meaning.sources).map_err(StartError::Config)?;
        let resolver = SystemResolver::new().map_err(|error| StartError::Resolver(error.to_string()))?;
        let admin = restart::bind_admin(&bootstrap, restart).await?;
        let admin_logs = admin_logs(&bootstrap, &context).map_err(StartError::Config)?;
        let manager = start_workers(&options, &context, bootstrap.max_connections, restart)?;
        let snapshot = builder.publish();
        manager
            .apply(
                snapshot.listeners.iter().map(|(_, listener)| listener.clone()),
                OnBindError::ApplyNothing,
            )
            .map_err(StartError::Bind)?;
        let control = ProxyControl::new(manager.clone(), options.clone(), &context.stats, times.0);
        let control = Arc::new(control);
        let maintenance = maintain(context.hosts.clone(), Arc::new(resolver));
        let mut tasks = vec![spawn("cluster maintenance", maintenance)];
        let awaited = Awaited {
            root: roots.last().map(|root| root.ty),
            pins: pins.iter().map(|(owner, _)| Arc::from(owner.as_str())).collect(),
        };
        let xds = client(&bootstrap, &meaning, roots, pins).map(|(handle, driver)| {
            tasks.push(spawn("xds", driver.run()));
            let notes = meaning.notes.clone();
            let follow = follow::follow(
                handle.clone(),
                builder,
                manager.clone(),
                control.clone(),
                notes,
                awaited,
            );
            tasks.push(spawn("configuration", follow));
            handle
        });
        if xds.is_none() {
            control.set_live();
        }
        let (stop_admin, admin_stopped) = Drain::new();
        let admin_address = admin.as_ref().and_then(admin::Bound::address);
        if let Some(bound) = admin {
            if let (Some(path), Some(address)) = (&options.admin_address_path, &admin_address) {
                admin::write_address_path(path, address)?;
            }
            let mut state = admin_state(&meaning, admin_logs, options, &bootstrap, times, xds.clone(), &control);
            state.first_started_at = restart.map(|restart| restart.first_started_at().unwrap_or(times.1));
            tasks.push(spawn("admin", async move {
                if let Err(error) = admin::serve(bound, Arc::new(state), admin_stopped).await {
                    tracing::error!(%error, "admin server ended");
                }
            }));
        }
        Ok(Self {
            control,
            context,
            admin: admin_address,
            xds,
            tasks,
            stop_admin: Arc::new(stop_admin),
        })
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

/// The field tables over the whole bootstrap.
fn check(bootstrap: &Bootstrap, options: &Options, meaning: &Meaning) -> Result<(), Problems> {
    for warning in &bootstrap.warnings {
        meaning.notes.tolerate(format!("bootstrap: {warning}"));
    }
    for warning in fields::check(crate::bootstrap::MESSAGE, &bootstrap.bytes, options.unsupported)? {
        tracing::warn!(path = %warning.path, reason = %warning.reason, "tolerated");
        if warning.is_unsupported {
            meaning.server.unsupported_fields.inc();
            meaning.notes.tolerate(format!("bootstrap: {warning}"));
        } else if warning.is_unknown {
            meaning.server.static_unknown_fields.inc();
        }
    }
    Ok(())
}

/// `admin.access_log`
fn admin_logs(bootstrap: &Bootstrap, context: &BuildContext) -> Result<Arc<[AccessLog]>, Problems> {
    let configured = bootstrap.admin.as_ref().map_or(&[][..], |admin| &admin.access_log);
    let logs = each("access_log", configured, |log| AccessLog::compile(log, context));
    logs.map(Arc::from).map_err(|wrong| wrong.under("admin"))
}

fn start_workers(
    options: &Options,
    context: &BuildContext,
    max_connections: Option<u64>,
    restart: Option<&Restart>,
) -> Result<Arc<ListenerManager>, StartError> {
    let workers = Arc::new(Workers::start(options.concurrency)?);
    workers.run_all("pool sweep", |_| async {
        loop {
            clock::sleep(crate::pool::SWEEP_INTERVAL).await;
            crate::pool::sweep();
        }
    });
    let manager = ListenerManager::new(workers, &context.stats, options.drain_time, max_connections);
    Ok(Arc::new(match restart {
        Some(restart) => manager.with_restart(restart.parent().map(|parent| parent.clone() as Arc<dyn Inherit>)),
        None => manager,
    }))
}

fn admin_state(
    meaning: &Meaning,
    access_logs: Arc<[AccessLog]>,
    options: Arc<Options>,
    bootstrap: &Bootstrap,
    (started, started_at): (Instant, SystemTime),
    xds: Option<ClientHandle>,
    control: &Arc<ProxyControl>,
) -> AdminState {
    let context = &meaning.context;
    AdminState {
        stats: context.stats.clone(),
        tags: Arc::new(bootstrap.stats.tags.clone()),
        access_logs,
        stats_matcher: bootstrap.stats.matcher.clone(),
        allow_paths: bootstrap
            .admin
            .as_ref()
            .map(|admin| admin.allow_paths.clone())
            .unwrap_or_default(),
        logging: Logging::current(),
        snapshot: context.snapshot.clone(),
        secrets: context.secrets.clone(),
        options,
        bootstrap: bootstrap.bytes.clone(),
        started,
        started_at,
        first_started_at: None,
        xds,
        notes: meaning.notes.clone(),
        control: Arc::new(AdminControl(control.clone())),
    }
}

fn outlier_events(bootstrap: &Bootstrap, cx: &BuildContext) -> Compiled<Option<Arc<Sink>>> {
    let path = &bootstrap.outlier_event_log;
    if path.is_empty() {
        return Ok(None);
    }
    let opened = cx.access_logs.open(path, &cx.stats);
    opened.map(Some).map_err(|error| {
        let field = "cluster_manager.outlier_detection.event_log_path";
        Problems::one(field, format!("unable to open file '{path}': {error}"))
    })
}

fn add_static(
    builder: &mut Builder,
    bootstrap: &Bootstrap,
    context: &BuildContext,
    meaning: &Meaning,
) -> Result<Pins, Problems> {
    let mut problems = Problems::default();
    let mut pins = Pins::new();
    for (index, secret) in bootstrap.secrets.iter().enumerate() {
        if let Err(wrong) = context.secrets.update(&secret.name, Some(&secret.bytes)) {
            problems
                .0
                .extend(wrong.under(&format!("static_resources.secrets[{index}]")).0);
        }
    }
    for (index, cluster) in bootstrap.clusters.iter().enumerate() {
        let added = builder
            .add_cluster(cluster.bytes.clone())
            .and_then(|needs| meaning.cluster_references(&needs));
        match added {
            Ok(references) if references.is_empty() => {}
            Ok(references) => pins.push((format!("cluster/{}", cluster.name), references)),
            Err(wrong) => problems
                .0
                .extend(wrong.under(&format!("static_resources.clusters[{index}]")).0),
        }
    }
    for (index, listener) in bootstrap.listeners.iter().enumerate() {
        let needs = crate::config::listener::needs(&listener.bytes);
        let references = needs.and_then(|needs| meaning.listener_references(&needs));
        let added = references.and_then(|references| {
            builder.add_listener(&listener.bytes, !references.is_empty())?;
            Ok(references)
        });
        match added {
            Ok(references) if references.is_empty() => {}
            Ok(references) => pins.push((format!("{LISTENER_OWNER}{}", listener.name), references)),
            Err(wrong) => problems
                .0
                .extend(wrong.under(&format!("static_resources.listeners[{index}]")).0),
        }
    }
    if problems.0.is_empty() { Ok(pins) } else { Err(problems) }
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
    if let Err(error) = start_log(&options, &bootstrap) {
        return fail(&error);
    }
    let mut restart = match Restart::begin(&options) {
        Ok(restart) => restart,
        Err(error) => return fail(&error.to_string()),
    };
    let options = Arc::new(options);
    runtime.block_on(async {
        let proxy = match Proxy::start_in(options, bootstrap, restart.as_ref()).await {
            Ok(proxy) => proxy,
            Err(error) => return fail(&error.to_string()),
        };
        control::quit_on_signals(proxy.control.clone());
        if let Some(restart) = &mut restart {
            restart::join(restart, &proxy);
        }
        proxy.finished().await;
        ExitCode::SUCCESS
    })
}

fn start_log(options: &Options, bootstrap: &Bootstrap) -> Result<(), String> {
    let format = options.log_format.as_deref().or(bootstrap.log_format.as_deref());
    let format = format.unwrap_or(logging::DEFAULT_FORMAT);
    let log = Logging::new(options.log_level, format, options.log_path.as_deref())
        .map_err(|error| format!("--log-path: {error}"))?;
    if !options.component_log_level.is_empty() {
        log.set_listed(&options.component_log_level)
            .map_err(|error| format!("--component-log-level: {error}"))?;
    }
    log.install();
    for warning in &bootstrap.warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "the last words of a process that does not start")]
fn fail(message: &str) -> ExitCode {
    tracing::error!("{message}");
    eprintln!("remora: {message}");
    ExitCode::FAILURE
}
