"""10,000 clusters of five endpoints and 10,000 virtual hosts, as files."""

import os

from . import configs

COUNT = 10_000
ENDPOINTS = 5
# The virtual host and cluster that a request is sent to: the last, so that all of them must be there.
LAST = f"svc-{COUNT - 1}.default.svc.cluster.local"


def hosts(index, backend):
    """Addresses of a cluster's endpoints: the backend's for the last cluster, made up for all others."""
    if index == COUNT - 1:
        return [(f"127.0.0.{1 + host}", backend) for host in range(ENDPOINTS)]
    return [(f"10.{index // 250}.{index % 250}.{1 + host}", 8080) for host in range(ENDPOINTS)]


def names(count=COUNT):
    return [f"svc-{index}.default.svc.cluster.local" for index in range(count)]


def yaml_endpoints(index, backend, indent):
    pad = " " * indent
    lines = [f"{pad}endpoints:", f"{pad}- lb_endpoints:"]
    for host, port in hosts(index, backend):
        lines += [
            f"{pad}  - endpoint:",
            f"{pad}      address:",
            f"{pad}        socket_address:",
            f"{pad}          address: {host}",
            f"{pad}          port_value: {port}",
        ]
    return lines


def yaml_virtual_hosts(indent):
    pad = " " * indent
    lines = [f"{pad}virtual_hosts:"]
    for name in names():
        short = name.partition(".")[0]
        lines += [
            f"{pad}- name: {name}",
            f"{pad}  domains:",
            f"{pad}  - {name}",
            f"{pad}  - {short}",
            f"{pad}  routes:",
            f"{pad}  - match:",
            f"{pad}      prefix: /",
            f"{pad}    route:",
            f"{pad}      cluster: {name}",
            f"{pad}      timeout: 0s",
            f"{pad}      retry_policy:",
            f"{pad}        retry_on: connect-failure,refused-stream,unavailable,cancelled",
            f"{pad}        num_retries: 2",
        ]
    return lines


def static_file(directory, name, port, admin_port, backend):
    """All of it as one bootstrap in YAML, about 14 MB."""
    lines = [
        "node: {id: bench, cluster: bench}",
        f"admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}}}}}",
        "static_resources:",
        "  listeners:",
        "  - name: large",
        f"    address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}",
        "    filter_chains:",
        "    - filters:",
        "      - name: envoy.filters.network.http_connection_manager",
        "        typed_config:",
        f"          '@type': {configs.HCM}",
        "          stat_prefix: large",
        "          http_filters:",
        "          - name: envoy.filters.http.router",
        "            typed_config:",
        "              '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "          route_config:",
        "            name: large",
        *yaml_virtual_hosts(12),
        "  clusters:",
    ]
    for index, cluster in enumerate(names()):
        lines += [f"  - name: {cluster}", "    type: STATIC", "    connect_timeout: 5s", "    load_assignment:"]
        lines += [f"      cluster_name: {cluster}", *yaml_endpoints(index, backend, 6)]
    return configs.write(directory, name, "\n".join(lines) + "\n")


def ads_directory(directory, port, backend):
    """All of it as resources for control-plane-mock."""
    os.makedirs(directory, exist_ok=True)
    ads = {"ads": {}, "resource_api_version": "V3"}
    listener = configs.http_listener(
        "large", port, rds={"route_config_name": "large", "config_source": ads}
    )
    resource = lambda kind, value: {"@type": f"type.googleapis.com/envoy.config.{kind}", **value}
    listeners = {"resources": [resource("listener.v3.Listener", listener)]}
    configs.write(directory, "lds.json", listeners)
    clusters = [
        {"name": name, "type": "EDS", "connect_timeout": "5s", "eds_cluster_config": {"eds_config": ads}} for name in names()
    ]
    configs.write(directory, "cds.json", {"resources": [resource("cluster.v3.Cluster", one) for one in clusters]})
    assignments = [configs.assignment(name, hosts(index, backend)) for index, name in enumerate(names())]
    configs.write(
        directory, "eds.json", {"resources": [resource("endpoint.v3.ClusterLoadAssignment", one) for one in assignments]}
    )
    routes = ["'@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name: large", *yaml_virtual_hosts(0)]
    configs.write(directory, "rds.yaml", "\n".join(routes) + "\n")
    return directory


def ads_bootstrap(admin_port, control_plane_port):
    grpc = {"envoy_grpc": {"cluster_name": "xds"}}
    source = {"ads": {}, "resource_api_version": "V3"}
    static = configs.bootstrap([], [configs.cluster("xds", control_plane_port, **configs.http2_upstream())], admin_port)
    static["dynamic_resources"] = {
        "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [grpc]},
        "cds_config": source,
        "lds_config": source,
    }
    return static
