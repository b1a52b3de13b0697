"""Mutual TLS is required, and a canary takes requests by header and by weight; outlier detection and retries are on."""
from behaviours.default import facts_of, find, headers_of, shop
from mesh import eventually
from scenarios import SCENARIOS


def run(report, open_mesh):
    config, kube, istio = SCENARIOS["strict-canary"]
    with open_mesh(kube, istio, config) as mesh:
        shop(mesh)
        report.equal("STRICT: nothing that istiod sends is refused", mesh.rejected(), {})
        plain = mesh.curl("legacy-1", "http://10.244.0.5:8080/")
        report.equal("STRICT: plaintext gets no answer", plain.status, 0)
        out = mesh.run("legacy-1", "curl", "-sv", "-m", "10", "http://10.244.0.5:8080/")
        report.check("STRICT: plaintext is cut off, not answered", "reset by peer" in out or "Empty reply" in out, out)
        out = mesh.run("legacy-1", "curl", "-skv", "-m", "10", "https://10.244.0.5:8080/")
        report.check("STRICT: TLS without Istio's certificate is cut off", "< HTTP/" not in out, out)
        out = mesh.echo("legacy-1", "tcp://10.244.0.5:5432")
        report.check("STRICT: plain TCP gets no answer", "Hostname" not in out, out)
        canary(report, mesh)
        out = mesh.echo("web-1", "tcp://orders:5432")
        report.check("STRICT: TCP inside the mesh goes on", "StatusCode=200" in out, out)
        out = mesh.echo("web-1", "grpc://orders:9090", "--count", "3")
        report.check("STRICT: gRPC inside the mesh goes on", out.count("StatusCode=200") == 3, out)
        failing(report, mesh)
        changes(report, mesh, istio)


def canary(report, mesh):
    marked = {facts_of(mesh.curl("web-1", "http://orders/", "-H", "x-canary: 1").body).get("ServiceVersion") for _ in range(10)}
    report.equal("requests with the canary's header go to the canary", marked, {"v2"})
    versions = [facts_of(mesh.curl("web-1", "http://orders/").body).get("ServiceVersion") for _ in range(60)]
    # Less than one run in a million has no v2 among them, or more than half.
    report.check("others are divided by weight", 0 < versions.count("v2") < 30 and versions.count("v1") + versions.count("v2") == 60,
                 versions)
    seen = headers_of(mesh.curl("web-1", "http://orders/", "-H", "x-forwarded-client-cert: By=evil;URI=evil").body)
    report.check("a forged client certificate header does not get through", "evil" not in seen.get("x-forwarded-client-cert", ""), seen)
    seen = headers_of(mesh.curl("web-1", "http://orders/").body)
    report.equal("a request says that it may be retried only to its sidecar", seen.get("x-envoy-max-retries"), None)


def failing(report, mesh):
    answer = mesh.curl("web-1", "http://orders/?codes=500:1", "-H", "x-canary: 1")
    report.equal("an error without a retry policy is passed on", answer.status, 500)
    answer = mesh.curl("web-1", "http://orders/?codes=503:1")
    report.equal("an error is passed on once all retries are used up", answer.status, 503)
    line = eventually(lambda: [line for line in mesh.access_log("web-1") if "codes=503:1" in line], "the line of the retried request")[-1]
    report.check("its line says why: retries used up, or every host ejected by then",
                 " 503 URX via_upstream " in line or " 503 UH no_healthy_upstream " in line, line)
    retries = mesh.stats("web-1", "upstream_rq_retry")
    report.check("ejected hosts come back", eventually(lambda: mesh.curl("web-1", "http://orders/").status == 200, "a host that is used again"),
                 retries)
    server = mesh.metrics("orders-v1") + mesh.metrics("orders-v2")
    report.check("failures are counted by code", find(server, "istio_requests_total", response_code="503", reporter="destination"))


def changes(report, mesh, istio):
    mesh.set_istio(istio.replace("weight: 90", "weight: 0").replace("weight: 10}", "weight: 100}"))
    def all_new():
        return {facts_of(mesh.curl("web-1", "http://orders/").body).get("ServiceVersion") for _ in range(8)} == {"v2"}
    report.check("a changed route takes effect", eventually(all_new, "the canary takes everything"))
