//! Tag extraction: `cluster.foo.upstream_rq_200` → `cluster.upstream_rq` with `envoy_cluster_name="foo"`, `envoy_response_code="200"`.
//!
//! Envoy's default rules, the regexes of `stats_config.stats_tags`, and fixed tags. Used at scrape time only.

use std::ops::Range;

// Envoy reads these as ECMAScript, which looks around; Istio's bootstrap relies on it.
use fancy_regex::Regex;

/// Every rule in force, in the order in which Envoy prints the tags.
#[derive(Clone, Debug)]
pub struct TagRules {
    custom: Vec<(String, Regex)>,
    defaults: bool,
    /// Tags on every stat: `--stats-tag` and `fixed_value`.
    fixed: Vec<(String, String)>,
}

/// A stat's name without its tags, and those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub name: String,
    pub tags: Vec<(String, String)>,
}

impl Default for TagRules {
    fn default() -> Self {
        Self {
            custom: Vec::new(),
            defaults: true,
            fixed: Vec::new(),
        }
    }
}

impl TagRules {
    /// `defaults`: `use_all_default_tags`.
    pub fn new(defaults: bool) -> Self {
        Self {
            defaults,
            ..Self::default()
        }
    }

    /// A rule whose first group is cut from the name and whose second group (or the first) is the value.
    ///
    /// # Errors
    /// When the expression does not compile.
    pub fn add_regex(&mut self, tag: &str, regex: &str) -> Result<(), fancy_regex::Error> {
        self.custom.push((tag.to_owned(), Regex::new(regex)?));
        Ok(())
    }

    pub fn add_fixed(&mut self, tag: &str, value: &str) {
        self.fixed.push((tag.to_owned(), value.to_owned()));
    }

    pub fn extract(&self, name: &str) -> Tagged {
        let mut cuts: Vec<Range<usize>> = Vec::new();
        let mut tags = self.fixed.clone();
        let mut add = |tag: &str, cut: Range<usize>, value: &str| {
            let known = tags.iter().any(|(own, _)| own == tag);
            if !known
                && cuts
                    .iter()
                    .all(|other| cut.end <= other.start || other.end <= cut.start)
            {
                tags.push((tag.to_owned(), value.to_owned()));
                cuts.push(cut);
            }
        };
        for (tag, regex) in &self.custom {
            // An expression that backtracks too far finds nothing.
            let Ok(Some(found)) = regex.captures(name) else {
                continue;
            };
            let Some(cut) = found.get(1) else { continue };
            add(tag, cut.range(), found.get(2).unwrap_or(cut).as_str());
        }
        if self.defaults {
            for (tag, rule) in DEFAULTS {
                if let Some((cut, value)) = rule.find(name) {
                    add(tag, cut, &name[value]);
                }
            }
        }
        Tagged {
            name: without(name, cuts),
            tags,
        }
    }
}

fn without(name: &str, mut cuts: Vec<Range<usize>>) -> String {
    cuts.sort_by_key(|cut| cut.start);
    let mut kept = String::with_capacity(name.len());
    let mut from = 0;
    for cut in cuts {
        kept += &name[from..cut.start];
        from = cut.end;
    }
    kept + &name[from..]
}

enum Rule {
    /// Dot-separated: a literal, `*` for any token, `$` for the value, a final `**` for the rest.
    Tokens(&'static str),
    ResponseCode,
    ResponseCodeClass,
    ListenerAddress,
    /// What stands behind this, in a name that begins with that; the value may have dots (`TLSv1.3`).
    Ssl(&'static str, &'static str),
    /// Between `.ssl.certificate.` and the next dot.
    Certificate,
    /// The number of `worker_<number>`: `worker_` itself stays.
    Worker,
    /// The stat prefix behind `listener.<address>.http.`; the address has dots of its own.
    ListenerHttp,
    /// Behind `proxy_proto.`, if it is not the `versions` of a filter without a prefix.
    ProxyPrefix,
    /// The number of `versions.v<number>`.
    ProxyVersion,
}

/// Envoy's `well_known_names`, as far as there are stats for them here.
const DEFAULTS: &[(&str, Rule)] = &[
    ("envoy.response_code", Rule::ResponseCode),
    ("envoy.response_code_class", Rule::ResponseCodeClass),
    ("envoy.virtual_cluster", Rule::Tokens("vhost.*.vcluster.$.**")),
    ("envoy.route", Rule::Tokens("vhost.*.route.$.**")),
    ("envoy.fault_downstream_cluster", Rule::Tokens("http.*.fault.$.**")),
    ("envoy.ssl_cipher", Rule::Ssl("listener.", ".ssl.ciphers.")),
    ("cipher_suite", Rule::Ssl("cluster.", ".ssl.ciphers.")),
    ("envoy.ssl_curve", Rule::Ssl("", ".ssl.curves.")),
    ("envoy.ssl_sigalg", Rule::Ssl("", ".ssl.sigalgs.")),
    ("envoy.ssl_version", Rule::Ssl("", ".ssl.versions.")),
    ("envoy.tls_certificate", Rule::Certificate),
    ("envoy.grpc_bridge_method", Rule::Tokens("cluster.*.grpc.*.$.**")),
    ("envoy.grpc_bridge_service", Rule::Tokens("cluster.*.grpc.$.**")),
    ("envoy.connection_limit_prefix", Rule::Tokens("connection_limit.$.**")),
    ("envoy.rbac_prefix", Rule::Tokens("$.rbac.**")),
    ("envoy.tcp_prefix", Rule::Tokens("tcp.$.**")),
    ("envoy.udp_prefix", Rule::Tokens("udp.$.**")),
    ("envoy.ratelimit_prefix", Rule::Tokens("ratelimit.$.**")),
    (
        "envoy.local_http_ratelimit_prefix",
        Rule::Tokens("$.http_local_rate_limit.**"),
    ),
    (
        "envoy.local_network_ratelimit_prefix",
        Rule::Tokens("local_rate_limit.$.**"),
    ),
    (
        "envoy.local_listener_ratelimit_prefix",
        Rule::Tokens("listener_local_ratelimit.$.**"),
    ),
    ("envoy.cluster_name", Rule::Tokens("cluster.$.**")),
    ("envoy.ext_authz_prefix", Rule::Tokens("cluster.*.ext_authz.$.**")),
    ("envoy.ext_authz_prefix", Rule::Tokens("http.*.ext_authz.$.**")),
    ("envoy.http_conn_manager_prefix", Rule::ListenerHttp),
    ("envoy.http_conn_manager_prefix", Rule::Tokens("http.$.**")),
    ("envoy.worker_id", Rule::Worker),
    ("envoy.listener_address", Rule::ListenerAddress),
    ("envoy.virtual_host", Rule::Tokens("vhost.$.**")),
    ("envoy.rds_route_config", Rule::Tokens("http.*.rds.$.**")),
    ("envoy.xds_resource_name", Rule::Tokens("sds.$.**")),
    ("envoy.proxy_protocol_prefix", Rule::ProxyPrefix),
    ("envoy.proxy_protocol_version", Rule::ProxyVersion),
];

impl Rule {
    /// What to cut and what the value is.
    fn find(&self, name: &str) -> Option<(Range<usize>, Range<usize>)> {
        match self {
            Self::Tokens(pattern) => tokens(pattern, name),
            Self::ResponseCode => {
                let start = name.len().checked_sub(4)?;
                let (before, code) = (name.get(..start)?, name.get(start..)?);
                let digits = code.strip_prefix('_')?.bytes().all(|byte| byte.is_ascii_digit());
                (digits && before.ends_with("_rq")).then_some((start..name.len(), start + 1..name.len()))
            }
            Self::ResponseCodeClass => {
                let stem = name.strip_suffix("xx")?;
                let at = stem.len().checked_sub(1)?;
                let digit = stem.as_bytes()[at].is_ascii_digit();
                (digit && stem.get(..at)?.ends_with("_rq_")).then_some((at..at + 1, at..at + 1))
            }
            Self::ListenerAddress => {
                let start = "listener.".len();
                let rest = name.strip_prefix("listener.")?;
                let address = |byte: &u8| byte.is_ascii_hexdigit() || b"_.[]".contains(byte);
                let run = rest.bytes().take_while(|byte| address(byte)).count();
                // What is no address is a `stat_prefix`, as far as its first dot; that of the admin server stays.
                let end = match rest[..run].rfind('.') {
                    Some(end) => start + end,
                    None => start + rest.find('.').filter(|end| &rest[..*end] != "admin")?,
                };
                Some((start..end + 1, start..end))
            }
            Self::Ssl(of, group) => {
                let start = name.starts_with(of).then(|| name.find(group))?? + group.len();
                (is_tls_owner(name) && start < name.len()).then_some((start - 1..name.len(), start..name.len()))
            }
            Self::Certificate => {
                let group = ".ssl.certificate.";
                let start = name.find(group)? + group.len();
                let end = start + name[start..].find('.')?;
                (is_tls_owner(name) && start < end).then_some((start..end + 1, start..end))
            }
            Self::Worker => {
                let owners = [
                    "listener.",
                    "listener_manager.",
                    "server.",
                    "thread_local_cluster_manager.",
                ];
                owners.iter().find(|owner| name.starts_with(**owner))?;
                let group = ".worker_";
                let start = name.find(group)? + group.len();
                let end = start + name[start..].find('.')?;
                let is_number = start < end && name[start..end].bytes().all(|byte| byte.is_ascii_digit());
                is_number.then_some((start..end + 1, start..end))
            }
            Self::ListenerHttp => {
                let rest = name.strip_prefix("listener.")?;
                let start = "listener.".len() + rest.find(".http.")? + ".http.".len();
                let end = start + name[start..].find('.')?;
                Some((start..end + 1, start..end))
            }
            Self::ProxyPrefix => {
                let found = tokens("proxy_proto.$.**", name)?;
                (&name[found.1.clone()] != "versions").then_some(found)
            }
            Self::ProxyVersion => {
                let group = ".versions.v";
                let start = name.starts_with("proxy_proto.").then(|| name.find(group))??;
                let value = start + group.len();
                let end = value + name[value..].find('.')?;
                Some((start + 1..end + 1, value..end))
            }
        }
    }
}

fn is_tls_owner(name: &str) -> bool {
    name.starts_with("listener.") || name.starts_with("cluster.")
}

fn tokens(pattern: &str, name: &str) -> Option<(Range<usize>, Range<usize>)> {
    let (mut at, mut value) = (0, None);
    for token in pattern.split('.') {
        if token == "**" {
            return (at < name.len()).then_some(()).and(value);
        }
        let rest = name.get(at..)?;
        let end = at + rest.find('.').unwrap_or(rest.len());
        match token {
            // The dot behind the value goes too, or the one before it at the end of the name.
            "$" if end < name.len() => value = Some((at..end + 1, at..end)),
            "$" => value = Some((at.saturating_sub(1)..end, at..end)),
            "*" => {}
            literal if name[at..end] == *literal => {}
            _ => return None,
        }
        at = end + 1;
    }
    (at > name.len()).then_some(()).and(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(rules: &TagRules, name: &str) -> String {
        let tagged = rules.extract(name);
        let tags: Vec<_> = tagged
            .tags
            .iter()
            .map(|(tag, value)| format!("{tag}={value}"))
            .collect();
        format!("{} {}", tagged.name, tags.join(","))
    }

    #[test]
    fn the_default_rules_are_envoys() {
        let cases = [
            (
                "cluster.adm.upstream_rq_200",
                "cluster.upstream_rq envoy.response_code=200,envoy.cluster_name=adm",
            ),
            (
                "cluster.adm.external.upstream_rq_2xx",
                "cluster.external.upstream_rq_xx envoy.response_code_class=2,envoy.cluster_name=adm",
            ),
            (
                "http.in.downstream_rq_completed",
                "http.downstream_rq_completed envoy.http_conn_manager_prefix=in",
            ),
            (
                "listener.127.0.0.1_80.http.in.downstream_rq_5xx",
                "listener.http.downstream_rq_xx envoy.response_code_class=5,envoy.http_conn_manager_prefix=in,envoy.listener_address=127.0.0.1_80",
            ),
            (
                "listener.[__1]_80.no_filter_chain_match",
                "listener.no_filter_chain_match envoy.listener_address=[__1]_80",
            ),
            (
                "listener.admin.downstream_cx_total",
                "listener.admin.downstream_cx_total ",
            ),
            (
                "tcp.out.downstream_cx_total",
                "tcp.downstream_cx_total envoy.tcp_prefix=out",
            ),
            ("server.live", "server.live "),
            (
                "listener.in.worker_0.downstream_cx_total",
                "listener.worker_downstream_cx_total envoy.worker_id=0,envoy.listener_address=in",
            ),
            (
                "listener.in.bound.downstream_cx_total",
                "listener.bound.downstream_cx_total envoy.listener_address=in",
            ),
            (
                "http.in.ext_authz.az.ok",
                "http.ext_authz.ok envoy.ext_authz_prefix=az,envoy.http_conn_manager_prefix=in",
            ),
            (
                "http.in.ext_authz.ok",
                "http.ext_authz.ok envoy.http_conn_manager_prefix=in",
            ),
            (
                "cluster.a.ext_authz.az.ok",
                "cluster.ext_authz.ok envoy.cluster_name=a,envoy.ext_authz_prefix=az",
            ),
            ("out.rbac.allowed", "rbac.allowed envoy.rbac_prefix=out"),
            (
                "tcp.rbac.allowed",
                "allowed envoy.rbac_prefix=tcp,envoy.tcp_prefix=rbac",
            ),
            (
                "sds.a.b.update_success",
                "sds.b.update_success envoy.xds_resource_name=a",
            ),
            (
                "proxy_proto.pp.versions.v2.found",
                "proxy_proto.found envoy.proxy_protocol_prefix=pp,envoy.proxy_protocol_version=2",
            ),
            (
                "proxy_proto.versions.v1.error",
                "proxy_proto.error envoy.proxy_protocol_version=1",
            ),
            ("proxy_proto.not_found_allowed", "proxy_proto.not_found_allowed "),
            (
                "connection_limit.many.active_connections",
                "connection_limit.active_connections envoy.connection_limit_prefix=many",
            ),
            (
                "local_rate_limit.one.rate_limited",
                "local_rate_limit.rate_limited envoy.local_network_ratelimit_prefix=one",
            ),
            (
                "listener_local_ratelimit.one.rate_limited",
                "listener_local_ratelimit.rate_limited envoy.local_listener_ratelimit_prefix=one",
            ),
            (
                "cluster_manager.cds.update_success",
                "cluster_manager.cds.update_success ",
            ),
            (
                "cluster.a.ssl.ciphers.TLS_AES_128_GCM_SHA256",
                "cluster.ssl.ciphers cipher_suite=TLS_AES_128_GCM_SHA256,envoy.cluster_name=a",
            ),
            (
                "listener.127.0.0.1_443.ssl.ciphers.TLS_AES_256_GCM_SHA384",
                "listener.ssl.ciphers envoy.ssl_cipher=TLS_AES_256_GCM_SHA384,envoy.listener_address=127.0.0.1_443",
            ),
            (
                "listener.127.0.0.1_443.ssl.curves.X25519",
                "listener.ssl.curves envoy.ssl_curve=X25519,envoy.listener_address=127.0.0.1_443",
            ),
            (
                "listener.127.0.0.1_443.ssl.versions.TLSv1.3",
                "listener.ssl.versions envoy.ssl_version=TLSv1.3,envoy.listener_address=127.0.0.1_443",
            ),
            (
                "cluster.a.ssl.versions.TLSv1.2",
                "cluster.ssl.versions envoy.ssl_version=TLSv1.2,envoy.cluster_name=a",
            ),
            (
                "cluster.a.ssl.sigalgs.ecdsa_secp256r1_sha256",
                "cluster.ssl.sigalgs envoy.ssl_sigalg=ecdsa_secp256r1_sha256,envoy.cluster_name=a",
            ),
            (
                "listener.127.0.0.1_443.ssl.certificate.c.expiration_unix_time_seconds",
                "listener.ssl.certificate.expiration_unix_time_seconds envoy.tls_certificate=c,envoy.listener_address=127.0.0.1_443",
            ),
            (
                "listener.[__1]_80.worker_10.downstream_cx_active",
                "listener.worker_downstream_cx_active envoy.worker_id=10,envoy.listener_address=[__1]_80",
            ),
            ("listener_manager.workers_started", "listener_manager.workers_started "),
            ("x_rq_", "x_rq_ "),
            ("é", "é "),
        ];
        for (name, expected) in cases {
            assert_eq!(show(&TagRules::default(), name), expected);
        }
    }

    #[test]
    fn configured_rules_come_first_and_may_stand_alone() {
        let mut rules = TagRules::new(false);
        rules
            .add_regex("cluster_name", r"^cluster\.((.+?);\.)")
            .expect("a valid expression");
        rules.add_fixed("zone", "a");
        let shown = show(&rules, "cluster.outbound|80||x.y;.upstream_rq_200");
        assert_eq!(shown, "cluster.upstream_rq_200 zone=a,cluster_name=outbound|80||x.y");
        assert!(rules.add_regex("bad", "(").is_err());
        let listener = r"^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)";
        rules.add_regex("prefix", listener).expect("looks ahead");
        let shown = show(&rules, "listener.0.0.0.0_80.http.10.0.0.1_80.downstream_rq_2xx");
        assert_eq!(
            shown,
            "listener.0.0.0.0_80.http.downstream_rq_2xx zone=a,prefix=10.0.0.1_80"
        );
    }
}
