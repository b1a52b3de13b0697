"""A mesh as it comes: automatic mutual TLS, no policy. Traffic of every kind, metrics, access logs, and what agents and istioctl ask."""
import json
import re

from mesh import eventually
from scenarios import SCENARIOS

PRINCIPAL = "spiffe://cluster.local/ns/shop/sa/"

def headers_of(body):
    """What the echo application saw: {name: value}."""
    return {name.lower(): value for name, value in re.findall(r"RequestHeader=([^:\n]+):(.*)", body)}


def facts_of(body):
    return dict(line.split("=", 1) for line in body.splitlines() if "=" in line and not line.startswith("RequestHeader"))


def shop(mesh, istio_pods=("orders-v1", "orders-v2", "web-1"), proxies=None, metadata=None):
    """The pods that every scenario has: two of orders, web, and legacy without a sidecar."""
    proxies = proxies or {}
    for host, ip in (("orders", "10.96.0.10"), ("orders.shop.svc.cluster.local", "10.96.0.10"), ("web", "10.96.0.11"), ("legacy", "10.96.0.12"),
                     ("away", "10.244.9.9")):
        mesh.host(host, ip)
    flags = ["--port", "8081", "--tcp", "7000"]
    mesh.pod("orders", "orders-v1", "10.244.0.5", "v1", echo=flags, wait=False, proxy=proxies.get("orders-v1"), metadata=metadata)
    mesh.pod("orders", "orders-v2", "10.244.0.6", "v2", echo=flags, wait=False, proxy=proxies.get("orders-v2"), metadata=metadata)
    mesh.pod("web", "web-1", "10.244.0.7", wait=False, proxy=proxies.get("web-1"), metadata=metadata)
    mesh.pod("legacy", "legacy-1", "10.244.0.8", echo=flags, sidecar=False)
    for name in istio_pods:
        mesh.wait_ready(name)


def run(report, open_mesh):
    config, kube, istio = SCENARIOS["default"]
    with open_mesh(kube, istio, config) as mesh:
        shop(mesh)
        mesh.pod("away", "away", "10.244.9.9", namespace="elsewhere", sidecar=False)
        agents = {name: pod["log"].read_text(errors="replace") for name, pod in mesh.pods.items() if "agent" in pod}
        report.check("every sidecar is ready, as its agent says too", all("Envoy proxy is ready" in told and mesh.ready(name) for name, told in agents.items()),
                     lambda: {name: told[-600:] for name, told in agents.items()})
        report.equal("nothing that istiod sends is refused", mesh.rejected(), {})
        http(report, mesh)
        others(report, mesh)
        logs(report, mesh)
        metrics(report, mesh)
        questions(report, mesh)
        ending(report, mesh)


def http(report, mesh):
    answer = mesh.curl("web-1", "http://orders/", "-H", "user-agent: suite")
    report.equal("a service answers through two sidecars", answer.status, 200)
    seen, facts = headers_of(answer.body), facts_of(answer.body)
    xfcc = seen.get("x-forwarded-client-cert", "")
    report.check("sidecars speak mutual TLS of their own accord, the server knows the client",
                 f"By={PRINCIPAL}orders" in xfcc and f"URI={PRINCIPAL}web" in xfcc, answer.body)
    report.equal("the application is reached from 127.0.0.6", facts.get("IP"), "127.0.0.6")
    report.equal("the application sees the host that was asked for", facts.get("Host"), "orders")
    report.check("the application sees no metadata of peers", not any("peer-metadata" in name for name in seen), answer.body)
    report.check("neither does the client", not any("peer-metadata" in name for name in answer.headers), answer.headers)
    report.check("a request has an id of Envoy's kind", re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                                                                    seen.get("x-request-id", "")), answer.body)
    report.check("the client learns how long the service took", answer.headers.get("x-envoy-upstream-service-time", "").isdigit(), answer.headers)
    report.equal("the server's name is Envoy's", answer.headers.get("server"), "envoy")
    versions = {facts_of(mesh.curl("web-1", "http://orders/").body).get("ServiceVersion") for _ in range(20)}
    report.equal("requests are spread over both pods", versions, {"v1", "v2"})
    answer = mesh.curl("web-1", "http://legacy/")
    report.check("a service without sidecars gets plaintext", answer.status == 200 and "x-forwarded-client-cert" not in headers_of(answer.body), answer)
    answer = mesh.curl("legacy-1", "http://10.244.0.5:8080/")
    report.check("a client without a sidecar is served (PERMISSIVE)", answer.status == 200 and "x-forwarded-client-cert" not in headers_of(answer.body), answer)
    own = [mesh.curl("orders-v1", "http://10.96.0.10/", "-H", "host: orders") for _ in range(20)]
    report.equal("a pod can call its own service, and be the one that answers",
                 ({answer.status for answer in own}, {facts_of(answer.body).get("ServiceVersion") for answer in own}), ({200}, {"v1", "v2"}))
    answer = mesh.curl("orders-v1", "http://10.244.0.5:8080/")
    report.equal("a pod can call itself by its own address", (answer.status, facts_of(answer.body).get("ServiceVersion")), (200, "v1"))
    answer = mesh.curl("legacy-1", "http://10.244.0.5:8081/", "-H", "user-agent: no-service")
    report.equal("a port of no service is passed on to the application, from 127.0.0.6", (answer.status, facts_of(answer.body).get("IP")), (200, "127.0.0.6"))
    lines = eventually(lambda: [line for line in mesh.access_log("orders-v1") if "no-service" in line], "its line")
    report.check("that is InboundPassthroughCluster's doing", " InboundPassthroughCluster 127.0.0.6:" in lines[-1], lines[-1])
    answer = mesh.curl("web-1", "http://away:8080/")
    report.equal("what is not in the mesh is passed through", answer.status, 200)
    answer = mesh.curl("web-1", "http://10.244.0.8/")
    report.check("nobody at the address is 503", answer.status == 503, answer)
    out = mesh.run("web-1", "curl", "-sv", "-m", "10", "http://10.244.0.8:9999/")
    report.check("nobody at the address of a TCP connection ends it", "reset by peer" in out or "Empty reply" in out, out)
    answer = mesh.curl("web-1", "http://legacy:8081/")
    report.equal("HTTP on a port without a protocol is recognised", answer.status, 200)


def others(report, mesh):
    out = mesh.echo("web-1", "grpc://orders:9090", "--count", "5")
    report.check("gRPC calls are answered", out.count("StatusCode=0") + out.count("Code=200") >= 5 or out.count("Hostname=orders-v") >= 5, out)
    out = mesh.echo("web-1", "tcp://orders:5432")
    report.check("TCP is answered", "Hostname=orders-v" in out or "StatusCode=200" in out, out)
    out = mesh.echo("web-1", "tcp://legacy:3306")
    report.check("a protocol whose server speaks first works", "StatusCode=200" in out or "Hostname" in out, out)
    out = mesh.echo("web-1", "tcp://10.96.0.16:3306")
    report.check("a protocol whose server speaks first works between sidecars", "StatusCode=200" in out or "Hostname" in out, out)
    eventually(lambda: any(labels.get("destination_service_name") == "greeter" and labels.get("destination_workload") == "orders"
                           and labels.get("connection_security_policy") for name, labels, _ in mesh.metrics("web-1")
                           if name == "istio_tcp_connections_opened_total"), "the server's name in the client's metrics")
    out = mesh.echo("web-1", "tcp://10.244.0.5:7000")
    report.check("a pod of a headless service is reached by its own address", "StatusCode=200" in out, out)
    out = mesh.echo("web-1", "ws://orders/", "--count", "1")
    report.check("a WebSocket is upgraded", "StatusCode=200" in out or "Hostname=orders" in out, out)


def logs(report, mesh):
    def lines(pod, mark):
        return [line for line in mesh.access_log(pod) if mark in line]

    mesh.curl("web-1", "http://orders/logged?x=1", "-H", "user-agent: log-check")
    client = eventually(lambda: lines("web-1", "log-check"), "the client's line in the access log")[-1]
    server = eventually(lambda: lines("orders-v1", "log-check") + lines("orders-v2", "log-check"), "the server's line")[-1]
    fields = re.match(r'\[\S+\] "GET /logged\?x=1 HTTP/1\.1" 200 - via_upstream - "-" 0 \d+ \d+ \d+ "-" "log-check" "[0-9a-f-]{36}" "orders" '
                      r'"10\.244\.0\.[56]:8080" outbound\|80\|\|orders\.shop\.svc\.cluster\.local 10\.244\.0\.7:\d+ 10\.96\.0\.10:80 10\.244\.0\.7:\d+ '
                      r'- default$', client)
    report.check("the client's access log has Istio's format", fields, client)
    fields = re.match(r'\[\S+\] "GET /logged\?x=1 HTTP/1\.1" 200 - via_upstream - "-" 0 \d+ \d+ \d+ "-" "log-check" "[0-9a-f-]{36}" "orders" '
                      r'"10\.244\.0\.[56]:8080" inbound\|8080\|\| 127\.0\.0\.6:\d+ 10\.244\.0\.[56]:8080 10\.244\.0\.7:\d+ '
                      r'outbound_\.80_\._\.orders\.shop\.svc\.cluster\.local default$', server)
    report.check("the server's access log has Istio's format", fields, server)
    ids = {re.search(r'"([0-9a-f-]{36})"', line)[1] for line in (client, server)}
    report.check("both sides log the same request id", len(ids) == 1, ids)
    tcp = eventually(lambda: lines("web-1", "outbound|5432||orders"), "the line of a TCP connection")[-1]
    fields = re.match(r'\[\S+\] "- - -" 0 - - - "-" \d+ \d+ \d+ - "-" "-" "-" "-" "10\.244\.0\.[56]:5432" '
                      r'outbound\|5432\|\|orders\.shop\.svc\.cluster\.local 10\.244\.0\.7:\d+ 10\.96\.0\.10:5432 10\.244\.0\.7:\d+ - -$', tcp)
    report.check("a TCP connection's line has Istio's format", fields, tcp)
    failed = eventually(lambda: lines("web-1", '"10.244.0.8:80" PassthroughCluster'), "the line of a failure")[-1]
    fields = re.match(r'\[\S+\] "GET / HTTP/1\.1" 503 UF upstream_reset_before_response_started\{remote_connection_failure\|delayed_connect_error:_Connection_refused\} '
                      r'- "delayed_connect_error:_Connection_refused" 0 \d+ \d+ - "-" "curl/[^"]*" "[0-9a-f-]{36}" "10\.244\.0\.8" "10\.244\.0\.8:80" '
                      r'PassthroughCluster - 10\.244\.0\.8:80 10\.244\.0\.7:\d+ - allow_any$', failed)
    report.check("a failure is logged with its flags and reason", fields, failed)
    failed = eventually(lambda: lines("web-1", '"10.244.0.8:9999"'), "the line of a failed connection")[-1]
    fields = re.match(r'\[\S+\] "- - -" 0 UF,URX - - "delayed_connect_error:_Connection_refused" 0 0 \d+ - "-" "-" "-" "-" "10\.244\.0\.8:9999" '
                      r'PassthroughCluster - 10\.244\.0\.8:9999 10\.244\.0\.7:\d+ - -$', failed)
    report.check("so is a failed connection", fields, failed)


def find(metrics, name, **labels):
    return [value for found, has, value in metrics if found == name and all(has.get(key) == wanted for key, wanted in labels.items())]


def metrics(report, mesh):
    client, server = mesh.metrics("web-1"), mesh.metrics("orders-v1") + mesh.metrics("orders-v2")
    both = dict(source_workload="web", source_workload_namespace="shop", source_app="web", source_principal=f"{PRINCIPAL}web",
                destination_workload="orders", destination_workload_namespace="shop", destination_principal=f"{PRINCIPAL}orders",
                destination_service="orders.shop.svc.cluster.local", destination_service_name="orders", destination_service_namespace="shop",
                destination_app="orders", request_protocol="http", response_code="200", response_flags="-", source_cluster="Kubernetes",
                destination_cluster="Kubernetes", source_canonical_service="web", destination_canonical_service="orders")
    report.check("the client counts requests with every label",
                 sum(find(client, "istio_requests_total", reporter="source", connection_security_policy="unknown", **both)) > 0,
                 lambda: [has for name, has, _ in client if name == "istio_requests_total"])
    report.check("the server counts them too",
                 sum(find(server, "istio_requests_total", reporter="destination", connection_security_policy="mutual_tls", **both)) > 0,
                 lambda: [has for name, has, _ in server if name == "istio_requests_total"])
    for version in ("v1", "v2"):
        report.check(f"the peers of version {version} are told apart",
                     find(client, "istio_requests_total", reporter="source", destination_version=version, response_code="200"))
    for name in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
        found = find(client, f"{name}_bucket", reporter="source", le="+Inf", destination_service_name="orders")
        report.check(f"{name} is a histogram", found and sum(found) > 0)
    report.check("gRPC is counted as such, with its status",
                 sum(find(server, "istio_requests_total", request_protocol="grpc", grpc_response_status="0")) >= 5,
                 lambda: [has for name, has, _ in server if name == "istio_requests_total"])
    report.check("gRPC messages are counted", sum(find(server, "istio_request_messages_total")) >= 5)
    report.check("plaintext is told from mutual TLS", find(server, "istio_requests_total", connection_security_policy="none"))
    report.check("what is passed through is counted as such", find(client, "istio_requests_total", destination_service_name="PassthroughCluster"),
                 lambda: [has for name, has, _ in client if name == "istio_requests_total"])
    report.check("what comes for no service is counted as such", find(server, "istio_requests_total", reporter="destination",
                                                                      destination_service_name="InboundPassthroughCluster"),
                 lambda: [has for name, has, _ in server if name == "istio_requests_total"])
    tcp = dict(request_protocol="tcp", source_workload="web", destination_workload="orders", destination_service_name="orders",
               source_principal=f"{PRINCIPAL}web", destination_principal=f"{PRINCIPAL}orders")
    for name in ("opened", "closed"):
        full = f"istio_tcp_connections_{name}_total"
        report.check(f"{full} of the client, peer known by its preamble", sum(find(client, full, reporter="source", **tcp)) >= 1,
                     lambda: [has for found, has, _ in client if found == full])
        report.check(f"{full} of the server, peer known by its preamble",
                     sum(find(server, full, reporter="destination", connection_security_policy="mutual_tls", **tcp)) >= 1,
                     lambda: [has for found, has, _ in server if found == full])
    for name in ("sent", "received"):
        report.check(f"istio_tcp_{name}_bytes_total counts bytes", sum(find(client, f"istio_tcp_{name}_bytes_total", reporter="source", **tcp)) > 0)
    names = {name for name, _, _ in mesh.metrics("web-1", 15020)}
    report.check("the agent merges the proxy's metrics with its own", "istio_requests_total" in names and any("istio_agent" in name for name in names),
                 sorted(names)[:40])


def questions(report, mesh):
    info = json.loads(mesh.request("web-1", "GET", "server_info") or "{}")
    report.equal("pilot-agent request answers server_info", info.get("state"), "LIVE")
    out = mesh.request("web-1", "POST", "logging?level=warning")
    report.check("pilot-agent request changes log levels", "active loggers" in out, out)
    lines = mesh.request("web-1", "POST", "logging").strip().splitlines()
    levels = dict(match.groups() for match in (re.fullmatch(r"  (\w+): (\w+)", line) for line in lines[1:]) if match)
    report.check("its list of loggers is one that istioctl proxy-config log reads", lines and lines[0] == "active loggers:" and len(levels) == len(lines) - 1
                 and levels.get("rbac") == "warning", lines)
    # As `istioctl proxy-config` asks for them, in the pod.
    saved, hosts = mesh.dir / "dump.json", mesh.dir / "clusters.json"
    saved.write_text(mesh.request("web-1", "GET", "config_dump?include_eds=true"))
    hosts.write_text(mesh.request("web-1", "GET", "clusters?format=json"))
    table = {
        "cluster": ("orders.shop.svc.cluster.local", "SERVICE FQDN"),
        "listener": ("15001", "ADDRESSES"),
        "route": ("orders", "VHOST NAME"),
        "endpoint": ("10.244.0.5:8080", "ENDPOINT"),
        "eds": ("10.244.0.5:8080", "LOCALITY"),
        "secret": ("ROOTCA", "RESOURCE NAME"),
        "bootstrap": ("xds-grpc", ""),
        "all": ("orders.shop.svc.cluster.local", "SERVICE FQDN"),
    }
    for word, (mark, title) in table.items():
        file = hosts if word == "endpoint" else saved
        out = mesh.istioctl("proxy-config", word, "-f", file)
        report.check(f"istioctl proxy-config {word} reads what the agent asks for", mark in out and title in out, out)
        out = mesh.istioctl("proxy-config", word, "-f", file, "-o", "json")
        report.check(f"istioctl proxy-config {word} prints it as JSON", parses(out) and mark.partition(":")[0] in out, out)


def ending(report, mesh):
    """What the agent asks for at a pod's end, one by one."""
    answer = mesh.request("orders-v2", "POST", "drain_listeners?inboundonly&graceful").strip()
    report.equal("listeners are drained when the agent asks for it", answer, "OK")
    report.equal("a sidecar that drains still lets its pod out", mesh.curl("orders-v2", "http://legacy/").status, 200)
    report.check("and others in, asking them to go", mesh.curl("legacy-1", "http://10.244.0.6:8080/").headers.get("connection") == "close")
    mesh.request("orders-v2", "POST", "quitquitquit")
    agent = mesh.pods["orders-v2"]["agent"]
    eventually(lambda: agent.poll() is not None, "the agent's end")
    told = mesh.pods["orders-v2"]["log"].read_text(errors="replace")
    report.check("/quitquitquit ends the proxy, and the agent sees an end in order", "Envoy exited normally" in told, told[-1500:])


def parses(text):
    try:
        return bool(json.loads(text))
    except ValueError:
        return False
