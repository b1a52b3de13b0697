#!/usr/bin/env python3
"""A sidecar in a real Istio mesh: what a request costs, and what a large mesh costs, next to Envoy in the same run.

    python3 benches/istio.py cost  --remora target/release/remora [--seconds 5] [--rounds 5]
    python3 benches/istio.py scale --remora target/release/remora [--services 0 1000 4000] [--rounds 3]

`cost`: two pods, nginx as the application, h2load in the client's pod, access log on; CPU time of both sidecars per request. Upstream Envoy lacks
Istio's own filters, so it is measured without them, Remora without and with them.
`scale`: a pod in a mesh of so many services (2 ports, 2 endpoints each): memory, and time from the agent's start until the pod is ready.

Needs root, Go (or LAB_BIN, the lab that tests/istio/build.sh makes), nginx, h2load, and ENVOY_BIN. See benches/README.md.
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ISTIO = HERE.parent / "tests" / "istio"
sys.path.insert(0, str(ISTIO))


def main():
    arguments = parse()
    if "LAB_BIN" not in os.environ:
        lab = HERE / "out" / "istio-lab"
        subprocess.run([ISTIO / "build.sh", lab], check=True)
        os.environ["LAB_BIN"] = str(lab)
    results = {"cost": cost, "scale": scale}[arguments.what](arguments)
    (HERE / "out").mkdir(exist_ok=True)
    (HERE / "out" / f"istio-{arguments.what}.json").write_text(json.dumps(results, indent=1))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cost", "scale"])
    parser.add_argument("--remora", required=True, type=pathlib.Path)
    parser.add_argument("--envoy", default=os.environ.get("ENVOY_BIN"), help="$ENVOY_BIN")
    parser.add_argument("--seconds", type=int, default=5, help="length of a slice")
    parser.add_argument("--rounds", type=int, help="slices of each contender (5), pods of each (3)")
    parser.add_argument("--services", type=int, nargs="+", default=[0, 1000, 4000])
    arguments = parser.parse_args()
    arguments.remora = arguments.remora.resolve()
    if not arguments.envoy:
        parser.error("ENVOY_BIN names no Envoy")
    return arguments


# A request.

def cost(arguments):
    from mesh import PLAIN
    contenders = {
        "envoy": (arguments.envoy, PLAIN),
        "remora": (arguments.remora, PLAIN),
        "remora, with Istio's filters and metrics": (arguments.remora, {}),
    }
    rounds = arguments.rounds or 5
    found = {name: [] for name in contenders}
    with contextlib.ExitStack() as stack:
        meshes = {name: stack.enter_context(small_mesh(*contender)) for name, contender in contenders.items()}
        for mesh in meshes.values():
            load(mesh, 1)
        order = list(meshes)
        for turn in range(rounds):
            for name in order[turn % len(order):] + order[:turn % len(order)]:
                found[name].append(slice_of(meshes[name], arguments.seconds))
                print(f"  {name:42} client {found[name][-1]['web-1']:6.1f} µs  server {found[name][-1]['orders-v1']:6.1f} µs", flush=True)
    print(f"\n{'':42} {'client':>8} {'server':>8} {'both':>8} {'of Envoy':>9}")
    for name, slices in found.items():
        medians = [statistics.median(one[pod] for one in slices) for pod in ("web-1", "orders-v1")]
        both = statistics.median(one["both"] for one in slices)
        ratio = statistics.median(one["both"] / other["both"] for one, other in zip(slices, found["envoy"]))
        print(f"{name:42} {medians[0]:5.1f} µs {medians[1]:5.1f} µs {both:5.1f} µs {ratio:9.2f}")
    return found


@contextlib.contextmanager
def small_mesh(proxy, istiod):
    from mesh import Mesh, eventually
    from scenarios import MESH, pod, service, slice_
    ports = [("http", 80, 8080)]
    kube = "---\n".join([service("orders", "10.96.0.10", ports), pod("orders-v1", "orders", "10.244.0.5"),
                         slice_("orders", ports, [("orders-v1", "10.244.0.5", "n1")]), pod("web-1", "web", "10.244.0.7")])
    config = MESH if not istiod else MESH.replace("defaultProviders:\n  metrics: [prometheus]\n", "")
    with Mesh(proxy, kube, "", config, istiod) as mesh:
        mesh.host("orders", "10.96.0.10")
        mesh.pod("orders", "orders-v1", "10.244.0.5", application=False)
        mesh.pod("web", "web-1", "10.244.0.7", application=False)
        nginx = mesh.dir / "nginx.conf"
        nginx.write_text(f"""daemon off; worker_processes 1; pid {mesh.dir}/nginx.pid; error_log /dev/null;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000000; server {{ listen 8080; location / {{ return 200 "hello, this is nginx\\n"; }} }} }}
""")
        process = mesh.spawn("orders-v1", ["nginx", "-c", nginx, "-p", mesh.dir], dict(os.environ), "nginx.log")
        eventually(lambda: mesh.listens("orders-v1", 8080), "nginx", process=process)
        eventually(lambda: mesh.curl("web-1", "http://orders/").status == 200, "an answer")
        seen = mesh.curl("web-1", "http://orders/")
        assert seen.body.startswith("hello"), seen
        if mesh.rejected():
            sys.exit(f"refused: {mesh.rejected()}")
        yield mesh


def load(mesh, seconds):
    """How many requests were answered."""
    out = mesh.run("web-1", "h2load", "--h1", "-t", "1", "-c", "32", "-D", seconds, "http://orders/", timeout=seconds + 60)
    total = re.search(r"requests: (\d+) total, .* (\d+) succeeded, (\d+) failed", out)
    good = re.search(r"status codes: (\d+) 2xx", out)
    if not total or int(total[3]) or good[1] != total[2]:
        sys.exit(f"requests failed:\n{out}")
    return int(good[1])


def slice_of(mesh, seconds):
    """Microseconds of CPU per request, by pod."""
    pids = {name: proxy_of(mesh, name) for name in ("web-1", "orders-v1")}
    before = {name: cpu(pid) for name, pid in pids.items()}
    count = load(mesh, seconds)
    used = {name: (cpu(pid) - before[name]) * 1e6 / count for name, pid in pids.items()}
    return {**used, "both": sum(used.values()), "requests": count}


def proxy_of(mesh, pod):
    """The process that the pod's agent started."""
    agent = mesh.pods[pod]["agent"].pid
    children = pathlib.Path(f"/proc/{agent}/task/{agent}/children").parent.parent
    found = [int(child) for task in children.iterdir() for child in (task / "children").read_text().split()]
    assert len(found) == 1, found
    return found[0]


def cpu(pid):
    """Seconds of user and system time."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# A large mesh.

def scale(arguments):
    results = {}
    for services in arguments.services:
        results[services] = in_a_mesh_of(services, arguments)
    print(f"\n{'services':>8}  {'':8} {'RSS':>8} {'peak':>8} {'ready':>8}")
    for services, found in results.items():
        for name, pods in found.items():
            rss, peak, ready = (statistics.median(pod[key] for pod in pods) for key in ("rss", "peak", "ready"))
            print(f"{services:8}  {name:8} {rss:5.1f} MB {peak:5.1f} MB {ready:6.2f} s")
        ratio = {key: statistics.median(pod[key] for pod in found["remora"]) / statistics.median(pod[key] for pod in found["envoy"])
                 for key in ("rss", "ready")}
        print(f"{'':8}  {'ratio':8} {ratio['rss']:8.3f} {'':8} {ratio['ready']:8.2f}")
    return results


def in_a_mesh_of(count, arguments):
    from mesh import PLAIN, Mesh
    from scenarios import MESH, service, slice_
    ports = [("http", 80, 8080), ("grpc", 9090, 9090)]
    parts = []
    for index in range(count):
        name, high, low = f"svc-{index}", index // 250, index % 250 + 1
        parts.append(service(name, f"10.100.{high}.{low}", ports))
        # Of no pod that istiod would have to know.
        hosts = [(name, f"10.110.{high}.{low}", "n1"), (name, f"10.111.{high}.{low}", "n1")]
        parts.append(re.sub(r", targetRef: \{[^}]*\}", "", slice_(name, ports, hosts)))
    config = MESH.replace("defaultProviders:\n  metrics: [prometheus]\n", "")
    found = {"envoy": [], "remora": []}
    with Mesh(arguments.remora, "---\n".join(parts), "", config, PLAIN, patience=600) as mesh:
        # The first pod has istiod compute what later ones get from its cache.
        one_pod(mesh, "warm-up", 99, arguments.remora, count)
        for turn in range(arguments.rounds or 3):
            for place, (name, proxy) in enumerate((("envoy", arguments.envoy), ("remora", arguments.remora))):
                pod = one_pod(mesh, f"{name}-{turn}", 100 + 2 * turn + place, proxy, count)
                found[name].append(pod)
                print(f"  {count:5} services  {name:8} RSS {pod['rss']:6.1f} MB  peak {pod['peak']:6.1f} MB  ready after {pod['ready']:.2f} s", flush=True)
    return found


# Asks as often as the kubelet never would, and tells when the pod became ready.
PROBE = """
import socket, sys, time
while True:
    try:
        with socket.create_connection(("127.0.0.1", 15021), timeout=5) as probe:
            probe.sendall(b"GET /healthz/ready HTTP/1.1\\r\\nhost: probe\\r\\nconnection: close\\r\\n\\r\\n")
            if probe.recv(64).split(b" ")[1:2] == [b"200"]:
                print(time.monotonic())
                break
    except OSError:
        pass
    time.sleep(0.005)
"""


def one_pod(mesh, name, low, proxy, count):
    mesh.pod("web", name, f"10.244.0.{low}", application=False, proxy=str(proxy), wait=False, config={"concurrency": 2})
    command = ["ip", "netns", "exec", f"{mesh.tag}-{name}", sys.executable, "-c", PROBE]
    try:
        probe = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    except subprocess.TimeoutExpired:
        sys.exit(f"{name} is not ready: {mesh.pods[name]['log'].read_text()[-3000:]}")
    ready = float(probe.stdout) - mesh.pods[name]["started"]
    time.sleep(5)
    pid = proxy_of(mesh, name)
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rss, peak = (int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
    clusters = mesh.admin(name, "/clusters").count("::default_priority::max_connections::")
    assert clusters >= 2 * count, f"{clusters} clusters"
    agent = mesh.pods[name]["agent"]
    agent.terminate()
    agent.wait(60)
    return {"rss": rss, "peak": peak, "ready": ready}


if __name__ == "__main__":
    main()
