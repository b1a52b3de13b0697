//! The flags themselves. Names, short forms, defaults and repeatability are Envoy's; a test compares them with its recorded `--help`.

use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};

use super::inject::InjectArgs;

/// A service-mesh sidecar proxy that takes Envoy's configuration, command line and admin API.
#[derive(Debug, Parser)]
#[command(name = "remora", disable_version_flag = true, disable_help_subcommand = true)]
pub(super) struct Args {
    /// Path to the configuration file (YAML or JSON)
    #[arg(short = 'c', long, value_name = "string")]
    pub config_path: Option<PathBuf>,
    /// Inline YAML configuration, merged over the contents of --config-path
    #[arg(long, value_name = "string")]
    pub config_yaml: Option<String>,
    /// `validate` prints every problem of the configuration and exits; `init_only` binds everything, and exits before it listens
    #[arg(long, value_name = "string", value_enum, default_value = "serve")]
    pub mode: ModeArg,
    /// With --mode validate: check what a running Envoy printed on /config_dump
    #[arg(long, value_name = "file")]
    pub config_dump: Option<PathBuf>,
    /// What happens to a field that is set and not honoured: refuse its resource, or warn where that is safe
    #[arg(
        long,
        value_name = "string",
        value_enum,
        default_value = "refuse",
        env = "REMORA_UNSUPPORTED"
    )]
    pub unsupported: UnsupportedArg,
    /// Number of worker threads; by default the CPUs that affinity and cgroup quota grant
    #[arg(long, value_name = "uint32_t")]
    pub concurrency: Option<u32>,

    /// Allow unknown fields in static configuration
    #[arg(long)]
    pub allow_unknown_static_fields: bool,
    /// Allow unknown fields in static configuration (deprecated)
    #[arg(long)]
    pub allow_unknown_fields: bool,
    /// Reject unknown fields in dynamic configuration
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,
    /// Neither log nor count unknown fields in dynamic configuration
    #[arg(long)]
    pub ignore_unknown_dynamic_fields: bool,
    /// Do not warn that a field is deprecated
    #[arg(long)]
    pub skip_deprecated_logs: bool,

    /// Write the admin server's address to this file
    #[arg(long, value_name = "string")]
    pub admin_address_path: Option<PathBuf>,
    /// Which IP address of this machine stands in x-forwarded-for for a peer on the loopback (v4 or v6)
    #[arg(long, value_name = "string", default_value = "v4", value_parser = ["v4", "v6"])]
    pub local_address_ip_version: String,

    /// Log levels: [trace][debug][info][warning|warn][error][critical][off]
    #[arg(short = 'l', long, value_name = "string", default_value = "info")]
    pub log_level: String,
    /// Comma-separated list of component log levels: upstream:debug,config:trace
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub component_log_level: String,
    /// Log message format in spdlog syntax [default: "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"]
    #[arg(long, value_name = "string")]
    pub log_format: Option<String>,
    /// Write log lines with C's escapes: newlines, quotes, bytes that are no ASCII
    #[arg(long)]
    pub log_format_escaped: bool,
    /// Path to the log file (stderr without it)
    #[arg(long, value_name = "string")]
    pub log_path: Option<PathBuf>,

    /// Cluster name, over `node.cluster` of the bootstrap
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub service_cluster: String,
    /// Node name, over `node.id` of the bootstrap
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub service_node: String,
    /// Zone name, over `node.locality.zone` of the bootstrap
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub service_zone: String,

    /// Interval for access-log flushing in milliseconds
    #[arg(long, value_name = "uint32_t", default_value_t = 10_000)]
    pub file_flush_interval_msec: u32,
    /// Minimum size in KB for access-log flushing
    #[arg(long, value_name = "uint32_t", default_value_t = 64)]
    pub file_flush_min_size_kb: u32,
    /// Drain time in seconds for removed listeners and for shutdown
    #[arg(long, value_name = "uint32_t", default_value_t = 600)]
    pub drain_time_s: u32,
    /// How connections are asked to leave while draining: each at a moment of its own within --drain-time-s, or all at once
    #[arg(long, value_name = "string", value_enum, default_value = "gradual")]
    pub drain_strategy: StrategyArg,
    /// A `tag:value` pair on every stat; may be given several times
    #[arg(long, value_name = "string", action = ArgAction::Append)]
    pub stats_tag: Vec<String>,
    /// Comma-separated list of extensions that may not be used, as category/name
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    pub disable_extensions: String,

    /// With a hot restart: how long after the start the epoch before ends at the latest, in seconds
    #[arg(long, value_name = "uint32_t", default_value_t = 900)]
    pub parent_shutdown_time_s: u32,
    /// Base id: processes of different base ids know nothing of each other's hot restarts
    #[arg(long, value_name = "uint32_t", default_value_t = 0)]
    pub base_id: u32,
    /// Hot restart epoch: 0 for the first process, one more for each that takes over
    #[arg(long, value_name = "uint32_t", default_value_t = 0)]
    pub restart_epoch: u32,
    /// Choose a base id that is not in use, whatever --base-id says. Not with a restart epoch other than 0
    #[arg(long)]
    pub use_dynamic_base_id: bool,
    /// Write the base id to this file, with --use-dynamic-base-id
    #[arg(long, value_name = "string")]
    pub base_id_path: Option<PathBuf>,
    /// Take no part in hot restarts
    #[arg(long)]
    pub disable_hot_restart: bool,
    /// Start without taking over if the epoch before is not there
    #[arg(long)]
    pub skip_hot_restart_on_no_parent: bool,
    /// No effect: every epoch counts for itself
    #[arg(long)]
    pub skip_hot_restart_parent_stats: bool,
    /// Path of the unix sockets for hot restart, extended by base id and epoch; abstract with a leading @
    #[arg(long, value_name = "string", default_value = "@envoy_domain_socket")]
    pub socket_path: String,
    /// Permissions of these sockets, if they are paths, in octal
    #[arg(long, value_name = "string", default_value = "600")]
    pub socket_mode: String,
    /// Print the hot restart compatibility version and exit
    #[arg(long)]
    pub hot_restart_version: bool,
    /// No effect: locks are not traced
    #[arg(long)]
    pub enable_mutex_tracing: bool,
    /// No effect: affinity always counts
    #[arg(long)]
    pub cpuset_threads: bool,
    /// No effect: levels are per logger
    #[arg(long)]
    pub enable_fine_grain_logging: bool,
    /// No effect: the kernel's limits decide about core dumps
    #[arg(long)]
    pub enable_core_dump: bool,
    /// No effect: a panic is always one log entry
    #[arg(long)]
    pub log_stacktrace_single_entry: bool,

    /// Print version information and exit
    #[arg(long)]
    pub version: bool,
    #[command(subcommand)]
    pub command: Option<Subcommand>,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Show the proxy at work: a mock control plane, two sidecars and an application in this process
    Demo(DemoArgs),
    /// Redirect a pod's traffic to the proxy, with istio-iptables' flags and rules; --clean removes them
    Inject(Box<InjectArgs>),
    /// Print version information
    #[command(hide = true)]
    Version(VersionArg),
}

/// Arguments of `remora demo`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct DemoArgs {
    /// Keep serving until interrupted, instead of running the tour once
    #[arg(long)]
    pub serve: bool,
    /// For how long the tour sends traffic at least, in seconds; its scenes alone take about ten
    #[arg(long, value_name = "seconds", default_value_t = 10)]
    pub duration: u64,
    /// Worker threads of each proxy
    #[arg(long, value_name = "uint32_t", default_value_t = 1)]
    pub concurrency: u32,
    /// Port of the admin server on 127.0.0.1 (0: any)
    #[arg(long, value_name = "port", default_value_t = 0)]
    pub admin_port: u16,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct VersionArg {}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum ModeArg {
    Serve,
    Validate,
    InitOnly,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum UnsupportedArg {
    Refuse,
    Warn,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum StrategyArg {
    Gradual,
    Immediate,
}
