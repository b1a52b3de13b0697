#!/usr/bin/env python3
"""One of three hosts fails in the middle of steady load: how many requests fail, and how long until none does.

The same configuration for Envoy and Remora (outlier detection, active health checks, retries if asked for), the same open-loop client, one
fault after the other: the process is killed, stopped (SIGSTOP), answers 503, answers after two seconds, or its packets are dropped. The victim
lives in a network namespace of its own, so this needs root and `ip`.

    python3 benches/failover.py --remora target/release/remora [--retries] [--fault stop] [--rate 100] [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from harness import configs, processes

HOST_SIDE, VICTIM_SIDE = "10.231.77.1", "10.231.77.2"
FAULTS = ("kill", "stop", "503", "slow", "black hole")
BEFORE, AFTER = 3.0, 12.0
LIMIT = 1.0

# SIGUSR1: answer 503. SIGUSR2: answer after two seconds.
BACKEND = """
import asyncio, signal, sys
mode = {"status": b"200 OK", "delay": 0.0}
async def serve(reader, writer):
    try:
        while await reader.readuntil(b"\\r\\n\\r\\n"):
            if mode["delay"]:
                await asyncio.sleep(mode["delay"])
            writer.write(b"HTTP/1.1 " + mode["status"] + b"\\r\\ncontent-length: 2\\r\\n\\r\\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()
async def main():
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: mode.update(status=b"503 Service Unavailable"))
    loop.add_signal_handler(signal.SIGUSR2, lambda: mode.update(delay=2.0))
    await (await asyncio.start_server(serve, sys.argv[1], int(sys.argv[2]))).serve_forever()
asyncio.run(main())
"""


class Namespace:
    """The victim's network: a pair of interfaces, ours and its own."""

    def __init__(self):
        self.name = f"failover-{os.getpid()}"
        self.link = f"fo{os.getpid() % 100000}"

    def __enter__(self):
        ip(f"netns add {self.name}")
        ip(f"link add {self.link}a type veth peer name {self.link}b netns {self.name}")
        ip(f"addr add {HOST_SIDE}/24 dev {self.link}a")
        ip(f"link set {self.link}a up")
        ip(f"-n {self.name} addr add {VICTIM_SIDE}/24 dev {self.link}b")
        ip(f"-n {self.name} link set {self.link}b up")
        ip(f"-n {self.name} link set lo up")
        return self

    def __exit__(self, *_):
        # The link first: a process that is still in the namespace keeps it alive.
        for command in (f"link del {self.link}a", f"netns del {self.name}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip(command)

    def drop(self):
        """Whatever the victim sends from now on is dropped without a word."""
        ip(f"-n {self.name} route replace blackhole {HOST_SIDE}/32")


def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True)


def configuration(port, admin, hosts, retries):
    action = {"cluster": "web", "timeout": "5s"}
    if retries:
        action["retry_policy"] = {
            "retry_on": "connect-failure,refused-stream,reset,5xx",
            "num_retries": 2,
            "per_try_timeout": "0.3s",
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                }
            ],
            "host_selection_retry_max_attempts": 3,
        }
    routes = {"name": "r", "virtual_hosts": [{"name": "r", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": action}]}]}
    web = {
        "name": "web",
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": configs.assignment("web", hosts),
        "outlier_detection": {
            "consecutive_5xx": 3,
            "interval": "1s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
        "health_checks": [
            {
                "timeout": "0.5s",
                "interval": "1s",
                "no_traffic_interval": "1s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/"},
            }
        ],
    }
    return {
        "admin": {"address": configs.address(admin)},
        "static_resources": {
            "listeners": [configs.http_listener("in", port, route_config=routes)],
            "clusters": [web],
        },
    }


class Load:
    """Requests at fixed times, each on an idle connection or a new one; late counts as failed."""

    def __init__(self, port, rate):
        self.port, self.interval = port, 1.0 / rate
        self.idle, self.failures, self.sent = [], [], 0

    async def run(self, seconds, on_fault):
        loop = asyncio.get_running_loop()
        start, tasks, faulted = loop.time(), [], False
        while (now := loop.time() - start) < seconds:
            if not faulted and now >= BEFORE:
                on_fault()
                faulted = True
            tasks.append(asyncio.ensure_future(self.one(now)))
            self.sent += 1
            await asyncio.sleep(max(0.0, start + self.sent * self.interval - loop.time()))
        await asyncio.gather(*tasks)
        for _, writer in self.idle:
            writer.close()

    async def one(self, due):
        try:
            status = await asyncio.wait_for(self.exchange(), LIMIT)
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        if status != 200:
            self.failures.append((due, status))

    async def exchange(self):
        reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection("127.0.0.1", self.port)
        done = False
        try:
            writer.write(b"GET / HTTP/1.1\r\nhost: failover\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
            await reader.readexactly(length)
            done = "connection: close" not in head
            return int(head.split(" ")[1])
        finally:
            if done:
                self.idle.append((reader, writer))
            else:
                writer.close()


def wait_for_backend(process, host, port, limit=20.0):
    while True:
        process.check()
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 0.5).close()
            return
        if time.monotonic() - process.started > limit:
            raise RuntimeError(f"{process.name} does not listen on {host}:{port} after {limit} s")
        time.sleep(0.02)


def play(program, name, fault, arguments, directory):
    """One run: its failures, as (seconds after the fault, what)."""
    with Namespace() as namespace:
        ports = [processes.free_port() for _ in range(5)]
        backends = [
            processes.Process(f"{name}-backend-{index}", [sys.executable, "-c", BACKEND, "127.0.0.1", ports[index]], 1, directory)
            for index in range(2)
        ]
        in_namespace = ["ip", "netns", "exec", namespace.name, sys.executable, "-c", BACKEND, VICTIM_SIDE, ports[2]]
        victim = processes.Process(f"{name}-victim", in_namespace, 1, directory)
        hosts = [("127.0.0.1", ports[0]), ("127.0.0.1", ports[1]), (VICTIM_SIDE, ports[2])]
        for process, (host, port) in zip([*backends, victim], hosts):
            wait_for_backend(process, host, port)
        path = os.path.join(directory, f"{name}.json")
        with open(path, "w") as file:
            json.dump(configuration(ports[3], ports[4], hosts, arguments.retries), file)
        argv = [program, "-c", path, "--concurrency", "1", "--log-level", "error"]
        if name == "Envoy":
            argv += ["--base-id", str(os.getpid() % 30000 + 1)]
        proxy = processes.Process(name, argv, 0, directory)
        processes.wait_for_answer(proxy, ports[3])
        # `ip netns exec` replaces itself by the server: the process is the victim.
        actions = {
            "kill": lambda: os.kill(victim.pid, signal.SIGKILL),
            "stop": lambda: os.kill(victim.pid, signal.SIGSTOP),
            "503": lambda: os.kill(victim.pid, signal.SIGUSR1),
            "slow": lambda: os.kill(victim.pid, signal.SIGUSR2),
            "black hole": namespace.drop,
        }
        load = Load(ports[3], arguments.rate)
        asyncio.run(load.run(BEFORE + AFTER, actions[fault]))
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGCONT)
        for process in (proxy, victim, *backends):
            process.stop()
        early = [what for due, what in load.failures if due < BEFORE - LIMIT]
        if early:
            raise RuntimeError(f"{name} failed before there was a fault: {early[:5]}")
        return [(due - BEFORE, what) for due, what in load.failures]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--remora", default="target/release/remora")
    parser.add_argument("--envoy", default=os.environ.get("ENVOY_BIN"))
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--retries", action="store_true")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("needs root: the victim gets a network namespace")
    contenders = {"Remora": arguments.remora}
    if arguments.envoy:
        contenders["Envoy"] = arguments.envoy
    print(f"{'fault':<11} {'proxy':<7} {'failed':>7} {'clean after':>12}   what (median of {arguments.rounds} rounds)")
    with tempfile.TemporaryDirectory() as directory:
        for fault in arguments.fault or FAULTS:
            results = {name: [] for name in contenders}
            for _ in range(arguments.rounds):
                for name, program in contenders.items():
                    results[name].append(play(program, name, fault, arguments, directory))
            for name, rounds in results.items():
                failed = statistics.median(len(failures) for failures in rounds)
                clean = statistics.median(max((due for due, _ in failures), default=0.0) for failures in rounds)
                kinds = sorted({str(what) for failures in rounds for _, what in failures})
                print(f"{fault:<11} {name:<7} {failed:>7.0f} {clean:>10.1f} s   {', '.join(kinds)}", flush=True)


if __name__ == "__main__":
    main()
