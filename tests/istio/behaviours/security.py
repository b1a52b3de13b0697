"""Policies that decide about access, attacked. A path, method, token or peer that is not plainly allowed gets no further than the sidecar."""
import base64
import hashlib
import hmac
import json
import os
import time

from behaviours.default import PRINCIPAL, headers_of, shop
from mesh import BIN, eventually
from scenarios import HTTP_CHECKED, SCENARIOS, TCP_CHECKED

SECRET = base64.urlsafe_b64decode("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" + "==")
DENIED = "RBAC: access denied"


def part(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(secret=SECRET, header=None, **claims):
    claims = {"iss": "https://issuer.test", "aud": "shop", "sub": "ann", "groups": ["staff"], "exp": int(time.time()) + 600, **claims}
    claims = {key: value for key, value in claims.items() if value is not None}
    signed = f"{part({'alg': 'HS256', 'kid': '1', **(header or {})})}.{part(claims)}"
    return f"{signed}.{part(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


def run(report, open_mesh):
    config, kube, istio = SCENARIOS["security"]
    with open_mesh(kube, istio, config) as mesh:
        mesh.pod("authz", "authz-1", "10.244.0.14", application=False, sidecar=False)
        authz = start_authz(mesh)
        shop(mesh)
        # A pod with a sidecar whose identity no policy names.
        mesh.pod("stranger", "stranger-1", "10.244.0.27")
        report.equal("policies: nothing that istiod sends is refused", mesh.rejected(), {})

        def ask(path, *options, client="web-1"):
            return mesh.curl(client, f"http://orders{path}", "--path-as-is", *options)

        tenant = ("-H", "x-tenant: a")
        rbac(report, ask, tenant)
        paths(report, ask, tenant)
        tokens(report, ask, tenant)
        out = mesh.echo("stranger-1", "tcp://orders:5432")
        report.check("TCP from a stranger is refused", "StatusCode=200" not in out, out)
        plain = mesh.curl("legacy-1", "http://10.244.0.5:8080/", *tenant)
        report.equal("a client without identity is refused", plain.status, 0)
        checked(report, mesh, ask)
        authz = checked_connections(report, mesh, authz)
        unchecked(report, mesh, authz)


def start_authz(mesh):
    """Istio's own example of an authorization service: it grants what the header x-ext-authz asks for; without it, what comes from web."""
    command = [BIN / "extauthz", "--http", "8000", "--grpc", "9000", "--allow_service_account", "web"]
    process = mesh.spawn("authz-1", command, dict(os.environ), "authz.log")
    eventually(lambda: mesh.listens("authz-1", 9000) and mesh.listens("authz-1", 8000), "the authorization service", process=process)
    return process


def checked(report, mesh, ask):
    """Requests that a service outside decides about, asked over gRPC."""
    good = ("-H", f"x-token: Token {token()}")
    allow, deny = ("-H", "x-ext-authz: allow"), ("-H", "x-ext-authz: deny")
    answer = ask("/checked", *good, *allow)
    report.equal("a request that the service grants passes", answer.status, 200)
    report.equal("the application sees what the service adds", headers_of(answer.body).get("x-ext-authz-check-result"), "allowed")
    forged = ("-H", "x-ext-authz-check-result: forged")
    report.equal("a forged result is overwritten", headers_of(ask("/checked", *good, *allow, *forged).body).get("x-ext-authz-check-result"), "allowed")
    answer = ask("/checked/more?x=1", *good, *deny, "-H", "user-agent: authz-check")
    report.equal("one that it does not grant is denied in its words", (answer.status, answer.body.startswith("denied by ext_authz")), (403, True))
    report.equal("with its headers", answer.headers.get("x-ext-authz-check-result"), "denied")
    lines = eventually(lambda: [line for pod in ("orders-v1", "orders-v2") for line in mesh.access_log(pod) if "authz-check" in line], "its line")
    report.check("the line of the denial says who denied", ' 403 UAEX ext_authz_denied - ' in lines[-1], lines)
    report.equal("what is granted must still be allowed by the rules", ask("/checked", *allow).status, 403)
    for path in ("/checked/../checked", "/./checked", "/%63hecked", "/checked/%2e%2e/checked", "/checkedother"):
        report.equal(f"path {path} is checked too", ask(path, *good, *deny).status, 403)
    report.equal("of two headers the service sees both", ask("/checked", *good, *allow, *deny).status, 403)


def checked_connections(report, mesh, authz):
    """Connections that it decides about; then requests, asked over HTTP; then there is no service any more."""
    def line(mark):
        lines = [line for pod in ("orders-v1", "orders-v2") for line in mesh.access_log(pod) if mark in line and '"- - -"' in line]
        return lines[-1] if lines else None

    mesh.set_istio(TCP_CHECKED)
    def ask():
        return [mesh.echo("web-1", "tcp://orders:5432") for _ in range(4)]

    # The policies of before let no connection pass.
    eventually(lambda: all("StatusCode=200" in out for out in ask()), "the policy that asks about connections, in both pods")
    outs = ask()
    report.check("a connection that the service grants passes", all("StatusCode=200" in out for out in outs), outs)
    out = mesh.echo("stranger-1", "tcp://orders:5432")
    report.check("one that it does not grant is cut off", "StatusCode=200" not in out, out)
    seen = eventually(lambda: line(" UAEX ext_authz_denied "), "the line of a denied connection")
    report.check("its line says who denied", ' "- - -" 0 UAEX ext_authz_denied - "-" 0 0 ' in f" {seen}", seen)
    told = mesh.dir.joinpath("authz.log").read_text(errors="replace")
    report.check("the service was told both identities", any(f"{PRINCIPAL}stranger" in told and f"{PRINCIPAL}orders" in told and "[denied]" in told
                                                            for told in told.splitlines()), told[-2000:])
    def both():
        return {mesh.curl("web-1", "http://orders/").status for _ in range(6)} == {200}
    report.check("requests are not asked about", eventually(both, "both pods without the rules of before"))
    authz.terminate()
    authz.wait(30)
    out = mesh.echo("web-1", "tcp://orders:5432")
    report.check("without the service no connection passes", "StatusCode=200" not in out, out)
    seen = eventually(lambda: line(" UAEX ext_authz_error "), "the line of an undecided connection")
    report.check("its line says that there was no decision", seen, seen)
    return start_authz(mesh)


def unchecked(report, mesh, authz):
    mesh.set_istio(HTTP_CHECKED)
    allow = ("-H", "x-ext-authz: allow")
    def both():
        return {mesh.curl("web-1", "http://orders/checked").status for _ in range(12)} == {403}
    eventually(both, "both pods with the policy that asks over HTTP")
    report.equal("a service may be asked over HTTP as well", mesh.curl("web-1", "http://orders/checked", *allow).status, 200)
    answer = mesh.curl("web-1", "http://orders/checked", *allow, "-H", "x-ext-authz-check-result: forged")
    report.equal("the application sees what it adds, and nothing forged", headers_of(answer.body).get("x-ext-authz-check-result"), "allowed")
    answer = mesh.curl("web-1", "http://orders/checked/more", "-H", "x-ext-authz: deny")
    report.equal("what it does not grant is denied in its words, with its headers",
                 (answer.status, answer.body.startswith("denied by ext_authz"), answer.headers.get("x-ext-authz-check-result")), (403, True, "denied"))
    authz.terminate()
    authz.wait(30)
    answers = [mesh.curl("web-1", "http://orders/checked", *allow).status for _ in range(4)]
    report.equal("without the service no request passes", set(answers), {403})
    report.equal("what is not asked about does", mesh.curl("web-1", "http://orders/").status, 200)


def rbac(report, ask, tenant):
    report.equal("a request that a rule allows passes", ask("/", *tenant).status, 200)
    answer = ask("/")
    report.equal("without the header that the rule asks for it is denied", (answer.status, answer.body), (403, DENIED))
    report.equal("a denial comes from Envoy, to the eye", answer.headers.get("server"), "envoy")
    report.equal("another value of the header is denied", ask("/", "-H", "x-tenant: ab").status, 403)
    report.equal("the header's case does not matter", ask("/", "-H", "X-TENANT: a").status, 200)
    report.equal("its value's case does", ask("/", "-H", "x-tenant: A").status, 403)
    report.equal("of two values one is enough, as in Envoy", ask("/", *tenant, "-H", "x-tenant: c").status, 200)
    report.equal("two wrong values are denied", ask("/", "-H", "x-tenant: d", "-H", "x-tenant: c").status, 403)
    report.equal("another method is denied", ask("/", *tenant, "-X", "DELETE").status, 403)
    report.equal("a method in lower case is another method", ask("/", *tenant, "-X", "get").status in (400, 403), True)
    report.equal("a stranger's identity is denied", ask("/", *tenant, client="stranger-1").status, 403)
    forged = ("-H", f"x-forwarded-client-cert: By={PRINCIPAL}orders;URI={PRINCIPAL}web")
    report.equal("a forged identity header changes nothing", ask("/", *tenant, *forged, client="stranger-1").status, 403)


def paths(report, ask, tenant):
    for path, status in (("/api/", 200), ("/api/x/y", 200), ("/v1/a/items", 200), ("/v1/a/b/items", 403), ("/v1//items", 403), ("/other", 403),
                         ("/api", 403), ("/API/x", 403), ("/?x=/admin", 200), ("/api/x?/../admin", 200)):
        report.equal(f"path {path} is {'allowed' if status == 200 else 'denied'}", ask(path, *tenant).status, status)
    for path in ("/admin", "/admin/x", "/api/../admin", "/api/..%2fadmin", "/%61dmin", "//admin", "/./admin", "/api/%2e%2e/admin", "/admin/", "/api/secret",
                 "/admin?x", "/api/..;/admin", "/api\\..\\admin", "/admin#x"):
        report.check(f"path {path} reaches nothing that is forbidden", ask(path, *tenant).status in (400, 403, 404) or not reaches(ask, path, tenant),
                     lambda: ask(path, *tenant))


def reaches(ask, path, tenant):
    """Whether the application was asked for something under /admin or ending in /secret."""
    line = next((line for line in ask(path, *tenant).body.splitlines() if line.startswith("URL=")), "URL=").partition("=")[2]
    asked = line.partition("?")[0]
    return asked == "/admin" or asked.startswith("/admin/") or asked.endswith("/secret")


def tokens(report, ask, tenant):
    def bearer(text):
        return ("-H", f"x-token: Token {text}")

    report.equal("a good token with the claim of a rule allows what the peer alone may not", ask("/other", *bearer(token())).status, 200)
    seen = headers_of(ask("/", *tenant, *bearer(token())).body)
    report.equal("a claim is handed on in its header", seen.get("x-sub"), "ann")
    report.check("the payload is handed on", json.loads(base64.urlsafe_b64decode(seen.get("x-payload", "e30") + "===")).get("sub") == "ann", seen)
    report.check("the token itself is kept", seen.get("x-token", "").startswith("Token "), seen)
    report.equal("a forged claim header is removed", headers_of(ask("/", *tenant, "-H", "x-sub: root").body).get("x-sub"), None)
    report.equal("a token elsewhere does not count", ask("/other", "-H", f"authorization: Bearer {token()}").status, 403)
    report.equal("nor one without the configured prefix", ask("/other", "-H", f"x-token: {token()}").status in (401, 403), True)
    report.equal("a token in the query counts", ask(f"/other?token={token()}").status, 200)
    report.equal("another group is denied", ask("/other", *bearer(token(groups=["guests"]))).status, 403)
    good = token()
    head, claims, signature = good.split(".")
    bad = {
        "a token of another audience": token(aud="bank"),
        "a token of another issuer": token(iss="https://evil.test"),
        "an expired token": token(exp=int(time.time()) - 600),
        "a token from the future": token(nbf=int(time.time()) + 600),
        "a token signed with another key": token(secret=b"another secret, as long as the first"),
        "a token without an algorithm": f"{part({'alg': 'none'})}.{claims}.",
        "a token with another algorithm": token(header={"alg": "RS256"}),
        "a token with a changed claim": f"{head}.{part({'iss': 'https://issuer.test', 'aud': 'shop', 'sub': 'root', 'groups': ['staff']})}.{signature}",
        "a token with half a signature": good[:-20],
        "a token without a signature": f"{head}.{claims}.",
        "rubbish": "rubbish",
    }
    for what, text in bad.items():
        answer = ask("/", *tenant, *bearer(text))
        report.equal(f"{what} is turned away", answer.status, 403 if "audience" in what else 401)
    report.check("a good and a bad token together are turned away", ask("/?token=rubbish", *tenant, *bearer(good)).status in (401, 403))
    report.equal("no token at all is the rules' business", ask("/", *tenant).status, 200)
    report.equal("the challenge names the realm", "Bearer" in ask("/", *tenant, *bearer("rubbish")).headers.get("www-authenticate", ""), True)
