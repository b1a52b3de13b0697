//! Ambiguous HTTP/1 and HTTP/2, through the proxy, to servers that others wrote: no request is ever seen as two.
//!
//! Each case is one connection's bytes. What the proxy takes for a request is in its access log; what the server takes for one is in the
//! server's. A request that only the server knows of is one that the proxy took for a body.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use remora::runtime::spawn::spawn;
use remora_tests::{Http1, Sidecar, until};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::grid::{GRID, STREAMS, Stream};
use super::{bootstrap, cluster, program};
use remora_tests::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Peer, frame};

/// Every wait of the proxy is short, so that each connection ends by itself, whatever was left open on it.
const MANAGER: &str = r#"
request_headers_timeout: 1s
stream_idle_timeout: 1s
common_http_protocol_options: {idle_timeout: 1s}
http_protocol_options: {accept_http_10: true, enable_trailers: true}
upgrade_configs: [{upgrade_type: websocket}]
access_log:
- name: envoy.access_loggers.file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: "{{log}}"
    log_format: {text_format_source: {inline_string: "%UPSTREAM_HOST% %REQ(:METHOD)% %REQ(:PATH)%\n"}}
route_config:
  name: routes
  virtual_hosts:
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: server}}]}
"#;

/// A real server, and where it says what it saw.
struct Server {
    process: Child,
    log: PathBuf,
    /// Out of a line of the log: the path.
    path: fn(&str) -> Option<&str>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs the whole grid through the proxy. `start` gets a directory, and a port that is free.
async fn no_request_is_two(start: impl FnOnce(&Path, u16) -> Server) {
    let directory = tempfile::tempdir().unwrap();
    let (server, port) = started(&directory, start).await;
    let log = directory.path().join("proxy.log");
    let manager = MANAGER.replace("{{log}}", &log.display().to_string());
    let sidecar = Sidecar::start(&bootstrap(&manager, &cluster("server", port, "")))
        .await
        .unwrap();
    let address = sidecar.listener("http").await;
    let streams = STREAMS.iter().zip(GRID.len()..);
    let streams = streams.map(|(stream, number)| play_stream(address, number, stream));
    futures_util::future::join_all(streams).await;
    let (ours, theirs) = seen_by_both(address, &log, &server).await;
    let wrong = wrong(&ours, &theirs);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(theirs.len() > 10, "hardly anything arrived: {theirs:?}");
    // The rows that are what they should be.
    for (number, row) in (GRID.len()..).zip(STREAMS).filter(|(_, row)| row.is_good) {
        let path = format!("/{number}");
        assert_eq!(theirs.get(&path), Some(&1), "{row:?}: {theirs:?}");
    }
    keep(directory);
}

async fn started(directory: &TempDir, start: impl FnOnce(&Path, u16) -> Server) -> (Server, u16) {
    let port = free_port();
    let server = start(directory.path(), port);
    until("the server to listen", async || {
        Http1::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.ok()
    })
    .await;
    (server, port)
}

/// Plays the grid of HTTP/1, and says how often which path is in the proxy's log and in the server's.
async fn seen_by_both(
    address: SocketAddr,
    log: &Path,
    server: &Server,
) -> (BTreeMap<String, usize>, BTreeMap<String, usize>) {
    let cases = GRID
        .iter()
        .enumerate()
        .map(|(number, case)| play(address, number, case));
    futures_util::future::join_all(cases).await;
    // What was sent last is logged last: from then on the logs are complete.
    let mut client = Http1::connect(address).await.unwrap();
    assert_eq!(client.get("h", "/the-end", "").await.status, 200);
    until("both logs", async || {
        let ours = seen(log, |line| {
            let (host, request) = line.split_once(' ')?;
            (host != "-").then(|| request.split(' ').nth(1))?
        });
        let theirs = seen(&server.log, server.path);
        (ours.contains_key("/the-end") && theirs.contains_key("/the-end")).then_some((ours, theirs))
    })
    .await
}

/// What of the server's log the proxy does not know of.
fn wrong(ours: &BTreeMap<String, usize>, theirs: &BTreeMap<String, usize>) -> Vec<String> {
    let more = |(path, count): (&String, &usize)| {
        let forwarded = ours.get(path).copied().unwrap_or(0);
        let smuggled = path.starts_with("/smuggled-");
        (smuggled || *count > forwarded)
            .then(|| format!("the server saw {path} {count} times, the proxy forwarded it {forwarded} times"))
    };
    theirs.iter().filter_map(more).collect()
}

async fn play(address: SocketAddr, number: usize, case: &str) {
    let mut client = Http1::connect(address).await.unwrap();
    client.send(spelled(number, case)).await;
    // To the end, which comes by itself.
    client.rest().await;
}

/// A row's bytes.
fn spelled(number: usize, text: &str) -> String {
    let bytes: String = text
        .replace('\n', "\r\n")
        .replace('|', "\n")
        .replace('^', "\r")
        .replace("/N", &format!("/{number}"));
    bytes.replace("-N", &format!("-{number}"))
}

/// One stream of HTTP/2, on a connection of its own.
async fn play_stream(address: SocketAddr, number: usize, stream: &Stream) {
    let block = |pairs: &[(&str, &str)]| {
        let mut block = Vec::new();
        for (name, value) in pairs {
            frames::literal(&mut block, &spelled(number, name), &spelled(number, value));
        }
        block
    };
    let mut peer = Peer::connect(address).await;
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &block(stream.head));
    let body = spelled(number, stream.body);
    let last = if stream.trailers.is_empty() { END_STREAM } else { 0 };
    bytes.extend(frame(DATA, last, 1, body.as_bytes()));
    if !stream.trailers.is_empty() {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(stream.trailers)));
    }
    peer.send(&bytes).await;
    // To the end, which comes by itself.
    while peer.next().await.is_some() {}
}

/// How often which path is in the log.
fn seen(log: &Path, path: impl Fn(&str) -> Option<&str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
        if let Some(path) = path(line) {
            *counts.entry(path.to_owned()).or_default() += 1;
        }
    }
    counts
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Until here the directory is in use.
fn keep(_: TempDir) {}

fn second_word(line: &str) -> Option<&str> {
    // What is no path is no request: HAProxy also logs connections that ended within one.
    line.split(' ').nth(1).filter(|path| path.starts_with('/'))
}

#[tokio::test]
async fn through_the_proxy_to_nginx() {
    let Some(nginx) = program("nginx") else { return };
    no_request_is_two(|directory, port| start_nginx(&nginx, directory, port)).await;
}

/// The grid sees what it is there to see: a proxy that takes two requests for one.
#[tokio::test]
async fn a_proxy_that_takes_two_requests_for_one_is_caught() {
    let Some(nginx) = program("nginx") else { return };
    let directory = tempfile::tempdir().unwrap();
    let (server, port) = started(&directory, |directory, port| start_nginx(&nginx, directory, port)).await;
    let log = directory.path().join("proxy.log");
    let address = careless_proxy(port, log.clone()).await;
    let (ours, theirs) = seen_by_both(address, &log, &server).await;
    let wrong = wrong(&ours, &theirs);
    assert!(wrong.iter().any(|line| line.contains("/two-")), "{wrong:#?}");
    keep(directory);
}

/// Forwards whatever comes on a connection as one request, and logs it as one.
async fn careless_proxy(server: u16, log: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn("careless proxy", async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let log = log.clone();
            spawn("careless connection", async move {
                let mut first = vec![0; 64 * 1024];
                let count = client.read(&mut first).await.unwrap_or(0);
                first.truncate(count);
                let line = String::from_utf8_lossy(&first)
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                let mut log = File::options().create(true).append(true).open(log).unwrap();
                writeln!(log, "server {line}").unwrap();
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                server.write_all(&first).await.unwrap();
                let both = tokio::io::copy_bidirectional(&mut client, &mut server);
                let _ = tokio::time::timeout(Duration::from_secs(1), both).await;
            });
        }
    });
    address
}

fn start_nginx(nginx: &Path, directory: &Path, port: u16) -> Server {
    let (config, log) = (directory.join("nginx.conf"), directory.join("nginx.log"));
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {0}/pid; error_log {0}/error.log;\nevents {{}}\nhttp {{ \
         log_format seen '$request_method $request_uri'; access_log {1} seen; client_body_temp_path {0}; proxy_temp_path {0}; \
         fastcgi_temp_path {0}; uwsgi_temp_path {0}; scgi_temp_path {0};\nserver {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n",
        directory.display(),
        log.display()
    );
    std::fs::write(&config, text).unwrap();
    let process = Command::new(nginx)
        .args([
            "-p",
            &directory.display().to_string(),
            "-c",
            &config.display().to_string(),
        ])
        .args(["-e", &directory.join("error.log").display().to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Server {
        process,
        log,
        path: second_word,
    }
}

#[tokio::test]
async fn through_the_proxy_to_haproxy() {
    let Some(haproxy) = program("haproxy") else { return };
    no_request_is_two(|directory, port| {
        let (config, log) = (directory.join("haproxy.cfg"), directory.join("haproxy.log"));
        let text = format!(
            "global\n  log stdout format raw local0\ndefaults\n  mode http\n  log global\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n\
             frontend seen\n  bind 127.0.0.1:{port}\n  log-format \"%HM %HPO\"\n  http-request return status 200 content-type text/plain string ok\n"
        );
        std::fs::write(&config, text).unwrap();
        let process = Command::new(haproxy)
            .args(["-db", "-f", &config.display().to_string()])
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Server {
            process,
            log,
            path: second_word,
        }
    })
    .await;
}

#[tokio::test]
async fn through_the_proxy_to_node() {
    let Some(node) = program("node") else { return };
    no_request_is_two(|directory, port| {
        let (script, log) = (directory.join("server.js"), directory.join("node.log"));
        let text = format!(
            "const http = require('http'), fs = require('fs');\n\
             const seen = (request) => fs.appendFileSync({log:?}, request.method + ' ' + request.url + '\\n');\n\
             const server = http.createServer((request, response) => {{\n\
               seen(request); request.resume(); request.on('end', () => response.end('ok')); request.on('error', () => {{}});\n\
             }});\n\
             server.on('upgrade', (request, socket) => {{ seen(request); socket.end('HTTP/1.1 400 No\\r\\ncontent-length: 0\\r\\nconnection: close\\r\\n\\r\\n'); }});\n\
             server.listen({port}, '127.0.0.1');\n"
        );
        std::fs::write(&script, text).unwrap();
        let process = Command::new(node).arg(&script).stdin(Stdio::null()).spawn().unwrap();
        Server {
            process,
            log,
            path: second_word,
        }
    })
    .await;
}
