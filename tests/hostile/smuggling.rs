//! Ambiguous HTTP/1, through the proxy, to servers that others wrote: no request is ever seen as two.
//!
//! Each case is one connection's bytes. What the proxy takes for a request is in its access log; what the server takes for one is in the
//! server's. A request that only the server knows of is one that the proxy took for a body.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use remora_tests::{Http1, Sidecar, until};
use tempfile::TempDir;

use super::{bootstrap, cluster, program};

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

/// `N` is the case's number; `\n` stands for CRLF, `|` for LF alone, `^` for CR alone.
const GRID: &[&str] = &[
    // Both lengths (CL.TE, TE.CL).
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 6\ntransfer-encoding: chunked\n\n0\n\nG",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\ncontent-length: 4\n\n30\nGET /smuggled-N HTTP/1.1\nhost: h\nx: 1234567890\n\n\n0\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0\ntransfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Codings dressed up (TE.TE).
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: xchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding : chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding:\tchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: \x0bchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\n transfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding:\n chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: chunked, identity\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: identity, chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked, chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\ntransfer-encoding: identity\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: \"chunked\"\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked;q=1\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer_encoding: chunked\ncontent-length: 5\n\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: cHuNkEd\n\n0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.0\nhost: h\ntransfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Lengths.
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 44\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0, 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: +0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: -0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0x2c\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 00\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 1 0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length:\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length : 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 18446744073709551616\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "HEAD /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "DELETE /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "OPTIONS /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n2\nab\n0\n\n",
    // Line ends.
    "POST /N HTTP/1.1|host: h|content-length: 5||0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nx: y^content-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nx: y^\ncontent-length: 0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nx: y\n^\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\n|GET /two-N HTTP/1.1\nhost: h\n\n",
    // Chunks.
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0x5\nabcde\n0\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n 5\nabcde\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5;a=b|abcde\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5;a|0\nabcde\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5|abcde|0||GET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n2\nabcd\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n10000000000000000\na\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n-1\na\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0\ncontent-length: 44\ntransfer-encoding: identity\nhost: evil\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0\nGET /trailer-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0;x=GET /smuggled-N HTTP/1.1\n\n",
    // Request lines.
    "GET /N HTTP/1.1 HTTP/1.1\nhost: h\n\n",
    "GET  /N HTTP/1.1\nhost: h\n\n",
    "GET /N\tHTTP/1.1\nhost: h\n\n",
    "GET /N?a b HTTP/1.1\nhost: h\n\n",
    "GET http://h/N HTTP/1.1\nhost: other\n\n",
    "GET http://h/N HTTP/1.1\nhost: other\nhost: third\n\n",
    "GET /N HTTP/1.1\nhost: h\nhost: g\n\n",
    "GET /N HTTP/1.1\nhost: h GET /smuggled-N\n\n",
    "G\0ET /N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nx: a\0b\n\n",
    "GET /N HTTP/9.9\nhost: h\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Headers that a `connection` header is to take away.
    "POST /N HTTP/1.1\nhost: h\nconnection: content-length\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "POST /N HTTP/1.1\nhost: h\nconnection: transfer-encoding\ntransfer-encoding: chunked\n\n0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    // Upgrades and expectations, with what might be the next request behind them.
    "GET /N HTTP/1.1\nhost: h\nconnection: upgrade\nupgrade: websocket\n\nGET /early-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nconnection: upgrade\nupgrade: h2c\nhttp2-settings: AAMAAABk\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "CONNECT h:80 HTTP/1.1\nhost: h:80\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nexpect: 100-continue\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "GET /N HTTP/1.1\nhost: h\nexpect: 100-continue\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    // As it should be.
    "GET /N HTTP/1.1\nhost: h\n\nGET /two-N HTTP/1.1\nhost: h\n\nGET /three-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 3\n\nabcPOST /two-N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n3\nabc\n0\n\n",
];

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

/// Runs the whole grid. `start` gets a directory, and a port that is free.
async fn no_request_is_two(start: impl FnOnce(&Path, u16) -> Server) {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let server = start(directory.path(), port);
    until("the server to listen", async || {
        Http1::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.ok()
    })
    .await;
    let log = directory.path().join("proxy.log");
    let manager = MANAGER.replace("{{log}}", &log.display().to_string());
    let sidecar = Sidecar::start(&bootstrap(&manager, &cluster("server", port, "")))
        .await
        .unwrap();
    let address = sidecar.listener("http").await;
    let cases = GRID
        .iter()
        .enumerate()
        .map(|(number, case)| play(address, number, case));
    futures_util::future::join_all(cases).await;
    // What was sent last is logged last: from then on the logs are complete.
    let mut client = Http1::connect(address).await.unwrap();
    assert_eq!(client.get("h", "/the-end", "").await.status, 200);
    let (ours, theirs) = until("both logs", async || {
        let ours = seen(&log, |line| {
            let (host, request) = line.split_once(' ')?;
            (host != "-").then(|| request.split(' ').nth(1))?
        });
        let theirs = seen(&server.log, server.path);
        (ours.contains_key("/the-end") && theirs.contains_key("/the-end")).then_some((ours, theirs))
    })
    .await;
    for (path, count) in &theirs {
        let forwarded = ours.get(path).copied().unwrap_or(0);
        assert!(
            *count <= forwarded,
            "the server saw {path} {count} times, the proxy forwarded it {forwarded} times"
        );
    }
    let smuggled: Vec<&String> = theirs.keys().filter(|path| path.starts_with("/smuggled-")).collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
    assert!(theirs.len() > 10, "hardly anything arrived: {theirs:?}");
    keep(directory);
}

async fn play(address: SocketAddr, number: usize, case: &str) {
    let bytes: String = case
        .replace('\n', "\r\n")
        .replace('|', "\n")
        .replace('^', "\r")
        .replace("/N", &format!("/{number}"));
    let bytes = bytes.replace("-N", &format!("-{number}"));
    let mut client = Http1::connect(address).await.unwrap();
    client.send(bytes).await;
    // To the end, which comes by itself.
    client.rest().await;
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
    no_request_is_two(|directory, port| {
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
            .args(["-p", &directory.display().to_string(), "-c", &config.display().to_string()])
            .args(["-e", &directory.join("error.log").display().to_string()])
            .stdin(Stdio::null())
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
