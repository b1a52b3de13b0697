//! `/stats`, `/stats/prometheus`, `/reset_counters`.

use std::sync::atomic::Ordering;

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};
use crate::telemetry::labelled::{is_labelled, plain};
use crate::telemetry::prometheus::Options;
use crate::telemetry::render::{self, HistogramMode, Kind, Reading, Selection};

pub(super) fn stats(state: &AdminState, query: &Query) -> Reply {
    page(state, query, query.get("format").unwrap_or("text")).unwrap_or_else(reply::bad_request)
}

pub(super) fn prometheus(state: &AdminState, query: &Query) -> Reply {
    page(state, query, "prometheus").unwrap_or_else(reply::bad_request)
}

/// `/stats/recentlookups`: which names were looked up in the tables of stats. Here requests look none up, so that the list is empty.
pub(super) fn lookups(state: &AdminState, _: &Query) -> Reply {
    reply::ok(match state.records_lookups.load(Ordering::Relaxed) {
        true => "   Count Lookup\n\ntotal: 0\n",
        false => "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n",
    })
}

pub(super) fn enable_lookups(state: &AdminState, _: &Query) -> Reply {
    state.records_lookups.store(true, Ordering::Relaxed);
    reply::done()
}

pub(super) fn disable_lookups(state: &AdminState, _: &Query) -> Reply {
    state.records_lookups.store(false, Ordering::Relaxed);
    reply::done()
}

pub(super) fn clear_lookups(_: &AdminState, _: &Query) -> Reply {
    reply::done()
}

pub(super) fn reset(state: &AdminState, _: &Query) -> Reply {
    state.stats.reset();
    reply::done()
}

fn page(state: &AdminState, query: &Query, format: &str) -> Result<Reply, String> {
    let mode = histogram_mode(query, format)?;
    let hidden = match query.get("hidden") {
        None | Some("include" | "exclude") => false,
        Some("only") => true,
        Some(_) => return Err("usage: /stats?hidden=(include|only|exclude)\n\n".to_owned()),
    };
    if state.flush_stats {
        state.stats.flush();
    }
    let mut readings = render::collect(&state.stats, &selection(query)?);
    // Metrics with labels of their own have another name in Envoy, which its users' patterns are made for; they are few, and always shown.
    // None is hidden: Envoy hides those of its overload manager.
    readings.retain(|(name, _)| !hidden && (is_labelled(name) || state.stats_matcher.accepts(name)));
    for (name, reading) in &mut readings {
        if let Reading::Histogram(recorded) = reading {
            recorded.bounds = state.buckets.of(&plain(name)).cloned();
        }
    }
    match format {
        "text" => Ok(reply::ok(render::text(&readings, mode))),
        "html" | "active-html" => Ok(reply::html(html(query, &render::text(&readings, mode)))),
        "json" => Ok(reply::json(render::json(&readings, mode))),
        "prometheus" => {
            let options = Options {
                text_readouts: query.has("text_readouts"),
                summaries: mode == HistogramMode::Summary,
            };
            let page = crate::telemetry::prometheus::render(&readings, &state.tags, options);
            Ok(reply::ok(page))
        }
        _ => Err("usage: /stats?format=(html|active-html|json|prometheus|text)\n\n".to_owned()),
    }
}

fn histogram_mode(query: &Query, format: &str) -> Result<HistogramMode, String> {
    let is_prometheus = format == "prometheus";
    let unsupported = || Err("unsupported prometheus histogram bucket mode".to_owned());
    match query.get("histogram_buckets") {
        None if is_prometheus => Ok(HistogramMode::Cumulative),
        None | Some("none" | "summary") => Ok(HistogramMode::Summary),
        Some("cumulative") => Ok(HistogramMode::Cumulative),
        Some("disjoint" | "detailed") if is_prometheus => unsupported(),
        Some("disjoint") => Ok(HistogramMode::Disjoint),
        Some("detailed") => Ok(HistogramMode::Detailed),
        // Only the encoding by protobuf has those, and that is not spoken here.
        Some("prometheusnative") => Err(match is_prometheus {
            true => "unsupported prometheusnative histogram type when not using protobuf exposition format",
            false => "Invalid histogram_buckets type for non prometheus stats type",
        }
        .to_owned()),
        Some(_) => {
            Err("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n".to_owned())
        }
    }
}

/// The text page under a form that asks for another one.
fn html(query: &Query, stats: &str) -> String {
    let escaped = |text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        text.replace('>', "&gt;").replace('\'', "&#39;").replace('"', "&quot;")
    };
    let mut form = String::new();
    for (name, label) in [
        (
            "usedonly",
            "Only include stats that have been written by system since restart",
        ),
        ("invert_filter", "Invert the filter regex"),
    ] {
        let checked = if query.has(name) { " checked" } else { "" };
        form += &format!("<p><label><input type='checkbox' name='{name}'{checked}> {label}</label></p>\n");
    }
    let filter = escaped(query.get("filter").unwrap_or_default());
    form += &format!(
        "<p><label>Regular expression for filtering stats <input type='text' name='filter' value='{filter}'></label></p>\n"
    );
    for (name, choices) in [
        ("format", &["html", "active-html", "text", "json", "prometheus"][..]),
        ("type", &["All", "Counters", "Histograms", "Gauges", "TextReadouts"]),
        ("histogram_buckets", &["summary", "cumulative", "disjoint", "detailed"]),
    ] {
        form += &format!("<p><label>{name} <select name='{name}'>\n");
        for choice in choices {
            let selected = if query.get(name) == Some(choice) {
                " selected"
            } else {
                ""
            };
            form += &format!("<option value='{choice}'{selected}>{choice}</option>\n");
        }
        form += "</select></label></p>\n";
    }
    let reload = match query.get("format") {
        Some("active-html") => "  <meta http-equiv='refresh' content='5'>\n",
        _ => "",
    };
    format!(
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <title>Envoy Admin</title>\n{reload}</head>\n<body>\n<form action='stats' method='get'>\n\
         {form}<p><input type='submit' value='show'></p>\n</form>\n<pre>\n{}</pre>\n</body>\n</html>\n",
        escaped(stats)
    )
}

fn selection(query: &Query) -> Result<Selection, String> {
    let kind = match query.get("type") {
        None | Some("All") => Kind::All,
        Some("Counters") => Kind::Counters,
        Some("Gauges") => Kind::Gauges,
        Some("Histograms") => Kind::Histograms,
        Some("TextReadouts") => Kind::TextReadouts,
        Some(_) => return Err("invalid &type= param".to_owned()),
    };
    let filter = query
        .regex("filter")
        .map_err(|error| format!("Invalid re2 regex: {error}"))?;
    Ok(Selection {
        filter,
        invert_filter: query.has("invert_filter"),
        used_only: query.has("usedonly"),
        kind,
    })
}
