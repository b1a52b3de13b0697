//! The whole proxy without sockets: a real listener, connection manager, router and pool between two in-memory streams.
//!
//! In: what a client writes, and in which pieces. Out: what comes back, and that nothing is held any more when the connection is over.

#![allow(dead_code, reason = "each user takes what it needs")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use remora::config::BuildContext;
use remora::listener::active::{ActiveListener, ListenerState, Shared};
use remora::listener::balance::{ConnectionLimit, Loads};
use remora::listener::connection::serve;
use remora::listener::stats::{InspectorStats, Scope};
use remora::runtime::drain::Drain;
use remora::runtime::internal::{self, Listening};
use remora::runtime::io::{Address, Io};
use remora::runtime::spawn::spawn;
use remora::snapshot::build::Builder;
use remora::telemetry::stats::Value;
use remora_proto::json::{Options, encode_text};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// Longer than any of it takes, so that what hangs is found out.
pub const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// One listener, one cluster, and its backend, which echoes.
pub struct Whole {
    context: Arc<BuildContext>,
    shared: Arc<Shared>,
    listener: Arc<ActiveListener>,
    _backend: Listening,
}

impl Whole {
    /// `pipe`: bytes in flight between proxy and backend.
    pub fn new(pipe: usize) -> Self {
        let name = format!("pipeline-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let context = Arc::new(BuildContext::default());
        let mut builder = Builder::new(context.clone());
        let cluster = encoded("envoy.config.cluster.v3.Cluster", &CLUSTER.replace("NAME", &name));
        builder.add_cluster(cluster).expect("the cluster is good");
        let listener = encoded("envoy.config.listener.v3.Listener", &LISTENER.replace("NAME", &name));
        builder.add_listener(&listener, false).expect("the listener is good");
        let snapshot = builder.publish();
        let (_, config) = snapshot.listeners.iter().next().expect("there is one");
        let accept = move |stream: DuplexStream| drop(spawn("backend", echo(stream, pipe)));
        Self {
            shared: Arc::new(Shared::new(InspectorStats::new(&context.stats))),
            listener: Arc::new(ActiveListener {
                name: config.name.clone(),
                addresses: Vec::new(),
                configured: Vec::new(),
                bind_to_port: false,
                reuse_port: true,
                state: arc_swap::ArcSwap::from_pointee(ListenerState::new(config, None)),
                stats: Scope::new(&context.stats, None, None, 1),
                loads: Loads::default(),
                limit: ConnectionLimit::default(),
                stop: Drain::new().0,
                sockets: Default::default(),
            }),
            _backend: internal::listen(&name, Arc::new(accept)).expect("the name is new"),
            context,
        }
    }

    /// A connection; its task ends when the connection does.
    pub fn connect(&self, pipe: usize) -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(pipe.max(1));
        let end = |port| Address::Ip(([127, 0, 0, 1], port).into());
        let (shared, listener) = (self.shared.clone(), self.listener.clone());
        let serving = serve(shared, listener, Io::Duplex(theirs), end(80), end(50_000));
        (ours, spawn("connection", serving))
    }

    /// Everything that is counted as being under way, by name. When nothing is, all of it is zero.
    pub fn under_way(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        self.context.stats.visit(&mut |prefix, name, value| {
            let counts =
                name.ends_with("rq_active") || name.ends_with("rq_pending_active") || name == "downstream_cx_active";
            if let Value::Gauge(value) = value
                && counts
                && value > 0
            {
                found.push((format!("{prefix}{name}"), value));
            }
        });
        found
    }
}

/// Writes `input` in pieces of `step` bytes, says that it is over, and reads until the proxy has ended the connection too.
pub async fn talk(whole: &Whole, input: &[u8], step: usize) -> Vec<u8> {
    let (client, task) = whole.connect(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(client);
    let write = async {
        for piece in input.chunks(step.max(1)) {
            // The proxy may have had enough.
            if writer.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = writer.shutdown().await;
    };
    let read = async {
        let mut all = Vec::new();
        let _ = reader.read_to_end(&mut all).await;
        all
    };
    let ((), answer) = tokio::join!(write, read);
    drop((reader, writer));
    let _ = task.await;
    answer
}

/// Any bytes from a client: the proxy ends, and holds nothing afterwards.
pub fn pipeline(data: &[u8]) {
    let [step, input @ ..] = data else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let whole = Whole::new(4096);
        let talked = tokio::time::timeout(PATIENCE, talk(&whole, input, usize::from(*step) + 1));
        talked.await.expect("the connection ends");
        settled(&whole).await;
    });
}

/// Waits until nothing is under way any more.
pub async fn settled(whole: &Whole) {
    let settling = async {
        while !whole.under_way().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let settled = tokio::time::timeout(PATIENCE, settling).await;
    assert!(settled.is_ok(), "still under way: {:?}", whole.under_way());
}

fn encoded(name: &str, yaml: &str) -> Bytes {
    let options = Options::default();
    encode_text(yaml, name, &options)
        .expect("the resource is good")
        .bytes
        .into()
}

/// Answers each request with its own body and trailers.
async fn echo(mut stream: DuplexStream, pipe: usize) {
    let mut buffer = Vec::new();
    let mut chunk = vec![0; pipe.max(1)];
    loop {
        let Some(head) = find(&buffer, b"\r\n\r\n") else {
            match stream.read(&mut chunk).await {
                Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
                _ => return,
            }
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        buffer.drain(..head + 4);
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let chunked = text.contains("transfer-encoding: chunked");
        let framing = match (chunked, length) {
            (true, _) => "transfer-encoding: chunked\r\n".to_owned(),
            (false, length) => format!("content-length: {}\r\n", length.unwrap_or(0usize)),
        };
        let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        // What is framed alike is sent back as it came.
        let mut rest = length.unwrap_or(0);
        loop {
            let end = match chunked {
                true => end_of_chunks(&buffer),
                false => (buffer.len() >= rest).then_some(rest),
            };
            let part = end.unwrap_or(if chunked { 0 } else { buffer.len() });
            if stream.write_all(&buffer[..part]).await.is_err() {
                return;
            }
            buffer.drain(..part);
            rest -= if chunked { 0 } else { part };
            if end.is_some() {
                break;
            }
            match stream.read(&mut chunk).await {
                Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
                _ => return,
            }
        }
    }
}

/// Where a chunked body ends, if all of it is there.
fn end_of_chunks(buffer: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&buffer[at..], b"\r\n")?;
        let size = std::str::from_utf8(&buffer[at..at + line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        at += line + 2;
        if size > 0 {
            at += size + 2;
            buffer.get(..at)?;
            continue;
        }
        // Trailers end with an empty line.
        loop {
            let line = find(&buffer[at..], b"\r\n")?;
            at += line + 2;
            if line == 0 {
                return Some(at);
            }
        }
    }
}

fn find(buffer: &[u8], what: &[u8]) -> Option<usize> {
    buffer.windows(what.len()).position(|window| window == what)
}

const CLUSTER: &str = r#"
name: NAME
connect_timeout: 5s
load_assignment:
  cluster_name: NAME
  endpoints: [{lb_endpoints: [{endpoint: {address: {envoy_internal_address: {server_listener_name: NAME}}}}]}]
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}
"#;

const LISTENER: &str = r#"
name: NAME
address: {socket_address: {address: 127.0.0.1, port_value: 1}}
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: whole
      delayed_close_timeout: 0s
      http_protocol_options: {accept_http_10: true, enable_trailers: true}
      upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}]
      http_filters:
      - name: envoy.filters.http.router
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
      route_config:
        virtual_hosts:
        - name: all
          domains: ["*"]
          routes:
          - match: {connect_matcher: {}}
            route: {cluster: NAME, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}
          - {match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: direct}}}
          - {match: {prefix: /retry}, route: {cluster: NAME, retry_policy: {retry_on: "5xx,reset"}}}
          - {match: {prefix: /}, route: {cluster: NAME}}
"#;
