"""What the contenders are told. Envoy and Remora read the same file; HAProxy and nginx get theirs to do the same work."""

import json
import os

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


def address(port, host="127.0.0.1"):
    return {"socket_address": {"address": host, "port_value": port}}


def cluster(name, port, **more):
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": assignment(name, [("127.0.0.1", port)]),
        **more,
    }


def assignment(name, hosts):
    endpoints = [{"endpoint": {"address": address(port, host)}} for host, port in hosts]
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}


def route(name, cluster_name, domains=("*",)):
    return {
        "name": name,
        "virtual_hosts": [
            {"name": name, "domains": list(domains), "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}]}
        ],
    }


def http_listener(name, port, tls=None, **manager):
    """Request id, stats and the `x-envoy-*` headers are on, as they are by default."""
    chain = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {"@type": HCM, "stat_prefix": name, "http_filters": [ROUTER], **manager},
            }
        ]
    }
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def tcp_listener(name, port, cluster_name, tls=None):
    proxy = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": cluster_name,
    }
    chain = {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}
    if tls:
        chain["transport_socket"] = tls
    return {"name": name, "address": address(port), "filter_chains": [chain]}


def bootstrap(listeners, clusters, admin_port):
    return {
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": address(admin_port)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def http2_upstream():
    explicit = {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
    return {"typed_extension_protocol_options": {HTTP_OPTIONS: explicit}}


def tls(side, identities, own, peer):
    """A transport socket for mutual TLS with HTTP/2; `side` is `Downstream` or `Upstream`."""
    file = lambda name: {"filename": os.path.join(identities, name)}
    uri = f"spiffe://cluster.local/ns/default/sa/{peer}"
    context = {
        "@type": f"{TLS}{side}TlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": file(f"{own}.pem"), "private_key": file(f"{own}.key")}],
            "validation_context": {
                "trusted_ca": file("ca.pem"),
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": uri}}],
            },
        },
    }
    if side == "Downstream":
        context["require_client_certificate"] = True
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def haproxy(directory, port, backend, mode="http", h2=False):
    """One thread, kept-alive backend connections, and a request id where there are requests."""
    lines = [
        "global",
        "  nbthread 1",
        "  maxconn 4000",
        "defaults",
        f"  mode {mode}",
        "  timeout connect 5s",
        "  timeout client 60s",
        "  timeout server 60s",
        "frontend in",
        f"  bind 127.0.0.1:{port}" + (" proto h2" if h2 else ""),
        "  default_backend out",
    ]
    if mode == "http":
        lines += ["  unique-id-format %[uuid]", "  unique-id-header X-Request-ID"]
    lines += ["backend out"]
    if mode == "http":
        lines += ["  http-reuse always"]
    lines += [f"  server b 127.0.0.1:{backend}", ""]
    return write(directory, "haproxy.cfg", "\n".join(lines))


def nginx(directory, port, backend, h2=False):
    """One process, kept-alive backend connections, a request id, no access log."""
    temporary = "\n".join(
        f"  {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return write(
        directory,
        "nginx.conf",
        f"""daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
{temporary}
  access_log off;
  keepalive_requests 1000000000;
  http2_max_concurrent_streams 256;
  upstream b {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port}{" http2" if h2 else ""};
    location / {{
      proxy_pass http://b;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Request-ID $request_id;
    }}
  }}
}}
""",
    )


def write(directory, name, content):
    path = os.path.join(directory, name)
    with open(path, "w") as file:
        # JSON is YAML: one writer for both.
        file.write(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path
