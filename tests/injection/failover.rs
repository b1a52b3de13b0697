//! One of three hosts fails under load, on real sockets, in a network namespace of its own: no request fails, and soon none is slow.
//! (`benches/failover.py` plays the same next to Envoy.)

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use remora::runtime::clock;
use remora::runtime::spawn::spawn;
use remora_tests::{Http1, ask_admin, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::space::{Space, available, remora};

const HERE: &str = "10.79.0.1";
const THERE: &str = "10.79.0.2";
const PORT: u16 = 8080;
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15001);
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15000);

/// A request every so often.
const EVERY: Duration = Duration::from_millis(10);
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(6);
/// Time for one try, in the configuration below.
const TRY: Duration = Duration::from_millis(500);
/// From then on after the fault nobody may have had to try twice: three tries (five in a row would eject too) or two checks a second apart are
/// what it takes, and machines are slow.
const CLEAN: Duration = Duration::from_secs(4);

/// Two hosts here and one there; checks each second, ejection after three errors, two retries elsewhere.
const CONFIG: &str = r#"
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 15001}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route:
                  cluster: web
                  timeout: 10s
                  retry_policy:
                    retry_on: connect-failure,refused-stream,reset,5xx
                    num_retries: 2
                    per_try_timeout: 0.5s
                    host_selection_retry_max_attempts: 3
                    retry_host_predicate:
                    - name: previous_hosts
                      typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}
  clusters:
  - name: web
    type: STATIC
    connect_timeout: 0.5s
    circuit_breakers: {thresholds: [{max_retries: 1000}]}
    outlier_detection: {consecutive_5xx: 3, interval: 1s, base_ejection_time: 30s, max_ejection_percent: 50}
    health_checks:
    - {timeout: 0.5s, interval: 1s, no_traffic_interval: 1s, unhealthy_threshold: 2, healthy_threshold: 1, http_health_check: {path: /}}
    load_assignment:
      cluster_name: web
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 8080}}}
        - endpoint: {address: {socket_address: {address: 127.0.0.2, port_value: 8080}}}
        - endpoint: {address: {socket_address: {address: 10.79.0.2, port_value: 8080}}}
"#;

/// A process, ended with the test; killed even if it is stopped.
struct Running(Child);

impl Running {
    /// `ip netns exec` becomes the program: the process is the program's.
    fn start(space: &Space, program: &str, arguments: &[&str]) -> Self {
        let mut command: Command = space.command(program);
        Self(command.args(arguments).stdin(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What became of a request that was sent so long after the load began.
struct Outcome {
    at: Duration,
    took: Duration,
    failure: Option<String>,
}

/// An open-loop load; late requests do not hold up others.
async fn load(lasts: Duration) -> Vec<Outcome> {
    let start = clock::now();
    let mut running = Vec::new();
    while clock::now() - start < lasts {
        running.push(spawn("request", request(start)));
        clock::sleep(EVERY).await;
    }
    let mut outcomes = Vec::new();
    for request in running {
        outcomes.push(request.await.unwrap());
    }
    outcomes
}

async fn request(start: Instant) -> Outcome {
    let sent = clock::now();
    let failure = match Http1::connect(PROXY).await {
        Ok(mut client) => {
            let answer = client.get("web", "/", "").await;
            (answer.status != 200 || !answer.is_whole()).then(|| answer.render())
        }
        Err(error) => Some(error.to_string()),
    };
    Outcome {
        at: sent - start,
        took: clock::now() - sent,
        failure,
    }
}

fn in_space<F>(space: &Space, make: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F: Future,
    F::Output: Send + 'static,
{
    match space.enter(make).join() {
        Ok(output) => output,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The load goes on while `fault` comes over the host.
fn survives(fault: impl FnOnce(&Space, &Running)) {
    let (here, there) = (Space::empty("here"), Space::empty("there"));
    here.ip([
        "link",
        "add",
        "eth0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        there.name(),
    ]);
    here.configure("eth0", &[&format!("{HERE}/24")]);
    there.configure("eth0", &[&format!("{THERE}/24")]);
    let host = env!("CARGO_BIN_EXE_ailing-host");
    let address = |ip: &str| format!("{ip}:{PORT}");
    let _well = ["127.0.0.1", "127.0.0.2"].map(|ip| Running::start(&here, host, &[&address(ip)]));
    let ill = Running::start(&there, host, &[&address(THERE)]);
    in_space(&here, move || async move {
        for ip in ["127.0.0.1", "127.0.0.2", THERE] {
            until("a host", async || tokio::net::TcpStream::connect((ip, PORT)).await.ok()).await;
        }
    });
    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("envoy.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let arguments = ["-c", config.to_str().unwrap(), "--concurrency", "1", "-l", "warning"];
    let _proxy = Running::start(&here, remora(), &arguments);
    in_space(&here, || async {
        until("the proxy", async || {
            tokio::net::TcpStream::connect(ADMIN).await.ok()?;
            (ask_admin(ADMIN, "GET", "/ready").await.status == 200).then_some(())
        })
        .await;
    });
    let loading = here.enter(|| load(BEFORE + AFTER));
    std::thread::sleep(BEFORE);
    fault(&there, &ill);
    let outcomes = loading.join().unwrap();
    let failures: Vec<String> = (outcomes.iter())
        .filter_map(|outcome| Some(format!("{:?}: {}", outcome.at, outcome.failure.as_ref()?)))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} failed:\n{}",
        failures.len(),
        outcomes.len(),
        failures.join("\n")
    );
    let twice = outcomes.iter().filter(|outcome| outcome.took >= TRY);
    let last = twice.map(|outcome| outcome.at).max().unwrap_or_default();
    assert!(last < BEFORE + CLEAN, "a request waited for the host at {last:?}");
    // The fault was one, and is known.
    let stats = in_space(&here, || async { ask_admin(ADMIN, "GET", "/stats").await.text() });
    let stat = |name: &str| {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    assert_eq!(stat("cluster.web.membership_healthy"), 2, "of three hosts");
    let found = stat("cluster.web.upstream_rq_retry") + stat("cluster.web.health_check.failure");
    assert!(found > 0, "nobody noticed");
}

#[test]
fn a_host_that_is_killed_fails_no_request() {
    if available() {
        survives(|_, host| host.signal(Signal::KILL));
    }
}

#[test]
fn a_host_that_is_stopped_fails_no_request() {
    if available() {
        survives(|_, host| host.signal(Signal::STOP));
    }
}

#[test]
fn a_host_that_answers_503_fails_no_request() {
    if available() {
        survives(|_, host| host.signal(Signal::USR1));
    }
}

#[test]
fn a_host_that_becomes_slow_fails_no_request() {
    if available() {
        survives(|_, host| host.signal(Signal::USR2));
    }
}

#[test]
fn a_host_whose_packets_vanish_fails_no_request() {
    if available() {
        survives(|there, _| {
            there.ip(["route", "replace", "blackhole", &format!("{HERE}/32")]);
        });
    }
}
