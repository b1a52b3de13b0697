//! Construction of every long-lived object, once; and how the process ends.
//!
//! In: parsed options and a loaded bootstrap. Out: a running [`Proxy`]. Errors before anything listens are all reported together.

mod assembly;
mod client;
mod control;
mod follow;
mod interpreter;
mod made;
mod restart;
mod secret_files;
mod stats;
mod transport;
mod warm;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use remora_xds::ClientHandle;

pub use assembly::{Assembly, assemble};
use client::client;
use control::AdminControl;
pub use control::ProxyControl;
pub use transport::ClusterTransport;

use crate::admin::{self, AdminState};
use crate::bootstrap::{Bootstrap, Flush};
use crate::cli::{Mode, Options};
use crate::cluster::maintain::maintain;
use crate::config::{BuildContext, Problems};
use crate::filters::names;
use crate::listener::manager::Draining;
use crate::listener::{Inherit, ListenerManager};
use crate::restart::Restart;
use crate::runtime::clock;
use crate::runtime::drain::Drain;
use crate::runtime::io::Address;
use crate::runtime::spawn::{self, spawn};
use crate::runtime::worker::Workers;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::logging::{self, Logging};
use crate::telemetry::server::ServerStats;
use crate::tls;
use follow::Awaited;
use interpreter::Meaning;
use made::Made;
use warm::Warming;

/// Why a proxy did not start. Nothing of it listens.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(Problems),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Bind(Vec<crate::listener::bind::BindError>),
    #[error("admin address {address}: {error}")]
    Admin { address: String, error: std::io::Error },
    #[error("--admin-address-path: unable to write '{path}': {error}")]
    AddressPath { path: String, error: std::io::Error },
    /// Of `--mode init_only`.
    #[error("{0}")]
    Reserve(String),
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
        let made = Made::new(&options, &bootstrap, restart).await?;
        let Made {
            context,
            mut builder,
            meaning,
            pins,
            roots,
            resolver,
            admin,
            admin_logs,
            manager,
        } = made;
        let warming = Warming::begin(&builder.publish(), &manager)?;
        let control = ProxyControl::new(manager.clone(), options.clone(), &context, times.0);
        let control = Arc::new(control);
        let server: Arc<ServerStats> = context.stats.group("server.");
        server.can_restart.store(restart.is_some(), Ordering::Relaxed);
        let maintenance = maintain(context.hosts.clone(), resolver, context.stats.clone());
        let mut tasks = vec![spawn("cluster maintenance", maintenance)];
        tasks.extend(flush_stats(&bootstrap, &context));
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
                !warming.is_over(),
            );
            (handle, follow)
        });
        let (xds, follow) = xds.unzip();
        tasks.extend(warm::go_on(warming, follow, &control));
        let (stop_admin, admin_stopped) = Drain::new();
        let admin_address = admin.as_ref().and_then(admin::Bound::address);
        if let Some(bound) = admin {
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

    /// `--mode init_only`: everything up to the point of listening, static listeners bound included, and nothing that stays.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn initialize(
        options: &Arc<Options>,
        bootstrap: &Bootstrap,
        restart: Option<&Restart>,
    ) -> Result<(), StartError> {
        let mut made = Made::new(options, bootstrap, restart).await?;
        let snapshot = made.builder.publish();
        for (name, listener) in snapshot.listeners.iter() {
            let refused = |reason| StartError::Reserve(format!("listener '{name}': {reason}"));
            made.manager.reserve(listener).map_err(refused)?;
        }
        Ok(())
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

/// Ends the intervals of histograms as often as the bootstrap says; there are no sinks that anything would be flushed to.
fn flush_stats(bootstrap: &Bootstrap, context: &BuildContext) -> Option<tokio::task::JoinHandle<()>> {
    let Flush::Every(interval) = bootstrap.stats.flush else {
        return None;
    };
    let stats = context.stats.clone();
    Some(spawn("stats flush", async move {
        loop {
            clock::sleep(interval).await;
            stats.flush();
        }
    }))
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
    let draining = Draining {
        time: options.drain_time,
        strategy: options.drain_strategy,
    };
    let manager = ListenerManager::new(workers, &context.stats, draining, max_connections);
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
    let secrets = context.secrets.clone();
    let server: Arc<ServerStats> = context.stats.group("server.");
    server.show_certificates(move || secrets.first_expiration());
    AdminState {
        stats: context.stats.clone(),
        tags: Arc::new(bootstrap.stats.tags.clone()),
        access_logs,
        stats_matcher: bootstrap.stats.matcher.clone(),
        buckets: bootstrap.stats.buckets.clone(),
        flush_stats: bootstrap.stats.flush == Flush::OnAdmin,
        records_lookups: AtomicBool::new(false),
        allow_paths: bootstrap
            .admin
            .as_ref()
            .map(|admin| admin.allow_paths.clone())
            .unwrap_or_default(),
        logging: Logging::current(),
        runtime: context.runtime.clone(),
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

/// How long a blocking thread waits for more work.
const BLOCKING_IDLE: Duration = Duration::from_millis(300);

/// Runs the process for `options` until it is told to quit.
pub fn run(options: Options) -> ExitCode {
    spawn::install_panic_hook();
    tls::gather_entropy();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // What a push was compiled on is not kept for the next one: a thread that ends leaves its memory to be given back.
        .thread_keep_alive(BLOCKING_IDLE)
        .build();
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
    names::disable(&options.disabled_extensions);
    let mut restart = match Restart::begin(&options) {
        Ok(restart) => restart,
        Err(error) => return fail(&error.to_string()),
    };
    let options = Arc::new(options);
    runtime.block_on(async {
        if options.mode == Mode::InitOnly {
            return match Proxy::initialize(&options, &bootstrap, restart.as_ref()).await {
                Ok(()) => {
                    tracing::info!("initialized, as --mode init_only asks: exiting");
                    ExitCode::SUCCESS
                }
                Err(error) => fail(&error.to_string()),
            };
        }
        let proxy = match Proxy::start_in(options, bootstrap, restart.as_ref()).await {
            Ok(proxy) => proxy,
            Err(error) => return fail(&error.to_string()),
        };
        control::follow_signals(&proxy.control);
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
    let path = options.log_path.as_deref();
    let log = Logging::new(options.log_level, format, path).map_err(|error| {
        format!(
            "--log-path: unable to open '{}': {error}",
            path.unwrap_or(Path::new("")).display()
        )
    })?;
    if !options.component_log_level.is_empty() {
        log.set_listed(&options.component_log_level)
            .map_err(|error| format!("--component-log-level: {error}"))?;
    }
    log.escape(options.log_format_escaped);
    log.install();
    for warning in &bootstrap.warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "the last words of a process that does not start")]
fn fail(message: &str) -> ExitCode {
    if Logging::current().is_file() {
        tracing::error!("{message}");
    }
    eprintln!("remora: {message}");
    ExitCode::FAILURE
}
