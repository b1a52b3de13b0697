//! Flags of `remora inject`: names, short forms, defaults and environment variables are istio-iptables' own.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, ValueEnum};

/// Arguments of `remora inject`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct InjectArgs {
    /// Port of the proxy that outbound TCP traffic is redirected to
    #[arg(short = 'p', long, value_name = "port", default_value_t = 15001)]
    pub envoy_port: u16,
    /// Port of the proxy that inbound TCP traffic is redirected to
    #[arg(
        short = 'z',
        long,
        value_name = "port",
        default_value_t = 15006,
        env = "INBOUND_CAPTURE_PORT"
    )]
    pub inbound_capture_port: u16,
    /// Tunnel port, which is never redirected
    #[arg(
        short = 'e',
        long,
        value_name = "port",
        default_value_t = 15008,
        env = "INBOUND_TUNNEL_PORT"
    )]
    pub inbound_tunnel_port: u16,
    /// User ids whose traffic is not redirected: the proxy's [default: the user ENVOY_USER or istio-proxy, else 1337]
    #[arg(short = 'u', long, value_name = "list", default_value = "", env = "PROXY_UID")]
    pub proxy_uid: String,
    /// Group ids whose traffic is not redirected [default: as --proxy-uid]
    #[arg(short = 'g', long, value_name = "list", default_value = "", env = "PROXY_GID")]
    pub proxy_gid: String,
    /// How inbound connections are redirected: REDIRECT or TPROXY
    #[arg(
        short = 'm',
        long,
        value_name = "mode",
        value_enum,
        default_value = "REDIRECT",
        env = "ISTIO_INBOUND_INTERCEPTION_MODE"
    )]
    pub istio_inbound_interception_mode: InterceptionMode,
    /// Inbound ports to redirect; `*` for all, empty for none
    #[arg(
        short = 'b',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_INBOUND_PORTS"
    )]
    pub istio_inbound_ports: String,
    /// Inbound ports to leave alone, where all others are redirected
    #[arg(
        short = 'd',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_LOCAL_EXCLUDE_PORTS"
    )]
    pub istio_local_exclude_ports: String,
    /// Network interfaces whose traffic is left alone in both directions
    #[arg(
        short = 'c',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_EXCLUDE_INTERFACES"
    )]
    pub istio_exclude_interfaces: String,
    /// Outbound address ranges to redirect; `*` for all, empty for none
    #[arg(
        short = 'i',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_SERVICE_CIDR"
    )]
    pub istio_service_cidr: String,
    /// Outbound address ranges to leave alone
    #[arg(
        short = 'x',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_SERVICE_EXCLUDE_CIDR"
    )]
    pub istio_service_exclude_cidr: String,
    /// Outbound ports to redirect whatever the address
    #[arg(
        short = 'q',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_OUTBOUND_PORTS"
    )]
    pub istio_outbound_ports: String,
    /// Outbound ports to leave alone
    #[arg(
        short = 'o',
        long,
        value_name = "list",
        default_value = "",
        env = "ISTIO_LOCAL_OUTBOUND_PORTS_EXCLUDE"
    )]
    pub istio_local_outbound_ports_exclude: String,
    /// Virtual interfaces whose inbound traffic counts as outbound (virtual machines)
    #[arg(
        short = 'k',
        long,
        value_name = "list",
        default_value = "",
        env = "KUBE_VIRT_INTERFACES"
    )]
    pub kube_virt_interfaces: String,
    /// Mark of inbound packets with TPROXY
    #[arg(
        short = 't',
        long,
        value_name = "mark",
        default_value_t = 1337,
        env = "ISTIO_INBOUND_TPROXY_MARK"
    )]
    pub istio_inbound_tproxy_mark: u32,
    /// Route table of marked packets with TPROXY
    #[arg(
        short = 'r',
        long,
        value_name = "table",
        default_value_t = 133,
        env = "ISTIO_INBOUND_TPROXY_ROUTE_TABLE"
    )]
    pub istio_inbound_tproxy_route_table: u32,
    /// Print the rules and change nothing
    #[arg(short = 'n', long, env = "DRY_RUN", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub dry_run: bool,
    /// Remove every rule, make none
    #[arg(long, visible_alias = "clean", env = "CLEANUP_ONLY", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub cleanup_only: bool,
    /// Redirect DNS queries to the servers of /etc/resolv.conf to the agent, port 15053
    #[arg(long, env = "ISTIO_META_DNS_CAPTURE", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub redirect_dns: bool,
    /// With --redirect-dns: queries to any server
    #[arg(long, env = "CAPTURE_ALL_DNS", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub capture_all_dns: bool,
    /// Drop inbound packets that belong to no connection, instead of answering them with a reset
    #[arg(long, env = "INVALID_DROP", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub drop_invalid: bool,
    /// Rules for IPv6 too where the pod has an IPv4 address; a pod with IPv6 alone always has them
    #[arg(long, env = "ISTIO_DUAL_STACK", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub dual_stack: bool,
    /// Path of the network namespace to work in [default: the own one]
    #[arg(long, value_name = "path", env = "NETWORK_NAMESPACE")]
    pub network_namespace: Option<PathBuf>,
    /// Which iptables to use: legacy or nft [default: legacy where it has rules, else nft, else the plain one]
    #[arg(long, value_name = "kind", value_enum, env = "FORCE_IPTABLES_BINARY")]
    pub force_iptables_binary: Option<IptablesKind>,
    /// Make the rules anew even where they are in place
    #[arg(long, env = "FORCE_APPLY", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub force_apply: bool,
    /// Replace what another set-up has left; that is so always
    #[arg(long, env = "RECONCILE", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub reconcile: Option<bool>,
    /// Make no rules: with --run-validation, see only whether there are some
    #[arg(long, env = "SKIP_RULE_APPLY", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub skip_rule_apply: bool,
    /// See whether the rules are in force, before the proxy runs and as its user; the exit status is 126 if they are not
    #[arg(long, env = "RUN_VALIDATION", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub run_validation: bool,
    /// The port that --run-validation connects to
    #[arg(long, value_name = "port", default_value_t = 15002, env = "IPTABLES_PROBE_PORT")]
    pub iptables_probe_port: u16,
    /// How long --run-validation tries, like 5s or 1m30s
    #[arg(long, value_name = "duration", default_value = "5s", env = "PROBE_TIMEOUT", value_parser = go_duration)]
    pub probe_timeout: Duration,
    /// Not supported: refused, as silence would leave a pod without rules
    #[arg(long, env = "CNI_MODE", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new(), hide = true)]
    pub cni_mode: bool,
    /// Not supported: refused, as silence would leave a pod without rules
    #[arg(long, env = "NATIVE_NFTABLES", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new(), hide = true)]
    pub native_nftables: bool,
    /// Groups whose outbound traffic is redirected; `*` for all
    #[arg(long, hide = true, default_value = "*", env = "ISTIO_OUTBOUND_OWNER_GROUPS")]
    pub istio_outbound_owner_groups: String,
    /// Groups whose outbound traffic is left alone, where all others are redirected
    #[arg(long, hide = true, default_value = "", env = "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE")]
    pub istio_outbound_owner_groups_exclude: String,
    /// The loopback range that counts as the application's own
    #[arg(
        long,
        hide = true,
        default_value = "127.0.0.1/32",
        env = "ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"
    )]
    pub istio_outbound_ipv4_loopback_cidr: String,
}

/// `--istio-inbound-interception-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InterceptionMode {
    #[value(name = "REDIRECT")]
    Redirect,
    #[value(name = "TPROXY")]
    Tproxy,
}

/// `--force-iptables-binary`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IptablesKind {
    Legacy,
    Nft,
}

/// A duration as Go writes it: numbers with units, one after the other.
fn go_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration like 5s or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let end = rest
            .find(|char: char| !char.is_ascii_digit() && char != '.')
            .ok_or_else(wrong)?;
        let (number, tail) = rest.split_at_checked(end).ok_or_else(wrong)?;
        let units = [
            ("ns", 1e-9),
            ("us", 1e-6),
            ("ms", 1e-3),
            ("s", 1.0),
            ("m", 60.0),
            ("h", 3600.0),
        ];
        let unit = units
            .into_iter()
            .find(|(unit, _)| tail.starts_with(unit))
            .ok_or_else(wrong)?;
        let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit.1;
        let part = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = tail.get(unit.0.len()..).unwrap_or_default();
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let seconds = |text| go_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("5s"), Ok(5.0));
        assert_eq!(seconds("1m30s"), Ok(90.0));
        assert_eq!(seconds("1.5h"), Ok(5400.0));
        assert_eq!(seconds("250ms"), Ok(0.25));
        for wrong in ["", "5", "s", "-5s", "5x", "1..5s", "5s "] {
            assert!(go_duration(wrong).is_err(), "{wrong}");
        }
    }
}
