//! What becomes of connections when a health check finds their host ill (`close_connections_on_host_health_failure`).

use std::net::SocketAddr;
use std::time::Duration;

use remora_tests::{Http1, ask_admin, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cases::{bootstrap, cluster, listener};
use crate::harness::Pair;

const CHECKED: &str = "health_checks: [{timeout: 1s, interval: 0.1s, no_traffic_interval: 0.1s, unhealthy_threshold: 1, \
                       healthy_threshold: 1, http_health_check: {path: /health}}]\ncommon_lb_config: {healthy_panic_threshold: {value: 0}}\n";
const CLOSING: &str = "close_connections_on_host_health_failure: true\n";

fn tcp(name: &str) -> String {
    format!(
        r#"  - name: tcp {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: {name}
          cluster: {name}
          access_log: [{{name: envoy.access_loggers.file, typed_config: {{"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: "{{{{log}}}}", log_format: {{text_format_source: {{inline_string: "{name} flags=%RESPONSE_FLAGS% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\n"}}}}}}}}]
"#
    )
}

#[tokio::test]
async fn connections_end_with_the_health_of_their_host_where_they_are_to() {
    let manager = "route_config:\n  name: routes\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n    - {match: {prefix: /}, route: {cluster: closing}}\n";
    let yaml = bootstrap(
        &[tcp("closing"), tcp("keeping"), listener("http", manager)],
        &[
            cluster("closing", &["{{b}}"], &format!("{CHECKED}{CLOSING}")),
            cluster("keeping", &["{{b}}"], CHECKED),
        ],
    );
    let Some(pair) = Pair::start("failing hosts", &yaml).await else {
        return;
    };
    let b = &pair.backends()[1];
    let healthy = async |wanted: u64| {
        for admin in pair.admins() {
            for name in ["closing", "keeping"] {
                until("the checks", async || {
                    let stat = format!("/stats?filter=^cluster.{name}.membership_healthy$");
                    let page = ask_admin(admin, "GET", &stat).await;
                    let line = format!("cluster.{name}.membership_healthy: {wanted}");
                    (page.text().trim() == line).then_some(())
                })
                .await;
            }
        }
    };
    healthy(1).await;
    let mut opened = Vec::new();
    for listener in ["tcp closing", "tcp keeping"] {
        for proxy in [pair.envoy(listener), pair.remora(listener)] {
            opened.push(talking(proxy).await);
        }
    }
    let mut under_way = Vec::new();
    for proxy in [pair.envoy("http"), pair.remora("http")] {
        let mut client = Http1::connect(proxy).await.unwrap();
        client
            .send("GET / HTTP/1.1\r\nhost: parity.test\r\nx-do: delay=2000\r\n\r\n")
            .await;
        under_way.push(client);
    }
    for admin in pair.admins() {
        // The connection is one, too.
        until("the requests", async || {
            let page = ask_admin(admin, "GET", "/stats?filter=^cluster.closing.upstream_rq_active$").await;
            (page.text().trim() == "cluster.closing.upstream_rq_active: 2").then_some(())
        })
        .await;
    }
    b.fail_with(Some(503));
    healthy(0).await;
    let mut fates = Vec::new();
    for stream in &mut opened {
        fates.push(fate(stream).await);
    }
    assert_eq!(fates[0], "ended", "Envoy closes");
    assert_eq!(fates[2], "stays", "Envoy keeps");
    assert_eq!((&fates[1], &fates[3]), (&fates[0], &fates[2]));
    for mut client in under_way {
        // The host answers it, in whatever mood.
        let answer = client.response("GET").await;
        assert_eq!(answer.header("x-backend"), Some("b"), "requests are not cut");
    }
    drop(opened);
    let mut logs = Vec::new();
    for path in pair.logs() {
        let lines = until("the lines", async || {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.contains("ing flags="))
                .map(str::to_owned)
                .collect();
            lines.sort();
            (lines.len() == 2).then_some(lines)
        })
        .await;
        logs.push(lines);
    }
    assert_eq!(logs[0], logs[1]);
    let mut stats = Vec::new();
    for admin in pair.admins() {
        let filter = "^cluster.closing.upstream_cx_(destroy|active)";
        stats.push(ask_admin(admin, "GET", &format!("/stats?filter={filter}")).await.text());
    }
    assert_eq!(stats[0], stats[1]);
}

/// A connection on which a request has been answered.
async fn talking(proxy: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: parity.test\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 1024];
    assert!(within("an answer", stream.read(&mut some)).await.unwrap() > 0);
    stream
}

async fn fate(stream: &mut TcpStream) -> &'static str {
    let mut rest = [0; 1024];
    loop {
        match tokio::time::timeout(Duration::from_millis(500), stream.read(&mut rest)).await {
            Ok(Ok(0)) => return "ended",
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return "reset",
            Err(_) => return "stays",
        }
    }
}
