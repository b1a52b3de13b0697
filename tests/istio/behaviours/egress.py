"""What leaves the mesh: services outside by name, by SNI and by address; and nothing else."""
import os
import re

from behaviours.default import facts_of, shop
from behaviours.others import certificate
from mesh import eventually
from scenarios import SCENARIOS

OUTSIDE = "10.244.0.30"


def run(report, open_mesh):
    config, kube, istio = SCENARIOS["egress"]
    with open_mesh(kube, istio, config) as mesh:
        for name in ("api.example.test", "a.example.test", "rr.example.test", "x.wild.test", "secure.wild.test", "unknown.test"):
            mesh.host(name, OUTSIDE)
        mesh.pod("outside", "outside-1", OUTSIDE, echo=["--port", "80"], sidecar=False)
        files = certificate(mesh.dir)
        server = ["openssl", "s_server", "-accept", "443", "-cert", files["tls.crt"], "-key", files["tls.key"], "-www", "-quiet"]
        process = mesh.spawn("outside-1", server, dict(os.environ), "outside-tls.log")
        eventually(lambda: mesh.listens("outside-1", 443), "a TLS server", process=process)
        shop(mesh)
        report.equal("egress: nothing that istiod sends is refused", mesh.rejected(), {})
        outside(report, mesh, files)
        elsewhere(report, mesh)
        inside(report, mesh)


def outside(report, mesh, files):
    answer = mesh.curl("web-1", "http://rr.example.test:8080/")
    report.equal("egress: a service outside is found by the name of its host", (answer.status, facts_of(answer.body).get("Host")), (200, "rr.example.test:8080"))
    answer = mesh.curl("web-1", "http://x.wild.test/")
    report.equal("egress: a wildcard's host is reached at the address that the client had", (answer.status, facts_of(answer.body).get("Host")),
                 (200, "x.wild.test"))
    answer = mesh.curl("web-1", "http://api.example.test/", "-H", "user-agent: untrusted")
    report.equal("egress: TLS of its own to a host that nobody vouches for fails", answer.status, 503)
    lines = eventually(lambda: [line for line in mesh.access_log("web-1") if "untrusted" in line], "its line")
    report.check("egress: its line has Envoy's reason", re.search(r" 503 \S*UF\S* ", lines[-1]) and "CERTIFICATE_VERIFY_FAILED" in lines[-1], lines[-1])
    out = mesh.run("web-1", "curl", "-s", "--http1.0", "-m", "20", "--cacert", files["tls.crt"], "--connect-to", "shop.test:443:api.example.test:443", "https://shop.test/")
    report.check("egress: a name that is no service's is not let out", "s_server" not in out, out)
    out = mesh.run("web-1", "curl", "-s", "-k", "--http1.0", "-m", "20", "https://secure.wild.test/")
    report.check("egress: TLS is passed on by its SNI", "s_server" in out, out)
    lines = eventually(lambda: [line for line in mesh.access_log("web-1") if " secure.wild.test " in line], "the line of the TLS connection")
    report.check("egress: to the service that its route names", "outbound|443||api.example.test" in lines[-1], lines[-1])


def elsewhere(report, mesh):
    answer = mesh.curl("web-1", "http://unknown.test/")
    report.equal("egress: a host that nobody knows is 502", answer.status, 502)
    lines = eventually(lambda: [line for line in mesh.access_log("web-1") if '"unknown.test"' in line], "its line")
    report.check("egress: and goes to the black hole", " 502 - direct_response " in lines[-1] and " block_all" in lines[-1], lines[-1])
    out = mesh.run("web-1", "curl", "-sv", "-m", "10", f"http://{OUTSIDE}:7070/")
    report.check("egress: a connection to nobody that is known ends", "HTTP/1.1 200" not in out and "timed out" not in out, out)
    lines = eventually(lambda: [line for line in mesh.access_log("web-1") if f"{OUTSIDE}:7070" in line], "the line of the connection")
    report.check("egress: in the black hole too", " BlackHoleCluster " in lines[-1], lines[-1])


def inside(report, mesh):
    answer = mesh.curl("web-1", "http://orders/", "-x", "http://127.0.0.1:9091")
    report.equal("egress: a listener of its own takes requests to a proxy", (answer.status, facts_of(answer.body).get("Host")), (200, "orders"))
    answer = mesh.curl("web-1", "http://orders/")
    report.equal("egress: the mesh itself is reached as ever", answer.status, 200)
    answer = mesh.curl("orders-v1", "http://web/")
    report.equal("egress: an ingress listener leads to the application", (answer.status, facts_of(answer.body).get("Host")), (200, "web"))
