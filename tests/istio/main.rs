//! Rung 7: a real Istio. The genuine istiod drives the genuine pilot-agent, which starts Remora where it would start Envoy; pods are network
//! namespaces with Istio's own iptables rules. `suite.py` says what is asserted; this starts it.
//!
//! It runs where `REMORA_ISTIO=1` asks for it: building the lab and running its scenarios takes minutes of their own.
//! Needs root, Go 1.26 (build.sh builds the lab, whose version its `go.mod` pins; `LAB_BIN` names one that is built already), an Envoy for the
//! mixed mesh (`ENVOY_BIN`) and what [`PROGRAMS`] lists; asked for, it fails where something is missing. Not asked for, nothing runs and a
//! visible line says so, and what is missing.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PROGRAMS: [&str; 8] = [
    "python3",
    "ip",
    "iptables-save",
    "curl",
    "openssl",
    "ss",
    "setpriv",
    "sysctl",
];
/// What has to hold at least: a suite that lost its scenarios must not pass.
const BEHAVIOURS: usize = 375;

#[test]
fn a_real_istio_works_with_remora_in_envoys_place() {
    let missing = missing();
    let asked = |name: &str| std::env::var_os(name).is_some_and(|value| value == "1");
    if !asked("REMORA_ISTIO") {
        let lacking = missing.map_or_else(String::new, |missing| format!("; {missing}"));
        say(&format!("SKIPPED: no Istio was run (REMORA_ISTIO=1 runs it{lacking})"));
        return;
    }
    assert_eq!(missing, None, "what a real Istio needs");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("istio");
    let mut suite = Command::new("python3");
    suite
        .arg(here.join("suite.py"))
        .arg(proxy())
        .env("LAB_BIN", lab(&here))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::piped());
    let mut running = suite.spawn().unwrap();
    let mut held = 0;
    for line in BufReader::new(running.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        held += usize::from(line.split_whitespace().nth(1) == Some("ok"));
        say(&line);
    }
    let status = running.wait().unwrap();
    assert!(status.success(), "see above for what is broken");
    assert!(held >= BEHAVIOURS, "only {held} behaviours were asserted");
}

/// The proxy's program; `REMORA_BIN` names another.
fn proxy() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_remora-under-test");
    std::env::var_os("REMORA_BIN").unwrap_or_else(|| built.into()).into()
}

/// Where the lab's programs are; built if need be.
fn lab(here: &Path) -> PathBuf {
    if let Some(built) = std::env::var_os("LAB_BIN") {
        return built.into();
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("istio-lab");
    let status = Command::new(here.join("build.sh")).arg(&out).status().unwrap();
    assert!(status.success(), "the lab does not build");
    out
}

fn missing() -> Option<String> {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    if !root {
        return Some("network namespaces need root".to_owned());
    }
    let envoy = std::env::var_os("ENVOY_BIN").is_some_and(|path| Path::new(&path).is_file());
    if !envoy {
        return Some("ENVOY_BIN names no Envoy".to_owned());
    }
    let go: &[&str] = if std::env::var_os("LAB_BIN").is_some() {
        &[]
    } else {
        &["go"]
    };
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&paths).any(|directory| directory.join(program).is_file());
    let lacking = PROGRAMS.iter().chain(go).find(|program| !found(program));
    lacking.map(|program| format!("{program} is not installed"))
}

/// Past the test harness's capture, as this takes minutes.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
