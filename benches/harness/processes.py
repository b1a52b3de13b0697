"""Processes: started on their core, measured through /proc, and never left behind."""

import atexit
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")
_running = []


@atexit.register
def stop_all():
    for process in reversed(_running):
        process.stop()


for _signal in (signal.SIGTERM, signal.SIGINT):
    signal.signal(_signal, lambda number, frame: exit(128 + number))


class Process:
    """One process on one core; its output goes to a log file that is shown when it does not come up."""

    def __init__(self, name, argv, core, log_directory, **environment):
        self.name = name
        self.log = os.path.join(log_directory, f"{name}.log")
        with open(self.log, "wb") as log:
            self.started = time.monotonic()
            self.child = subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        _running.append(self)

    @property
    def pid(self):
        return self.child.pid

    def cpu_seconds(self):
        """User and system time of all threads so far. The kernel scales both by its nanosecond clock, so the sum is exact to a tick."""
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        """Resident set and its peak, in MB (10^6 bytes)."""
        values = {}
        with open(f"/proc/{self.pid}/status") as status:
            for line in status:
                key, _, value = line.partition(":")
                if key in ("VmRSS", "VmHWM"):
                    values[key] = int(value.split()[0]) * 1024 / 1e6
        return values["VmRSS"], values["VmHWM"]

    def check(self):
        if self.child.poll() is not None:
            with open(self.log, errors="replace") as log:
                tail = log.read()[-2000:]
            raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{tail}")

    def stop(self):
        with contextlib.suppress(ValueError):
            _running.remove(self)
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(3)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(process, port, limit=20.0):
    """Seconds from the start of `process` to its first accepted connection on `port`."""
    while True:
        process.check()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return time.monotonic() - process.started
        if time.monotonic() - process.started > limit:
            raise RuntimeError(f"{process.name} does not listen on {port} after {limit} s; see {process.log}")
        time.sleep(0.005)


def wait_for_answer(process, port, host="bench.local", limit=60.0):
    """Seconds from the start of `process` to its first 200 for `host` on `port`."""
    answer = "nothing"
    while True:
        process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/", headers={"Host": host})
            response = connection.getresponse()
            answer = f"{response.status} {response.read()[:200]}"
            if response.status == 200:
                return time.monotonic() - process.started
        except (OSError, http.client.HTTPException) as error:
            answer = repr(error)
        finally:
            connection.close()
        if time.monotonic() - process.started > limit:
            raise RuntimeError(f"{process.name} does not answer on {port} after {limit} s ({answer}); see {process.log}")
        time.sleep(0.005)
