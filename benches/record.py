#!/usr/bin/env python3
"""Instructions and allocations per proxied request, counted by callgrind: measure, compare with benches/record.json, or write it.

    python3 benches/record.py            show
    python3 benches/record.py --check    fail when a number is more than 3 % above the record
    python3 benches/record.py --write    make this the record

`path-cost` is run at two request counts; the difference, divided, is the cost of one request in the steady state.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RECORD = os.path.join(HERE, "record.json")
SCENARIOS = ("h1", "h2", "tcp")
FEW, MANY = 500, 2500
TOLERANCE = 1.03
ALLOCATING = re.compile(r"^(mi_(malloc|zalloc|calloc|realloc|rezalloc|new|memalign)|malloc$|calloc$|realloc$|posix_memalign$)")
WITHIN_ALLOCATOR = re.compile(r"^_?mi_|^malloc|^calloc|^realloc")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="measure so often and show the spread")
    arguments = parser.parse_args()
    binary = build()
    runs = [measure_all(binary) for _ in range(arguments.repeat)]
    if arguments.repeat > 1:
        show_spread(runs)
    measured = runs[0]
    recorded = read_record()
    failed = False
    for name, costs in measured.items():
        for key, value in costs.items():
            before = recorded.get(name, {}).get(key)
            above = before is not None and is_above(value, before)
            failed |= above or (arguments.check and before is None)
            print(f"{name:4} {key:13} {value:10.1f}   recorded {before}" + ("   ABOVE THE RECORD" if above else ""))
    if arguments.write:
        with open(RECORD, "w") as file:
            json.dump(measured, file, indent=2)
            file.write("\n")
    sys.exit(1 if arguments.check and failed else 0)


def is_above(value, before):
    """Whether a number is too far above the record. A tenth of an allocation is the noise of a table that grows once in a while; where the
    record is nothing, anything is too much.

    >>> is_above(103.0, 100.0), is_above(103.2, 100.0)
    (False, True)
    >>> is_above(9.3, 9.0), is_above(9.4, 9.0)
    (False, True)
    >>> is_above(0.0, 0.0), is_above(0.1, 0.0)
    (False, True)
    """
    return value > (before * TOLERANCE + 0.1 if before > 0 else 0.0)


def build():
    # The proxy with it, so that who wants both compiles their dependencies once.
    what = ["-p", "remora", "-p", "remora-benches", "--bin", "remora", "--bin", "path-cost"]
    subprocess.run([os.environ.get("CARGO", "cargo"), "build", "--profile", "bench", *what], cwd=ROOT, check=True)
    return os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release", "path-cost")


def measure_all(binary):
    work = [(name, count) for name in SCENARIOS for count in (FEW, MANY)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(work, pool.map(lambda item: callgrind(binary, *item), work)))
    return {
        name: {
            key: round((counts[name, MANY][key] - counts[name, FEW][key]) / (MANY - FEW), 1)
            for key in ("instructions", "allocations")
        }
        for name in SCENARIOS
    }


def callgrind(binary, name, count):
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, "out")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", binary, name, str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        with open(out) as file:
            return read(file)


def read(lines):
    """Total instructions, and calls into the allocator from outside of it; the format is in valgrind's manual, chapter 6."""
    names, caller, callee = {}, "", ""
    result = {"instructions": 0, "allocations": 0}
    for line in lines:
        if line.startswith(("fn=", "cfn=")):
            kind, _, value = line.rstrip("\n").partition("=")
            number, _, name = value.partition(" ")
            name = names.setdefault(number, name)
            if kind == "fn":
                caller = name
            else:
                callee = name
        elif line.startswith("calls="):
            if ALLOCATING.match(callee) and not WITHIN_ALLOCATOR.match(caller):
                result["allocations"] += int(line[6:].split()[0])
        elif line.startswith(("summary:", "totals:")):
            result["instructions"] = int(line.split()[1])
    return result


def read_record():
    if not os.path.exists(RECORD):
        return {}
    with open(RECORD) as file:
        return json.load(file)


def show_spread(runs):
    for name in SCENARIOS:
        values = [run[name]["instructions"] for run in runs]
        low, high = min(values), max(values)
        print(f"{name:4} instructions in {len(runs)} runs: {low:.1f} to {high:.1f}, spread {(high / low - 1) * 100:.3f} %")


if __name__ == "__main__":
    main()
