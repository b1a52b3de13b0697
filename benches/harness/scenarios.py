"""The scenarios: who takes part, how each is started, and what is measured."""

import json
import os
import resource
import socket
import statistics
import time

from . import configs, large, load
from .processes import Process, free_port, wait_for_answer, wait_for_port

ENVOY_FLAGS = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
# Where things run: the proxies on one core, everything else on the other.
PROXY_CORE, LOAD_CORE = 0, 1


class Contender:
    """One proxy under test: a process, or several that do the work together (a mesh pair)."""

    def __init__(self, name, processes, port):
        self.name, self.processes, self.port = name, processes, port

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.processes)

    def memory(self):
        return tuple(map(sum, zip(*(process.memory() for process in self.processes))))

    def stop(self):
        for process in self.processes:
            process.stop()


class Bench:
    """What all scenarios share: binaries, a directory of their own, the length of a slice and how often."""

    def __init__(self, binaries, directory, seconds, rounds, only):
        self.binaries, self.directory = binaries, directory
        self.seconds, self.rounds, self.only = seconds, rounds, only

    def wants(self, name):
        return name in self.binaries and (not self.only or name in self.only or name == "envoy")

    def start(self, name, argv, core=PROXY_CORE):
        return Process(name, argv, core, self.directory)

    def peer(self, kind, *hosts):
        port = free_port()
        addresses = [f"{host}:{port}" for host in hosts or ("127.0.0.1",)]
        process = self.start(f"peer-{kind}", [self.binaries["peer"], kind, *addresses], LOAD_CORE)
        wait_for_port(process, port)
        return process, port

    def start_envoys(self, name, config):
        """Envoy, or Remora in its place, on one configuration file."""
        path = configs.write(self.directory, f"{name}.yaml", config)
        return self.start(name, [self.binaries[name.partition("-")[0]], "-c", path, *ENVOY_FLAGS])

    def contenders(self, mode, backend, h2=False):
        """Everyone who can do the plain job, started and answering."""
        found = []
        for name in ("envoy", "remora"):
            if self.wants(name):
                port = free_port()
                if mode == "tcp":
                    listener = configs.tcp_listener("bench", port, "backend")
                else:
                    listener = configs.http_listener("bench", port, route_config=configs.route("bench", "backend"))
                clusters = [configs.cluster("backend", backend)]
                config = configs.bootstrap([listener], clusters, free_port())
                found.append(Contender(name, [self.start_envoys(name, config)], port))
        if self.wants("haproxy"):
            port = free_port()
            path = configs.haproxy(self.directory, port, backend, mode, h2)
            found.append(Contender("haproxy", [self.start("haproxy", [self.binaries["haproxy"], "-f", path])], port))
        if self.wants("nginx") and mode == "http":
            port = free_port()
            path = configs.nginx(self.directory, port, backend, h2)
            argv = [self.binaries["nginx"], "-p", self.directory, "-e", "stderr", "-c", path]
            found.append(Contender("nginx", [self.start("nginx", argv)], port))
        for contender in found:
            if mode == "tcp" or h2:
                wait_for_port(contender.processes[0], contender.port)
            else:
                wait_for_answer(contender.processes[0], contender.port)
        return found

    def interleave(self, contenders, generate):
        """Short slices in turn, so that whatever else happens on the machine happens to all."""
        rows = {contender.name: [] for contender in contenders}
        for contender in contenders:
            generate(contender.port, 1)
        for turn in range(self.rounds):
            # Each round starts with another one: nobody is always first.
            for contender in contenders[turn % len(contenders):] + contenders[: turn % len(contenders)]:
                before = contender.cpu_seconds()
                done = generate(contender.port, self.seconds)
                cpu = contender.cpu_seconds() - before
                row = {
                    "cpu_us": cpu / done.requests * 1e6,
                    "rps": done.requests / done.seconds,
                    "p99_us": done.p99_us,
                    "rss_mb": contender.memory()[0],
                }
                rows[contender.name].append(row)
        return rows


def h1(bench):
    """HTTP/1.1 in and out over 64 connections: route, stats, request id."""
    backend, port = bench.peer("serve-http")
    contenders = bench.contenders("http", port)
    rows = bench.interleave(contenders, lambda port, seconds: load.wrk(LOAD_CORE, port, seconds))
    return end(rows, contenders, backend)


def h2(bench):
    """HTTP/2 in (16 connections, 8 streams each), HTTP/1.1 out."""
    backend, port = bench.peer("serve-http")
    contenders = bench.contenders("http", port, h2=True)
    rows = bench.interleave(contenders, lambda port, seconds: load.h2load(LOAD_CORE, port, seconds))
    return end(rows, contenders, backend)


def mesh(bench):
    """A client's sidecar and a server's: HTTP/1.1, then HTTP/2 over mutual TLS 1.3, then HTTP/1.1. The cost is that of both."""
    backend, backend_port = bench.peer("serve-http")
    identities = os.path.join(bench.directory, "identities")
    load.run(LOAD_CORE, [bench.binaries["peer"], "identities", identities], 20)
    contenders = []
    for name in filter(bench.wants, ("envoy", "remora")):
        inner, outer = free_port(), free_port()
        server_tls = configs.tls("Downstream", identities, "server", "client")
        inbound = configs.http_listener("inbound", inner, server_tls, route_config=configs.route("in", "app"))
        server = configs.bootstrap([inbound], [configs.cluster("app", backend_port)], free_port())
        outbound = configs.http_listener("outbound", outer, route_config=configs.route("out", "server"))
        client_tls = configs.tls("Upstream", identities, "client", "server")
        upstream = configs.cluster("server", inner, transport_socket=client_tls, **configs.http2_upstream())
        client = configs.bootstrap([outbound], [upstream], free_port())
        started = [bench.start_envoys(f"{name}-server", server), bench.start_envoys(f"{name}-client", client)]
        contenders.append(Contender(name, started, outer))
        wait_for_answer(started[1], outer)
    rows = bench.interleave(contenders, lambda port, seconds: load.wrk(LOAD_CORE, port, seconds))
    return end(rows, contenders, backend)


def tcp(bench):
    """TCP proxy: 64 connections, one message of 64 bytes in flight on each."""
    backend, port = bench.peer("serve-echo")
    contenders = bench.contenders("tcp", port)
    ping = lambda port, seconds: load.peer(
        LOAD_CORE, [bench.binaries["peer"], "ping", f"127.0.0.1:{port}", 64, 64, seconds], seconds
    )
    return end(bench.interleave(contenders, ping), contenders, backend)


def bulk(bench):
    """TCP proxy: one stream as fast as it goes; a request is a block of 64 KiB that arrived."""
    backend, port = bench.peer("serve-sink")
    contenders = bench.contenders("tcp", port)
    return end(bench.interleave(contenders, pour(bench)), contenders, backend)


def bulk_mtls(bench):
    """The same through a pair: TCP, then mutual TLS 1.3, then TCP. The cost is that of both."""
    backend, backend_port = bench.peer("serve-sink")
    identities = os.path.join(bench.directory, "identities")
    load.run(LOAD_CORE, [bench.binaries["peer"], "identities", identities], 20)
    contenders = []
    for name in filter(bench.wants, ("envoy", "remora")):
        inner, outer = free_port(), free_port()
        server_tls = configs.tls("Downstream", identities, "server", "client")
        inbound = configs.tcp_listener("inbound", inner, "app", server_tls)
        server = configs.bootstrap([inbound], [configs.cluster("app", backend_port)], free_port())
        client_tls = configs.tls("Upstream", identities, "client", "server")
        upstream = configs.cluster("server", inner, transport_socket=client_tls)
        client = configs.bootstrap([configs.tcp_listener("outbound", outer, "server")], [upstream], free_port())
        started = [bench.start_envoys(f"{name}-server", server), bench.start_envoys(f"{name}-client", client)]
        contenders.append(Contender(name, started, outer))
        wait_for_port(started[0], inner)
        wait_for_port(started[1], outer)
    return end(bench.interleave(contenders, pour(bench)), contenders, backend)


def pour(bench):
    return lambda port, seconds: load.peer(LOAD_CORE, [bench.binaries["peer"], "bulk", f"127.0.0.1:{port}", seconds], seconds)


def paced(bench):
    """Latency at half of Envoy's peak: the same fixed rate for everyone, counted from when each request was due."""
    backend, port = bench.peer("serve-http")
    contenders = bench.contenders("http", port)
    peak = [load.wrk(LOAD_CORE, contenders[0].port, bench.seconds) for _ in range(2)][-1]
    rate = peak.requests / peak.seconds / 2
    generate = lambda port, seconds: load.peer(
        LOAD_CORE, [bench.binaries["peer"], "paced", f"127.0.0.1:{port}", 64, rate, seconds], seconds
    )
    return end(bench.interleave(contenders, generate), contenders, backend)


def idle(bench):
    """One listener, one cluster, no traffic: memory two seconds after the first answer."""
    rows = {}
    backend, port = bench.peer("serve-http")
    for contender in bench.contenders("http", port):
        time.sleep(2)
        resident, peak = contender.memory()
        rows[contender.name] = [{"rss_mb": resident, "peak_mb": peak}]
        contender.stop()
    backend.stop()
    return rows


def idle_tcp(bench):
    """TCP proxy, 5,000 connections that say a byte and then nothing: memory of each, both of its sides together."""
    count, rows = 5000, {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        for name in filter(bench.wants, ("envoy", "remora")):
            port = free_port()
            room = {"thresholds": [{"max_connections": 2 * count}]}
            cluster = configs.cluster("backend", server.getsockname()[1], circuit_breakers=room)
            config = configs.bootstrap([configs.tcp_listener("bench", port, "backend")], [cluster], free_port())
            process = bench.start_envoys(name, config)
            wait_for_port(process, port)
            server.accept()
            talk(port, server, 10)
            before = process.memory()[0]
            held = talk(port, server, count)
            each = (process.memory()[0] - before) * 1000 / len(held)
            rows[name] = [{"each_kb": each}]
            process.stop()
            for end_of_one in (end_of_one for pair in held for end_of_one in pair):
                end_of_one.close()
    return rows


def talk(port, server, count):
    """So many connections, each of which has carried a byte both ways."""
    held = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port))
        client.sendall(b"x")
        accepted, _ = server.accept()
        accepted.sendall(accepted.recv(1))
        client.recv(1)
        held.append((client, accepted))
    return held


def large_static(bench):
    """10,000 clusters of 5 endpoints and 10,000 virtual hosts in one bootstrap file."""
    return start_large(bench, lambda name, port, backend: large.static_file(bench.directory, f"{name}-large.yaml", port, free_port(), backend))


def large_ads(bench):
    """The same from a control plane, over one delta ADS stream."""
    def configure(name, port, backend):
        directory = large.ads_directory(os.path.join(bench.directory, f"{name}-ads"), port, backend)
        control_port = free_port()
        argv = [bench.binaries["control-plane-mock"], "--dir", directory, "--listen", f"127.0.0.1:{control_port}"]
        control = bench.start(f"{name}-control-plane", argv, LOAD_CORE)
        wait_for_port(control, control_port, 60)
        return configs.write(bench.directory, f"{name}-ads.yaml", large.ads_bootstrap(free_port(), control_port))

    return start_large(bench, configure)


def start_large(bench, configure):
    rows = {}
    backend, backend_port = bench.peer("serve-http", *(f"127.0.0.{1 + host}" for host in range(large.ENDPOINTS)))
    for name in filter(bench.wants, ("envoy", "remora")):
        port = free_port()
        path = configure(name, port, backend_port)
        process = bench.start(name, [bench.binaries[name], "-c", path, *ENVOY_FLAGS])
        ready = wait_for_answer(process, port, large.LAST, 60)
        time.sleep(2)
        resident, peak = process.memory()
        rows[name] = [{"ready_s": ready, "rss_mb": resident, "peak_mb": peak}]
        process.stop()
    backend.stop()
    return rows


def scale(bench):
    """10,000 clusters of 5 endpoints over delta ADS: one endpoint changes, everything changes at once, the stream is reset."""
    rows = {}
    for name in filter(bench.wants, ("envoy", "remora")):
        port, admin_port, control_port = free_port(), free_port(), free_port()
        path = configs.write(bench.directory, f"{name}-scale.yaml", large.ads_bootstrap(admin_port, control_port))
        process = bench.start(f"{name}-scale", [bench.binaries[name], "-c", path, *ENVOY_FLAGS])
        rounds = 100 if bench.seconds < 5 else 400
        output = load.run(LOAD_CORE, [bench.binaries["xds-scale"], control_port, port, admin_port, rounds], 300)
        rows[name] = [json.loads(output)]
        process.stop()
    return rows


def end(rows, contenders, backend):
    for contender in contenders:
        contender.stop()
    backend.stop()
    return rows


def median(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(rows, reference, key):
    """Median of the ratios of slices that ran side by side."""
    pairs = [(mine.get(key), theirs.get(key)) for mine, theirs in zip(rows, reference)]
    ratios = [mine / theirs for mine, theirs in pairs if mine and theirs]
    return statistics.median(ratios) if ratios else None


ALL = {
    "h1": h1,
    "h2": h2,
    "mesh": mesh,
    "tcp": tcp,
    "bulk": bulk,
    "bulk-mtls": bulk_mtls,
    "paced": paced,
    "idle": idle,
    "idle-tcp": idle_tcp,
    "large-ads": large_ads,
    "large-static": large_static,
    "xds-scale": scale,
}

# The budgets of docs/design.md, section 6: (measure, kind, limit); a ratio is to Envoy in the same run.
BUDGETS = {
    "h1": [("cpu_us", "ratio", 0.28)],
    "h2": [("cpu_us", "ratio", 1 / 3)],
    "mesh": [("cpu_us", "ratio", 1 / 3)],
    "tcp": [("cpu_us", "ratio", 0.8)],
    # A stream saturates a core in either: what counts is what a block costs.
    "bulk": [("cpu_us", "ratio", 1.0)],
    "bulk-mtls": [("cpu_us", "ratio", 1.0)],
    "paced": [("p99_us", "ratio", 0.5)],
    "idle": [("rss_mb", "value", 15)],
    "idle-tcp": [("each_kb", "value", 6)],
    "large-ads": [("rss_mb", "value", 45), ("peak_mb", "value", 90), ("ready_s", "value", 0.7)],
    "large-static": [("rss_mb", "value", 80), ("peak_mb", "value", 160), ("ready_s", "value", 1.0)],
    "xds-scale": [
        ("changed_p50_us", "ratio", 0.5),
        ("changed_max_us", "ratio", 0.5),
        ("push_request_us", "ratio", 1.0),
        ("push_admin_us", "ratio", 0.5),
        ("reconnect_resources", "value", 0),
    ],
}
