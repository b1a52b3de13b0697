//! `--mode validate`: what a configuration would be told, without starting anything.
//!
//! In: the same options as for serving; or, with `--config-dump`, what a running Envoy has. Out: one line for each problem by path, and the
//! process's exit code. The verdicts are those of the field tables and of the same builders that serve.

mod dump;

use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::bootstrap::v3 as pb;

use crate::bootstrap::{self, Bootstrap, LoadError};
use crate::cli::{Options, Unsupported};
use crate::config::fields::{self, Warning};
use crate::config::route::Under;
use crate::config::{BuildContext, Compiled, Problems, cluster, endpoint, listener};
use crate::route::RouteTable;
use crate::telemetry::access_log::AccessLog;
use crate::tls::SecretStore;

pub const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
pub const LISTENER: &str = "envoy.config.listener.v3.Listener";
pub const ENDPOINTS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
pub const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";

/// What there is to print, and whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub text: String,
    pub is_ok: bool,
}

/// Validates, prints, and tells the exit code: 0 when everything would be accepted. Blocks on files.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]
pub fn run(options: &Options) -> ExitCode {
    let verdict = match &options.config_dump {
        Some(path) => config_dump(path, options),
        None => configuration(options),
    };
    if verdict.is_ok {
        println!("{}", verdict.text);
        ExitCode::SUCCESS
    } else if options.config_dump.is_some() {
        println!("{}", verdict.text);
        ExitCode::FAILURE
    } else {
        eprintln!("{}", verdict.text);
        ExitCode::FAILURE
    }
}

/// The configuration that the options name. Opens its log files, as serving would.
pub fn configuration(options: &Options) -> Verdict {
    let checked = match Bootstrap::load(options) {
        Ok(bootstrap) => check(&bootstrap, options),
        Err(error) => Err(everything_wrong(options, error)),
    };
    match checked {
        Ok(warnings) => {
            let mut text: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            text += &format!("configuration '{}' OK", bootstrap::origin(options));
            Verdict { text, is_ok: true }
        }
        Err(error) => Verdict {
            text: error.to_string(),
            is_ok: false,
        },
    }
}

/// All that starting would check, short of sockets.
fn check(bootstrap: &Bootstrap, options: &Options) -> Result<Vec<String>, LoadError> {
    let mut problems = Problems::default();
    let assembled = problems.keep(crate::app::assemble(options, bootstrap));
    problems.into_result().map_err(|problems| LoadError {
        origin: bootstrap::origin(options),
        problems,
    })?;
    let tables = assembled.map_or_else(Vec::new, |assembly| assembly.warnings);
    let said = bootstrap.warnings.iter().cloned();
    Ok(said.chain(tables.iter().map(ToString::to_string)).collect())
}

/// The rest of what is wrong with a bootstrap that does not load for `error`: what can be read of it goes through the tables and, resource
/// by resource, through the builders.
fn everything_wrong(options: &Options, error: LoadError) -> LoadError {
    let Ok((bytes, mut problems)) = Bootstrap::examine(options) else {
        return error;
    };
    // What is wrong with a part of the bootstrap hides what the whole shows: each round leaves such parts out.
    let mut readable = bytes.clone();
    loop {
        let found = Bootstrap::decode(readable.clone(), options).and_then(|bootstrap| check(&bootstrap, options));
        let Err(found) = found else { break };
        let rest = bootstrap::without_wrong(&readable, &found.problems);
        problems.add_unknown(found.problems);
        match rest {
            Some(rest) => readable = rest,
            None => break,
        }
    }
    if problems.0.is_empty() {
        return error;
    }
    if let Err(found) = fields::check(bootstrap::MESSAGE, &bytes, options.unsupported) {
        problems.add_unknown(found);
    }
    problems.add_unknown(wrong_resources(&bytes));
    problems.add_unknown(wrong_admin_logs(&bytes));
    LoadError { problems, ..error }
}

/// `admin.access_log`, which needs an admin server to be looked at otherwise.
fn wrong_admin_logs(bytes: &[u8]) -> Problems {
    let admin = pb::Bootstrap::decode(bytes).ok().and_then(|config| config.admin);
    let logs = admin.map_or_else(Vec::new, |admin| admin.access_log);
    let compiled = AccessLog::compile_all(&logs, &BuildContext::default());
    compiled.under("admin").err().unwrap_or_default()
}

/// Static resources one by one.
fn wrong_resources(bytes: &[u8]) -> Problems {
    let cx = BuildContext::default();
    let mut problems = Problems::default();
    let Ok([listeners, clusters, secrets]) = bootstrap::static_resources(&Bytes::copy_from_slice(bytes)) else {
        return problems;
    };
    let kinds = [
        ("secrets", SECRET, secrets),
        ("clusters", CLUSTER, clusters),
        ("listeners", LISTENER, listeners),
    ];
    for (field, message, resources) in kinds {
        for (index, resource) in resources.iter().enumerate() {
            let compiled = compile(message, &resource.bytes, &cx);
            problems.keep(compiled.map_err(|wrong| wrong.under(&format!("static_resources.{field}[{index}]"))));
        }
    }
    problems
}

/// What a running Envoy printed on `/config_dump`: each resource with what would become of it, and a summary.
pub fn config_dump(path: &Path, options: &Options) -> Verdict {
    let read = std::fs::read_to_string(path).map_err(|error| format!("unable to read the file: {error}"));
    match read.and_then(|text| dump::report(&text, options)) {
        Ok(report) => report,
        Err(reason) => Verdict {
            text: format!("{}: {reason}", path.display()),
            is_ok: false,
        },
    }
}

/// What would become of one encoded resource: warnings, or what is wrong with it.
///
/// # Errors
/// By path, what the tables or the resource's builder refuse.
pub fn resource(message: &str, bytes: &Bytes, cx: &BuildContext, mode: Unsupported) -> Compiled<Vec<Warning>> {
    let warnings = fields::check(message, bytes, mode)?;
    compile(message, bytes, cx)?;
    Ok(warnings)
}

fn compile(message: &str, bytes: &Bytes, cx: &BuildContext) -> Compiled<()> {
    match message {
        CLUSTER => cluster::compile(bytes, cx).map(|_| ()),
        LISTENER => listener::compile(bytes, cx).map(|_| ()),
        ENDPOINTS => endpoint::check(bytes),
        ROUTES => RouteTable::parse(bytes.clone(), cx).map(|_| ()),
        SECRET => SecretStore::compile(bytes).map(|_| ()),
        other => Err(Problems::one(
            "",
            format!("resources of type {other} are not supported"),
        )),
    }
}

#[cfg(test)]
mod tests;
