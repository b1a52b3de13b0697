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
# Where Remora's answer is not Envoy's, and why.
ACCEPTED = {
    # Who the proxy is: each names its own program and build, and lists the extensions that it has.
    "bootstrap": {"userAgentName", "userAgentBuildVersion", "extensions", "binaryPath"},
    # Each pod has a certificate of its own.
    "secret": {"inlineBytes", "certificateChain", "data", "Serial Number", "serial_number", "valid_from", "expire_time"},
}
WORDS = ("cluster", "listener", "route", "endpoint", "eds", "secret", "ecds", "bootstrap")


def strip(value, accepted=()):
    if isinstance(value, dict):
        return {key: strip(inner, accepted) for key, inner in sorted(value.items()) if key not in OWN and key not in accepted}
    if isinstance(value, list):
        return sorted((strip(inner, accepted) for inner in value), key=lambda inner: json.dumps(inner, sort_keys=True))
    return value


def same_dumps(report, mesh):
    for word in WORDS:
        found, shown = [], []
        for name in ("web-1", "web-2"):
            file = mesh.dir / f"{name}-{word}.json"
            page = {"endpoint": "clusters?format=json", "eds": "config_dump?include_eds=true"}.get(word, "config_dump")
            for server in SERVERS.values() if word == "endpoint" else ():
                mesh.echo(name, f"tcp://{server}:7000")  # A host that the client named is forgotten, seconds after it was used last.
            text = mesh.request(name, "GET", page)
            file.write_text(as_pod(mesh, name, text) if word == "bootstrap" else text.replace(f"{name}.shop", "POD.shop"))
            found.append(strip(json.loads(mesh.istioctl("proxy-config", word, "-f", file, "-o", "json").strip() or "[]"), ACCEPTED.get(word, ())))
            # The table of bootstraps is the JSON once more.
            table = {"secret": secrets, "bootstrap": lambda *_: ""}.get(word, lambda mesh, file: mesh.istioctl("proxy-config", word, "-f", file))
            shown.append(table(mesh, file))
        has_some = found[0] or word == "ecds"
        report.check(f"istioctl proxy-config {word} -o json says the same of Remora as of Envoy", found[0] == found[1] and has_some, lambda: difference(found))
        report.check(f"istioctl proxy-config {word} shows the same of both", sorted(shown[0].splitlines()) == sorted(shown[1].splitlines()),
                     lambda: "\n".join(shown)[:3000])


def as_pod(mesh, name, text):
    """Without what tells two pods of one workload apart."""
    return text.replace(name, "POD").replace(mesh.pods[name]["ip"], "IP")


def secrets(mesh, file):
    """The table of secrets: names, kinds and states; each certificate has its own number and times."""
    lines = mesh.istioctl("proxy-config", "secret", "-f", file).splitlines()
    return "\n".join(" ".join(line.split()[:4]) for line in lines)


def difference(found):
    lines = [json.dumps(part, indent=1, sort_keys=True).splitlines() for part in found]
    import difflib
    return "\n".join(list(difflib.unified_diff(*lines, "Remora", "Envoy", lineterm="", n=2))[:120])
