"""EnvoyFilters, transparent interception, and a gateway."""
import base64
import subprocess

from behaviours.default import facts_of, headers_of, shop
from scenarios import SCENARIOS


def envoyfilter(report, open_mesh):
    config, kube, istio = SCENARIOS["envoyfilter"]
    with open_mesh(kube, istio, config) as mesh:
        shop(mesh)
        report.equal("EnvoyFilters: nothing that istiod sends is refused", mesh.rejected(), {})
        answer = mesh.curl("web-1", "http://orders/", "-H", "x-request-id: my-own")
        report.equal("a merged connection manager keeps the client's request id", headers_of(answer.body).get("x-request-id"), "my-own")
        answers = [mesh.curl("web-1", "http://orders/", "-H", "x-canary: 1") for _ in range(14)]
        codes = [answer.status for answer in answers]
        report.check("an inserted rate limit lets ten requests pass", codes.count(200) <= 10 and codes.count(429) >= 4 and set(codes) == {200, 429}, codes)
        limited = next((answer for answer in answers if answer.status == 429), answers[-1])
        report.equal("what it refuses carries its header and text", (limited.headers.get("x-local-rate-limit"), limited.body), ("true", "local_rate_limited"))


def tproxy(report, open_mesh):
    config, kube, istio = SCENARIOS["tproxy"]
    with open_mesh(kube, istio, config) as mesh:
        mesh.host("orders", "10.96.0.10")
        mesh.pod("orders", "orders-v1", "10.244.0.5", intercept="TPROXY")
        mesh.pod("web", "web-1", "10.244.0.7")
        mesh.pod("legacy", "legacy-1", "10.244.0.8", sidecar=False)
        report.equal("TPROXY: nothing that istiod sends is refused", mesh.rejected(), {})
        answer = mesh.curl("legacy-1", "http://10.244.0.5:8080/")
        report.equal("TPROXY: the application sees the client's own address", (answer.status, facts_of(answer.body).get("IP")), (200, "10.244.0.8"))
        answer = mesh.curl("web-1", "http://10.244.0.5:8080/", "-H", "host: orders")
        report.equal("TPROXY: through two sidecars too", (answer.status, facts_of(answer.body).get("IP")), (200, "10.244.0.7"))
        out = mesh.echo("legacy-1", "tcp://10.244.0.5:5432")
        report.check("TPROXY: TCP works", "StatusCode=200" in out, out)


def gateway(report, open_mesh):
    config, kube, istio = SCENARIOS["gateway"]
    with open_mesh(kube, istio, config) as mesh:
        files = certificate(mesh.dir)
        secret = "".join(f"  {key}: {base64.b64encode(file.read_bytes()).decode()}\n" for key, file in files.items())
        mesh.apply(f"apiVersion: v1\nkind: Secret\nmetadata: {{name: shop-cert, namespace: shop}}\ntype: kubernetes.io/tls\ndata:\n{secret}")
        shop(mesh)
        mesh.pod("edge", "edge-1", "10.244.0.9", role="router", application=False)
        report.equal("gateway: nothing that istiod sends is refused", mesh.rejected(), {})
        answer = mesh.curl("legacy-1", "http://10.244.0.9/x", "-H", "host: shop.test")
        report.equal("gateway: plain HTTP is sent to HTTPS", (answer.status, answer.headers.get("location")), (301, "https://shop.test/x"))
        report.equal("gateway: another host is not known", mesh.curl("legacy-1", "http://10.244.0.9/", "-H", "host: evil.test").status, 404)
        https = ("--cacert", files["tls.crt"], "--resolve", "shop.test:443:10.244.0.9", "--resolve", "m.shop.test:8443:10.244.0.9")
        answer = mesh.curl("legacy-1", "https://shop.test/", *https, "--http1.1")
        report.check("gateway: HTTPS is ended and passed on over mutual TLS",
                     answer.status == 200 and "x-forwarded-client-cert" in headers_of(answer.body), answer)
        answer = mesh.curl("legacy-1", "https://shop.test/", *https, "--http2")
        report.equal("gateway: HTTP/2 is spoken", (answer.status, facts_of(answer.body).get("Host")), (200, "shop.test"))
        answer = mesh.curl("legacy-1", "https://m.shop.test:8443/", "-k", *https)
        report.equal("gateway: mutual TLS without a client certificate gets no answer", answer.status, 0)
        answer = mesh.curl("legacy-1", "https://m.shop.test:8443/", "-k", *https, "--cert", files["tls.crt"], "--key", files["tls.key"])
        report.equal("gateway: mutual TLS with one does", answer.status, 200)
        out = mesh.echo("legacy-1", "tcp://10.244.0.9:5432")
        report.check("gateway: TCP is passed on", "StatusCode=200" in out, out)


def certificate(directory):
    cert, key = directory / "tls.crt", directory / "tls.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=shop.test", "-addext", "subjectAltName=DNS:shop.test",
               "-keyout", key, "-out", cert]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return {"tls.crt": cert, "tls.key": key, "ca.crt": cert}
