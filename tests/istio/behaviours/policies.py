"""Policies that are tried before they count; authorization services that read bodies, or are not there; tokens of every algorithm, and faults, at
a gateway."""
import base64
import hmac
import json
import os
import subprocess
import sys
import time

from behaviours.default import PRINCIPAL, facts_of, headers_of, shop
from behaviours.security import part, start_authz
from mesh import eventually
from scenarios import POLICED_SHOP, POLICIES_MESH, policies

ALLOW, DENY = ("-H", "x-ext-authz: allow"), ("-H", "x-ext-authz: deny")


def run(report, open_mesh):
    # The proxy fetches keys itself; a workload has several authorization services.
    with open_mesh(POLICED_SHOP, "", POLICIES_MESH, {"PILOT_JWT_ENABLE_REMOTE_JWKS": "envoy", "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS": "true"}) as mesh:
        keys = Keys(mesh.dir / "keys")
        mesh.set_istio(policies(json.dumps(keys.public("rs", "ps", "es", "ed"))))
        mesh.pod("authz", "authz-1", "10.244.0.14", application=False, sidecar=False)
        mesh.pod("keys", "keys-1", "10.244.0.18", application=False, sidecar=False)
        served = mesh.dir / "served"
        served.mkdir()
        (served / "jwks.json").write_text(json.dumps(keys.public("remote")))
        server = mesh.spawn("keys-1", [sys.executable, "-m", "http.server", "8000", "-d", served], dict(os.environ), "keys.log")
        eventually(lambda: mesh.listens("keys-1", 8000), "the server of keys", process=server)
        start_authz(mesh)
        shop(mesh)
        mesh.pod("edge", "edge-1", "10.244.0.9", role="router", application=False)
        report.equal("tried policies: nothing that istiod sends is refused", mesh.rejected(), {})
        tried(report, mesh)
        bodies(report, mesh)
        undecided(report, mesh)
        algorithms(report, mesh, keys)
        attacks(report, mesh, keys)
        faults(report, mesh, keys)


def both(mesh, pattern):
    """The sum of the stats of both of the service's pods."""
    return sum(int(value) for pod in ("orders-v1", "orders-v2") for value in mesh.stats(pod, pattern).values())


def tried(report, mesh):
    """`istio.io/dry-run`: counted, logged and told, and nobody is turned away."""
    for pod in ("orders-v1", "orders-v2", "web-1"):
        mesh.request(pod, "POST", "logging?rbac=debug")
    ask = lambda path, *options: mesh.curl("web-1", f"http://orders{path}", *options)
    names = [f"istio_dry_run_{action}_.shadow_{result}" for action in ("deny", "allow") for result in ("denied", "allowed")]
    before = {name: both(mesh, name) for name in names}
    codes = [ask("/dry/one").status, ask("/dry/two").status, ask("/other").status, ask("/other", "-X", "POST").status]
    report.equal("a policy that is only tried turns nobody away", codes, [200] * 4)
    report.equal("what it would have done is counted", [both(mesh, name) - before[name] for name in names], [2, 2, 1, 3])
    tagged = [(labels["authz_dry_run_action"], labels["authz_dry_run_result"]) for pod in ("orders-v1", "orders-v2")
              for name, labels, _ in mesh.metrics(pod) if "rbac" in name and "authz_dry_run_action" in labels]
    report.equal("its metrics have Istio's labels", set(tagged), {(action, result) for action in ("allow", "deny") for result in ("allowed", "denied")})

    def line(mark):
        return eventually(lambda: [line for pod in ("orders-v1", "orders-v2") for line in mesh.access_log(pod) if mark in line], f"the line of {mark}")[-1]

    report.check("the access log can tell of it", '" 200 - dry=denied by=ns[shop]-policy[dry-deny]-rule[0]' in line("/dry/two"), line("/dry/two"))
    report.check("and of a request that it concerns not", '" 200 - dry=allowed by=-' in line('"POST /other"'), line('"POST /other"'))
    told = "".join(mesh.pods[pod]["log"].read_text(errors="replace") for pod in ("orders-v1", "orders-v2"))
    report.check("the proxy's log tells which policy it was", "shadow denied, matched policy ns[shop]-policy[dry-deny]-rule[0]" in told, told[-2000:])
    report.check("and of what no policy is about", "shadow allowed, matched policy none" in told, told[-2000:])
    out = mesh.echo("orders-v1", "tcp://10.244.0.7:5432")
    report.check("a tried policy of connections lets them pass", "StatusCode=200" in out, out)
    found = mesh.stats("web-1", "shadow_denied")
    report.check("and counts them", any("dry_run_deny" in name and int(value) > 0 for name, value in found.items()), found)


def bodies(report, mesh):
    """The service is shown the beginning of the body, or all of it; what it is not shown is not lost."""
    log = mesh.dir / "authz.log"

    def post(path, body, *more):
        return mesh.curl("web-1", f"http://orders{path}", "-X", "POST", "-d", body, *more)

    def length(answer):
        return int(headers_of(answer.body).get("content-length", 0))

    def shown(path, text):
        return any(path in line and text in line for line in log.read_text(errors="replace").splitlines())

    long = "0123456789abcdefGHIJKLMNOPQRSTUVWXYZ"
    for kind in ("grpc", "http"):
        answer = post(f"/{kind}-whole/short", "a short body", *ALLOW)
        report.equal(f"{kind}: a body that the service may see whole passes", (answer.status, length(answer)), (200, 12))
        report.check(f"{kind}: the service saw it", shown(f"/{kind}-whole/short", "a short body"), log.read_text(errors="replace")[-1500:])
        report.equal(f"{kind}: so it may deny", post(f"/{kind}-whole/denied", "a short body", *DENY).status, 403)
        report.equal(f"{kind}: what is longer than it may see whole is too large", post(f"/{kind}-whole/long", long, *ALLOW).status, 413)
        report.equal(f"{kind}: that was not asked about", shown(f"/{kind}-whole/long", long[:16]), False)
        answer = post(f"/{kind}-part/long", long, *ALLOW)
        report.equal(f"{kind}: where a part will do the application gets the whole", (answer.status, length(answer)), (200, len(long)))
        report.equal(f"{kind}: and the service its beginning", (shown(f"/{kind}-part/long", long[:16]), shown(f"/{kind}-part/long", long[:20])), (True, False))
    answer = post("/grpc-packed/short", "packed body", *ALLOW)
    report.equal("grpc: a body may be shown as bytes", (answer.status, shown("/grpc-packed/short", "packed body")), (200, True))


def undecided(report, mesh):
    """Nobody answers: what then happens is the provider's to say."""
    for kind, status in (("grpc", 503), ("http", 502)):
        answer = mesh.curl("web-1", f"http://orders/{kind}-open", *DENY)
        report.equal(f"{kind}: without the service requests pass if it may fail open", (answer.status, "Hostname=" in answer.body), (200, True))
        answer = mesh.curl("web-1", f"http://orders/{kind}-closed", *ALLOW)
        report.equal(f"{kind}: else none does, with the status that is asked for", (answer.status, "Hostname=" in answer.body), (status, False))
    lines = eventually(lambda: [line for pod in ("orders-v1", "orders-v2") for line in mesh.access_log(pod) if "/grpc-closed" in line], "its line")
    report.check("the line says that the service was to decide", " 503 UAEX " in lines[-1], lines[-1])


class Keys:
    """Keys of the algorithms that tokens are signed with, made and used by openssl."""

    KINDS = {"rs": ("RS256", ["-algorithm", "RSA"]), "ps": ("PS256", ["-algorithm", "RSA"]), "es": ("ES256", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
             "ed": ("EdDSA", ["-algorithm", "ED25519"]), "remote": ("RS256", ["-algorithm", "RSA"]), "other": ("RS256", ["-algorithm", "RSA"])}

    def __init__(self, directory):
        self.directory = directory
        directory.mkdir()
        for name, (_, options) in self.KINDS.items():
            self.openssl("genpkey", *options, "-out", self.file(name))

    def file(self, name):
        return self.directory / f"{name}.pem"

    def openssl(self, *words, stdin=None):
        return subprocess.run(["openssl", *map(str, words)], input=stdin, check=True, capture_output=True).stdout

    def pem(self, name):
        return self.openssl("pkey", "-in", self.file(name), "-pubout")

    def public(self, *names):
        return {"keys": [self.jwk(name) for name in names]}

    def jwk(self, name):
        algorithm = self.KINDS[name][0]
        der = self.openssl("pkey", "-in", self.file(name), "-pubout", "-outform", "DER")
        common = {"kid": name, "alg": algorithm, "use": "sig"}
        if algorithm == "ES256":
            return {"kty": "EC", "crv": "P-256", "x": part(der[-64:-32]), "y": part(der[-32:]), **common}
        if algorithm == "EdDSA":
            return {"kty": "OKP", "crv": "Ed25519", "x": part(der[-32:]), **common}
        modulus = self.openssl("rsa", "-in", self.file(name), "-noout", "-modulus").decode().strip().partition("=")[2]
        return {"kty": "RSA", "n": part(bytes.fromhex(modulus)), "e": part(b"\1\0\1"), **common}

    def token(self, name, header=None, signer=None, **claims):
        claims = {"iss": "https://local.test", "aud": "shop", "sub": "ann", "exp": int(time.time()) + 600, **claims}
        signed = f"{part({'alg': self.KINDS[name][0], 'kid': name, **(header or {})})}.{part(claims)}"
        return f"{signed}.{part((signer or self.sign)(name, signed.encode()))}"

    def sign(self, name, text):
        algorithm, key = self.KINDS[name][0], self.file(name)
        if algorithm == "EdDSA":
            message = self.directory / "message"
            message.write_bytes(text)
            return self.openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", message)
        padding = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if algorithm == "PS256" else []
        signature = self.openssl("dgst", "-sha256", "-sign", key, *padding, stdin=text)
        if algorithm != "ES256":
            return signature
        # Two numbers, each with a tag and a length before it; a token has them bare.
        numbers, rest = [], signature[2:]
        while rest:
            numbers.append(rest[2:2 + rest[1]].lstrip(b"\0").rjust(32, b"\0"))
            rest = rest[2 + rest[1]:]
        return b"".join(numbers)


def at_edge(mesh, path, token=None, *more):
    bearer = ("-H", f"authorization: Bearer {token}") if token else ()
    return mesh.curl("legacy-1", f"http://10.244.0.9{path}", "-H", "host: shop.test", "--path-as-is", *bearer, *more)


def algorithms(report, mesh, keys):
    eventually(lambda: at_edge(mesh, "/open").status == 200, "the gateway's route")
    report.equal("at the gateway: what is open needs no token", at_edge(mesh, "/open").status, 200)
    answer = at_edge(mesh, "/private")
    report.equal("what is not needs one", (answer.status, answer.body), (403, "RBAC: access denied"))
    for name in ("rs", "ps", "es", "ed"):
        answer = at_edge(mesh, "/private", keys.token(name))
        report.equal(f"a token signed with {Keys.KINDS[name][0]} is good", answer.status, 200)
        token = keys.token(name)
        head, claims, signature = token.split(".")
        changed = part({"iss": "https://local.test", "aud": "shop", "sub": "root", "exp": int(time.time()) + 600})
        report.equal(f"with other claims its signature ({Keys.KINDS[name][0]}) is not", at_edge(mesh, "/private", f"{head}.{changed}.{signature}").status, 401)
    remote = {"iss": "https://remote.test"}
    report.equal("a token whose keys the proxy fetches is good", at_edge(mesh, "/private", keys.token("remote", **remote)).status, 200)
    report.equal("one that another key signed is not", at_edge(mesh, "/private", keys.token("other", header={"kid": "remote"}, **remote)).status, 401)
    answer = at_edge(mesh, "/private", keys.token("remote", iss="https://lost.test"))
    report.equal("nor one whose keys are not to be had", (answer.status, "Hostname=" in answer.body), (401, False))
    canary = {facts_of(at_edge(mesh, "/private/mine", keys.token("rs", groups="canary")).body).get("ServiceVersion") for _ in range(4)}
    others = {facts_of(at_edge(mesh, "/private/mine", keys.token("rs", groups="crowd")).body).get("ServiceVersion") for _ in range(4)}
    report.equal("a route may depend on a claim", (canary, others), ({"v2"}, {"v1"}))
    seen = headers_of(at_edge(mesh, "/private", keys.token("rs")).body)
    report.check("behind the gateway the application knows it by its certificate", f"URI={PRINCIPAL}edge" in seen.get("x-forwarded-client-cert", ""), seen)


def attacks(report, mesh, keys):
    """The public key is no secret: who signs with it as a shared secret must not get in."""
    report.equal("a token that has just expired is good: clocks differ by a minute", at_edge(mesh, "/private", keys.token("rs", exp=int(time.time()) - 20)).status, 200)
    def with_public_key(text):
        return lambda name, signed: hmac.digest(text, signed, "sha256")

    pem, der = keys.pem("rs"), keys.openssl("pkey", "-in", keys.file("rs"), "-pubout", "-outform", "DER")
    modulus = base64.urlsafe_b64decode(keys.jwk("rs")["n"] + "==")
    bad = {
        "HS256 with the public key as PEM": keys.token("rs", header={"alg": "HS256"}, signer=with_public_key(pem)),
        "HS256 with the public key as DER": keys.token("rs", header={"alg": "HS256"}, signer=with_public_key(der)),
        "HS256 with the modulus": keys.token("rs", header={"alg": "HS256"}, signer=with_public_key(modulus)),
        "no algorithm": keys.token("rs", header={"alg": "none"}, signer=lambda name, signed: b""),
        "none, in other case": keys.token("rs", header={"alg": "nOnE"}, signer=lambda name, signed: b""),
        "RS256 for a key of ES256": keys.token("rs", header={"kid": "es"}),
        "ES256 with numbers of zero": keys.token("es", signer=lambda name, signed: bytes(64)),
        "ES256 as DER": keys.token("es", signer=lambda name, signed: keys.openssl("dgst", "-sha256", "-sign", keys.file(name), stdin=signed)),
        "PS256 padded as RS256": keys.token("rs", header={"alg": "PS256"}),
        "a key of its own in the header": keys.token("other", header={"jwk": keys.jwk("other"), "kid": "other"}),
        "the other issuer's key": keys.token("remote"),
        "an expired one": keys.token("rs", exp=int(time.time()) - 600),
        "one of the future": keys.token("rs", nbf=int(time.time()) + 600),
        "an expiry that is text": keys.token("rs", exp="never"),
    }
    for what, token in bad.items():
        answer = at_edge(mesh, "/private", token)
        report.equal(f"token attacked: {what}", (answer.status, "Hostname=" in answer.body), (401, False))
    answer = at_edge(mesh, "/private", keys.token("rs", aud="bank"))
    report.equal("token attacked: of another audience", (answer.status, "Hostname=" in answer.body), (403, False))
    good = keys.token("rs")
    for what, more in (("rubbish", "Bearer rubbish"), ("itself", f"Bearer {good}"), ("another scheme", "Basic YTpi")):
        for order, (first, second) in (("before", (f"Bearer {good}", more)), ("behind", (more, f"Bearer {good}"))):
            # As in Envoy: what stands before `Bearer` is not looked at.
            expected = 200 if what == "another scheme" and order == "behind" else 401
            answer = at_edge(mesh, "/private", None, "-H", f"authorization: {first}", "-H", f"authorization: {second}")
            report.equal(f"token attacked: a good one {order} {what}", answer.status, expected)
    for path in ("/private%2fx", "//private", "/./private", "/x/../private", "/%70rivate", "/x/%2e%2e/private", "/PRIVATE/../private"):
        answer = at_edge(mesh, path)
        url = facts_of(answer.body).get("URL", "")
        report.check(f"path attacked: {path} does not reach what needs a token", answer.status in (400, 403, 404) or not url.startswith("/private"), answer)


def faults(report, mesh, keys):
    report.equal("a fault is injected for who may ask", at_edge(mesh, "/private/abort", keys.token("rs")).status, 418)
    report.equal("who may not is refused before that", at_edge(mesh, "/private/abort").status, 403)
    began = time.monotonic()
    answer = at_edge(mesh, "/private/delay", keys.token("rs"))
    took = time.monotonic() - began
    report.check("a delay delays, and the answer comes", answer.status == 200 and took >= 0.4, (answer, took))
    lines = eventually(lambda: [line for line in mesh.access_log("edge-1") if "/private/delay" in line], "its line")
    report.check("its line has the flag", " 200 DI " in lines[-1], lines[-1])
