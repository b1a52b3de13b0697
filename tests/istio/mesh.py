"""A small Istio mesh on one machine: the genuine istiod, pilot-agent and echo application, every pod in a network namespace of its own behind
Istio's own iptables rules, and the proxy under test in Envoy's place.

    with Mesh(proxy="/path/to/remora", kube=..., istio=...) as mesh:
        mesh.pod("web", "web-1", "10.244.0.7")
        print(mesh.curl("web-1", "http://orders/").body)

Needs root, iproute2, iptables and curl; LAB_BIN names the directory that build.sh wrote its programs to.
"""
import collections
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("LAB_BIN", HERE / "bin"))
ISTIOD = "10.244.0.2"
# How long anything may take before it counts as broken; generous, because the machine may be busy.
PATIENCE = 60
# Upstream Envoy lacks Istio's own filters: where it takes part, istiod must not send them.
PLAIN = {"PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false"}

Answer = collections.namedtuple("Answer", "status headers body")
_numbers = itertools.count(1)


class LabError(Exception):
    pass


def sh(*command, check=True, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if check and done.returncode:
        raise LabError(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def eventually(question, what, seconds=PATIENCE, process=None):
    """The first true answer; an error once the time is up or the process is gone."""
    end = time.monotonic() + seconds
    while True:
        answer = question()
        if answer:
            return answer
        if process is not None and process.poll() is not None:
            raise LabError(f"{what}: exited with {process.returncode}\n{tail(process.log)}")
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} s" + (f"\n{tail(process.log)}" if process else ""))
        time.sleep(0.05)


def tail(path, size=3000):
    return path.read_text(errors="replace")[-size:]


class Mesh:
    def __init__(self, proxy, kube="", istio="", mesh_config="", istiod_env=None, patience=PATIENCE):
        self.proxy = str(proxy)
        self.kube, self.istio, self.mesh_config = kube, istio, mesh_config
        self.istiod_env = istiod_env or {}
        self.patience = patience
        self.tag = f"rm{os.getpid()}{next(_numbers)}"
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="mesh-"))
        self.dir.chmod(0o755)
        self.pods, self.processes, self.spaces, self.hosts = {}, [], [], {}

    # Life.

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        if not os.environ.get("KEEP_MESH"):
            shutil.rmtree(self.dir, ignore_errors=True)

    def _start(self):
        self._space("switch")
        self.inside("switch", "ip", "link", "add", "br0", "type", "bridge")
        self.inside("switch", "ip", "link", "set", "br0", "up")
        self.hosts["istiod.istio-system.svc"] = ISTIOD
        self._space("istiod", ISTIOD)
        for part in ("kube", "istio"):
            (self.dir / part).mkdir()
        (self.dir / "kube" / "all.yaml").write_text(self.kube)
        (self.dir / "istio" / "all.yaml").write_text(self.istio)
        (self.dir / "mesh.yaml").write_text(self.mesh_config)
        self.root = self.dir / "root.pem"
        self.start_istiod()

    def start_istiod(self):
        """Also starts it again, with the same certificate authority: `ca` keeps what the first one made."""
        ca = self.dir / "ca.yaml"
        command = [BIN / "lab", "-mesh", self.dir / "mesh.yaml", "-istio", self.dir / "istio", "-kube", self.dir / "kube",
                   "-grpc", f"{ISTIOD}:15010", "-tls", f"{ISTIOD}:15012", "-http", f"{ISTIOD}:15080", "-admin", f"{ISTIOD}:15081",
                   "-monitoring", f"{ISTIOD}:15014", "-root", self.root, "-ca", ca]
        env = {**os.environ, "POD_NAMESPACE": "istio-system", **self.istiod_env}
        self.root.unlink(missing_ok=True)
        self.istiod = self.spawn("istiod", command, env, "istiod.log")
        eventually(lambda: self.root.exists() and self.root.stat().st_size > 0, "istiod", self.patience, self.istiod)

    def stop(self):
        for process in reversed(self.processes):
            kill(process, signal.SIGTERM)
        end = time.monotonic() + 5
        for process in self.processes:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            kill(process, signal.SIGKILL)
        for space in self.spaces:
            sh("ip", "netns", "del", space, check=False)
            shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)

    # Parts.

    def _space(self, name, ip=None):
        space = f"{self.tag}-{name}"
        sh("ip", "netns", "add", space)
        self.spaces.append(space)
        self.inside(name, "ip", "link", "set", "lo", "up")
        if ip:
            port = f"v{len(self.spaces)}"
            sh("ip", "link", "add", port, "netns", f"{self.tag}-switch", "type", "veth", "peer", "name", "eth0", "netns", space)
            self.inside("switch", "ip", "link", "set", port, "master", "br0", "up")
            self.inside(name, "ip", "addr", "add", f"{ip}/16", "dev", "eth0")
            self.inside(name, "ip", "link", "set", "eth0", "up")
            self.inside(name, "ip", "route", "add", "default", "via", "10.244.255.254")
            self._write_hosts(name)

    def _write_hosts(self, name):
        directory = pathlib.Path(f"/etc/netns/{self.tag}-{name}")
        directory.mkdir(parents=True, exist_ok=True)
        names = "".join(f"{ip} {host}\n" for host, ip in self.hosts.items())
        (directory / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (directory / "resolv.conf").write_text("")

    def host(self, name, ip):
        """A name that pods started from now on resolve."""
        self.hosts[name] = ip

    def inside(self, space, *command, **options):
        return sh("ip", "netns", "exec", f"{self.tag}-{space}", *command, **options)

    def spawn(self, space, command, env, log, cwd=None, uid=None):
        before = ["ip", "netns", "exec", f"{self.tag}-{space}"]
        if uid is not None:
            before += ["setpriv", f"--reuid={uid}", "--regid=1337", "--clear-groups"]
        path = self.dir / log
        out = open(path, "a")
        path.chmod(0o666)  # /dev/stdout is opened again by the proxy, as uid 1337
        words = before + [str(word) for word in command]
        process = subprocess.Popen(words, env=env, cwd=cwd, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        process.log = path
        self.processes.append(process)
        return process

    def pod(self, app, name, ip, version="v1", namespace="shop", account=None, echo=(), sidecar=True, proxy=None, metadata=None, config=None,
            wait=True, role="sidecar", application=True, intercept="REDIRECT"):
        """The application, and unless `sidecar` is false pilot-agent with the proxy. `echo`: further flags of the echo server."""
        account = account or app
        self._space(name, ip)
        directory = self.dir / name
        pod = self.pods[name] = {"ip": ip, "dir": directory, "log": self.dir / f"{name}-agent.log", "echo": self.dir / f"{name}-echo.log"}
        for sub in ("var/run/secrets/tokens", "var/run/secrets/istio", "var/run/secrets/workload-spiffe-uds", "etc/istio/proxy", "etc/istio/pod",
                    "var/lib/istio/envoy", "var/lib/istio/data"):
            (directory / sub).mkdir(parents=True)
        (directory / "var/run/secrets/tokens/istio-token").write_text(f"{namespace}/{account}/{name}")
        shutil.copy(self.root, directory / "var/run/secrets/istio/root-cert.pem")
        shutil.copy(BIN / "envoy_bootstrap.json", directory / "var/lib/istio/envoy/envoy_bootstrap_tmpl.json")
        # With what the injector adds.
        labels = {"app": app, "version": version, "security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": app,
                  "service.istio.io/canonical-revision": version}
        (directory / "etc/istio/pod/labels").write_text("".join(f'{key}="{value}"\n' for key, value in labels.items()))
        (directory / "etc/istio/pod/annotations").write_text("")
        sh("chown", "-R", "1337:1337", directory)
        if application:
            server = [BIN / "echo-server", "--port", "8080", "--grpc", "9090", "--tcp", "5432", "--server-first", "3306", "--tcp", "3306",
                      "--metrics", "15099", "--version", version, *echo]
            env = {**os.environ, "INSTANCE_IP": ip, "NAMESPACE": namespace, "HOSTNAME": name}
            pod["application"] = self.spawn(name, server, env, f"{name}-echo.log", cwd=directory)
            eventually(lambda: self.listens(name, 8080), f"application of {name}", process=pod["application"])
        if not sidecar:
            return pod
        if role == "router":
            self.inside(name, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0")
        else:
            self.inside(name, BIN / "pilot-agent", "istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", intercept, "-i", "*",
                        "-x", "", "-b", "*", "-d", "15090,15021,15020", "--log_output_level=default:warn")
        settings = {"discoveryAddress": "istiod.istio-system.svc:15012", "binaryPath": proxy or self.proxy, "concurrency": 2,
                    "terminationDrainDuration": "2s", "drainDuration": "2s", **(config or {})}
        env = {"PATH": os.environ["PATH"], "HOME": "/tmp", "INSTANCE_IP": ip, "POD_NAME": name, "POD_NAMESPACE": namespace,
               "SERVICE_ACCOUNT": account, "HOST_IP": "10.0.0.1", "PROXY_CONFIG": json.dumps(settings), "CA_ADDR": "istiod.istio-system.svc:15012",
               "PILOT_CERT_PROVIDER": "istiod", "TRUST_DOMAIN": "cluster.local", "ISTIO_META_CLUSTER_ID": "Kubernetes",
               "ISTIO_META_NODE_NAME": "n1", "ISTIO_META_INTERCEPTION_MODE": intercept, "ISTIO_META_WORKLOAD_NAME": app,
               "ISTIO_META_OWNER": f"kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{app}",
               "ISTIO_META_MESH_ID": "cluster.local", "ISTIO_META_POD_PORTS": "[]", "ISTIO_META_APP_CONTAINERS": "app",
               "ISTIO_VERSION": "1.31.0", "RUST_BACKTRACE": "1", **(metadata or {})}
        agent = [BIN / "pilot-agent", "proxy", role, "--domain", f"{namespace}.svc.cluster.local", "--proxyLogLevel=warning",
                 "--proxyComponentLogLevel=misc:error", "--log_output_level=default:info"]
        pod["started"] = time.monotonic()
        uid = 0 if intercept == "TPROXY" else 1337
        pod["agent"] = self.spawn(name, agent, env, f"{name}-agent.log", cwd=directory, uid=uid)
        if wait:
            self.wait_ready(name)
        return pod

    def wait_ready(self, name):
        pod = self.pods[name]
        eventually(lambda: self.ready(name), f"sidecar of {name}", process=pod["agent"])
        pod["took"] = time.monotonic() - pod["started"]

    # Questions.

    def listens(self, name, port):
        return f":{port} " in self.inside(name, "ss", "-ltnH")

    def ready(self, name):
        code = self.inside(name, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-m", "2", "http://127.0.0.1:15021/healthz/ready", check=False)
        return code.strip() == "200"

    def admin(self, name, path, method="GET"):
        return self.inside(name, "curl", "-s", "-m", "20", "-X", method, f"http://127.0.0.1:15000{path}", check=False)

    def stats(self, name, pattern=""):
        lines = self.admin(name, f"/stats?usedonly&filter={pattern}").splitlines()
        return {key: value for key, _, value in (line.partition(": ") for line in lines)}

    def metrics(self, name, port=15090):
        """[(name, labels, value)] of the Prometheus page."""
        text = self.inside(name, "curl", "-s", "-m", "20", f"http://127.0.0.1:{port}/stats/prometheus", check=False)
        found = []
        for line in text.splitlines():
            parts = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", line)
            if parts:
                labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', parts[2] or ""))
                found.append((parts[1], labels, float(parts[3])))
        return found

    def run(self, name, *command, timeout=PATIENCE):
        """What a program in the pod prints, whatever its exit code."""
        words = ["ip", "netns", "exec", f"{self.tag}-{name}"] + [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
        return done.stdout + done.stderr

    def curl(self, name, url, *options):
        out = self.run(name, "curl", "-s", "-i", "-m", "20", *options, url)  # Its line ends have become plain.
        head, _, body = out.partition("\n\n")
        while head.startswith("HTTP/1.1 100"):
            head, _, body = body.partition("\n\n")
        status = re.match(r"HTTP/\S+ (\d+)", head)
        pairs = (line.partition(":") for line in head.split("\n")[1:])
        return Answer(int(status[1]) if status else 0, {key.lower(): value.strip() for key, _, value in pairs}, body)

    def echo(self, name, url, *options):
        return self.run(name, BIN / "echo-client", "--log_output_level=all:none", *options, url)

    def request(self, name, *words):
        """`pilot-agent request`, as `kubectl exec` runs it."""
        return self.inside(name, BIN / "pilot-agent", "request", *words, check=False)

    def istioctl(self, *words):
        return sh(BIN / "istioctl", *words, check=False)

    # Changes.

    def apply(self, yaml, verb="apply"):
        body = self.dir / "body.yaml"
        body.write_text(yaml)
        return self.inside("istiod", "curl", "-sS", "--data-binary", f"@{body}", f"http://{ISTIOD}:15081/{verb}")

    def set_istio(self, yaml):
        whole = self.dir / "istio.tmp"
        whole.write_text(yaml)
        whole.rename(self.dir / "istio" / "all.yaml")

    def rejected_by(self, *names):
        """What these pods' proxies refused, as they tell it."""
        found = {}
        for name in names:
            for key, value in self.stats(name, "(lds|cds|rds|update)[^:]*update_rejected").items():
                if value != "0":
                    found[f"{name} {key}"] = value
        return found

    def rejected(self):
        """What proxies refused, as they and istiod tell it."""
        found = self.rejected_by(*(name for name, pod in self.pods.items() if "agent" in pod))
        lines = (self.dir / "istiod.log").read_text(errors="replace").splitlines()
        found.update({line: "" for line in lines if "ACK ERROR" in line})
        return found

    def access_log(self, name):
        """Every access-log line of the pod's proxy so far."""
        lines = self.pods[name]["log"].read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith("[20") and '"' in line]


def kill(process, what):
    try:
        os.killpg(process.pid, what)
    except ProcessLookupError:
        pass
