"""Change under load: an open-loop client sends requests over kept and fresh connections throughout, nothing is retried, and nothing may fail."""
import json
import subprocess
import sys
import time

from behaviours.default import shop
from mesh import HERE, eventually
from scenarios import ORDERS, SCENARIOS, slice_

# Istio retries by default; whoever looks for failures must not let it.
NO_RETRIES = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  http:
  - name: turn-%d
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}}}]
    retries: {attempts: 0}
    headers: {request: {set: {x-turn: "%d"}}}
"""
BOTH = [("orders-v1", "10.244.0.5", "n1"), ("orders-v2", "10.244.0.6", "n2")]
RATE = 40


class Load:
    """Runs in a pod until it is asked for its result."""

    def __init__(self, mesh, pod, host, port, *more):
        command = ["ip", "netns", "exec", f"{mesh.tag}-{pod}", sys.executable, HERE / "load.py", host, port, RATE, *more]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        mesh.processes.append(self.process)

    def result(self):
        out, _ = self.process.communicate(timeout=60)
        return json.loads(out)


def during(report, mesh, name, change, least=20):
    """No request fails while `change` runs."""
    load = Load(mesh, "web-1", "orders", 80)
    try:
        time.sleep(0.5)
        change()
        time.sleep(1)
    finally:
        result = load.result()
    report.check(f"no request fails while {name} ({result['sent']} sent)", not result["failed"] and result["sent"] >= least,
                 lambda: "\n".join(result["failed"][:20]) or result)
    return result


def run(report, open_mesh):
    config, kube, _ = SCENARIOS["default"]
    with open_mesh(kube, NO_RETRIES % (0, 0), config) as mesh:
        shop(mesh)
        pushes(report, mesh)
        endpoints(report, mesh)
        rotation(report, mesh)
        restart(report, mesh)
        leaving(report, mesh)


def pushes(report, mesh):
    seen = []

    def change():
        for turn in range(1, 51):
            mesh.set_istio(NO_RETRIES % (turn, turn))
            # Each arrives on its own: istiod would put changes that come together into one push.
            seen.append(eventually(lambda: f"X-Turn:{turn}\n" in mesh.curl("web-1", "http://orders/").body and turn, f"push {turn}"))

    during(report, mesh, "routes are pushed 50 times", change)
    report.equal("50 pushes take effect, one after the other", seen, list(range(1, 51)))


def endpoints(report, mesh):
    def change():
        for left in ([BOTH[0]], [BOTH[1]], BOTH):
            mesh.apply(slice_("orders", ORDERS, left))
            wanted = sorted(f"{ip}:8080" for _, ip, _ in left)
            eventually(lambda: hosts(mesh) == wanted, f"endpoints {wanted}")

    result = during(report, mesh, "endpoints leave and come back", change)
    report.check("both pods took requests", set(result["seen"]) == {"v1", "v2"}, result["seen"])


def hosts(mesh):
    lines = mesh.admin("web-1", "/clusters").splitlines()
    return sorted({line.split("::")[1] for line in lines if line.startswith("outbound|80||orders.shop.svc.cluster.local::10.") and "health_flags" in line})


def rotation(report, mesh):
    # Pods whose certificates live for seconds: the agent renews them at half of that.
    mesh.pod("web", "web-2", "10.244.0.17", metadata={"SECRET_TTL": "20s", "SECRET_GRACE_PERIOD_RATIO": "0.7"})
    first = serial(mesh, "web-2")
    load = Load(mesh, "web-2", "orders", 80)
    try:
        seen = {first}
        def rotated():
            seen.add(serial(mesh, "web-2"))
            return len(seen) >= 4
        eventually(rotated, "three new certificates")
    finally:
        result = load.result()
    report.check(f"no request fails while certificates are renewed ({result['sent']} sent)", not result["failed"], lambda: "\n".join(result["failed"][:20]))


def serial(mesh, pod):
    certificates = json.loads(mesh.admin(pod, "/certs") or "{}").get("certificates", [])
    return next((chain["cert_chain"][0]["serial_number"] for chain in certificates if chain.get("cert_chain")), "")


def restart(report, mesh):
    def change():
        mesh.istiod.terminate()
        mesh.istiod.wait(30)
        time.sleep(1)
        mesh.start_istiod()
        mesh.set_istio(NO_RETRIES % (99, 99))
        eventually(lambda: "X-Turn:99\n" in mesh.curl("web-1", "http://orders/").body, "a push of the new istiod")

    during(report, mesh, "istiod is stopped and started again", change)
    report.equal("the new istiod's configuration is taken", mesh.rejected(), {})


def leaving(report, mesh):
    """The pod leaves its endpoints, then its agent is told to end: as in a cluster, where both happen at once, but in the order that promises no loss."""
    # From a pod without a sidecar: what it is told comes from the one that ends, or from nobody.
    def ask():
        return mesh.inside("legacy-1", "curl", "-si", "-m", "2", "http://10.244.0.6:8080/", check=False).lower()

    before, draining = ask(), []

    def change():
        mesh.apply(slice_("orders", ORDERS, BOTH[:1]))
        eventually(lambda: hosts(mesh) == ["10.244.0.5:8080"], "the pod is no endpoint any more")
        agent = mesh.pods["orders-v2"]["agent"]
        agent.terminate()
        while agent.poll() is None:
            draining.append(ask())
            time.sleep(0.05)
        agent.wait(30)

    during(report, mesh, "a pod's agent ends gracefully", change)
    asked = [answer for answer in draining if " 200 " in answer]
    report.check("a sidecar that drains still answers, and asks clients to go", " 200 " in before and "connection: close" not in before
                 and any("connection: close" in answer for answer in asked), lambda: (before, draining))
