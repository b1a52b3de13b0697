"""What the scenarios' meshes are made of: the same small shop, a different concern each. The hermetic fixtures (`tests/fixtures/istio`) hold
what istiod makes of the same; there the shop has no authorization service of its own, and its providers name another."""

MESH = """accessLogFile: /dev/stdout
defaultProviders:
  metrics: [prometheus]
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
"""


def service(name, ip, ports, headless=False, selector=None):
    p = "".join(f"\n  - {{name: {n}, port: {port}, targetPort: {t}, protocol: TCP}}" for n, port, t in ports)
    return f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec:
  clusterIP: {"None" if headless else ip}
  selector: {{app: {selector or name}}}
  ports:{p}
"""


def pod(name, app, ip, version="v1", node="n1", mtls=True, tunnel=False):
    tls = ", security.istio.io/tlsMode: istio" if mtls else ""
    tls += ", networking.istio.io/tunnel: http" if tunnel else ""
    return f"""apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {app}, version: {version}{tls}}}}}
spec: {{serviceAccountName: {app}, nodeName: {node}, containers: [{{name: app, image: x}}]}}
status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], hostIP: 10.0.0.1, conditions: [{{type: Ready, status: "True"}}]}}
"""


def slice_(svc, ports, pods):
    p = "".join(f"\n- {{name: {n}, port: {t}, protocol: TCP}}" for n, _, t in ports)
    e = "".join(f"\n- {{addresses: [{ip}], conditions: {{ready: true}}, nodeName: {node}, targetRef: {{kind: Pod, name: {name}, namespace: shop}}}}"
                for name, ip, node in pods)
    return f"""apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {svc}-1, namespace: shop, labels: {{kubernetes.io/service-name: {svc}}}}}
addressType: IPv4
ports:{p}
endpoints:{e}
"""


def node(name, region, zone):
    return f"""apiVersion: v1
kind: Node
metadata: {{name: {name}, labels: {{topology.kubernetes.io/region: {region}, topology.kubernetes.io/zone: {zone}}}}}
"""


ORDERS = [("http", 80, 8080), ("grpc", 9090, 9090), ("tcp-db", 5432, 5432)]
WEB = [("http", 80, 8080)]
PLAIN = [("http-legacy", 80, 8080), ("auto", 8081, 8081), ("mysql", 3306, 3306)]
GREETER = [("tcp-greeting", 3306, 3306)]
SHOP = "---\n".join([
    node("n1", "r1", "z1"), node("n2", "r1", "z2"), node("n3", "r2", "z1"),
    service("orders", "10.96.0.10", ORDERS),
    pod("orders-v1", "orders", "10.244.0.5", "v1", "n1"), pod("orders-v2", "orders", "10.244.0.6", "v2", "n2"),
    slice_("orders", ORDERS, [("orders-v1", "10.244.0.5", "n1"), ("orders-v2", "10.244.0.6", "n2")]),
    service("web", "10.96.0.11", WEB), pod("web-1", "web", "10.244.0.7"), slice_("web", WEB, [("web-1", "10.244.0.7", "n1")]),
    service("legacy", "10.96.0.12", PLAIN), pod("legacy-1", "legacy", "10.244.0.8", mtls=False),
    slice_("legacy", PLAIN, [("legacy-1", "10.244.0.8", "n3")]),
    # Whoever connects is greeted before they have said anything.
    service("greeter", "10.96.0.16", GREETER, selector="orders"),
    slice_("greeter", GREETER, [("orders-v1", "10.244.0.5", "n1"), ("orders-v2", "10.244.0.6", "n2")]),
    service("orders-headless", "", [("tcp-peer", 7000, 7000)], headless=True, selector="orders"),
    slice_("orders-headless", [("tcp-peer", 7000, 7000)], [("orders-v1", "10.244.0.5", "n1"), ("orders-v2", "10.244.0.6", "n2")]),
])


STRICT = """apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
SUBSETS = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders.shop.svc.cluster.local
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"""
CANARY = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  http:
  - match: [{headers: {x-canary: {exact: "1"}}}]
    route: [{destination: {host: orders.shop.svc.cluster.local, subset: v2}}]
  - route:
    - {destination: {host: orders.shop.svc.cluster.local, subset: v1}, weight: 90}
    - {destination: {host: orders.shop.svc.cluster.local, subset: v2}, weight: 10}
    retries: {attempts: 3, retryOn: "5xx,connect-failure", perTryTimeout: 2s}
    timeout: 10s
"""
SECURITY = STRICT + """---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  jwtRules:
  - issuer: https://issuer.test
    audiences: [shop]
    jwks: '{"keys":[{"kty":"oct","kid":"1","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0","alg":"HS256"}]}'
    fromHeaders: [{name: x-token, prefix: "Token "}]
    fromParams: [token]
    outputPayloadToHeader: x-payload
    outputClaimToHeaders: [{header: x-sub, claim: sub}]
    forwardOriginalToken: true
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-web, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/web"], namespaces: [shop]}}]
    to: [{operation: {methods: [GET, POST], paths: ["/", "/api/*", "/v1/{*}/items"], ports: ["8080", "9090"]}}]
    when:
    - {key: "request.headers[x-tenant]", values: [a, b]}
  - from: [{source: {requestPrincipals: ["https://issuer.test/*"], notRemoteIpBlocks: [192.0.2.0/24]}}]
    to: [{operation: {hosts: ["orders*"], notPaths: [/admin]}}]
    when:
    - {key: "request.auth.claims[groups]", values: [staff]}
    - {key: "connection.sni", notValues: [evil.test]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny-admin, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/admin", "/admin/*", "*/secret"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: dry, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec:
  action: DENY
  rules: [{from: [{source: {ipBlocks: [203.0.113.0/24]}}]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: tcp-only-web, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]
    to: [{operation: {ports: ["5432"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ext, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: CUSTOM
  provider: {name: ext-grpc}
  rules: [{to: [{operation: {paths: ["/checked*"]}}]}]
"""
SECURITY_MESH = MESH + """extensionProviders:
- name: ext-grpc
  envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9000, timeout: 0.5s, failOpen: false, includeRequestBodyInCheck: {maxRequestBytes: 1024, allowPartialMessage: true}}
- name: ext-http
  envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 8000, pathPrefix: /check, includeRequestHeadersInCheck: [authorization, x-ext-authz], headersToUpstreamOnAllow: [x-ext-authz-check-result], headersToDownstreamOnDeny: [x-ext-authz-check-result]}
"""
# Who may connect is the authorization service's to say.
TCP_CHECKED = STRICT + """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ext, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: CUSTOM
  provider: {name: ext-grpc}
  rules: [{to: [{operation: {ports: ["5432"]}}]}]
"""
# The same over HTTP.
HTTP_CHECKED = STRICT + """---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ext, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  action: CUSTOM
  provider: {name: ext-http}
  rules: [{to: [{operation: {paths: ["/checked*"]}}]}]
"""
AUTHZ = [("grpc-authz", 9000, 9000), ("http-authz", 8000, 8000)]
GUARDED_SHOP = "---\n".join([SHOP, service("authz", "10.96.0.14", AUTHZ), pod("authz-1", "authz", "10.244.0.14", mtls=False),
                             slice_("authz", AUTHZ, [("authz-1", "10.244.0.14", "n1")])])
TRAFFIC = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders.shop.svc.cluster.local]
  http:
  - name: fault
    match: [{uri: {prefix: /fault}, headers: {x-fault: {regex: "a.*"}}, queryParams: {q: {exact: "1"}}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 0.2s}, abort: {percentage: {value: 50}, httpStatus: 418}}
    route: [{destination: {host: orders.shop.svc.cluster.local}}]
  - name: rewrite
    match: [{uri: {prefix: /old/}}, {uri: {exact: /older}, method: {exact: POST}, ignoreUriCase: true}]
    rewrite: {uri: /new/, authority: new.test}
    headers: {request: {set: {x-set: "%DOWNSTREAM_REMOTE_ADDRESS%"}, add: {x-add: a}, remove: [x-gone]}, response: {set: {x-resp: b}, remove: [server-timing]}}
    route: [{destination: {host: orders.shop.svc.cluster.local, subset: v1}}]
  - name: regex-rewrite
    match: [{uri: {regex: "/item/[0-9]+"}}]
    rewrite: {uriRegexRewrite: {match: "/item/([0-9]+)", rewrite: '/i?id=\\1'}}
    route: [{destination: {host: orders.shop.svc.cluster.local, subset: v2}}]
  - name: redirect
    match: [{uri: {prefix: /moved}}]
    redirect: {uri: /there, authority: other.test, redirectCode: 308, scheme: https}
  - name: direct
    match: [{uri: {exact: /teapot}}]
    directResponse: {status: 418, body: {string: "short and stout"}}
  - name: mirror-cors
    match: [{uri: {prefix: /mirror}}]
    corsPolicy: {allowOrigins: [{exact: https://a.test}, {regex: "https://.*[.]b[.]test"}], allowMethods: [GET, POST], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 24h, allowCredentials: true}
    mirrors: [{destination: {host: legacy.shop.svc.cluster.local, port: {number: 80}}, percentage: {value: 50}}]
    route: [{destination: {host: orders.shop.svc.cluster.local, subset: v1}}]
  - name: main
    route:
    - {destination: {host: orders.shop.svc.cluster.local, subset: v1}, weight: 70, headers: {response: {add: {x-from: v1}}}}
    - {destination: {host: orders.shop.svc.cluster.local, subset: v2}, weight: 30}
    retries: {attempts: 2, perTryTimeout: 1s, retryOn: "gateway-error,reset,retriable-status-codes,503", retryRemoteLocalities: true, backoff: 10ms}
    timeout: 5s
  tcp:
  - match: [{port: 5432}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 5432}, subset: v1}, weight: 50}, {destination: {host: orders.shop.svc.cluster.local, port: {number: 5432}, subset: v2}, weight: 50}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: orders, namespace: shop}
spec:
  host: orders.shop.svc.cluster.local
  trafficPolicy:
    loadBalancer: {localityLbSetting: {enabled: true, failover: [{from: r1, to: r2}]}, simple: LEAST_REQUEST, warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}}
    connectionPool: {tcp: {maxConnections: 100, connectTimeout: 1s, idleTimeout: 60s, maxConnectionDuration: 1h, tcpKeepalive: {probes: 3, time: 30s, interval: 5s}}, http: {http1MaxPendingRequests: 50, http2MaxRequests: 200, maxRequestsPerConnection: 1000, maxRetries: 5, idleTimeout: 30s, h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 100}}
    outlierDetection: {consecutiveGatewayErrors: 3, consecutive5xxErrors: 5, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, interval: 1s, baseEjectionTime: 3s, maxEjectionPercent: 100, minHealthPercent: 0}
    portLevelSettings:
    - port: {number: 9090}
      loadBalancer: {consistentHash: {httpHeaderName: x-user, maglev: {tableSize: 1021}}}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: sticky, ttl: 60s, path: /}, ringHash: {minimumRingSize: 512}}}}
  - name: v2
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: legacy, namespace: shop}
spec:
  host: legacy.shop.svc.cluster.local
  trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}, tls: {mode: DISABLE}}
"""
EGRESS = """apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: shop}
spec:
  hosts: [api.example.test]
  location: MESH_EXTERNAL
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}, {number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec:
  host: api.example.test
  trafficPolicy:
    portLevelSettings:
    - port: {number: 80}
      tls: {mode: SIMPLE, sni: api.example.test, subjectAltNames: [api.example.test]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: rr, namespace: shop}
spec:
  hosts: [rr.example.test]
  location: MESH_EXTERNAL
  resolution: DNS_ROUND_ROBIN
  ports: [{number: 8080, name: http, protocol: HTTP}]
  endpoints: [{address: a.example.test, weight: 3}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec:
  hosts: ["*.wild.test"]
  location: MESH_EXTERNAL
  resolution: NONE
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: passthrough, namespace: shop}
spec:
  hosts: [secure.wild.test]
  tls:
  - match: [{port: 443, sniHosts: [secure.wild.test]}]
    route: [{destination: {host: api.example.test, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vm, namespace: shop}
spec:
  hosts: [vm.shop.test]
  addresses: [240.240.0.5]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8080, name: http2, protocol: HTTP2}, {number: 3306, name: mysql, protocol: MySQL}]
  endpoints:
  - {address: 10.244.1.1, labels: {security.istio.io/tlsMode: istio}, serviceAccount: vm, locality: r1/z1, weight: 2}
  - {address: 10.244.1.2, locality: r2/z1, ports: {http2: 18080}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: vm, namespace: shop}
spec:
  host: vm.shop.test
  trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /etc/certs/cert.pem, privateKey: /etc/certs/key.pem, caCertificates: /etc/certs/ca.pem, sni: vm}, proxyProtocol: {version: V2}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: web, namespace: shop}
spec:
  workloadSelector: {labels: {app: web}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  ingress:
  - {port: {number: 8080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:8080", connectionPool: {http: {http2MaxRequests: 10}}}
  - {port: {number: 9443, protocol: HTTPS, name: https}, defaultEndpoint: "unix:///var/run/app.sock", tls: {mode: SIMPLE, privateKey: /etc/certs/key.pem, serverCertificate: /etc/certs/cert.pem}}
  egress:
  - {port: {number: 9091, protocol: HTTP_PROXY, name: proxy}, bind: 127.0.0.1, captureMode: NONE, hosts: ["./*"]}
  - hosts: ["./*", "istio-system/*"]
"""
TELEMETRY = """apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh, namespace: istio-system}
spec:
  tracing:
  - providers: [{name: otel}]
    randomSamplingPercentage: 25
    customTags: {env: {literal: {value: prod}}, host: {environment: {name: HOST, defaultValue: none}}, user: {header: {name: x-user, defaultValue: anon}}}
  accessLogging:
  - providers: [{name: json}, {name: als}, {name: otel-log}, {name: tcp-als}]
  - match: {mode: SERVER}
    providers: [{name: text}]
    filter: {expression: "response.code >= 400 || xds.cluster_name == 'BlackHoleCluster'"}
  metrics:
  - providers: [{name: prometheus}]
    overrides:
    - match: {metric: REQUEST_COUNT, mode: CLIENT}
      tagOverrides: {response_code: {operation: REMOVE}, url_path: {value: request.url_path}}
    - match: {metric: REQUEST_DURATION}
      disabled: true
    - match: {metric: TCP_SENT_BYTES}
      disabled: true
    reportingInterval: 5s
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: orders, namespace: shop}
spec:
  selector: {matchLabels: {app: orders}}
  tracing: [{providers: [{name: zipkin}], randomSamplingPercentage: 100}]
"""
TELEMETRY_MESH = """enableTracing: true
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
  tracing: {tlsSettings: {mode: DISABLE}, customTags: {mesh: {literal: {value: m1}}}}
extensionProviders:
- {name: otel, opentelemetry: {service: legacy.shop.svc.cluster.local, port: 80, resource_detectors: {environment: {}}}}
- {name: otel-http, opentelemetry: {service: legacy.shop.svc.cluster.local, port: 80, http: {path: /v1/traces, timeout: 3s, headers: [{name: x-key, value: k}]}}}
- {name: zipkin, zipkin: {service: legacy.shop.svc.cluster.local, port: 80, enable64bitTraceId: true}}
- {name: als, envoyHttpAls: {service: legacy.shop.svc.cluster.local, port: 80, logName: als, additionalRequestHeadersToLog: [x-a]}}
- {name: tcp-als, envoyTcpAls: {service: legacy.shop.svc.cluster.local, port: 80}}
- {name: otel-log, envoyOtelAls: {service: legacy.shop.svc.cluster.local, port: 80, logFormat: {text: "%REQ(:PATH)%", labels: {code: "%RESPONSE_CODE%"}}}}
- {name: json, envoyFileAccessLog: {path: /dev/stdout, logFormat: {labels: {start: "%START_TIME%", code: "%RESPONSE_CODE%", flags: "%RESPONSE_FLAGS%", peer: "%DOWNSTREAM_PEER_URI_SAN%", upstream: "%UPSTREAM_HOST%", wl: "%FILTER_STATE(upstream_peer:FIELD:workload)%"}}}}
- {name: text, envoyFileAccessLog: {path: /dev/stderr, logFormat: {text: "%PROTOCOL% %REQUEST_DURATION% %RESPONSE_DURATION% %UPSTREAM_TRANSPORT_FAILURE_REASON%\\n"}}}
"""
FILTERS = """apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: patches, namespace: shop}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.local_ratelimit
        typed_config:
          "@type": type.googleapis.com/udpa.type.v1.TypedStruct
          type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
          value: {stat_prefix: http_local_rate_limiter, token_bucket: {max_tokens: 10, tokens_per_fill: 10, fill_interval: 60s}, filter_enabled: {runtime_key: local_rate_limit_enabled, default_value: {numerator: 100, denominator: HUNDRED}}, filter_enforced: {runtime_key: local_rate_limit_enforced, default_value: {numerator: 100, denominator: HUNDRED}}, response_headers_to_add: [{append_action: OVERWRITE_IF_EXISTS_OR_ADD, header: {key: x-local-rate-limit, value: "true"}}]}
  - applyTo: NETWORK_FILTER
    match: {context: SIDECAR_OUTBOUND, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager}}}}
    patch:
      operation: MERGE
      value: {typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, preserve_external_request_id: true, max_request_headers_kb: 96, common_http_protocol_options: {idle_timeout: 30s, max_headers_count: 200}, stream_idle_timeout: 0s}}
  - applyTo: CLUSTER
    match: {context: SIDECAR_OUTBOUND, cluster: {service: orders.shop.svc.cluster.local}}
    patch: {operation: MERGE, value: {upstream_connection_options: {tcp_keepalive: {keepalive_time: 300}}, circuit_breakers: {thresholds: [{max_connections: 7, track_remaining: true}]}}}
  - applyTo: HTTP_ROUTE
    match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "orders.shop.svc.cluster.local:80"}}}
    patch: {operation: MERGE, value: {route: {max_stream_duration: {max_stream_duration: 9s}}}}
"""
GATEWAY = """apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  selector: {app: edge}
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["shop.test", "*.shop.test"], tls: {httpsRedirect: true}}
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["shop.test"], tls: {mode: SIMPLE, credentialName: shop-cert, minProtocolVersion: TLSV1_2}}
  - {port: {number: 8443, name: mutual, protocol: HTTPS}, hosts: ["m.shop.test"], tls: {mode: MUTUAL, credentialName: shop-cert}}
  - {port: {number: 9443, name: pass, protocol: TLS}, hosts: ["p.shop.test"], tls: {mode: PASSTHROUGH}}
  - {port: {number: 5432, name: tcp, protocol: TCP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: [shop.test, m.shop.test, p.shop.test]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /}}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}}}]
  tls:
  - match: [{sniHosts: [p.shop.test]}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}}}]
  tcp:
  - match: [{port: 5432}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 5432}}}]
"""
EDGE = [("http", 80, 80), ("https", 443, 443), ("mutual", 8443, 8443), ("pass", 9443, 9443), ("tcp", 5432, 5432)]
EDGE_SHOP = "---\n".join([SHOP, service("edge", "10.96.0.13", EDGE), pod("edge-1", "edge", "10.244.0.9"),
                          slice_("edge", EDGE, [("edge-1", "10.244.0.9", "n1")])])

# Policies that are tried before they count, authorization services of every setting, tokens of every algorithm at a gateway, and faults.
DRY_LOG = "dry=%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_engine_result)% " \
    "by=%DYNAMIC_METADATA(envoy.filters.http.rbac:istio_dry_run_deny_shadow_effective_policy_id)%"
PROVIDERS = {
    # Nobody listens on the last port.
    "grpc-whole": "envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9000, timeout: 5s, includeRequestBodyInCheck: {maxRequestBytes: 16}}",
    "grpc-part": "envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9000, timeout: 5s, "
                 "includeRequestBodyInCheck: {maxRequestBytes: 16, allowPartialMessage: true}}",
    "grpc-packed": "envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9000, timeout: 5s, "
                   "includeRequestBodyInCheck: {maxRequestBytes: 16, allowPartialMessage: true, packAsBytes: true}}",
    "http-whole": "envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 8000, timeout: 5s, includeRequestHeadersInCheck: [x-ext-authz], "
                  "includeRequestBodyInCheck: {maxRequestBytes: 16}}",
    "http-part": "envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 8000, timeout: 5s, includeRequestHeadersInCheck: [x-ext-authz], "
                 "includeRequestBodyInCheck: {maxRequestBytes: 16, allowPartialMessage: true}}",
    "grpc-open": "envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9001, timeout: 1s, failOpen: true}",
    "grpc-closed": 'envoyExtAuthzGrpc: {service: authz.shop.svc.cluster.local, port: 9001, timeout: 1s, failOpen: false, statusOnError: "503"}',
    "http-open": "envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 9001, timeout: 1s, failOpen: true}",
    "http-closed": 'envoyExtAuthzHttp: {service: authz.shop.svc.cluster.local, port: 9001, timeout: 1s, failOpen: false, statusOnError: "502"}',
}
POLICIES_MESH = MESH + f"""accessLogFormat: "[%START_TIME%] \\"%REQ(:METHOD)% %REQ(:PATH)%\\" %RESPONSE_CODE% %RESPONSE_FLAGS% {DRY_LOG}\\n"
extensionProviders:
""" + "".join(f"- name: {name}\n  {provider}\n" for name, provider in PROVIDERS.items())


def policy(name, app, spec, is_dry=False):
    annotations = ', annotations: {istio.io/dry-run: "true"}' if is_dry else ""
    return f"""apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop{annotations}}}
spec: {{selector: {{matchLabels: {{app: {app}}}}}, {spec}}}
"""


def policies(local):
    """`local`: a set of keys that a rule holds; of others the proxy knows where they are."""
    providers = [policy(name, "orders", f'action: CUSTOM, provider: {{name: {name}}}, rules: [{{to: [{{operation: {{paths: ["/{name}*"]}}}}]}}]')
                 for name in PROVIDERS]
    return "---\n".join([
        policy("dry-deny", "orders", 'action: DENY, rules: [{to: [{operation: {paths: ["/dry*"]}}]}]', True),
        policy("dry-allow", "orders", 'action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]', True),
        policy("dry-tcp", "web", 'action: DENY, rules: [{to: [{operation: {ports: ["5432"]}}]}]', True),
        *providers,
        f"""apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  selector: {{app: edge}}
  servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [shop.test]}}]
""", """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec:
  hosts: [shop.test]
  gateways: [edge]
  http:
  - match: [{uri: {prefix: /private/abort}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}}}]
  - match: [{uri: {prefix: /private/delay}}]
    fault: {delay: {percentage: {value: 100}, fixedDelay: 0.4s}}
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}}}]
  - match: [{uri: {prefix: /private/mine}, headers: {"@request.auth.claims.groups": {exact: canary}}}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}, subset: v2}}]
  - route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 80}, subset: v1}}]
""", SUBSETS, f"""apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: edge, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: edge}}}}
  jwtRules:
  - {{issuer: "https://local.test", audiences: [shop], jwks: '{local}'}}
  - {{issuer: "https://remote.test", audiences: [shop], jwksUri: "http://keys.shop.svc.cluster.local:8000/jwks.json"}}
  - {{issuer: "https://lost.test", audiences: [shop], jwksUri: "http://keys.shop.svc.cluster.local:8000/gone.json"}}
""", policy("edge", "edge", 'action: DENY, rules: [{from: [{source: {notRequestPrincipals: ["*"]}}], to: [{operation: {paths: ["/private*"]}}]}]'),
    ])


KEYS = [("http", 8000, 8000)]
POLICED_SHOP = "---\n".join([
    SHOP, service("authz", "10.96.0.14", [*AUTHZ, ("tcp-dead", 9001, 9001)]), pod("authz-1", "authz", "10.244.0.14", mtls=False),
    slice_("authz", [*AUTHZ, ("tcp-dead", 9001, 9001)], [("authz-1", "10.244.0.14", "n1")]),
    service("keys", "10.96.0.18", KEYS), pod("keys-1", "keys", "10.244.0.18", mtls=False), slice_("keys", KEYS, [("keys-1", "10.244.0.18", "n1")]),
    service("edge", "10.96.0.13", [("http", 80, 80)]), pod("edge-1", "edge", "10.244.0.9"), slice_("edge", [("http", 80, 80)], [("edge-1", "10.244.0.9", "n1")]),
])

# A service whose only pod is reached through a tunnel, if at all.
BEYOND = [("http", 80, 8080)]
TUNNELLED_SHOP = "---\n".join([SHOP, service("beyond", "10.96.0.15", BEYOND), pod("beyond-1", "beyond", "10.244.0.16", mtls=False, tunnel=True),
                               slice_("beyond", BEYOND, [("beyond-1", "10.244.0.16", "n1")])])

# Mesh configuration, Kubernetes objects, Istio resources.
SCENARIOS = {
    "default": (MESH, SHOP, ""),
    "strict-canary": (MESH, SHOP, f"{STRICT}---\n{SUBSETS}---\n{CANARY}"),
    "security": (SECURITY_MESH, GUARDED_SHOP, SECURITY),
    "traffic": (MESH, SHOP, TRAFFIC),
    "egress": (MESH, SHOP, EGRESS),
    "telemetry": (TELEMETRY_MESH, SHOP, TELEMETRY),
    "envoyfilter": (MESH, SHOP, f"{SUBSETS}---\n{CANARY}---\n{FILTERS}"),
    "tproxy": (MESH, SHOP, ""),
    "gateway": (MESH, EDGE_SHOP, GATEWAY),
    "hbone": (MESH + '  proxyMetadata: {ISTIO_META_ENABLE_HBONE: "true"}\n', TUNNELLED_SHOP, ""),
}
