//! The command line, flag for flag Envoy's.
//!
//! In: arguments and a few environment variables. Out: [`Options`], parsed and defaulted, or a message and an exit code.

mod args;
mod dispatch;
mod inject;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

pub use args::DemoArgs;
use args::{Args, ModeArg, StrategyArg, Subcommand, UnsupportedArg, VersionArg};
pub use dispatch::main;
pub use inject::{InjectArgs, InterceptionMode, IptablesKind};

use crate::telemetry::logging::{self, Level};

/// Envoy's version whose behaviour and configuration this is.
pub const ENVOY_VERSION: &str = "1.40.0";

/// `--mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Serve,
    /// Check the configuration, print what is wrong with it, exit.
    Validate,
    /// Start everything up to the point of listening, exit.
    InitOnly,
}

/// What happens to a set field that is not honoured (D8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsupported {
    #[default]
    Refuse,
    /// Log, count, show on `/xds`, and go on; except where that would weaken access control, TLS or routing.
    Warn,
}

/// `--drain-strategy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    #[default]
    Gradual,
    Immediate,
}

/// Everything that the command line decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub config_path: Option<PathBuf>,
    pub config_yaml: Option<String>,
    pub mode: Mode,
    /// With [`Mode::Validate`]: a running Envoy's `/config_dump` to check.
    pub config_dump: Option<PathBuf>,
    pub unsupported: Unsupported,
    /// Worker threads, at least one.
    pub concurrency: usize,
    pub allow_unknown_static_fields: bool,
    pub reject_unknown_dynamic_fields: bool,
    pub ignore_unknown_dynamic_fields: bool,
    pub skip_deprecated_logs: bool,
    pub admin_address_path: Option<PathBuf>,
    pub local_address_ip_version: IpVersion,
    pub log_level: Level,
    pub component_log_level: String,
    pub log_format: Option<String>,
    pub log_format_escaped: bool,
    pub log_path: Option<PathBuf>,
    pub service_cluster: String,
    pub service_node: String,
    pub service_zone: String,
    pub file_flush_interval: Duration,
    /// Bytes.
    pub file_flush_min_size: usize,
    pub drain_time: Duration,
    pub drain_strategy: DrainStrategy,
    pub parent_shutdown_time: Duration,
    /// `tag:value` pairs on every stat.
    pub stats_tags: Vec<(String, String)>,
    /// Names of extensions that may not be used.
    pub disabled_extensions: Vec<String>,
    pub base_id: u32,
    pub restart_epoch: u32,
    pub use_dynamic_base_id: bool,
    pub base_id_path: Option<PathBuf>,
    pub disable_hot_restart: bool,
    pub enable_mutex_tracing: bool,
    pub cpuset_threads: bool,
    pub enable_fine_grain_logging: bool,
    pub enable_core_dump: bool,
    pub log_stacktrace_single_entry: bool,
    pub skip_hot_restart_on_no_parent: bool,
    pub skip_hot_restart_parent_stats: bool,
    pub socket_path: String,
    pub socket_mode: String,
}

/// `--local-address-ip-version`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpVersion {
    #[default]
    V4,
    V6,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run(Box<Options>),
    Demo(DemoArgs),
    /// Take over a pod's traffic, or give it back.
    Inject(Box<InjectArgs>),
}

/// The process ends here: what to print, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub message: String,
    /// 0: print on stdout; otherwise on stderr.
    pub code: u8,
}

impl Exit {
    fn refused(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: 1,
        }
    }
}

/// Parses the arguments, the program's name first.
///
/// # Errors
/// `--help`, `--version` and `--hot-restart-version` (code 0), and whatever Envoy refuses too (code 1).
pub fn parse<I, T>(arguments: I) -> Result<Command, Exit>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let mut arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    // What stands behind `--` is ignored, not an error.
    if let Some(end) = arguments
        .iter()
        .position(|argument| argument == "--" || argument == "--ignore_rest")
    {
        arguments.truncate(end);
    }
    let program = arguments
        .first()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let parsed = Args::try_parse_from(arguments).map_err(|error| Exit {
        code: u8::from(error.use_stderr()),
        message: error.render().to_string(),
    })?;
    if parsed.version {
        return Err(Exit {
            message: format!("\n{program}  version: {}\n\n", version()),
            code: 0,
        });
    }
    if parsed.hot_restart_version {
        return Err(Exit {
            message: hot_restart_version(parsed.disable_hot_restart),
            code: 0,
        });
    }
    match parsed.command.clone() {
        Some(Subcommand::Demo(demo)) => Ok(Command::Demo(demo)),
        Some(Subcommand::Inject(inject)) => Ok(Command::Inject(inject)),
        Some(Subcommand::Version(VersionArg {})) => Err(Exit {
            message: format!("{}\n", version()),
            code: 0,
        }),
        None => options(parsed).map(|options| Command::Run(Box::new(options))),
    }
}

/// `commit/version/state/build/TLS library`, Envoy's line shape.
pub fn version() -> String {
    format!("{COMMIT}/{}/Clean/{BUILD}/{CRYPTO}", env!("CARGO_PKG_VERSION"))
}

/// What was built; zeros if that was not said.
pub const COMMIT: &str = match option_env!("REMORA_COMMIT") {
    Some(commit) => commit,
    None => "0000000000000000000000000000000000000000",
};

/// In Envoy's words.
pub const BUILD: &str = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };

/// The TLS library's algorithms.
pub const CRYPTO: &str = "aws-lc";

fn hot_restart_version(disabled: bool) -> String {
    format!("{}\n", if disabled { "disabled" } else { crate::restart::VERSION })
}

/// CPUs that this process may use: its affinity, and the quota of its cgroups (v2 and v1), rounded down, at least one.
pub fn granted_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn options(args: Args) -> Result<Options, Exit> {
    let level = |name: &str| {
        Level::parse(name).ok_or_else(|| Exit::refused(format!("error: invalid log level specified '{name}'\n")))
    };
    let options = Options {
        config_path: args.config_path,
        config_yaml: args.config_yaml,
        mode: match args.mode {
            ModeArg::Serve => Mode::Serve,
            ModeArg::Validate => Mode::Validate,
            ModeArg::InitOnly => Mode::InitOnly,
        },
        config_dump: args.config_dump,
        unsupported: match args.unsupported {
            UnsupportedArg::Refuse => Unsupported::Refuse,
            UnsupportedArg::Warn => Unsupported::Warn,
        },
        concurrency: args
            .concurrency
            .map_or_else(granted_cpus, |count| (count as usize).max(1)),
        allow_unknown_static_fields: args.allow_unknown_static_fields || args.allow_unknown_fields,
        reject_unknown_dynamic_fields: args.reject_unknown_dynamic_fields,
        ignore_unknown_dynamic_fields: args.ignore_unknown_dynamic_fields,
        skip_deprecated_logs: args.skip_deprecated_logs,
        admin_address_path: args.admin_address_path,
        local_address_ip_version: if args.local_address_ip_version == "v6" {
            IpVersion::V6
        } else {
            IpVersion::V4
        },
        log_level: level(&args.log_level)?,
        component_log_level: args.component_log_level,
        log_format: args.log_format,
        log_format_escaped: args.log_format_escaped,
        log_path: args.log_path,
        service_cluster: args.service_cluster,
        service_node: args.service_node,
        service_zone: args.service_zone,
        file_flush_interval: Duration::from_millis(args.file_flush_interval_msec.into()),
        file_flush_min_size: args.file_flush_min_size_kb as usize * 1024,
        drain_time: Duration::from_secs(args.drain_time_s.into()),
        drain_strategy: match args.drain_strategy {
            StrategyArg::Gradual => DrainStrategy::Gradual,
            StrategyArg::Immediate => DrainStrategy::Immediate,
        },
        parent_shutdown_time: Duration::from_secs(args.parent_shutdown_time_s.into()),
        stats_tags: stats_tags(&args.stats_tag)?,
        disabled_extensions: args
            .disable_extensions
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
        base_id: args.base_id,
        restart_epoch: args.restart_epoch,
        use_dynamic_base_id: args.use_dynamic_base_id,
        base_id_path: args.base_id_path,
        disable_hot_restart: args.disable_hot_restart,
        enable_mutex_tracing: args.enable_mutex_tracing,
        cpuset_threads: args.cpuset_threads,
        enable_fine_grain_logging: args.enable_fine_grain_logging,
        enable_core_dump: args.enable_core_dump,
        log_stacktrace_single_entry: args.log_stacktrace_single_entry,
        skip_hot_restart_on_no_parent: args.skip_hot_restart_on_no_parent,
        skip_hot_restart_parent_stats: args.skip_hot_restart_parent_stats,
        socket_path: args.socket_path,
        socket_mode: args.socket_mode,
    };
    consistent(&options)?;
    Ok(options)
}

/// Flags that exclude each other.
fn consistent(options: &Options) -> Result<(), Exit> {
    if options.use_dynamic_base_id && options.restart_epoch > 0 {
        return Err(Exit::refused(format!(
            "error: cannot use --restart-epoch={} with --use-dynamic-base-id\n",
            options.restart_epoch
        )));
    }
    if options.enable_fine_grain_logging && !options.component_log_level.is_empty() {
        return Err(Exit::refused(
            "error: --component-log-level will not work with --enable-fine-grain-logging\n",
        ));
    }
    component_levels(&options.component_log_level)?;
    if options.config_dump.is_some() && options.mode != Mode::Validate {
        return Err(Exit::refused("error: --config-dump needs --mode validate\n"));
    }
    Ok(())
}

/// `upstream:debug,config:trace`, in Envoy's words where it is not.
fn component_levels(list: &str) -> Result<(), Exit> {
    for entry in list.split(',').filter(|_| !list.is_empty()) {
        let wrong = match entry.split(':').collect::<Vec<_>>()[..] {
            [_, level] if Level::parse(level).is_none() => format!("invalid log level specified '{level}'"),
            [component, _] if !logging::is_logger(component) => {
                format!("invalid component specified '{component}'")
            }
            [_, _] => continue,
            _ => format!("component log level not correctly specified '{entry}'"),
        };
        return Err(Exit::refused(format!("error: {wrong}\n")));
    }
    Ok(())
}

fn stats_tags(arguments: &[String]) -> Result<Vec<(String, String)>, Exit> {
    let mut tags: Vec<(String, String)> = Vec::new();
    for argument in arguments {
        let pair = argument.split_once(':').filter(|(tag, value)| {
            let named = !tag.is_empty() && tag.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
            named && !value.is_empty() && !value.contains('.')
        });
        let (tag, value) = pair.ok_or_else(|| {
            Exit::refused(format!(
                "error: misformatted stats-tag '{argument}', format must be 'tag:value'\n"
            ))
        })?;
        if tags.iter().any(|(own, known)| own == tag && known != value) {
            return Err(Exit::refused(format!(
                "error: stats-tag '{tag}' has more than one value\n"
            )));
        }
        tags.push((tag.to_owned(), value.to_owned()));
    }
    Ok(tags)
}

impl Options {
    /// `command_line_options` of `/server_info`.
    pub fn to_json(&self) -> serde_json::Value {
        let path = |path: &Option<PathBuf>| path.as_ref().map_or(String::new(), |path| path.display().to_string());
        let seconds = |duration: Duration| format!("{}s", duration.as_secs_f64());
        json!({
            "base_id": self.base_id.to_string(),
            "concurrency": self.concurrency,
            "config_path": path(&self.config_path),
            "config_yaml": self.config_yaml.as_deref().unwrap_or_default(),
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "admin_address_path": path(&self.admin_address_path),
            "local_address_ip_version": match self.local_address_ip_version { IpVersion::V4 => "v4", IpVersion::V6 => "v6" },
            "log_level": self.log_level.name(),
            "component_log_level": self.component_log_level,
            "log_format": self.log_format.as_deref().unwrap_or(crate::telemetry::logging::DEFAULT_FORMAT),
            "log_path": path(&self.log_path),
            "service_cluster": self.service_cluster,
            "service_node": self.service_node,
            "service_zone": self.service_zone,
            "file_flush_interval": seconds(self.file_flush_interval),
            "drain_time": seconds(self.drain_time),
            "parent_shutdown_time": seconds(self.parent_shutdown_time),
            "mode": match self.mode { Mode::Serve => "Serve", Mode::Validate => "Validate", Mode::InitOnly => "InitOnly" },
            "disable_hot_restart": self.disable_hot_restart,
            "enable_mutex_tracing": self.enable_mutex_tracing,
            "restart_epoch": self.restart_epoch,
            "cpuset_threads": self.cpuset_threads,
            "reject_unknown_dynamic_fields": self.reject_unknown_dynamic_fields,
            "log_format_escaped": self.log_format_escaped,
            "disabled_extensions": self.disabled_extensions,
            "ignore_unknown_dynamic_fields": self.ignore_unknown_dynamic_fields,
            "use_dynamic_base_id": self.use_dynamic_base_id,
            "base_id_path": path(&self.base_id_path),
            "drain_strategy": match self.drain_strategy { DrainStrategy::Gradual => "Gradual", DrainStrategy::Immediate => "Immediate" },
            "enable_fine_grain_logging": self.enable_fine_grain_logging,
            "socket_path": self.socket_path,
            "socket_mode": u32::from_str_radix(&self.socket_mode, 8).unwrap_or_default(),
            "enable_core_dump": self.enable_core_dump,
            "stats_tag": self.stats_tags.iter().map(|(tag, value)| format!("{tag}:{value}")).collect::<Vec<_>>(),
            "skip_hot_restart_on_no_parent": self.skip_hot_restart_on_no_parent,
            "skip_hot_restart_parent_stats": self.skip_hot_restart_parent_stats,
            "skip_deprecated_logs": self.skip_deprecated_logs,
            "file_flush_min_size": self.file_flush_min_size / 1024,
            "log_stacktrace_single_entry": self.log_stacktrace_single_entry,
        })
    }
}

#[cfg(test)]
mod tests;
