//! The program as a process of its own: modes, signals, flags, and how it ends when something is wrong.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use remora_tests::{Backend, Http1, Program, ask_admin, until};

/// One listener `ingress` with these lines (YAML, each indented by 10) more in its connection manager, and one cluster.
fn bootstrap(listener: u16, backend: u16, manager: &str, cluster: &str) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: ingress
    address: {{socket_address: {{address: 127.0.0.1, port_value: {listener}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ingress
{manager}
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: app}}}}]}}]
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: app
    type: STATIC
{cluster}
    load_assignment:
      cluster_name: app
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}}}]}}]
"#
    )
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-under-test"));
    command
        .args(["--disable-hot-restart", "--concurrency", "1"])
        .stdin(Stdio::null());
    command
}

/// Runs to its end. Whatever it says stands on stderr, the log too.
fn run(yaml: &str, flags: &[&str]) -> (Output, String) {
    let output = program().args(["--config-yaml", yaml]).args(flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

async fn start(directory: &Path, yaml: &str, flags: &[&str]) -> Program {
    let mut command = program();
    command
        .args(["--config-yaml", yaml, "-l", "info", "--log-path"])
        .arg(directory.join("log"))
        .args(flags);
    Program::start(&mut command, &directory.join("admin")).await
}

async fn client(running: &Program) -> Http1 {
    Http1::connect(running.listens().await).await.unwrap()
}

fn signal(running: &Program, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(&running.process);
    rustix::process::kill_process(pid, signal).unwrap();
}

async fn holds(path: &Path, text: &str) {
    until(&format!("{text:?} in {}", path.display()), async || {
        let found = std::fs::read_to_string(path).is_ok_and(|content| content.contains(text));
        found.then_some(())
    })
    .await;
}

#[tokio::test]
async fn logs_are_rotated_by_signal_and_by_admin_and_a_hangup_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access");
    let manager = format!(
        "          access_log:\n          - name: file\n            typed_config:\n              \
         \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n              \
         path: {}\n              log_format: {{text_format_source: {{inline_string: \"%REQ(:PATH)%\\n\"}}}}",
        log.display()
    );
    let backend = Backend::start("app").await;
    let yaml = bootstrap(0, backend.port(), &manager, "");
    let running = start(directory.path(), &yaml, &["--file-flush-interval-msec", "50"]).await;
    let mut client = client(&running).await;
    assert_eq!(client.get("app", "/one", "").await.status, 200);
    holds(&log, "/one\n").await;

    // A log rotation: the file gets another name, then a signal.
    let (first, second) = (directory.path().join("access.1"), directory.path().join("access.2"));
    std::fs::rename(&log, &first).unwrap();
    signal(&running, rustix::process::Signal::USR1);
    until("a new access log", async || log.exists().then_some(())).await;
    assert_eq!(client.get("app", "/two", "").await.status, 200);
    holds(&log, "/two\n").await;
    assert_eq!(std::fs::read_to_string(&first).unwrap(), "/one\n");

    // The same by the admin server; the log file itself goes along.
    std::fs::rename(&log, &second).unwrap();
    let own = directory.path().join("log");
    std::fs::rename(&own, directory.path().join("log.1")).unwrap();
    assert_eq!(ask_admin(running.admin, "POST", "/reopen_logs").await.text(), "OK\n");
    assert!(own.exists());
    assert_eq!(client.get("app", "/three", "").await.status, 200);
    holds(&log, "/three\n").await;
    assert_eq!(std::fs::read_to_string(&second).unwrap(), "/two\n");

    signal(&running, rustix::process::Signal::HUP);
    holds(&own, "SIGHUP").await;
    assert_eq!(client.get("app", "/four", "").await.status, 200);
    assert_eq!(ask_admin(running.admin, "GET", "/ready").await.text(), "LIVE\n");
}

#[tokio::test]
async fn init_only_ends_well_without_serving_and_tells_what_it_could_not_bind() {
    let backend = Backend::start("app").await;
    let (output, said) = run(&bootstrap(0, backend.port(), "", ""), &["--mode", "init_only"]);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("exiting") && !said.contains("starting workers"), "{said}");
    let (output, said) = run(&bootstrap(backend.port(), 1, "", ""), &["--mode", "init_only"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "listener 'ingress': cannot bind '127.0.0.1:{}': Address already in use",
        backend.port()
    );
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn files_that_cannot_be_written_are_named_before_anything_listens() {
    let yaml = bootstrap(0, 1, "", "");
    let (output, said) = run(&yaml, &["--admin-address-path", "/nonexistent/address"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "--admin-address-path: unable to write '/nonexistent/address': No such file or directory";
    assert!(said.contains(expected) && !said.contains("starting workers"), "{said}");
    let (output, said) = run(&yaml, &["--log-path", "/nonexistent/log"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "--log-path: unable to open '/nonexistent/log': No such file or directory";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn disabled_extensions_do_not_exist() {
    let yaml = bootstrap(0, 1, "", "");
    let router = "envoy.filters.http/envoy.filters.http.router";
    for mode in ["serve", "validate", "init_only"] {
        let (output, said) = run(&yaml, &["--mode", mode, "--disable-extensions", router]);
        let said = said + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{mode}: {said}");
        let expected =
            "didn't find a registered implementation with type URL: 'envoy.extensions.filters.http.router.v3.Router'";
        assert!(said.contains(expected), "{mode}: {said}");
    }
    // What is not used, and what does not exist, keeps nobody from starting.
    let others = "junk,envoy.filters.http/nosuch,envoy.filters.http/envoy.filters.http.cors";
    let (output, said) = run(&yaml, &["--mode", "init_only", "--disable-extensions", others]);
    assert!(output.status.success(), "{said}");
    for expected in [
        "failed to disable invalid extension name 'junk'",
        "failed to disable unknown extension 'envoy.filters.http/nosuch'",
        "disabled extension 'envoy.filters.http/envoy.filters.http.cors'",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn log_lines_are_escaped_and_deprecated_fields_told_of_as_the_flags_say() {
    let yaml = bootstrap(0, 1, "", "    http2_protocol_options: {}");
    let deprecated = "Using deprecated option 'static_resources.clusters[0].http2_protocol_options'";
    let (_, said) = run(&yaml, &["--mode", "init_only"]);
    assert!(said.contains(deprecated), "{said}");
    let (_, said) = run(&yaml, &["--mode", "init_only", "--log-format-escaped"]);
    assert!(said.contains(&deprecated.replace('\'', "\\'")), "{said}");
    let (output, said) = run(&yaml, &["--mode", "init_only", "--skip-deprecated-logs"]);
    assert!(output.status.success() && !said.contains("deprecated"), "{said}");
}

#[tokio::test]
async fn the_local_address_is_of_the_version_that_the_flag_says() {
    let backend = Backend::start("app").await;
    let yaml = bootstrap(0, backend.port(), "          use_remote_address: true", "");
    for (flags, is_v6) in [(&[][..], false), (&["--local-address-ip-version", "v6"][..], true)] {
        let directory = tempfile::tempdir().unwrap();
        let running = start(directory.path(), &yaml, flags).await;
        let answer = client(&running).await.get("app", "/", "").await.text();
        let line = answer.lines().find(|line| line.starts_with("x-forwarded-for"));
        let (_, address) = line.unwrap_or_else(|| panic!("{answer}")).split_once(':').unwrap();
        let address: std::net::IpAddr = address.trim().parse().unwrap();
        assert_eq!(address.is_ipv6(), is_v6, "{answer}");
    }
}

/// `remora demo --serve`: both sidecars stay, under load, until somebody ends them.
#[tokio::test]
async fn the_served_demo_answers_until_it_is_told_to_end() {
    for end in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let mut demo = Command::new(env!("CARGO_BIN_EXE_remora-under-test"))
            .args(["demo", "--serve"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = rustix::process::Pid::from_child(&demo);
        let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
        let mut addresses = Vec::new();
        while addresses.len() < 4 {
            let line = lines.next().expect("addresses").unwrap();
            let words = line.split([' ', ',']).map(|word| word.trim_start_matches("http://"));
            addresses.extend(words.filter_map(|word| word.parse::<std::net::SocketAddr>().ok()));
        }
        let [http, _tcp, client, server] = addresses[..] else {
            panic!("{addresses:?}");
        };
        for admin in [client, server] {
            assert_eq!(ask_admin(admin, "GET", "/ready").await.text(), "LIVE\n");
        }
        let answer = Http1::connect(http).await.unwrap().get("echo", "/", "").await;
        assert_eq!(answer.status, 200, "{}", answer.render());
        rustix::process::kill_process(pid, end).unwrap();
        let said = lines.map_while(Result::ok).filter(|line| !line.is_empty());
        let last = said.last().unwrap_or_default();
        assert!(last.starts_with("requests ") && last.contains("failed 0"), "{last}");
        assert!(demo.wait().unwrap().success());
    }
}

fn stands_still(running: &Program) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", running.process.id())).unwrap();
    tasks.flatten().all(|task| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // Behind the name, which may have any character in it.
        stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('T'))
    })
}

/// While the proxy stands still a request comes, and then the end of the connection that it would go over. The proxy finds both at once, the
/// request first; and it is one that may not be sent twice.
#[tokio::test]
async fn a_request_does_not_go_over_a_connection_that_was_closed_before() {
    for cluster in ["", "    http2_protocol_options: {}"] {
        let directory = tempfile::tempdir().unwrap();
        let backend = Backend::start("app").await;
        let address = backend.address();
        let yaml = bootstrap(0, backend.port(), "", cluster);
        let running = start(directory.path(), &yaml, &[]).await;
        let mut client = client(&running).await;
        assert_eq!(client.get("app", "/", "").await.status, 200);
        let mut watcher = Http1::connect(address).await.unwrap();
        signal(&running, rustix::process::Signal::STOP);
        until("every thread stands still", async || {
            stands_still(&running).then_some(())
        })
        .await;
        client
            .send("POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 2\r\n\r\nhi")
            .await;
        drop(backend);
        // All connections of the backend end together.
        assert_eq!(watcher.rest().await, b"");
        let backend = Backend::at("app", address).await;
        signal(&running, rustix::process::Signal::CONT);
        assert_eq!(client.response("POST").await.status, 200, "{cluster}");
        assert_eq!(backend.requests(), 1);
    }
}
