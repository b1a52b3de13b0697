//! Pods: a namespace on the network, redirect rules, a sidecar, and applications.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;

use remora_tests::{ask_admin, until};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::config::Mode;
use crate::space::{Space, remora};

/// A bridge that pods hang on; the address of their default route.
pub struct Network(Space);

impl Network {
    pub fn new() -> Self {
        let space = Space::empty("net");
        space.ip(["link", "add", "br0", "type", "bridge"]);
        space.configure("br0", &["10.77.0.254/24", "fd77::fe/64"]);
        Self(space)
    }

    /// A pod with the addresses `10.77.0.N` and `fd77::N`.
    pub fn pod(&self, number: u8) -> Pod {
        let space = Space::empty("pod");
        let port = format!("p{number}");
        self.0.ip([
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space.name(),
        ]);
        self.0.ip(["link", "set", &port, "master", "br0", "up"]);
        let addresses = [format!("10.77.0.{number}/24"), format!("fd77::{number}/64")];
        space.configure("eth0", &addresses.each_ref().map(String::as_str));
        // Service addresses need a way out before they are redirected.
        space.ip(["route", "add", "default", "via", "10.77.0.254"]);
        space.ip(["-6", "route", "add", "default", "via", "fd77::fe"]);
        Pod {
            space,
            applications: Vec::new(),
            sidecar: None,
        }
    }
}

/// Ends, with all that runs in it, when dropped.
pub struct Pod {
    // Before the namespace: what runs in it keeps it alive.
    applications: Vec<Application>,
    sidecar: Option<Sidecar>,
    pub space: Space,
}

struct Application {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it is in the output already.
            let _ = thread.join();
        }
    }
}

struct Sidecar {
    process: Child,
    _files: TempDir,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The user of the proxy.
const PROXY: u32 = 1337;

/// The admin server of every sidecar.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15000);

impl Pod {
    /// Redirects the pod's traffic to its sidecar, as Istio's init container does, and starts the sidecar.
    pub fn inject(&mut self, mode: Mode, bootstrap: &str) {
        let name = match mode {
            Mode::Redirect => "REDIRECT",
            Mode::Tproxy => "TPROXY",
        };
        let flags = "inject -p 15001 -z 15006 -u 1337 -i * -b * -d 15090,15021,15020 --dual-stack -m";
        self.space.must(remora(), flags.split(' ').chain([name]));
        self.start_sidecar(mode, bootstrap);
    }

    fn start_sidecar(&mut self, mode: Mode, bootstrap: &str) {
        let files = tempfile::tempdir().unwrap();
        std::fs::set_permissions(files.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = files.path().join("envoy.yaml");
        std::fs::write(&path, bootstrap).unwrap();
        let process = self
            .space
            .enter(move || async move {
                let mut command = Command::new(remora());
                command
                    .arg("-c")
                    .arg(&path)
                    .args(["--concurrency", "2", "-l", "warning"]);
                command.stdin(Stdio::null());
                // Binding and connecting from foreign addresses needs CAP_NET_ADMIN: Istio's proxy is root then, and its group tells it.
                command.uid(if mode == Mode::Tproxy { 0 } else { PROXY }).gid(PROXY);
                command.spawn().unwrap()
            })
            .join()
            .unwrap();
        self.sidecar = Some(Sidecar { process, _files: files });
        self.run(|| async {
            until("the sidecar", async || {
                tokio::net::TcpStream::connect(ADMIN).await.ok()?;
                (ask_admin(ADMIN, "GET", "/ready").await.status == 200).then_some(())
            })
            .await;
        });
    }

    /// The value of a stat of the sidecar.
    pub fn stat(&self, name: &str) -> u64 {
        let text = self.run(|| async { ask_admin(ADMIN, "GET", "/stats").await.text() });
        let named = text.lines().filter_map(|line| line.split_once(": "));
        let found = named.into_iter().find(|(other, _)| *other == name);
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// Runs a future in the pod to its end, as an application of it.
    pub fn run<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> F::Output
    where
        F: Future,
        F::Output: Send + 'static,
    {
        match self.space.enter(make).join() {
            Ok(output) => output,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts an application: `make` starts to listen, and what it returns lives as long as the pod.
    pub fn serve<F>(&mut self, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, listening) = mpsc::channel();
        let thread = self.space.enter(move || async move {
            let serving = make().await;
            let _ = ready.send(());
            let _ = stopped.await;
            drop(serving);
        });
        listening.recv().unwrap();
        self.applications.push(Application {
            stop: Some(stop),
            thread: Some(thread),
        });
    }
}
