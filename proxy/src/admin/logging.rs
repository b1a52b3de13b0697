//! `/logging` and `/reopen_logs`.

use http::StatusCode;

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};
use crate::telemetry::logging::{LEVELS, Level, LevelError};

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)\n\
    usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
    usage: /logging?level=<level> (change all levels)\n\
    usage: /logging?group=<group_name>:<level> (change group of loggers)\n";

/// Without a parameter the levels as they are; with one, changes them first.
pub(super) fn logging(state: &AdminState, query: &Query) -> Reply {
    match change(state, query) {
        Ok(()) => reply::ok(active(state)),
        Err(error) => {
            let levels: String = LEVELS.iter().map(|(name, _)| format!("{name} ")).collect();
            reply::bad_request(format!("error: {error}\n\n{USAGE}levels: {levels}\n{}", active(state)))
        }
    }
}

pub(super) fn reopen(state: &AdminState, _: &Query) -> Reply {
    match state.control.reopen_logs() {
        Ok(()) => reply::done(),
        Err(error) => reply::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn change(state: &AdminState, query: &Query) -> Result<(), String> {
    let (name, value) = match query.pairs() {
        [] => return Ok(()),
        [(name, value)] => (name.as_str(), value.as_str()),
        _ => return Err("invalid number of parameters".to_owned()),
    };
    let listed = |list: &str| {
        state
            .logging
            .set_listed(list)
            .map_err(|error: LevelError| error.to_string())
    };
    match name {
        // A bare name asks for nothing.
        "level" | "paths" | "group" if value.is_empty() => Ok(()),
        "level" => {
            let level = Level::parse(value).ok_or("unknown logger level")?;
            state.logging.set_all(level);
            Ok(())
        }
        // As in Envoy, whose groups are those of files.
        "group" if !state.options.enable_fine_grain_logging => {
            Err("group parameter requires fine-grain logging to be enabled".to_owned())
        }
        // A group is its logger: loggers are not split by file here.
        "paths" | "group" if value.split(',').any(|item| !item.contains(':')) => {
            Err("empty logger name or empty logger level".to_owned())
        }
        "paths" | "group" => listed(value),
        logger => listed(&format!("{logger}:{value}")),
    }
}

fn active(state: &AdminState) -> String {
    let mut page = "active loggers:\n".to_owned();
    for (name, level) in state.logging.levels() {
        page += &format!("  {name}: {}\n", level.name());
    }
    page + "\n"
}
