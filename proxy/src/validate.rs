//! `--mode validate`: what a configuration would be told, without starting anything.
//!
//! In: the same options as for serving; or, with `--config-dump`, what a running Envoy has. Out: one line for each problem by path, and the
//! process's exit code. The verdicts are those of the field tables and of the same builders that serve.

mod dump;

use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;

use crate::bootstrap::{self, Bootstrap, StaticResource};
use crate::cli::{Options, Unsupported};
use crate::config::fields::{self, Warning};
use crate::config::{BuildContext, Compiled, Problem, Problems, cluster, endpoint, listener};
use crate::route::RouteTable;
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

/// The configuration that the options name.
pub fn configuration(options: &Options) -> Verdict {
    let checked = Bootstrap::load(options).and_then(|bootstrap| {
        check_bootstrap(&bootstrap, options.unsupported).map_err(|problems| bootstrap::LoadError {
            origin: bootstrap::origin(options),
            problems,
        })
    });
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

/// Everything that is wrong with a bootstrap and its static resources.
fn check_bootstrap(bootstrap: &Bootstrap, mode: Unsupported) -> Compiled<Vec<String>> {
    let cx = BuildContext {
        node: bootstrap.node.clone(),
        ..BuildContext::default()
    };
    let mut warnings = bootstrap.warnings.clone();
    let mut problems: Vec<Problem> = Vec::new();
    match fields::check(bootstrap::MESSAGE, &bootstrap.bytes, mode) {
        Ok(found) => warnings.extend(found.iter().map(ToString::to_string)),
        // The builders would say the same again, or trip over what the tables refuse.
        Err(found) => return Err(found),
    }
    let kinds: [(&str, &str, &[StaticResource]); 3] = [
        ("secrets", SECRET, &bootstrap.secrets),
        ("clusters", CLUSTER, &bootstrap.clusters),
        ("listeners", LISTENER, &bootstrap.listeners),
    ];
    for (field, message, resources) in kinds {
        for (index, resource) in resources.iter().enumerate() {
            if let Err(found) = compile(message, &resource.bytes, &cx) {
                problems.extend(found.under(&format!("static_resources.{field}[{index}]")).0);
            }
        }
    }
    if problems.is_empty() {
        Ok(warnings)
    } else {
        Err(Problems(problems))
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
