"""Scenarios that ask for what Remora does not have: refused with the field's path; and where the operator wants warnings instead
(`REMORA_UNSUPPORTED=warn`), running without it."""
import json

from behaviours.default import PRINCIPAL, find, headers_of, shop
from mesh import LabError, eventually
from scenarios import SCENARIOS

WARN = {"REMORA_UNSUPPORTED": "warn"}


def telemetry(report, open_mesh):
    config, kube, istio = SCENARIOS["telemetry"]
    with open_mesh(kube, istio, config) as mesh:
        shop(mesh, metadata=WARN)
        report.equal("telemetry: nothing is refused where warnings are wanted", mesh.rejected(), {})
        tolerated(report, mesh, "telemetry", ("tracing.provider", "HttpGrpcAccessLogConfig", "TcpGrpcAccessLogConfig", "OpenTelemetryAccessLogConfig"))
        served(report, mesh, "telemetry")
        lines = eventually(lambda: objects(mesh, "web-1"), "a line of JSON")
        line = next((line for line in lines if line.get("wl") == "orders"), lines[-1])
        report.equal("telemetry: a log in JSON, the peer's workload in it", (line.get("code"), line.get("flags"), line.get("wl")), (200, "-", "orders"))
        report.check("telemetry: the host is logged", line.get("upstream", "").startswith("10.244.0."), line)
        client, server = mesh.metrics("web-1"), mesh.metrics("orders-v1") + mesh.metrics("orders-v2")
        counted = [has for name, has, _ in client if name == "istio_requests_total"]
        report.check("telemetry: an override removes a label", counted and all("response_code" not in has for has in counted), counted)
        report.check("telemetry: an override adds one", any(has.get("url_path") == "/seen" for has in counted), counted)
        report.check("telemetry: on the server's side it does not", find(server, "istio_requests_total", response_code="200"))
        names = {name for name, _, _ in client}
        report.check("telemetry: a disabled metric is not there", not any(name.startswith("istio_request_duration") for name in names), sorted(names))
        report.check("telemetry: others are", any(name.startswith("istio_request_bytes") for name in names), sorted(names))
        refused(report, mesh, "telemetry", {}, "tracing.provider: tracing is not supported")
        dimensions(report, mesh, istio)


# Labels of the client's and of the server's requests, and of its connections: expressions of every kind that Istio's documentation has.
CLIENT = {
    "destination_port": ("string(destination.port)", "80"),
    "request_host": ("request.host", "orders"),
    "mark": ("request.headers['x-mark']", "m"),
    "nothing": ("request.headers['x-none']", "unknown"),
    "details": ("response.code_details", "via_upstream"),
    "protocol": ("request.protocol", "HTTP/1.1"),
    "kind": ("response.headers['content-type']", "text/plain; charset=utf-8"),
    "peer_app": ("filter_state.upstream_peer.app", "orders"),
    "peer": ("has(filter_state.upstream_peer) ? filter_state.upstream_peer.namespace : filter_state['wasm.upstream_peer'].namespace", "shop"),
    "from_node": ("xds.node.metadata['NAMESPACE'] + '/' + xds.node.metadata.LABELS.app", "shop/web"),
    "over": ("upstream.tls_version", "TLSv1.3"),
    "san": ("upstream.uri_san_peer_certificate", f"{PRINCIPAL}orders"),
    "cluster": ("xds.cluster_name", "outbound|80||orders.shop.svc.cluster.local"),
    "source_app": ("'fixed'", "fixed"),
}
SERVER = {
    "mtls": ("connection.mtls", "true"),
    "sni": ("connection.requested_server_name", "outbound_.80_._.orders.shop.svc.cluster.local"),
    "san": ("connection.uri_san_peer_certificate", f"{PRINCIPAL}web"),
    "peer_app": ("filter_state.downstream_peer.app", "web"),
    "flags": ("response.flags", "0"),
    "port": ("destination.port", "8080"),
}
CONNECTIONS = {
    "san": ("connection.uri_san_peer_certificate", f"{PRINCIPAL}web"),
    "peer_app": ("filter_state.downstream_peer.app", "web"),
    "host": ("request.host", "unknown"),
}


def dimensions(report, mesh, istio):
    def overrides(metric, mode, wanted):
        tags = "".join(f"        {label}: {{value: {json.dumps(expression)}}}\n" for label, (expression, _) in wanted.items())
        return f"    - match: {{metric: {metric}, mode: {mode}}}\n      tagOverrides:\n{tags}"

    added = overrides("REQUEST_COUNT", "CLIENT", CLIENT) + overrides("REQUEST_COUNT", "SERVER", SERVER) + overrides("TCP_OPENED_CONNECTIONS", "SERVER", CONNECTIONS)
    first = istio.index("    - match: {metric: REQUEST_COUNT, mode: CLIENT}")
    last = istio.index("    - match: {metric: REQUEST_DURATION}")
    mesh.set_istio(istio[:first] + added + istio[last:])

    def labelled(pods, name, wanted):
        """Sends, and looks whether something is counted with exactly these labels."""
        mesh.curl("web-1", "http://orders/seen", "-H", "x-mark: m")
        mesh.echo("web-1", "tcp://orders:5432")
        labels = {label: value for label, (_, value) in wanted.items()}
        return any(find(mesh.metrics(pod), name, **labels) for pod in pods)

    servers = ("orders-v1", "orders-v2")
    for what, pods, name, wanted in (("client's requests", ("web-1",), "istio_requests_total", CLIENT), ("server's requests", servers, "istio_requests_total", SERVER),
                                     ("server's connections", servers, "istio_tcp_connections_opened_total", CONNECTIONS)):
        try:
            held = eventually(lambda: labelled(pods, name, wanted), what, 20)
        except LabError:
            held = False
        report.check(f"telemetry: labels by expressions, of the {what}", held,
                     lambda: [(pod, has) for pod in pods for found, has, _ in mesh.metrics(pod) if found == name][-6:])
    report.equal("telemetry: none of them is refused", mesh.rejected_by("web-1", "orders-v1", "orders-v2"), {})
    mesh.set_istio(istio.replace("request.url_path", "size(request.path)"))
    lines = eventually(lambda: [line for line in mesh.rejected() if "ACK ERROR web-1." in line and "size" in line], "telemetry: a refusal")
    report.check("telemetry: another expression is refused, with its path", all(
        'metrics[0].dimensions["url_path"]: the expression "size(request.path)" is not supported' in line.replace("\\", "") for line in lines), lines)
    report.equal("telemetry: what was there before goes on", mesh.curl("web-1", "http://orders/seen").status, 200)


def hbone(report, open_mesh):
    config, kube, istio = SCENARIOS["hbone"]
    tunnel = {"ISTIO_META_ENABLE_HBONE": "true"}
    # Certificates in files are for a client that speaks for itself.
    files = {"OUTPUT_CERTS": "etc/istio/proxy"}
    with open_mesh(kube, istio, config, {"PILOT_ENABLE_AMBIENT": "true"}) as mesh:
        mesh.host("beyond", "10.96.0.15")
        mesh.pod("beyond", "beyond-1", "10.244.0.16", sidecar=False)
        shop(mesh, metadata={**WARN, **tunnel, **files})
        report.equal("HBONE: nothing is refused where warnings are wanted", mesh.rejected(), {})
        tolerated(report, mesh, "HBONE", ("BootstrapExtension", "connect_originate: internal_listener", "main_internal: internal_listener",
                                          "InternalUpstreamTransport"))
        served(report, mesh, "HBONE")
        outwards(report, mesh)
        inwards(report, mesh)
        reason = "bootstrap_extensions[0].typed_config.value: the extension type istio.workload.BootstrapExtension is not supported"
        pod = mesh.pod("web", "strict-1", "10.244.0.27", wait=False, metadata=tunnel)
        eventually(lambda: "Envoy exited with error" in pod["log"].read_text(errors="replace"), "HBONE: the proxy's end", process=pod["agent"])
        told = pod["log"].read_text(errors="replace")
        report.check("HBONE: without warnings workload discovery is refused, with the field's path", f"remora: {reason}" in told, told[-1500:])
        report.equal("HBONE: and no such pod is ready", mesh.ready("strict-1"), False)
        refused(report, mesh, "HBONE", {**tunnel, "PEER_METADATA_DISCOVERY": "false"}, "internal_listener: internal listeners are not supported", "strict-2")


def outwards(report, mesh):
    """A service whose only pod is reached through a tunnel: not in plaintext instead, though the pod would take it."""
    answer = mesh.curl("web-1", "http://beyond/", "-H", "user-agent: beyond")
    report.equal("HBONE: who is reached through a tunnel alone is not reached", (answer.status, "Hostname=" in answer.body), (503, False))
    lines = eventually(lambda: [line for line in mesh.access_log("web-1") if '"beyond"' in line], "the line of the request")
    report.check("HBONE: the line says why", ' 503 URX,UF ' in lines[-1] and "transport_socket_is_not_supported" in lines[-1]
                 and '"envoy://connect_originate/10.244.0.16:8080"' in lines[-1], lines[-1])


def inwards(report, mesh):
    """A tunnel that somebody of the mesh, then somebody else, digs to a pod."""
    keys = mesh.pods["web-1"]["dir"] / "etc/istio/proxy"
    own = ("--proxy-cert", keys / "cert-chain.pem", "--proxy-key", keys / "key.pem")
    for who, options, sign in (("of the mesh", own, "CONNECT tunnel failed, response 503"), ("without a certificate", (), "certificate required")):
        out = mesh.run("legacy-1", "curl", "-sv", "-m", "10", "-p", "--proxy-insecure", "-x", "https://10.244.0.5:15008", *options, "http://10.244.0.5:8080/")
        report.check(f"HBONE: a client {who} gets through no tunnel", sign in out and "Hostname=" not in out, out)


def tolerated(report, mesh, what, marks):
    told = mesh.admin("web-1", "/xds") + mesh.admin("orders-v1", "/xds")
    for mark in marks:
        report.check(f"{what}: a warning tells of {mark}", mark in told, told[-3000:])


def served(report, mesh, what):
    answer = mesh.curl("web-1", "http://orders/seen")
    report.check(f"{what}: HTTP over mutual TLS", answer.status == 200 and f"URI={PRINCIPAL}web" in headers_of(answer.body).get("x-forwarded-client-cert", ""),
                 answer)
    out = mesh.echo("web-1", "grpc://orders:9090")
    report.check(f"{what}: gRPC", "StatusCode=200" in out, out)
    out = mesh.echo("web-1", "tcp://orders:5432")
    report.check(f"{what}: TCP", "StatusCode=200" in out, out)


def refused(report, mesh, what, metadata, reason, name="strict-1"):
    """A pod whose operator did not ask for warnings."""
    mesh.pod("web", name, "10.244.0.28", wait=False, metadata=metadata)
    lines = eventually(lambda: [line for line in mesh.rejected() if f"ACK ERROR {name}." in line and reason in line], f"{what}: a refusal")
    report.check(f"{what}: without warnings it is refused, with the field's path", lines)
    report.equal(f"{what}: and the pod is not ready", mesh.ready(name), False)


def objects(mesh, pod):
    found = []
    for line in mesh.pods[pod]["log"].read_text(errors="replace").splitlines():
        if line.startswith('{"'):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return [line for line in found if "upstream" in line and line.get("wl")]
