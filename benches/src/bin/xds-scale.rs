//! A control plane with 10,000 clusters for one proxy, and what its pushes cost whoever uses that proxy.
//!
//! ```text
//! xds-scale CONTROL_PORT PROXY_PORT ADMIN_PORT ROUNDS
//! ```
//!
//! It serves delta ADS on CONTROL_PORT, and is its own backend; somebody else starts the proxy. Once the last cluster answers, it measures
//! and prints one line of JSON:
//!
//! - `changed_p50_us`, `changed_max_us`: ROUNDS times the endpoint of one cluster is exchanged for another; from the push to the end of the
//!   first request that the new endpoint answered. `delayed_us` is the slowest of all requests meanwhile.
//! - `push_s`: every cluster and every assignment changes at once (50,000 endpoints); until the proxy has accepted all of it.
//!   `push_request_us` and `push_admin_us` are the slowest request and the slowest `/ready` of that time.
//! - `reconnect_resources`: how many resources the control plane had to send again after the stream was reset.

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use control_plane_mock::resources::{
    EndpointsBuilder, cluster_eds, endpoints, hcm, listener_http, prefix, route_config,
};
use control_plane_mock::{ControlPlane, Ending, Entry, Handle, Snapshot, What};
use remora::runtime::spawn::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const CLUSTERS: usize = 10_000;
const ENDPOINTS: usize = 5;
/// The cluster that requests are sent to.
const BUSY: &str = "svc-9999";
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let numbers: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [control, proxy, admin, rounds] = numbers.as_slice() else {
        eprintln!("see the top of benches/src/bin/xds-scale.rs for what it takes");
        return ExitCode::FAILURE;
    };
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    match run(address(*control), address(*proxy), address(*admin), *rounds).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xds-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(control: SocketAddr, proxy: SocketAddr, admin: SocketAddr, rounds: u16) -> Outcome<()> {
    let scale = Scale {
        backends: [serve().await?, serve().await?],
        proxy,
        admin,
    };
    scale.run(control, rounds).await
}

/// A backend that says which port it listens on.
async fn serve() -> Outcome<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    spawn("backend", async move {
        while let Ok((stream, _)) = listener.accept().await {
            // How a connection ends is the client's business.
            spawn("backend connection", async move { drop(answer(stream, port).await) });
        }
    });
    Ok(port)
}

async fn answer(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\nx-port: {port}\r\ncontent-length: 2\r\n\r\nok");
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&buffer[..count]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            stream.write_all(answer.as_bytes()).await?;
        }
    }
}

struct Scale {
    backends: [u16; 2],
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Scale {
    async fn run(&self, control: SocketAddr, rounds: u16) -> Outcome<()> {
        let control_plane = ControlPlane::builder()
            .tcp(control)
            .snapshot(&self.everything(0))
            .start()
            .await?;
        let plane = control_plane.handle();
        self.ready().await?;
        let (mut changed, delayed) = self.change(&plane, rounds).await?;
        changed.sort_unstable();
        let (push, request, admin) = self.push_all(&plane).await?;
        let resources = self.reconnect(&plane).await?;
        let line = serde_json::json!({
            "changed_p50_us": changed[changed.len() / 2],
            "changed_max_us": changed[changed.len() - 1],
            "delayed_us": delayed,
            "push_s": push.as_secs_f64(),
            "push_request_us": request,
            "push_admin_us": admin,
            "reconnect_resources": resources,
        });
        println!("{line}");
        Ok(())
    }

    /// All resources; `round` changes every cluster and every assignment.
    fn everything(&self, round: u64) -> Snapshot {
        let mut all = Snapshot::new();
        let mut routes = route_config("routes")
            .vhost(["*"])
            .with_route(prefix("/").cluster(BUSY));
        for index in 0..CLUSTERS {
            let name = format!("svc-{index}");
            all = all.with(
                cluster_eds(&name)
                    .connect_timeout(Duration::from_millis(5000 + round))
                    .build(),
            );
            all = all.with(self.assignment(&name, index, round).build());
            routes = routes
                .vhost([format!("{name}.test")])
                .with_route(prefix("/").cluster(&name));
        }
        let manager = hcm("large").rds("routes");
        all.with(routes.build())
            .with(listener_http("large", "127.0.0.1", self.proxy.port(), manager).build())
    }

    fn assignment(&self, name: &str, index: usize, round: u64) -> EndpointsBuilder {
        if name == BUSY {
            return endpoints(name, [("127.0.0.1", self.backends[0])]);
        }
        let port = 8080 + u16::try_from(round % 1000).unwrap_or_default();
        let hosts: Vec<String> = (1..=ENDPOINTS)
            .map(|host| format!("10.{}.{}.{host}", index / 250, index % 250))
            .collect();
        endpoints(name, hosts.iter().map(|host| (host.as_str(), port)))
    }

    async fn ready(&self) -> Outcome<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(mut client) = Client::connect(self.proxy).await
                && let Ok(answer) = client.get("/").await
                && answer.status == 200
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err("the proxy does not answer".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Microseconds of each change until its first answer, and of the slowest request.
    async fn change(&self, plane: &Handle, rounds: u16) -> Outcome<(Vec<u64>, u64)> {
        let mut client = Client::connect(self.proxy).await?;
        let (mut took, mut slowest) = (Vec::new(), 0);
        for round in 0..usize::from(rounds) {
            let wanted = self.backends[(round + 1) % 2];
            let start = Instant::now();
            plane.push_endpoints(endpoints(BUSY, [("127.0.0.1", wanted)]));
            loop {
                let sent = Instant::now();
                let answer = client.get("/").await?;
                slowest = slowest.max(micros(sent));
                if answer.status != 200 {
                    return Err(format!("a request was answered with {}", answer.status).into());
                }
                if answer.backend == wanted {
                    break;
                }
                if start.elapsed() > PATIENCE {
                    return Err("the new endpoint never came into use".into());
                }
            }
            took.push(micros(start));
            // The next change finds everybody at rest.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if took.is_empty() {
            return Err("at least one round is needed".into());
        }
        Ok((took, slowest))
    }

    /// Time until everything is accepted, and the slowest request and admin answer of that time.
    async fn push_all(&self, plane: &Handle) -> Outcome<(Duration, u64, u64)> {
        let everything = self.everything(1);
        let probes = [Probe::start(self.proxy, "/"), Probe::start(self.admin, "/ready")];
        let mark = plane.mark();
        let start = Instant::now();
        plane.set(&everything);
        for ty in ["cds", "eds"] {
            let wanted = plane
                .store()
                .of(&resolve(ty))
                .map(|state| state.version())
                .unwrap_or_default();
            let accepted = |entry: &Entry| entry.what == What::Ack && entry.is_of(ty) && entry.version == wanted;
            plane.wait_from(mark, accepted, PATIENCE).await?;
        }
        let took = start.elapsed();
        // What is accepted may not be in use yet.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let [request, admin] = probes;
        Ok((took, request.finish().await?, admin.finish().await?))
    }

    /// Resources that are sent again after a reset.
    async fn reconnect(&self, plane: &Handle) -> Outcome<usize> {
        const MARKER: &str = "svc-0";
        let mark = plane.mark();
        plane.disconnect(Ending::Reset);
        for ty in ["cds", "eds", "lds", "rds"] {
            let again = |entry: &Entry| entry.what == What::Request && entry.is_of(ty);
            plane.wait_from(mark, again, PATIENCE).await?;
        }
        // When a later push is accepted, all that had to be said before it has been.
        let after = plane.mark();
        let version = plane.push_endpoints(endpoints(MARKER, [("127.0.0.1", 9)]));
        let accepted = |entry: &Entry| entry.what == What::Ack && entry.is_of("eds") && entry.version == version;
        plane.wait_from(after, accepted, PATIENCE).await?;
        let entries = plane.transcript();
        let sent = entries
            .iter()
            .filter(|entry| entry.index >= mark && entry.what == What::Response);
        Ok(sent
            .flat_map(|entry| &entry.names)
            .filter(|name| *name != MARKER)
            .count())
    }
}

fn resolve(short: &str) -> String {
    control_plane_mock::types::resolve(short)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// A request every millisecond, each on the same connection, until it is told to stop.
struct Probe {
    stop: Arc<AtomicBool>,
    slowest: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Outcome<()>>,
}

impl Probe {
    fn start(address: SocketAddr, path: &'static str) -> Self {
        let (stop, slowest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen) = (stop.clone(), slowest.clone());
        let probe = async move {
            let mut client = Client::connect(address).await?;
            while !stopped.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let answer = client.get(path).await?;
                if answer.status != 200 {
                    return Err(format!("{path} was answered with {}", answer.status).into());
                }
                seen.fetch_max(micros(sent), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        Self {
            stop,
            slowest,
            task: spawn("probe", probe),
        }
    }

    async fn finish(self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.slowest.load(Ordering::Relaxed))
    }
}

struct Client(TcpStream);

struct Answer {
    status: u16,
    /// Of the backend's `x-port`; 0 without one.
    backend: u16,
}

impl Client {
    async fn connect(address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    async fn get(&mut self, path: &str) -> Outcome<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench.test\r\n\r\n");
        self.0.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let count = self.0.read(&mut buffer).await?;
            answer.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                if count == 0 {
                    return Err("the connection was closed".into());
                }
                continue;
            };
            let field = |name: &str| {
                head.lines()
                    .find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok())
            };
            let whole = match field("content-length:") {
                Some(length) => body.len() >= length,
                None => body.ends_with("0\r\n\r\n"),
            };
            if whole {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
                return Ok(Answer {
                    status: status.unwrap_or_default(),
                    backend: u16::try_from(field("x-port:").unwrap_or_default())?,
                });
            }
            if count == 0 {
                return Err("the connection was closed".into());
            }
        }
    }
}
