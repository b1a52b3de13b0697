//! Network namespaces: pods on one bridge.

use std::ffi::OsStr;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether this rung can run here. Says so, once, if not.
pub fn available() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        let missing = missing();
        if let Some(what) = &missing {
            let required = std::env::var_os("REMORA_REQUIRE_ALL").is_some_and(|value| value == "1");
            assert!(
                !required,
                "{what}, and REMORA_REQUIRE_ALL=1 says that injection must be tested"
            );
            skipped(what);
        }
        missing
    });
    missing.is_none()
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let programs = [("ip", "-V"), ("iptables", "-V"), ("ip6tables", "-V")];
    let missing = programs.into_iter().find(|(program, flag)| {
        !Command::new(program)
            .arg(flag)
            .output()
            .is_ok_and(|output| output.status.success())
    });
    if let Some((program, _)) = missing {
        return Some(format!("no `{program}`"));
    }
    let name = unique("probe");
    let made = run("ip", ["netns", "add", &name]);
    let _ = run("ip", ["netns", "del", &name]);
    (!made.status.success()).then(|| format!("no network namespaces: {}", String::from_utf8_lossy(&made.stderr)))
}

#[allow(clippy::print_stderr, reason = "a skipped rung must be seen")]
pub fn skipped(what: &str) {
    // Not the captured stream of the test: it must be seen on success too.
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: injection ({what}; needs root, iproute2, iptables)"
    );
}

/// A network namespace; gone when dropped.
pub struct Space {
    name: String,
}

impl Space {
    /// A namespace with the loopback interface and these addresses on an interface that leads nowhere.
    pub fn alone(addresses: &[&str]) -> Self {
        let space = Self::empty("alone");
        space.ip(["link", "add", "eth0", "type", "veth", "peer", "name", "far0"]);
        space.configure("eth0", addresses);
        space
    }

    /// A namespace with nothing but the loopback interface.
    pub fn empty(kind: &str) -> Self {
        let name = unique(kind);
        must("ip", ["netns", "add", &name]);
        let space = Self { name };
        space.ip(["link", "set", "lo", "up"]);
        space
    }

    /// Gives an interface addresses and turns it on.
    pub fn configure(&self, interface: &str, addresses: &[&str]) {
        for address in addresses {
            // Without duplicate address detection it can be used at once.
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            let mut arguments = vec!["addr", "add", address, "dev", interface];
            arguments.extend(nodad);
            self.ip(arguments);
        }
        self.ip(["link", "set", interface, "up"]);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` in this namespace.
    pub fn ip<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments);
        must("ip", all)
    }

    /// A command that will run in this namespace, with its own `/etc/resolv.conf` if there is one for it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end, which must be a good one; what it printed.
    pub fn must<'a>(&self, program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = &'a str>) -> String {
        finished(self.command(program).args(arguments))
    }

    /// Runs a future on a thread in this namespace: the sockets that it makes belong here.
    pub fn enter<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> std::thread::JoinHandle<F::Output>
    where
        F: Future,
        F::Output: Send + 'static,
    {
        let path = Path::new("/run/netns").join(&self.name);
        std::thread::spawn(move || {
            let namespace = std::fs::File::open(path).unwrap();
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(make())
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = run("ip", ["netns", "del", &self.name]);
        let _ = std::fs::remove_dir_all(resolver_of(&self.name));
    }
}

/// Where `ip netns exec` looks for files that stand for those in `/etc`.
pub fn resolver_of(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

/// The program under test.
pub fn remora() -> &'static str {
    env!("CARGO_BIN_EXE_remora-under-test")
}

/// No two namespaces of this machine share a name.
fn unique(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("rmr-{}-{count}-{kind}", std::process::id())
}

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn must<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> String {
    finished(Command::new(program).args(arguments))
}

/// Runs to the end, which must be a good one; standard output.
pub fn finished(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
