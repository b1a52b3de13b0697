//! The table of endpoints. Names, help and parameters are Envoy's, as far as they exist here; `/xds` and `explain` are our own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::query::Query;
use super::reply::{self, Reply};
use super::{AdminState, certs, clusters, config_dump, listeners, logging, process, runtime, stats, xds};

/// One endpoint.
pub struct Endpoint {
    pub path: &'static str,
    pub help: &'static str,
    /// Names of parameters and what they do.
    pub parameters: &'static [(&'static str, &'static str)],
    /// Needs a POST.
    pub mutates: bool,
    pub(super) handler: Handler,
}

type Pending = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// How a page is made.
#[derive(Clone, Copy)]
pub(super) enum Handler {
    /// At once.
    Direct(fn(&AdminState, &Query) -> Reply),
    /// With so much to format that the main runtime should not do it.
    Blocking(fn(&AdminState, &Query) -> Reply),
    /// After asking somebody.
    Async(fn(Arc<AdminState>, Query) -> Pending),
}

const fn get(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint {
        path,
        help,
        parameters: &[],
        mutates: false,
        handler,
    }
}

const fn post(path: &'static str, help: &'static str, handler: Handler) -> Endpoint {
    Endpoint {
        mutates: true,
        ..get(path, help, handler)
    }
}

impl Endpoint {
    const fn taking(self, parameters: &'static [(&'static str, &'static str)]) -> Self {
        Self { parameters, ..self }
    }
}

/// Every endpoint, by path.
pub static ENDPOINTS: [Endpoint; 34] = [
    get("/", "Admin home page", Handler::Direct(home)),
    post("/allocprofiler", "enable/disable the allocation profiler (if supported)", Handler::Direct(process::allocation_profiler))
        .taking(&[("enable", "enable/disable the allocation profiler; One of (y, n)")]),
    get("/certs", "print certs on machine", Handler::Direct(certs::certs)),
    get("/clusters", "upstream cluster status", Handler::Blocking(clusters::clusters)).taking(&[
        ("filter", "Regular expression (Google re2) for filtering clusters by name"),
        ("format", "File format to use; One of (text, json)"),
        ("explain", "Say of each host whether it gets load now, and why (JSON)"),
    ]),
    get("/config_dump", "dump current Envoy configs", Handler::Async(|state, query| Box::pin(config_dump::config_dump(state, query)))).taking(&[
        ("resource", "The resource to dump"),
        ("mask", "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field so that only a subset of fields are returned. The mask is parsed as a Protobuf::FieldMask"),
        ("name_regex", "Dump only the currently loaded configurations whose names match the specified regex. Can be used with both resource and mask query parameters."),
        ("include_eds", "Dump currently loaded configuration including EDS. See the response definition for more information"),
    ]),
    get("/contention", "dump current Envoy mutex contention stats (if enabled)", Handler::Direct(process::contention)),
    post("/cpuprofiler", "enable/disable the CPU profiler", Handler::Direct(process::cpu_profiler))
        .taking(&[("enable", "enables the CPU profiler; One of (y, n)")]),
    post("/drain_listeners", "drain listeners", Handler::Direct(listeners::drain)).taking(&[
        ("graceful", "When draining listeners, enter a graceful drain period prior to closing listeners. This behaviour and duration is configurable via server options or CLI"),
        ("skip_exit", "When draining listeners, drain the connections but never stop the listeners. The graceful parameter has no effect when this is set, since the drain period only delays stopping the listeners"),
        ("inboundonly", "Drains all inbound listeners. traffic_direction field in envoy_v3_api_msg_config.listener.v3.Listener is used to determine whether a listener is inbound or outbound."),
    ]),
    post("/healthcheck/fail", "cause the server to fail health checks", Handler::Direct(process::health_fail)),
    post("/healthcheck/ok", "cause the server to pass health checks", Handler::Direct(process::health_ok)),
    get("/heap_dump", "dump current Envoy heap (if supported)", Handler::Direct(process::heap_dump)),
    post("/heapprofiler", "enable/disable the heap profiler", Handler::Direct(process::heap_profiler))
        .taking(&[("enable", "enable/disable the heap profiler; One of (y, n)")]),
    get("/help", "print out list of admin commands", Handler::Direct(help)),
    get("/hot_restart_version", "print the hot restart compatibility version", Handler::Direct(process::hot_restart_version)),
    get("/init_dump", "dump current Envoy init manager information (experimental)", Handler::Async(|state, _| Box::pin(xds::init_dump(state)))),
    get("/listeners", "print listener info", Handler::Direct(listeners::listeners))
        .taking(&[("format", "File format to use; One of (text, json)")]),
    post("/logging", "query/change logging levels", Handler::Direct(logging::logging)).taking(&[
        ("paths", "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>."),
        ("group", "Change given logger group to desired level, set to <logger_group_name>:<desired_level>. logger_group_name must be a logger name."),
        ("level", "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)"),
    ]),
    get("/memory", "print current allocation/heap usage", Handler::Direct(process::memory)),
    get("/memory/tcmalloc", "print TCMalloc stats", Handler::Direct(process::tcmalloc)),
    get("/peak_heap_dump", "dump peak Envoy heap (if supported)", Handler::Direct(process::heap_dump)),
    post("/quitquitquit", "exit the server", Handler::Direct(process::quit)),
    get("/ready", "print server state, return 200 if LIVE, otherwise return 503", Handler::Direct(process::ready)),
    post("/reopen_logs", "reopen access logs", Handler::Direct(logging::reopen)),
    post("/reset_counters", "reset all counters to zero", Handler::Direct(stats::reset)),
    get("/runtime", "print runtime values", Handler::Direct(runtime::runtime)),
    post(runtime::MODIFY, "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value. Note that deletion only applies to overrides added via this endpoint; values loaded from disk can be modified via override but not deleted. E.g. ?key1=value1&key2=value2...", Handler::Direct(runtime::modify)),
    get("/server_info", "print server version/status information", Handler::Direct(process::server_info)),
    get("/stats", "print server stats", Handler::Blocking(stats::stats)).taking(&[
        ("usedonly", "Only include stats that have been written by system since restart"),
        ("filter", "Regular expression (Google re2) for filtering stats"),
        ("invert_filter", "Invert the filter regex"),
        ("format", "Format to use; One of (html, active-html, text, json)"),
        ("type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"),
        ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"),
    ]),
    get("/stats/prometheus", "print server stats in prometheus format", Handler::Blocking(stats::prometheus)).taking(&[
        ("usedonly", "Only include stats that have been written by system since restart"),
        ("text_readouts", "Render text_readouts as new gaugues with value 0 (increases Prometheus data size)"),
        ("filter", "Regular expression (Google re2) for filtering stats"),
        ("invert_filter", "Invert the filter regex"),
        ("histogram_buckets", "Histogram bucket display mode; One of (cumulative, summary)"),
    ]),
    get("/stats/recentlookups", "Show recent stat-name lookups", Handler::Direct(stats::lookups)),
    post("/stats/recentlookups/clear", "clear list of stat-name lookups and counter", Handler::Direct(stats::clear_lookups)),
    post("/stats/recentlookups/disable", "disable recording of reset stat-name lookup names", Handler::Direct(stats::disable_lookups)),
    post("/stats/recentlookups/enable", "enable recording of reset stat-name lookup names", Handler::Direct(stats::enable_lookups)),
    get("/xds", "say in plain words what the control plane sent and what became of it", Handler::Async(|state, query| Box::pin(xds::xds(state, query))))
        .taking(&[("format", "File format to use; One of (text, json)")]),
];

/// The endpoint at exactly `path`.
pub fn find(path: &str) -> Option<&'static Endpoint> {
    ENDPOINTS.iter().find(|endpoint| endpoint.path == path)
}

/// The page of `/help`.
pub fn help_text() -> String {
    let mut page = "admin commands are:\n".to_owned();
    for endpoint in &ENDPOINTS {
        let post = if endpoint.mutates { " (POST)" } else { "" };
        page += &format!("  {}{post}: {}\n", endpoint.path, endpoint.help);
        for (name, help) in endpoint.parameters {
            page += &format!("      {name}: {help}\n");
        }
    }
    page
}

fn help(_: &AdminState, _: &Query) -> Reply {
    reply::ok(help_text())
}

/// `/`: a link for each page, a button for each change.
fn home(_: &AdminState, _: &Query) -> Reply {
    let mut page =
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>Envoy Admin</title>\n</head>\n<body>\n<table>\n\
         <tr><th>Command</th><th>Description</th></tr>\n"
            .to_owned();
    for endpoint in &ENDPOINTS {
        let path = endpoint.path;
        let name = path.trim_start_matches('/');
        let command = match (endpoint.mutates, path) {
            (_, "/") => continue,
            (true, _) => format!("<form action='{name}' method='post'><button>{name}</button></form>"),
            (false, _) => format!("<a href='{name}'>{name}</a>"),
        };
        page += &format!("<tr><td>{command}</td><td>{}</td></tr>\n", endpoint.help);
    }
    reply::html(page + "</table>\n</body>\n</html>\n")
}
