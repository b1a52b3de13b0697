//! Starts the two proxies of a world in front of the same backends, plays its cases, and reports every line that differs.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use remora_tests::frames::{self, Peer};
use remora_tests::{Answer, AuthzService, Backend, External, Http1, Http2, Sidecar, until};
use tempfile::TempDir;

use crate::differences::{DIFFERENCES, Why};
use crate::openssl;
use crate::tcp::{self, Kind, Plain};

/// One configuration and what is sent to it.
pub struct World {
    pub name: &'static str,
    /// A bootstrap. `{{a}}` and `{{b}}` are ports of backends, `{{authz}}` that of an authorization service, `{{closed}}` a port nobody
    /// listens on, `{{deaf}}` one where nobody is let in, `{{echo}}`, `{{greet}}`, `{{say}}`, `{{peer}}`, `{{break}}` and `{{tunnel}}` backends without HTTP, `{{log}}` the access log's path, and (of a [`Pair`])
    /// `{{directory}}` where it is.
    pub yaml: String,
    pub cases: Vec<Case>,
    /// Prefixes of stats to compare when all cases are done.
    pub stats: &'static [&'static str],
}

pub struct Case {
    pub name: &'static str,
    pub listener: &'static str,
    pub wire: Wire,
    /// What Envoy answers: a case that means something else than it meant to fails. 0 for no answer.
    pub status: u16,
    /// Access log lines that it leaves.
    pub logs: usize,
    /// Requests that backend `b` gets, to be compared too: mirrors answer nobody.
    pub seen: usize,
}

pub enum Wire {
    /// Bytes of one connection, and the method of each request in it.
    Http1 { bytes: Vec<u8>, methods: Vec<&'static str> },
    Http2 {
        method: &'static str,
        host: &'static str,
        path: &'static str,
        headers: Vec<(&'static str, &'static str)>,
        body: &'static [u8],
        trailers: Vec<(&'static str, &'static str)>,
    },
    /// A connection without HTTP; the case's status is the number of bytes that come back.
    Tcp(&'static [tcp::Step]),
    /// HTTP/2 written by hand; the case's status is the number of frames that come back: heads, data, resets and goodbyes.
    Frames(Vec<Written>),
    /// `openssl s_client` with these arguments; the case's status is the number of bytes that it receives.
    OpenSsl {
        arguments: Vec<String>,
        _files: Arc<TempDir>,
    },
    /// A request to the admin server.
    Admin {
        method: &'static str,
        path: &'static str,
        keep: fn(&str) -> bool,
    },
}

/// What a client of HTTP/2 does that no library lets it do.
pub enum Written {
    Bytes(Vec<u8>),
    /// Waits so many milliseconds: what happens meanwhile happens behind the proxy.
    Pause(u64),
    /// Reads until a frame of this kind.
    Until(u8),
}

/// A case of raw HTTP/1: `\n` stands for CRLF, `text` ends with its empty line and body.
pub fn raw(name: &'static str, status: u16, text: &str) -> Case {
    let method = match text.split(' ').next() {
        Some("HEAD") => "HEAD",
        Some("CONNECT") => "CONNECT",
        _ => "GET",
    };
    let wire = Wire::Http1 {
        bytes: text.replace('\n', "\r\n").into_bytes(),
        methods: vec![method],
    };
    Case {
        name,
        listener: "http",
        wire,
        status,
        logs: 1,
        seen: 0,
    }
}

/// A GET with more header lines (each with its `\n`).
pub fn get(name: &'static str, status: u16, path: &str, headers: &str) -> Case {
    raw(
        name,
        status,
        &format!("GET {path} HTTP/1.1\nhost: parity.test\n{headers}\n"),
    )
}

pub fn admin(
    name: &'static str,
    status: u16,
    method: &'static str,
    path: &'static str,
    keep: fn(&str) -> bool,
) -> Case {
    Case {
        name,
        listener: "",
        wire: Wire::Admin { method, path, keep },
        status,
        logs: 0,
        seen: 0,
    }
}

/// A name out of a table.
pub fn named(name: String) -> &'static str {
    name.leak()
}

impl Case {
    pub fn on(mut self, listener: &'static str) -> Self {
        self.listener = listener;
        self
    }

    /// Backend `b` gets so many requests.
    pub fn seen(mut self, count: usize) -> Self {
        self.seen = count;
        self
    }

    /// Lines that it leaves in the access log.
    pub fn logs(mut self, count: usize) -> Self {
        self.logs = count;
        self
    }

    /// Several requests are in the bytes.
    pub fn answers(mut self, count: usize) -> Self {
        if let Wire::Http1 { methods, .. } = &mut self.wire {
            *methods = vec![methods[0]; count];
        }
        self.logs = count;
        self
    }
}

/// One of the two proxies.
struct Subject {
    name: &'static str,
    admin: SocketAddr,
    listeners: HashMap<String, SocketAddr>,
    log: PathBuf,
    _keep: Keep,
}

enum Keep {
    External { _envoy: External },
    Sidecar { _sidecar: Sidecar },
}

/// What both proxies stand in front of.
struct Backends {
    http: [Backend; 2],
    plain: [Plain; 6],
    authz: AuthzService,
    /// Takes no connection and refuses none: who knocks waits.
    deaf: Deaf,
    /// Bound and not listening: nobody else can take the port, and connections to it are refused.
    refusing: tokio::net::TcpSocket,
}

impl Backends {
    async fn start() -> Self {
        let refusing = tokio::net::TcpSocket::new_v4().unwrap();
        refusing.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self {
            http: [Backend::start("a").await, Backend::start("b").await],
            plain: [
                Plain::start(Kind::Echo).await,
                Plain::start(Kind::Greet).await,
                Plain::start(Kind::Tunnel).await,
                Plain::start(Kind::Say).await,
                Plain::start(Kind::Peer).await,
                Plain::start(Kind::Break).await,
            ],
            authz: AuthzService::start().await,
            deaf: Deaf::start().await,
            refusing,
        }
    }

    /// The configuration with everybody's place in it.
    fn fill(&self, yaml: &str, log: &Path) -> String {
        let text = self.ports().iter().fold(yaml.to_owned(), |text, (name, port)| {
            text.replace(&format!("{{{{{name}}}}}"), &port.to_string())
        });
        let directory = log.parent().unwrap_or(log).display().to_string();
        text.replace("{{log}}", &log.display().to_string())
            .replace("{{directory}}", &directory)
    }

    /// By the names that configurations call them.
    fn ports(&self) -> [(&'static str, u16); 11] {
        [
            ("a", self.http[0].port()),
            ("b", self.http[1].port()),
            ("closed", self.refusing.local_addr().unwrap().port()),
            ("echo", self.plain[0].port),
            ("greet", self.plain[1].port),
            ("tunnel", self.plain[2].port),
            ("say", self.plain[3].port),
            ("peer", self.plain[4].port),
            ("break", self.plain[5].port),
            ("authz", self.authz.port()),
            ("deaf", self.deaf.port),
        ]
    }
}

/// A listener whose queue is full.
struct Deaf {
    port: u16,
    _listener: tokio::net::TcpListener,
    _queued: Vec<tokio::net::TcpStream>,
}

impl Deaf {
    async fn start() -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let patience = std::time::Duration::from_millis(100);
        while let Ok(Ok(stream)) = tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await {
            queued.push(stream);
        }
        Self {
            port: address.port(),
            _listener: listener,
            _queued: queued,
        }
    }
}

/// Both proxies in front of the same backends, for tests that play nothing of a world.
pub struct Pair {
    envoy: Subject,
    remora: Subject,
    backends: Backends,
    _directory: TempDir,
}

impl Pair {
    /// `None` where there is no Envoy.
    pub async fn start(name: &str, yaml: &str) -> Option<Self> {
        Self::start_with_own_ports(name, yaml, &[]).await
    }

    /// As [`Pair::start`]; `{{name}}` of each of these is a free port, another one for each of the two.
    pub async fn start_with_own_ports(name: &str, yaml: &str, own_ports: &[&str]) -> Option<Self> {
        let envoy = envoy_or_skip(name)?;
        let directory = tempfile::tempdir().unwrap();
        let backends = Backends::start().await;
        let text = |log: &Path| {
            // Each of the two has ports of its own: it calls itself.
            let own = own_ports.iter().map(|name| (*name, free_port()));
            let yaml = own.fold(yaml.to_owned(), |text, (name, port)| {
                text.replace(&format!("{{{{{name}}}}}"), &port.to_string())
            });
            backends.fill(&yaml, log)
        };
        Some(Self {
            envoy: start_envoy(Path::new(&envoy), &directory, text).await,
            remora: start_remora(&directory, text).await,
            backends,
            _directory: directory,
        })
    }

    pub fn envoy(&self, listener: &str) -> SocketAddr {
        self.envoy.listeners[listener]
    }

    pub fn remora(&self, listener: &str) -> SocketAddr {
        self.remora.listeners[listener]
    }

    /// `a` and `b`.
    pub fn backends(&self) -> &[Backend; 2] {
        &self.backends.http
    }

    /// The port of the backend that greets, then echoes.
    pub fn greeting(&self) -> u16 {
        self.backends.plain[1].port
    }

    /// The access logs of Envoy and of Remora.
    pub fn logs(&self) -> [&Path; 2] {
        [&self.envoy.log, &self.remora.log]
    }

    /// The admin servers of Envoy and of Remora.
    pub fn admins(&self) -> [SocketAddr; 2] {
        [self.envoy.admin, self.remora.admin]
    }
}

/// Where nobody listens now; whoever asks is to listen there soon.
fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    socket.local_addr().unwrap().port()
}

static WORLDS: tokio::sync::RwLock<()> = tokio::sync::RwLock::const_new(());

/// Plays `world` on both and panics with all that differs and is not accepted.
pub async fn compare(world: World) {
    compare_with(world, openssl::Servers::default()).await;
}

/// As [`compare`], with `openssl s_server`s: `{{name}}` is the port of the one of that name.
pub async fn compare_with(world: World, servers: openssl::Servers) {
    let Some(envoy) = envoy_or_skip(world.name) else {
        return;
    };
    let needs_openssl =
        world.cases.iter().any(|case| matches!(case.wire, Wire::OpenSsl { .. })) || !servers.arguments.is_empty();
    if needs_openssl && !openssl::is_there_or_skipped(world.name) {
        return;
    }
    // The values of a runtime are those of a whole process, and some keys are everybody's.
    let (_alone, _beside) = match world.name {
        "runtime" => (Some(WORLDS.write().await), None),
        _ => (None, Some(WORLDS.read().await)),
    };
    let directory = tempfile::tempdir().unwrap();
    let backends = Backends::start().await;
    let running: Vec<openssl::Server> = servers
        .arguments
        .iter()
        .map(|(name, arguments)| openssl::Server::start(name, arguments))
        .collect();
    let mut ports = backends.ports().to_vec();
    ports.extend(running.iter().map(|server| (server.name, server.port)));
    let text = |log: &Path| {
        let text = ports.iter().fold(world.yaml.clone(), |text, (name, port)| {
            text.replace(&format!("{{{{{name}}}}}"), &port.to_string())
        });
        text.replace("{{log}}", &log.display().to_string())
    };
    let envoy = start_envoy(Path::new(&envoy), &directory, text).await;
    let remora = start_remora(&directory, text).await;
    let mut report = Report::default();
    // Who of the backends answered counts, not where it happens to listen.
    let masked = |text: String| {
        ports.iter().fold(text, |text, (name, port)| {
            text.replace(&format!(":{port}"), &format!(":{}", name.to_uppercase()))
        })
    };
    for case in &world.cases {
        let case_name = format!("{}/{}", world.name, case.name);
        let (theirs, status) = play(&envoy, case, &backends.http[1]).await;
        let (ours, _) = play(&remora, case, &backends.http[1]).await;
        let (theirs, ours) = (masked(theirs), masked(ours));
        report.compare(&case_name, &theirs, &ours);
        report.wrong.extend(crate::rows::contradiction(&case_name, &theirs));
        if status != case.status {
            report.wrong.push(format!(
                "{case_name}: Envoy itself answers {status}, not {}:\n{theirs}",
                case.status
            ));
        }
    }
    if !world.stats.is_empty() {
        let theirs = stats(&envoy, world.stats).await;
        let ours = stats(&remora, world.stats).await;
        report.compare(&format!("{}/stats", world.name), &theirs, &ours);
    }
    report.finish(world.name);
}

/// Where the real Envoy is; without it a visible line, or a failure if all is required.
pub fn envoy_or_skip(world: &str) -> Option<OsString> {
    let envoy = std::env::var_os("ENVOY_BIN");
    if envoy.is_none() {
        assert!(
            !is_required(),
            "ENVOY_BIN is not set, and REMORA_REQUIRE_ALL=1 says it must be"
        );
        skipped(world, "set ENVOY_BIN");
    }
    envoy
}

/// Whether foreign source addresses may be had; if not, a visible line, or a failure if all is required.
pub fn is_root_or_skipped(world: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(
            !is_required(),
            "not root, and REMORA_REQUIRE_ALL=1 says nothing is skipped"
        );
        skipped(world, "be root");
    }
    root
}

/// Whether nothing may be skipped.
pub fn is_required() -> bool {
    std::env::var_os("REMORA_REQUIRE_ALL").is_some_and(|value| value == "1")
}

#[allow(
    clippy::print_stderr,
    reason = "whoever reads the output is to see what was not tested"
)]
pub fn skipped(world: &str, how: &str) {
    // To the file descriptor itself: the test harness captures what `eprintln!` prints.
    let line = format!("SKIPPED: parity of {world} ({how})\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

async fn start_envoy(program: &Path, directory: &TempDir, text: impl Fn(&Path) -> String) -> Subject {
    let log = directory.path().join("envoy.log");
    let envoy = External::start(program, &text(&log)).await;
    let admin = envoy.admin_address();
    let listeners = listeners(&envoy.admin("GET", "/listeners?format=json").await);
    Subject {
        name: "Envoy",
        admin,
        listeners,
        log,
        _keep: Keep::External { _envoy: envoy },
    }
}

async fn start_remora(directory: &TempDir, text: impl Fn(&Path) -> String) -> Subject {
    let log = directory.path().join("remora.log");
    let remora = Sidecar::start(&text(&log))
        .await
        .unwrap_or_else(|error| panic!("Remora does not start: {error}"));
    until("Remora is ready", async || {
        (remora.admin("GET", "/ready").await.status == 200).then_some(())
    })
    .await;
    let admin = remora.admin_address();
    let listeners = listeners(&remora.admin("GET", "/listeners?format=json").await);
    Subject {
        name: "Remora",
        admin,
        listeners,
        log,
        _keep: Keep::Sidecar { _sidecar: remora },
    }
}

/// Names and addresses out of `/listeners?format=json`, without those that are no addresses of IP.
fn listeners(answer: &Answer) -> HashMap<String, SocketAddr> {
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let statuses = json["listener_statuses"].as_array().cloned().unwrap_or_default();
    let parsed = statuses.iter().filter_map(|status| {
        let address = &status["local_address"]["socket_address"];
        // Who listens on all addresses is called by IPv4.
        let ip = match address["address"].as_str()? {
            "::" => "127.0.0.1",
            ip => ip,
        };
        let text = format!("{ip}:{}", address["port_value"]);
        Some((status["name"].as_str().unwrap().to_owned(), text.parse().unwrap()))
    });
    parsed.collect()
}

/// What the case leaves at one proxy, as lines, and the status of the last answer.
async fn play(subject: &Subject, case: &Case, mirror: &Backend) -> (String, u16) {
    let seen_before = mirror.seen().len();
    let before = std::fs::read_to_string(&subject.log).unwrap_or_default().len();
    let mut text = String::new();
    let mut status = 0;
    let listener = || {
        let known = subject.listeners.get(case.listener);
        *known.unwrap_or_else(|| panic!("{} has no listener {}", subject.name, case.listener))
    };
    match &case.wire {
        Wire::Http1 { bytes, methods } => {
            let mut client = Http1::connect(listener()).await.unwrap();
            client.send(bytes).await;
            for method in methods {
                let answer = client.response(method).await;
                status = answer.status;
                text.push_str(&answer.render());
            }
        }
        Wire::Http2 {
            method,
            host,
            path,
            headers,
            body,
            trailers,
        } => {
            let mut client = Http2::connect(listener()).await;
            let answer = client.exchange(method, host, path, headers, body, trailers).await;
            status = answer.status;
            text.push_str(&answer.render());
        }
        Wire::Tcp(steps) => {
            let (seen, count) = tcp::play(listener(), steps).await;
            status = u16::try_from(count).unwrap();
            text.push_str(&seen);
        }
        Wire::Frames(written) => {
            let (seen, count) = written_frames(listener(), written).await;
            status = count;
            text.push_str(&seen);
        }
        Wire::OpenSsl { arguments, .. } => {
            let (seen, count) = openssl::play(listener(), arguments).await;
            status = u16::try_from(count).unwrap();
            text.push_str(&seen);
        }
        Wire::Admin { method, path, keep } => {
            let answer = remora_tests::ask_admin(subject.admin, method, path).await;
            status = answer.status;
            let _ = writeln!(text, "{}", answer.status_line);
            let _ = writeln!(text, "content-type: {}", answer.header("content-type").unwrap_or(""));
            let ports: Vec<u16> = subject.listeners.values().map(SocketAddr::port).collect();
            // The fields of a message in JSON have no order: which is the last differs.
            let page = answer.text();
            let lines = page.lines().map(|line| line.trim_end_matches(','));
            for line in lines.filter(|line| keep(line)) {
                let masked = ports
                    .iter()
                    .fold(line.to_owned(), |line, port| line.replace(&format!(":{port}"), ":PORT"));
                let _ = writeln!(text, "| {masked}");
            }
        }
    }
    if let Some(address) = subject.listeners.get(case.listener) {
        // As a header's value: `x-forwarded-port`.
        text = text.replace(&format!(": {}\n", address.port()), ": LISTENER\n");
    }
    for line in log_lines(subject, case, before).await {
        let _ = writeln!(text, "log: {}", timeless(openssl::comparable(&line)));
    }
    for request in seen(mirror, seen_before, case.seen).await {
        for line in request.lines() {
            // An id of the request's own.
            let shown = if line.starts_with("x-request-id: ") {
                "x-request-id: *"
            } else {
                line
            };
            let _ = writeln!(text, "b got: {shown}");
        }
    }
    (text, status)
}

/// After so long nothing more is expected on a connection.
const QUIET: std::time::Duration = std::time::Duration::from_secs(3);

/// What comes back, but for what a connection says of itself: settings, windows and pings.
async fn written_frames(address: SocketAddr, written: &[Written]) -> (String, u16) {
    let mut peer = Peer::connect(address).await;
    let (mut text, mut count) = (String::new(), 0);
    for step in written {
        match step {
            Written::Bytes(bytes) => drop(peer.send(bytes).await),
            Written::Pause(millis) => tokio::time::sleep(std::time::Duration::from_millis(*millis)).await,
            Written::Until(kind) => loop {
                let frame = match tokio::time::timeout(QUIET, peer.next()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => {
                        text.push_str("ended\n");
                        break;
                    }
                    Err(_) => {
                        text.push_str("nothing more\n");
                        break;
                    }
                };
                let last = frame.kind == *kind;
                let told = match frame.kind {
                    frames::HEADERS => format!("{} bytes", if frame.payload.is_empty() { "no" } else { "some" }),
                    frames::RST_STREAM | frames::GOAWAY => {
                        format!("{:?}", frame.payload.get(..8).unwrap_or(&frame.payload))
                    }
                    frames::DATA => String::from_utf8_lossy(&frame.payload).into_owned(),
                    _ if last => break,
                    _ => continue,
                };
                count += 1;
                let _ = writeln!(
                    text,
                    "frame {} on {}, flags {}: {told}",
                    frame.kind, frame.stream, frame.flags
                );
                if last {
                    break;
                }
            },
        }
    }
    (text, count)
}

async fn seen(backend: &Backend, before: usize, count: usize) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let mut requests = until("mirrored requests", async || {
        let seen = backend.seen();
        (seen.len() >= before + count).then(|| seen[before..].to_vec())
    })
    .await;
    requests.sort();
    requests
}

/// Without what a clock says: of a number behind a tilde only that there is one.
fn timeless(line: &str) -> String {
    let mut parts = line.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
        text.push('~');
        text.push_str(if rest.len() < part.len() { "N" } else { "" });
        text.push_str(rest);
    }
    text
}

async fn log_lines(subject: &Subject, case: &Case, offset: usize) -> Vec<String> {
    if case.logs == 0 {
        return Vec::new();
    }
    until(&format!("{}'s log of {}", subject.name, case.name), async || {
        let text = std::fs::read_to_string(&subject.log).ok()?;
        let new = text.get(offset..)?;
        let lines: Vec<String> = new.lines().map(str::to_owned).collect();
        (new.ends_with('\n') && lines.len() >= case.logs).then_some(lines)
    })
    .await
}

async fn stats(subject: &Subject, prefixes: &[&str]) -> String {
    let text = remora_tests::ask_admin(subject.admin, "GET", "/stats?usedonly")
        .await
        .text();
    let mut kept: Vec<&str> = text
        .lines()
        // Histograms measure time; Envoy lists a gauge that was never used, as zero, or not, by chance of its allocation.
        .filter(|line| !line.ends_with(": 0"))
        .filter(|line| wanted(line, prefixes) && !line.contains("P0("))
        .collect();
    kept.sort_unstable();
    kept.join("\n")
}

/// Prefixes with a `!` take out again.
fn wanted(line: &str, prefixes: &[&str]) -> bool {
    let taken_out = |prefix: &&str| prefix.strip_prefix('!').is_some_and(|prefix| line.starts_with(prefix));
    prefixes.iter().any(|prefix| line.starts_with(prefix)) && !prefixes.iter().any(taken_out)
}

#[derive(Default)]
struct Report {
    wrong: Vec<String>,
    used: Vec<usize>,
}

impl Report {
    fn compare(&mut self, case: &str, theirs: &str, ours: &str) {
        let missing = only_in(theirs, ours);
        let extra = only_in(ours, theirs);
        if missing.is_empty() && extra.is_empty() {
            return;
        }
        if let Some(index) = DIFFERENCES.iter().position(|difference| difference.case == case) {
            self.used.push(index);
            return;
        }
        let lines = |mark: &str, lines: &[String]| {
            lines
                .iter()
                .map(|line| format!("  {mark} {line}\n"))
                .collect::<String>()
        };
        let (missing, extra) = (lines("- Envoy: ", &missing), lines("+ Remora:", &extra));
        self.wrong.push(format!("{case}:\n{missing}{extra}"));
    }

    /// A listed difference that is none any more is wrong too: the list tells the truth, and bugs on it go for good.
    fn finish(self, world: &str) {
        let mut wrong = self.wrong;
        for (index, listed) in DIFFERENCES.iter().enumerate() {
            let may_be_equal = matches!(listed.why, Why::Timing(_));
            if listed.case.starts_with(&format!("{world}/")) && !self.used.contains(&index) && !may_be_equal {
                wrong.push(format!(
                    "{}: listed, but there is no difference ({})",
                    listed.case, listed.why
                ));
            }
        }
        assert!(wrong.is_empty(), "{} differences:\n\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// Lines of `one` that `other` lacks, each as often as it is lacking.
pub fn only_in(one: &str, other: &str) -> Vec<String> {
    let mut rest: Vec<&str> = other.lines().collect();
    let mut only = Vec::new();
    for line in one.lines() {
        match rest.iter().position(|candidate| *candidate == line) {
            Some(index) => {
                rest.swap_remove(index);
            }
            None => only.push(line.to_owned()),
        }
    }
    only
}
