"""Envoy and Remora in one mesh, each as client and as server of the other; and istioctl asked of both. Upstream Envoy lacks Istio's own filters, so
istiod does not send them here."""
import json
import os

from behaviours.default import PRINCIPAL, facts_of, headers_of, shop
from mesh import PLAIN
from scenarios import SCENARIOS, pod

SERVERS = {"v1": "10.244.0.5", "v2": "10.244.0.6"}
NO_METRICS = ("defaultProviders:\n  metrics: [prometheus]\n", "")


def run(report, open_mesh):
    envoy = os.environ.get("ENVOY_BIN")
    if not envoy:
        print("SKIPPED the mixed mesh: ENVOY_BIN names no Envoy", flush=True)
        return
    config, kube, istio = SCENARIOS["strict-canary"]
    kube = f"{kube}---\n{pod('web-2', 'web', '10.244.0.17')}"
    with open_mesh(kube, istio, config.replace(*NO_METRICS), PLAIN) as mesh:
        # orders-v1 and web-2 are Envoy's, orders-v2 and web-1 ours.
        shop(mesh, proxies={"orders-v1": envoy})
        mesh.pod("web", "web-2", "10.244.0.17", proxy=envoy)
        for client, kind in (("web-1", "Remora"), ("web-2", "Envoy")):
            for version, server, options in (("v1", "Envoy", ()), ("v2", "Remora", ("-H", "x-canary: 1"))):
                name = f"{kind} as client of {server}"
                answer = answer_of(mesh, client, version, options)
                seen = headers_of(answer.body)
                report.check(f"{name}: HTTP over mutual TLS", answer.status == 200 and f"URI={PRINCIPAL}web" in seen.get("x-forwarded-client-cert", ""),
                             answer)
                # The pods of a headless service, each by its own address.
                out = mesh.echo(client, f"tcp://{SERVERS[version]}:7000")
                report.check(f"{name}: TCP", f"ServiceVersion={version}" in out, out)
                out = ask_until(mesh, client, "grpc://orders:9090", version, "--count", "5")
                report.check(f"{name}: gRPC", out.count("StatusCode=200") == 5 and f"ServiceVersion={version}" in out, out)
        report.equal("mixed: nothing that istiod sends is refused", mesh.rejected(), {})
        same_dumps(report, mesh)


def ask_until(mesh, client, url, version, *options):
    for _ in range(40):
        out = mesh.echo(client, url, *options, *(["-H", "x-canary:1"] if version == "v2" and url.startswith("grpc") else []))
        if f"ServiceVersion={version}" in out:
            break
    return out


def answer_of(mesh, client, version, options):
    """The weights of the canary send a few elsewhere."""
    for _ in range(50):
        answer = mesh.curl(client, "http://orders/", *options)
        if facts_of(answer.body).get("ServiceVersion") == version:
            break
    return answer


# What differs between any two proxies, of the same kind too.
OWN = {"lastUpdated", "versionInfo", "version", "id", "serialNumber", "stats"}


def strip(value):
    if isinstance(value, dict):
        return {key: strip(inner) for key, inner in sorted(value.items()) if key not in OWN}
    if isinstance(value, list):
        return sorted((strip(inner) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


def same_dumps(report, mesh):
    for word in ("cluster", "listener", "route", "endpoint"):
        found = []
        for name in ("web-1", "web-2"):
            file = mesh.dir / f"{name}-{word}.json"
            page = "/clusters?format=json" if word == "endpoint" else "/config_dump"
            for server in SERVERS.values() if word == "endpoint" else ():
                mesh.echo(name, f"tcp://{server}:7000")  # A host that the client named is forgotten, seconds after it was used last.
            file.write_text(mesh.admin(name, page).replace(f"{name}.shop", "POD.shop"))
            found.append(strip(json.loads(mesh.istioctl("proxy-config", word, "-f", file, "-o", "json") or "[]")))
        report.check(f"istioctl proxy-config {word} -o json says the same of Remora as of Envoy", found[0] == found[1] and found[0],
                     lambda: difference(found))


def difference(found):
    lines = [json.dumps(part, indent=1, sort_keys=True).splitlines() for part in found]
    import difflib
    return "\n".join(list(difflib.unified_diff(*lines, "Remora", "Envoy", lineterm="", n=2))[:120])
