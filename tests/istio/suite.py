#!/usr/bin/env python3
"""suite.py PROXY [SCENARIO...]: runs the mesh's scenarios with PROXY in Envoy's place. Exit code 1 if any behaviour does not hold.

ENVOY_BIN names the real Envoy for the mixed mesh; LAB_BIN what build.sh built.
"""
import pathlib
import sys

from mesh import Mesh
from report import Report
from behaviours import default, egress, load, mixed, others, policies, security, strict_canary, tolerated, traffic

SCENARIOS = {
    "default": default.run,
    "strict-canary": strict_canary.run,
    "envoyfilter": others.envoyfilter,
    "gateway": others.gateway,
    "traffic": traffic.run,
    "egress": egress.run,
    "tproxy": others.tproxy,
    "mixed": mixed.run,
    "security": security.run,
    "policies": policies.run,
    "telemetry": tolerated.telemetry,
    "hbone": tolerated.hbone,
    "load": load.run,
}


def main():
    proxy = pathlib.Path(sys.argv[1]).resolve()
    report = Report()
    for name in sys.argv[2:] or SCENARIOS:
        scenario = SCENARIOS[name]

        def open_mesh(kube, istio, config, env=None, proxy=proxy):
            return Mesh(proxy, kube, istio, config, env)

        report.run(name, lambda report: scenario(report, open_mesh))
    print(f"{len(report.held)} behaviours hold, {len(report.broken)} do not")
    for name in report.broken:
        print(f"BROKEN {name}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
