//! Hot restart: processes take over from each other while requests go on.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use remora_tests::{Backend, Http1, Load, Program, ask_admin, until};

/// Starts and waits until it is live.
async fn start(directory: &Path, epoch: u32, concurrency: u32) -> Program {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-under-test"));
    command
        .arg("-c")
        .arg(directory.join("envoy.yaml"))
        .arg("--socket-path")
        .arg(directory.join("restart"))
        .args([
            "--restart-epoch",
            &epoch.to_string(),
            "--concurrency",
            &concurrency.to_string(),
        ])
        .args(["-l", "error", "--parent-shutdown-time-s", "600"])
        .args(["--drain-strategy", "immediate"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Program::start(&mut command, &directory.join(format!("admin-{epoch}"))).await
}

async fn ended(before: &mut Program) -> ExitStatus {
    until("the end of the epoch before", async || {
        before.process.try_wait().unwrap()
    })
    .await
}

fn bootstrap(port: u16) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: ingress
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: app}}}}]}}]
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: app
    type: STATIC
    load_assignment:
      cluster_name: app
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#
    )
}

#[tokio::test]
async fn processes_take_over_and_no_request_fails() {
    let backend = Backend::start("app").await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("envoy.yaml"), bootstrap(backend.port())).unwrap();
    let mut first = start(directory.path(), 0, 2).await;
    let address = first.listens().await;
    let load = Load::on(address, "app");
    load.more(100).await;

    // Under way when its process is told to go; the connection ends with the answer.
    let mut slow = Http1::connect(address).await.unwrap();
    slow.send("GET /slow HTTP/1.1\r\nhost: app\r\nx-do: delay=2000\r\n\r\n")
        .await;

    // More workers, then fewer: all sockets of the epoch before are taken, whatever their number.
    let mut second = start(directory.path(), 1, 3).await;
    assert_eq!(second.listens().await, address);
    let answer = slow.response("GET").await;
    assert!(answer.status == 200 && answer.is_whole(), "{}", answer.render());
    drop(slow);
    assert!(ended(&mut first).await.success());
    load.more(100).await;
    let third = start(directory.path(), 2, 1).await;
    assert!(ended(&mut second).await.success());
    load.more(100).await;

    let (failed, done) = load.finish().await;
    assert_eq!(failed, Vec::<String>::new(), "of {done}");
    let info = ask_admin(third.admin, "GET", "/server_info").await.text();
    assert!(info.contains("\"hot_restart_version\": \"remora.1\""), "{info}");
    assert!(info.contains("\"restart_epoch\": 2"), "{info}");
}

#[tokio::test]
async fn a_successor_that_cannot_start_costs_no_request() {
    let backend = Backend::start("app").await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("envoy.yaml");
    std::fs::write(&config, bootstrap(backend.port())).unwrap();
    let first = start(directory.path(), 0, 2).await;
    let address = first.listens().await;
    // It fails late, with the sockets in its hands: another address that it wants is taken.
    let taken = format!(
        "  - {{name: taken, address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}, filter_chains: [{{}}]}}\n  clusters:\n",
        backend.port()
    );
    std::fs::write(&config, bootstrap(backend.port()).replace("  clusters:\n", &taken)).unwrap();
    let refused = Command::new(env!("CARGO_BIN_EXE_remora-under-test"))
        .arg("-c")
        .arg(&config)
        .arg("--socket-path")
        .arg(directory.path().join("restart"))
        .args(["--restart-epoch", "1", "-l", "off"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && words.contains("cannot bind listener 'taken'"),
        "{words}"
    );
    let mut client = Http1::connect(address).await.unwrap();
    assert_eq!(client.get("app", "/", "").await.status, 200);
    // And the next one takes over all the same.
    std::fs::write(&config, bootstrap(backend.port())).unwrap();
    let second = start(directory.path(), 1, 2).await;
    assert_eq!(second.listens().await, address);
}
