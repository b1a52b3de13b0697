//! The process's own log: Envoy's loggers, levels and line format, on top of `tracing`.
//!
//! In: events of this crate and of the libraries, each belonging to one of Envoy's loggers by its module. Out: lines on stderr or in the file of
//! `--log-path`. A disabled event costs one load: `tracing` caches the decision at each call site until a level changes.

mod pattern;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

pub use pattern::{Pattern, json_pattern};

/// Envoy's default `--log-format`.
pub const DEFAULT_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// Envoy's loggers, as `/logging` lists them.
pub const LOGGERS: [&str; 73] = [
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "rocketmq",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "json_rpc",
    "kafka",
    "key_value_store",
    "lua",
    "local_rate_limit",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "pool",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "router",
    "runtime",
    "stats",
    "secret",
    "sse",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
    "stats_sinks",
    "dynamic_modules",
    "ip_tagging",
];

/// Which logger the events of a module belong to; the first prefix that fits counts. A target that is a logger's name is that logger's.
const MODULES: &[(&str, &str)] = &[
    ("remora::admin", "admin"),
    ("remora::cluster::health_check", "hc"),
    ("remora::cluster::discovery", "dns"),
    ("remora::cluster", "upstream"),
    ("remora::config", "config"),
    ("remora::filters", "filter"),
    ("remora::http::codec::h2", "http2"),
    ("remora::http::router", "router"),
    ("remora::http", "http"),
    ("remora::listener::manager", "config"),
    ("remora::listener", "conn_handler"),
    ("remora::pool", "pool"),
    ("remora::route", "router"),
    ("remora::snapshot", "config"),
    ("remora::tcp", "filter"),
    ("remora::telemetry", "stats"),
    ("remora::tls::secret", "secret"),
    ("remora::tls", "connection"),
    ("remora::", "main"),
    ("remora_xds", "config"),
    ("h2", "http2"),
    ("hyper", "http"),
    ("tonic", "grpc"),
    ("rustls", "connection"),
    ("hickory", "dns"),
];

/// Envoy's levels, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

/// The levels by name, as Envoy prints them.
pub const LEVELS: [(&str, Level); 7] = [
    ("trace", Level::Trace),
    ("debug", Level::Debug),
    ("info", Level::Info),
    ("warning", Level::Warning),
    ("error", Level::Error),
    ("critical", Level::Critical),
    ("off", Level::Off),
];

impl Level {
    /// Also takes `warn`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name == "warn" { "warning" } else { name };
        LEVELS.iter().find(|(own, _)| *own == name).map(|(_, level)| *level)
    }

    pub fn name(self) -> &'static str {
        LEVELS[self as usize].0
    }

    fn of(metadata: &Metadata<'_>) -> Self {
        match *metadata.level() {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error => LevelFilter::ERROR,
            Self::Critical | Self::Off => LevelFilter::OFF,
        }
    }
}

/// Why levels were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("unknown logger name")]
    Logger(String),
    #[error("unknown logger level")]
    Level(String),
}

static CURRENT: OnceLock<Logging> = OnceLock::new();

/// The log of the process. Cloning shares.
#[derive(Clone)]
pub struct Logging(Arc<Inner>);

struct Inner {
    levels: [AtomicU8; LOGGERS.len()],
    pattern: arc_swap::ArcSwap<Pattern>,
    /// `--log-format-escaped`
    escaped: AtomicBool,
    sink: Sink,
}

enum Sink {
    Stderr,
    File { path: PathBuf, file: Mutex<File> },
}

impl Sink {
    fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }

    fn write(&self, line: &str) {
        // A log that cannot be written has nowhere to say so.
        let _ = match self {
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::File { file, .. } => file.lock().write_all(line.as_bytes()),
        };
    }
}

impl Logging {
    /// Every logger at `level`, lines in `format`, into the file at `path` (stderr without one).
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn new(level: Level, format: &str, path: Option<&Path>) -> io::Result<Self> {
        let sink = match path {
            Some(path) => Sink::File {
                path: path.to_owned(),
                file: Mutex::new(Sink::open(path)?),
            },
            None => Sink::Stderr,
        };
        Ok(Self(Arc::new(Inner {
            levels: [(); LOGGERS.len()].map(|()| AtomicU8::new(level as u8)),
            pattern: arc_swap::ArcSwap::from_pointee(Pattern::parse(format)),
            escaped: AtomicBool::new(false),
            sink,
        })))
    }

    /// Makes it the log of the whole process. The first one stays; `false` says that there is one already.
    pub fn install(&self) -> bool {
        let installed = tracing::subscriber::set_global_default(self.subscriber()).is_ok();
        if installed {
            CURRENT.get_or_init(|| self.clone());
        }
        installed
    }

    /// The log of the process; one that nobody reads if none was installed (a proxy that is embedded).
    pub fn current() -> Self {
        let detached = || {
            Self(Arc::new(Inner {
                levels: [(); LOGGERS.len()].map(|()| AtomicU8::new(Level::Off as u8)),
                pattern: arc_swap::ArcSwap::from_pointee(Pattern::parse(DEFAULT_FORMAT)),
                escaped: AtomicBool::new(false),
                sink: Sink::Stderr,
            }))
        };
        CURRENT.get().cloned().unwrap_or_else(detached)
    }

    /// Whether lines go into a file, and not where the process's last words go anyway.
    pub fn is_file(&self) -> bool {
        matches!(self.0.sink, Sink::File { .. })
    }

    /// A subscriber that writes here.
    pub fn subscriber(&self) -> impl Subscriber + Send + Sync + 'static {
        tracing_subscriber::registry().with(EnvoyLayer(self.0.clone()))
    }

    /// From the bootstrap's `application_log_config`.
    pub fn set_format(&self, format: &str) {
        self.0.pattern.store(Arc::new(Pattern::parse(format)));
    }

    /// `--log-format-escaped`: each line as C would write it, but for the blanks at its end.
    pub fn escape(&self, escaped: bool) {
        self.0.escaped.store(escaped, Ordering::Relaxed);
    }

    /// Every logger with its level, in Envoy's order.
    pub fn levels(&self) -> Vec<(&'static str, Level)> {
        LOGGERS
            .iter()
            .enumerate()
            .map(|(index, name)| (*name, self.0.level(index)))
            .collect()
    }

    pub fn set_all(&self, level: Level) {
        self.0
            .levels
            .iter()
            .for_each(|own| own.store(level as u8, Ordering::Relaxed));
        tracing::callsite::rebuild_interest_cache();
    }

    /// Changes several levels at once, or none: `http:debug,upstream:info`.
    ///
    /// # Errors
    /// The first unknown logger or level.
    pub fn set_listed(&self, list: &str) -> Result<(), LevelError> {
        for (index, level) in listed(list)? {
            self.0.levels[index].store(level as u8, Ordering::Relaxed);
        }
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Opens the log file again, for rotation.
    ///
    /// # Errors
    /// When it cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Sink::File { path, file } = &self.0.sink {
            *file.lock() = Sink::open(path)?;
        }
        Ok(())
    }
}

impl Inner {
    fn level(&self, index: usize) -> Level {
        LEVELS[usize::from(self.levels[index].load(Ordering::Relaxed)).min(LEVELS.len() - 1)].1
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        Level::of(metadata) >= self.level(logger_of(metadata.target()))
    }
}

/// Index into [`LOGGERS`].
fn logger_of(target: &str) -> usize {
    let named = |name: &str| LOGGERS.iter().position(|own| *own == name);
    let by_module = || {
        MODULES
            .iter()
            .find(|(prefix, _)| target.starts_with(prefix))
            .and_then(|(_, name)| named(name))
    };
    named(target)
        .or_else(by_module)
        .or_else(|| named("misc"))
        .unwrap_or_default()
}

struct EnvoyLayer(Arc<Inner>);

impl<S: Subscriber> Layer<S> for EnvoyLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.0.enabled(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.0.enabled(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        (0..LOGGERS.len())
            .map(|index| self.0.level(index))
            .min()
            .map(Level::filter)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut message = pattern::Message::default();
        event.record(&mut message);
        let line = self.0.pattern.load().render(&pattern::Line {
            level: Level::of(metadata),
            logger: LOGGERS[logger_of(metadata.target())],
            file: metadata.file().unwrap_or_default(),
            line: metadata.line().unwrap_or_default(),
            message: message.text(),
            at: crate::runtime::clock::system_now().into(),
        });
        if self.0.escaped.load(Ordering::Relaxed) {
            self.0.sink.write(&pattern::escape(&line));
        } else {
            self.0.sink.write(&line);
        }
    }
}

/// Whether there is a logger of that name.
pub fn is_logger(name: &str) -> bool {
    LOGGERS.contains(&name)
}

fn listed(list: &str) -> Result<Vec<(usize, Level)>, LevelError> {
    let entries = list.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let one = |entry: &str| {
        let unknown = |level: &str| LevelError::Level(level.to_owned());
        let (name, level) = entry.split_once(':').ok_or_else(|| unknown(entry))?;
        let index = LOGGERS.iter().position(|own| *own == name);
        let index = index.ok_or_else(|| LevelError::Logger(name.to_owned()))?;
        Ok((index, Level::parse(level).ok_or_else(|| unknown(level))?))
    };
    entries.map(one).collect()
}

#[cfg(test)]
mod tests;
