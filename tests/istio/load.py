"""An open-loop client: so many requests a second whatever becomes of them, half over kept connections, half over fresh ones, nothing retried.

    load.py HOST PORT RATE [TCP]   until standard input ends; then one line of JSON: what was sent, and what failed
"""
import http.client
import json
import socket
import sys
import threading
import time

# Later is as bad as never.
LATE = 5.0


class Client:
    def __init__(self, host, port, tcp):
        self.host, self.port, self.tcp = host, port, tcp
        self.lock = threading.Lock()
        self.sent, self.failed, self.seen = 0, [], {}
        self.kept = threading.local()

    def one(self, number):
        began = time.monotonic()
        try:
            who = self.ask_tcp() if self.tcp else self.ask(keep=number % 2 == 0)
            took = time.monotonic() - began
            problem = None if took < LATE else f"after {took:.1f} s"
        except Exception as error:
            who, problem = None, f"{type(error).__name__}: {error} after {time.monotonic() - began:.3f} s"
        with self.lock:
            self.sent += 1
            if problem:
                self.failed.append(f"{time.strftime('%H:%M:%S')} #{number} {'kept' if number % 2 == 0 else 'fresh'} {problem}")
            if who:
                self.seen[who] = self.seen.get(who, 0) + 1

    def ask(self, keep):
        connection = getattr(self.kept, "connection", None) if keep else None
        if connection is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        if keep:
            self.kept.connection = connection
        try:
            connection.request("GET", "/", headers={} if keep else {"connection": "close"})
            answer = connection.getresponse()
            body = answer.read().decode()
        except BaseException:
            self.kept.connection = None
            connection.close()
            raise
        if keep and answer.will_close:
            connection.close()
            self.kept.connection = None
        if answer.status != 200:
            raise ValueError(f"{answer.status} {body[:200]!r}")
        return next((line.partition("=")[2] for line in body.splitlines() if line.startswith("ServiceVersion=")), "?")

    def ask_tcp(self):
        with socket.create_connection((self.host, self.port), timeout=20) as connection:
            connection.sendall(b"hello\n")
            got = b""
            while b"hello" not in got:
                more = connection.recv(4096)
                if not more:
                    raise ValueError(f"ended after {got!r}")
                got += more
        return next((line.partition("=")[2] for line in got.decode().splitlines() if line.startswith("ServiceVersion=")), "?")


def main():
    host, port, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    client = Client(host, port, len(sys.argv) > 4)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    workers = 15
    start = time.monotonic()

    def worker(index):
        number = index
        while not stop.is_set():
            due = start + number / rate
            pause = due - time.monotonic()
            if pause > 0 and stop.wait(pause):
                return
            client.one(number)
            number += workers

    # An odd number of turns each, so that every thread sends over kept and fresh connections.
    threads = [threading.Thread(target=worker, args=(index,)) for index in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"sent": client.sent, "failed": client.failed, "seen": client.seen}))


if __name__ == "__main__":
    main()
