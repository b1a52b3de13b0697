//! `openssl s_client` against a listener: what a TLS client that is not ours sees.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use remora_tests::within;
use tempfile::TempDir;

use crate::harness::{is_required, skipped};

/// Runs it; lines of what was agreed on and received, and how many bytes came.
pub async fn play(address: SocketAddr, arguments: &[String]) -> (String, usize) {
    let mut command = Command::new("timeout");
    command
        .args(["20", "openssl", "s_client", "-brief", "-ign_eof", "-connect"])
        .arg(address.to_string())
        .args(SUITES)
        .args(arguments)
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = within("openssl s_client", run).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let got = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<String> = told.lines().filter_map(shown).collect();
    lines.sort();
    lines.dedup();
    lines.push(format!("got: {}", got.escape_debug()));
    let count = output.stdout.len();
    (lines.join("\n") + "\n", count)
}

/// One suite of each version: which of several a server prefers is a case of its own. Given twice, the last one counts.
const SUITES: [&str; 4] = [
    "-ciphersuites",
    "TLS_AES_128_GCM_SHA256",
    "-cipher",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
];

/// Of a handshake that failed only the reason: what had been agreed on before is known to Envoy's log, not to ours.
pub fn comparable(line: &str) -> &str {
    line.find("failure=TLS_error").map_or(line, |at| &line[at..])
}

/// Whether it can be run at all.
fn is_there() -> bool {
    let version = Command::new("openssl").arg("version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Whether it can be run; if not, a visible line, or a failure if all is required.
pub fn is_there_or_skipped(world: &str) -> bool {
    let there = is_there();
    if !there {
        assert!(
            !is_required(),
            "there is no openssl, and REMORA_REQUIRE_ALL=1 says there must be"
        );
        skipped(world, "install openssl");
    }
    there
}

/// Servers of a world, by name, and the files that they and the proxies read.
#[derive(Default)]
pub struct Servers {
    pub arguments: Vec<(&'static str, Vec<String>)>,
    pub _files: Option<Arc<TempDir>>,
}

/// `openssl s_server`: sends back each line reversed. Ends when dropped.
pub struct Server {
    pub name: &'static str,
    pub port: u16,
    process: Child,
}

impl Server {
    pub fn start(name: &'static str, arguments: &[String]) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_server", "-rev", "-accept", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ")?.parse::<SocketAddr>().ok());
        let port = address
            .unwrap_or_else(|| panic!("s_server {name} does not listen"))
            .port();
        // Somebody has to read what it says of each connection, or it would wait for that.
        std::thread::spawn(move || lines.for_each(drop));
        Self { name, port, process }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What does not depend on the moment.
fn shown(line: &str) -> Option<String> {
    const KEPT: [&str; 5] = [
        "Protocol version:",
        "Ciphersuite:",
        "Peer certificate:",
        "Server Temp Key:",
        "Negotiated TLS1.3 group:",
    ];
    if KEPT.iter().any(|prefix| line.starts_with(prefix)) {
        return Some(line.to_owned());
    }
    let (_, number) = line.split_once("SSL alert number ")?;
    Some(format!("alert {number}"))
}
