//! What is about the process as a whole: `/ready`, `/server_info`, `/memory`, `/quitquitquit`, `/healthcheck/*`.

use http::StatusCode;
use serde_json::{Value, json};

use super::query::Query;
use super::reply::{self, Reply};
use super::{AdminState, bootstrap_view};
use crate::filters::names::{EXTENSIONS, is_disabled};
use crate::runtime::clock;
use crate::telemetry::server::{ServerState, resident_bytes};

pub(super) fn ready(state: &AdminState, _: &Query) -> Reply {
    let now = state.control.state();
    let status = match now {
        ServerState::Live => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    reply::text(status, format!("{}\n", now.name()))
}

pub(super) fn server_info(state: &AdminState, _: &Query) -> Reply {
    let uptime = clock::now().saturating_duration_since(state.started).as_secs();
    let all = state
        .first_started_at
        .and_then(|first| clock::system_now().duration_since(first).ok());
    let all = all.map_or(uptime, |all| all.as_secs().max(uptime));
    reply::tree(&json!({
        "version": crate::cli::version(),
        "state": state.control.state().name(),
        "uptime_current_epoch": format!("{uptime}s"),
        "uptime_all_epochs": format!("{all}s"),
        "hot_restart_version": version(state),
        "hot_restart_initializing": false,
        "command_line_options": state.options.to_json(),
        "node": node(state),
    }))
}

/// The node of the bootstrap, with the extensions of this program.
fn node(state: &AdminState) -> Value {
    let mut node = bootstrap_view::node(&state.bootstrap);
    let extensions = EXTENSIONS.iter().map(|extension| {
        json!({
            "name": extension.name,
            "category": extension.category,
            "type_descriptor": "",
            "disabled": is_disabled(extension),
            "type_urls": extension.types,
        })
    });
    if let Value::Object(node) = &mut node {
        node.insert("extensions".to_owned(), extensions.collect());
        for list in ["client_features", "listening_addresses"] {
            node.entry(list).or_insert_with(|| json!([]));
        }
    }
    node
}

/// The kernel's view: the allocator keeps no count of its own, and no heap of pages that it has given up.
pub(super) fn memory(_: &AdminState, _: &Query) -> Reply {
    let resident = resident_bytes().to_string();
    reply::tree(&json!({
        "allocated": resident,
        "heap_size": resident,
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": resident,
    }))
}

/// `/cpuprofiler`, whose profiler never starts.
pub(super) fn cpu_profiler(_: &AdminState, query: &Query) -> Reply {
    match query.get("enable") {
        Some("y") => reply::text(StatusCode::INTERNAL_SERVER_ERROR, "failure to start the profiler"),
        Some("n") => reply::done(),
        _ => reply::bad_request("?enable=<y|n>\n"),
    }
}

pub(super) fn heap_profiler(_: &AdminState, _: &Query) -> Reply {
    unsupported("heap profiler")
}

pub(super) fn allocation_profiler(_: &AdminState, query: &Query) -> Reply {
    match query.get("enable") {
        Some("y" | "n") => unsupported("allocation profiler"),
        _ => reply::bad_request("?enable=<y|n>\n"),
    }
}

pub(super) fn heap_dump(_: &AdminState, _: &Query) -> Reply {
    unsupported("heap dump")
}

pub(super) fn tcmalloc(_: &AdminState, _: &Query) -> Reply {
    unsupported("tcmalloc")
}

/// As Envoy says it of what was not built in.
fn unsupported(what: &str) -> Reply {
    let page = format!("The current build does not support {what}");
    reply::text(StatusCode::NOT_IMPLEMENTED, page)
}

pub(super) fn hot_restart_version(state: &AdminState, _: &Query) -> Reply {
    reply::ok(version(state))
}

fn version(state: &AdminState) -> &'static str {
    match state.first_started_at {
        Some(_) => crate::restart::VERSION,
        None => "disabled",
    }
}

pub(super) fn contention(_: &AdminState, _: &Query) -> Reply {
    reply::ok("Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.")
}

pub(super) fn health_fail(state: &AdminState, _: &Query) -> Reply {
    state.control.set_health_failed(true);
    reply::done()
}

pub(super) fn health_ok(state: &AdminState, _: &Query) -> Reply {
    state.control.set_health_failed(false);
    reply::done()
}

pub(super) fn quit(state: &AdminState, _: &Query) -> Reply {
    state.control.quit();
    reply::done()
}
