//! A control plane that never rests: pushes of every type, one after the other, while connections are in use. None may notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use control_plane_mock::pki::{Authority, Identity, Leaf};
use control_plane_mock::resources::{
    ListenerBuilder, Variant, VhostBuilder, cluster_eds, endpoints, hcm, listener_http, prefix, route_config,
    tls_downstream, tls_upstream,
};
use control_plane_mock::{Entry, Handle, PATIENCE, What};
use remora::runtime::clock;
use remora::runtime::spawn::spawn;
use remora_tests::{Backend, Ending, Http1, Mesh, Sidecar};

/// Half of them go through a second listener, over mutual TLS with certificates of the control plane.
const CONNECTIONS: usize = 64;
/// How often a request is due on each of them, whether the one before was answered in time or not: what waits for its turn is late.
const EVERY: Duration = Duration::from_millis(250);
const KINDS: usize = 9;

/// In each variant of the protocol: ten thousand together where everything is required, a taste elsewhere; or as many as `REMORA_STORM` says.
fn pushes() -> usize {
    let asked = std::env::var("REMORA_STORM").ok().and_then(|count| count.parse().ok());
    let all = std::env::var_os("REMORA_REQUIRE_ALL").is_some_and(|value| value == "1");
    asked.unwrap_or(if all { 5_000 } else { 180 })
}

/// An answer that comes later than this after its request was due counts as a failure. Beside other tests everything may wait for a core;
/// who asks for a storm of a certain size has a machine for it.
fn late() -> Duration {
    match std::env::var_os("REMORA_STORM") {
        Some(_) => Duration::from_secs(1),
        None => Duration::from_secs(10),
    }
}

#[tokio::test]
async fn pushes_of_every_type_disturb_no_connection() {
    // Half in each variant of the protocol.
    for variant in [Variant::Sotw, Variant::Delta] {
        let storm = Storm::start(variant).await;
        let users = Users::start(&storm);
        for push in 0..pushes() {
            storm.push(push).await;
        }
        let (failures, requests, worst) = users.finish().await;
        println!(
            "{variant:?}: {} pushes, {requests} requests, the latest answer after {worst:?}",
            pushes()
        );
        assert!(
            failures.is_empty(),
            "{} of {requests} failed:\n{}",
            failures.len(),
            failures.join("\n")
        );
        assert!(requests >= CONNECTIONS as u64 * 2, "only {requests} requests");
        storm.check().await;
    }
}

struct Storm {
    plane: Handle,
    sidecar: Sidecar,
    backends: [Backend; 2],
    identities: Vec<Identity>,
    ports: [u16; 2],
    _mesh: Mesh,
}

impl Storm {
    async fn start(variant: Variant) -> Self {
        let mesh = Mesh::start(variant).await;
        let plane = mesh.handle();
        let authority = Authority::new("root").unwrap();
        let identities: Vec<_> = (0..3)
            .map(|_| authority.issue(&Leaf::new().dns("inner")).unwrap())
            .collect();
        let backends = [Backend::start("a").await, Backend::start("b").await];
        plane.push_secret(identities[0].secret("cert"));
        plane.push_secret(authority.secret("ca"));
        let both = tls_downstream("cert").validation("ca").require_client_certificate();
        let inner = route_config("inner").vhost(["*"]).with_route(prefix("/").cluster("a"));
        plane.push_listener(listener_http("inner", "127.0.0.1", 0, hcm("inner").inline(inner)).tls(both));
        plane.push_listener(outer(0));
        plane.push_cluster(cluster_eds("a"));
        plane.push_cluster(cluster_eds("inner").tls(tls_upstream("cert", "ca").sni("inner")));
        plane.push_endpoints(endpoints("a", [("127.0.0.1", backends[0].port())]));
        plane.push_endpoints(endpoints("inner", [("127.0.0.1", 1)]));
        plane.push_route(routes(0));
        let sidecar = mesh.sidecar("storm").await;
        let inner = sidecar.listener("inner").await;
        let version = plane.push_endpoints(endpoints("inner", [("127.0.0.1", inner.port())]));
        plane.wait_ack("eds", &version).await.unwrap();
        Self {
            plane,
            ports: [sidecar.listener("outer").await.port(), inner.port()],
            sidecar,
            backends,
            identities,
            _mesh: mesh,
        }
    }

    /// One push of the kind whose turn it is, and the wait for its ACK or NACK.
    async fn push(&self, push: usize) {
        let (plane, round) = (&self.plane, push / KINDS);
        let mark = plane.mark();
        let other = format!("other-{}", round % 5);
        let (ty, good) = match push % KINDS {
            0 => {
                let host = ("127.0.0.1", self.backends[round % 2].port());
                plane.push_endpoints(endpoints("a", [host]));
                ("eds", true)
            }
            1 => {
                plane.push_route(routes(round));
                ("rds", true)
            }
            2 => {
                let timeout = Duration::from_millis(5000 + round as u64);
                plane.push_cluster(cluster_eds("a").connect_timeout(timeout));
                ("cds", true)
            }
            3 => {
                plane.push_listener(outer(round));
                ("lds", true)
            }
            4 => {
                plane.push_secret(self.identities[round % self.identities.len()].secret("cert"));
                ("sds", true)
            }
            5 => {
                plane.push_endpoints(endpoints(&other, [("127.0.0.1", 1)]));
                plane.push_cluster(cluster_eds(&other).connect_timeout(Duration::from_millis(100 + round as u64)));
                ("cds", true)
            }
            6 => {
                plane.push_route(routes(round).vhost(["*"]));
                ("rds", false)
            }
            7 => {
                let manager = hcm(&format!("other{round}")).rds("routes");
                plane.push_listener(listener_http(&other, "127.0.0.1", 0, manager));
                ("lds", true)
            }
            _ => {
                let gone = format!("other-{}", (round + 2) % 5);
                plane.remove("lds", &gone);
                plane.remove("cds", &gone);
                // In the first rounds there is nothing to remove yet.
                plane.push_route(routes(round));
                ("rds", true)
            }
        };
        let wanted = if good { What::Ack } else { What::Nack };
        let answered = plane.wait_from(mark, |entry: &Entry| entry.what == wanted && entry.is_of(ty), PATIENCE);
        if let Err(error) = answered.await {
            panic!("push {push}: no {wanted:?} of {ty}: {error}");
        }
    }

    async fn check(&self) {
        assert!(self.backends.iter().all(|backend| backend.requests() > 0));
        assert_eq!(
            self.sidecar.stat("http.outer.downstream_cx_total").await,
            CONNECTIONS as u64,
            "no connection was made anew"
        );
        let closed = self.sidecar.stat("http.inner.downstream_cx_destroy").await;
        assert_eq!(closed, 0, "a certificate that changes is for those that come");
        for name in [
            "cluster_manager.cds",
            "listener_manager.lds",
            "http.outer.rds.routes",
            "sds.cert",
        ] {
            let success = self.sidecar.stat(&format!("{name}.update_success")).await;
            assert!(success > pushes() as u64 / 20, "{name}: {success}");
        }
        assert!(self.sidecar.stat("http.outer.rds.routes.update_rejected").await > 0);
        assert_eq!(self.sidecar.stat("cluster_manager.cds.update_rejected").await, 0);
    }
}

/// The listener that all connections are made to. What changes between two of them does not concern its filter chain.
fn outer(round: usize) -> ListenerBuilder {
    listener_http("outer", "127.0.0.1", 0, hcm("outer").rds("routes")).edit(|listener| {
        let timeout = remora_proto::pb::google::protobuf::Duration {
            seconds: 15 + round as i64,
            nanos: 0,
        };
        listener.listener_filters_timeout = Some(timeout);
    })
}

fn routes(round: usize) -> VhostBuilder {
    route_config("routes")
        .vhost([format!("{round}.test")])
        .with_route(prefix("/").direct_response(404, "never asked for"))
        .vhost(["*"])
        .with_route(prefix("/inner").cluster("inner"))
        .with_route(prefix("/").cluster("a"))
}

/// Connections that are made once and used until the end.
struct Users {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    /// Microseconds from when a request was due to its answer.
    worst: AtomicU64,
}

impl Users {
    fn start(storm: &Storm) -> Self {
        let shared = Arc::new(Shared::default());
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], storm.ports[0]));
        let task = |index: usize| {
            let path = if index.is_multiple_of(2) { "/" } else { "/inner" };
            let first = EVERY * index as u32 / CONNECTIONS as u32;
            spawn("user", user(address, path, first, shared.clone()))
        };
        let tasks = (0..CONNECTIONS).map(task).collect();
        Self { shared, tasks }
    }

    /// What went wrong, how many requests were made, and how long the slowest took from when it was due.
    async fn finish(self) -> (Vec<String>, u64, Duration) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for task in self.tasks {
            failures.extend(task.await.unwrap().err());
        }
        let worst = Duration::from_micros(self.shared.worst.load(Ordering::SeqCst));
        (failures, self.shared.done.load(Ordering::SeqCst), worst)
    }
}

async fn user(address: std::net::SocketAddr, path: &str, first: Duration, shared: Arc<Shared>) -> Result<(), String> {
    let mut client = Http1::connect(address).await.map_err(|error| error.to_string())?;
    let mut due = clock::now() + first;
    loop {
        clock::sleep(due.saturating_duration_since(clock::now())).await;
        let stop = shared.stop.load(Ordering::SeqCst);
        let answer = client.get("mesh.test", path, "").await;
        if answer.status != 200 || !answer.is_whole() || answer.body.is_empty() {
            return Err(format!("{path}: {}", answer.render()));
        }
        if answer.ending == Ending::Closed {
            return Err(format!("{path}: the connection was closed for no reason"));
        }
        let took = clock::now().saturating_duration_since(due);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        shared.worst.fetch_max(micros, Ordering::SeqCst);
        if took > late() {
            return Err(format!("{path}: answered {took:?} after it was due"));
        }
        shared.done.fetch_add(1, Ordering::SeqCst);
        // One more after the last push.
        if stop {
            return Ok(());
        }
        due += EVERY;
    }
}
