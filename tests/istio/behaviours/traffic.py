"""Routes in all their variety, and what they do to requests and responses."""
import time

from behaviours.default import facts_of, headers_of, shop
from mesh import eventually
from scenarios import SCENARIOS


def run(report, open_mesh):
    config, kube, istio = SCENARIOS["traffic"]
    with open_mesh(kube, istio, config) as mesh:
        shop(mesh)
        report.equal("routes: nothing that istiod sends is refused", mesh.rejected(), {})
        rewriting(report, mesh)
        answering(report, mesh)
        spreading(report, mesh)


def rewriting(report, mesh):
    answer = mesh.curl("web-1", "http://orders/old/x?y=1", "-H", "x-gone: 1")
    seen, facts = headers_of(answer.body), facts_of(answer.body)
    report.equal("a prefix is rewritten, the rest and the query stay", facts.get("URL"), "/new/x?y=1")
    report.equal("so is the authority", facts.get("Host"), "new.test")
    report.check("a header is set from the connection", seen.get("x-set", "").startswith("10.244.0.7:"), seen)
    report.equal("one is added, one removed", (seen.get("x-add"), seen.get("x-gone")), ("a", None))
    report.equal("one is set in the response", answer.headers.get("x-resp"), "b")
    report.equal("the original path is kept for the application", seen.get("x-envoy-original-path"), "/old/x?y=1")
    answer = mesh.curl("web-1", "http://orders/OLDER", "-X", "POST", "-d", "body")
    report.equal("a path matches whatever its case, if told so", facts_of(answer.body).get("URL"), "/new/")
    answer = mesh.curl("web-1", "http://orders/older")
    report.check("with another method it does not", facts_of(answer.body).get("URL") == "/older", answer.body)
    answer = mesh.curl("web-1", "http://orders/item/42")
    facts = facts_of(answer.body)
    report.equal("a path is rewritten by expression, for its subset", (facts.get("URL"), facts.get("ServiceVersion")), ("/i?id=42", "v2"))


def answering(report, mesh):
    answer = mesh.curl("web-1", "http://orders/moved/here?x=1")
    report.equal("a redirect says where to", (answer.status, answer.headers.get("location")), (308, "https://other.test/there?x=1"))
    answer = mesh.curl("web-1", "http://orders/teapot")
    report.equal("a direct response is the sidecar's own", (answer.status, answer.body), (418, "short and stout"))
    began = time.monotonic()
    codes = [mesh.curl("web-1", "http://orders/fault?q=1", "-H", "x-fault: abc").status for _ in range(12)]
    took = time.monotonic() - began
    report.check("faults abort half of the requests", set(codes) == {200, 418}, codes)
    report.check("faults delay every request", took > 12 * 0.2, took)
    report.equal("a request that does not ask for faults has none", mesh.curl("web-1", "http://orders/fault?q=2", "-H", "x-fault: abc").status, 200)
    preflight = ("-X", "OPTIONS", "-H", "access-control-request-method: GET")
    for origin, allowed in (("https://a.test", True), ("https://x.b.test", True), ("https://evil.test", False), ("https://a.test.evil.test", False)):
        answer = mesh.curl("web-1", "http://orders/mirror", *preflight, "-H", f"origin: {origin}")
        report.equal(f"a preflight from {origin} is {'answered' if allowed else 'not'}", answer.headers.get("access-control-allow-origin") == origin, allowed)
    mirroring(report, mesh)


def mirroring(report, mesh):
    """Half of the requests go to a second service too, under the first one's name; what that answers nobody sees."""
    def arrived():
        return mesh.pods["legacy-1"]["echo"].read_text(errors="replace").count("/mirror?arrives")

    answers = [mesh.curl("web-1", "http://orders/mirror?arrives=%d" % number) for number in range(24)]
    versions = [facts_of(answer.body).get("ServiceVersion") for answer in answers]
    report.equal("mirrored requests are answered by the real service", ({answer.status for answer in answers}, set(versions)), ({200}, {"v1"}))
    # Less than one run in ten million has none or all of them.
    eventually(lambda: arrived() > 0, "a mirrored request")
    time.sleep(0.5)
    report.check("about half of them arrive at the other service", 0 < arrived() < 24, arrived())
    counted = mesh.stats("web-1", "cluster.outbound.80..legacy.*upstream_rq_total")
    report.check("as many as were sent", not counted or sum(map(int, counted.values())) == arrived(), (counted, arrived()))


def spreading(report, mesh):
    answers = [mesh.curl("web-1", "http://orders/") for _ in range(100)]
    versions = [facts_of(answer.body).get("ServiceVersion") for answer in answers]
    # 30 of 100, give or take four standard deviations.
    report.check("weights divide requests", 12 <= versions.count("v2") <= 48 and versions.count("v1") + versions.count("v2") == 100, versions)
    marked = all((answer.headers.get("x-from") == "v1") == (version == "v1") for answer, version in zip(answers, versions))
    report.check("a weighted cluster's own header is added", marked, versions)
    cookies = [answer.headers.get("set-cookie", "") for answer, version in zip(answers, versions) if version == "v1"]
    report.check("a client without the hash's cookie is given one", all(cookie.startswith("sticky=") and "Max-Age=60" in cookie for cookie in cookies), cookies[:3])
    lines = eventually(lambda: [line for line in mesh.access_log("orders-v1") + mesh.access_log("orders-v2") if "GET / HTTP/2" in line], "requests over HTTP/2")
    report.check("h2UpgradePolicy: hosts are asked over HTTP/2", lines)
    report.equal("the application still hears HTTP/1.1", facts_of(answers[0].body).get("Proto"), "HTTP/1.1")
    out = mesh.echo("web-1", "tcp://orders:5432")
    report.check("TCP follows its own route", "StatusCode=200" in out, out)
