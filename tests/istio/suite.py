#!/usr/bin/env python3
"""suite.py PROXY [SCENARIO...]: runs the mesh's scenarios with PROXY in Envoy's place. Exit code 1 if any behaviour does not hold.

ENVOY_BIN names the real Envoy for the mixed mesh; LAB_BIN what build.sh built.
"""
import importlib
import pathlib
import sys

from mesh import Mesh
from report import Report

SCENARIOS = ["default", "strict-canary", "security", "traffic", "others", "mixed", "load"]


def main():
    proxy = pathlib.Path(sys.argv[1]).resolve()
    report = Report()
    for name in sys.argv[2:] or SCENARIOS:
        module = importlib.import_module(f"behaviours.{name.replace('-', '_')}")

        def open_mesh(kube, istio, config, env=None, proxy=proxy):
            return Mesh(proxy, kube, istio, config, env)

        report.run(name, lambda report: module.run(report, open_mesh))
    print(f"{len(report.held)} behaviours hold, {len(report.broken)} do not")
    for name in report.broken:
        print(f"BROKEN {name}")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
