//! A proxy in a child process: this program again, told to be one.

use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};

use remora_tests::{Answer, Http1, Sidecar, ask_admin, until};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;

const BOOTSTRAP: &str = "REMORA_HOSTILE_BOOTSTRAP";
const ADDRESSES: &str = "REMORA_HOSTILE_ADDRESSES";
/// How many descriptors it may have.
const DESCRIPTORS: &str = "REMORA_HOSTILE_DESCRIPTORS";

/// Ends when dropped.
pub struct Proxy {
    process: Child,
    _stdin: ChildStdin,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    _directory: TempDir,
}

/// Not a test of its own: what the child process runs. In any other run there is nothing to do.
#[tokio::test]
async fn be_the_proxy() {
    let (Some(bootstrap), Some(addresses)) = (std::env::var_os(BOOTSTRAP), std::env::var_os(ADDRESSES)) else {
        return;
    };
    if let Some(limit) = std::env::var(DESCRIPTORS).ok().and_then(|limit| limit.parse().ok()) {
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    let text = std::fs::read_to_string(bootstrap).unwrap();
    let sidecar = Sidecar::start(&text).await.unwrap();
    let listening = format!("{} {}\n", sidecar.listener("http").await, sidecar.admin_address());
    std::fs::write(addresses, listening).unwrap();
    // The parent holds the other end: it closes when the parent ends, however that happens.
    let parent = || std::io::stdin().read_to_end(&mut Vec::new());
    let _ = tokio::task::spawn_blocking(parent).await;
}

impl Proxy {
    pub async fn start(bootstrap: &str) -> Self {
        Self::start_with(bootstrap, None).await
    }

    /// With at most so many descriptors.
    pub async fn start_with(bootstrap: &str, descriptors: Option<u64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (config, addresses) = (
            directory.path().join("bootstrap.yaml"),
            directory.path().join("addresses"),
        );
        std::fs::write(&config, bootstrap).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::be_the_proxy", "--nocapture"])
            .env(BOOTSTRAP, &config)
            .env(ADDRESSES, &addresses)
            .envs(descriptors.map(|limit| (DESCRIPTORS, limit.to_string())))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let (address, admin) = until("the child's addresses", async || {
            let exited = process.try_wait().unwrap();
            assert!(exited.is_none(), "the child ended: {exited:?}");
            let text = std::fs::read_to_string(&addresses).ok()?;
            let (address, admin) = text.strip_suffix('\n')?.split_once(' ')?;
            Some((address.parse().ok()?, admin.parse().ok()?))
        })
        .await;
        Self {
            process,
            _stdin: stdin,
            address,
            admin,
            _directory: directory,
        }
    }

    /// A request of somebody who means no harm, on a connection of its own.
    pub async fn get(&self, path: &str) -> Answer {
        let mut client = Http1::connect(self.address).await.unwrap();
        client.get("good.test", path, "").await
    }

    /// The other client is served.
    pub async fn is_well(&self) {
        let answer = self.get("/ok").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"), "{answer:?}");
    }

    /// The most memory it ever held, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.kib("VmHWM:")
    }

    /// The memory that it holds, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.kib("VmRSS:")
    }

    fn kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// How many descriptors it has.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id()))
            .unwrap()
            .count()
    }

    pub async fn stat(&self, name: &str) -> u64 {
        let text = ask_admin(self.admin, "GET", "/stats").await.text();
        let named = text.lines().filter_map(|line| line.split_once(": "));
        let value = named
            .into_iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value.to_owned());
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
