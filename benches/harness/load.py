"""Load generators, and what their output says: requests done, seconds, p99 in microseconds."""

import json
import re
import subprocess
from dataclasses import dataclass

UNITS = {"us": 1, "ms": 1e3, "s": 1e6}


@dataclass
class Done:
    requests: int
    seconds: float
    p99_us: float | None


def run(core, argv, limit):
    command = ["taskset", "-c", str(core), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def wrk(core, port, seconds, connections=64):
    url = f"http://127.0.0.1:{port}/"
    output = run(core, ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url], seconds + 30)
    if "Non-2xx" in output or re.search(r"Socket errors: (?!connect 0, read 0, write 0, timeout 0)", output):
        raise RuntimeError(f"failed requests:\n{output}")
    requests, took, unit = re.search(r"(\d+) requests in ([\d.]+)(\w+),", output).groups()
    p99, p99_unit = re.search(r"99%\s+([\d.]+)(\w+)", output).groups()
    return Done(int(requests), float(took) * UNITS[unit] / 1e6, float(p99) * UNITS[p99_unit])


def h2load(core, port, seconds, connections=16, streams=8):
    argv = ["h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", f"http://127.0.0.1:{port}/"]
    output = run(core, argv, seconds + 30)
    good = int(re.search(r"status codes: (\d+) 2xx", output)[1])
    failed, errored = map(int, re.search(r"(\d+) failed, (\d+) errored", output).groups())
    others = re.search(r"2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output).groups()
    if good == 0 or failed or errored or any(map(int, others)):
        raise RuntimeError(f"failed requests:\n{output}")
    return Done(good, float(seconds), None)


def peer(core, argv, seconds):
    line = json.loads(run(core, argv, seconds + 30))
    return Done(line["requests"], line["seconds"], line["p99_us"])
