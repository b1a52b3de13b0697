"""gRPC's interoperability cases, by grpcio: a server, and a client that reaches it through the proxy.

Prints the server's port, reads the proxy's address, and then a line for each case: `ok NAME`, or `not ok NAME` with what was seen.
"""

import queue
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "grpc.testing.TestService"
ODD_MESSAGE = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


class Handler(grpc.GenericRpcHandler):
    """Messages are bytes; what is to be done with them is in the method's name and the metadata."""

    def __init__(self):
        self.tries = 0
        self.began, self.cancelled = threading.Event(), threading.Event()

    def service(self, details):
        name = details.method.rsplit("/", 1)[1]
        streams_in, streams_out = {
            "Unary": (False, False), "Status": (False, False), "Flaky": (False, False), "Slow": (False, False),
            "Empty": (False, False), "Deadline": (False, False),
            "Collect": (True, False), "Spread": (False, True), "Chat": (True, True),
        }.get(name, (None, None))
        if streams_in is None:
            return None
        behaviour = getattr(self, name.lower())
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler, (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler, (True, True): grpc.stream_stream_rpc_method_handler,
        }[streams_in, streams_out]
        return make(behaviour)

    def echo_metadata(self, context):
        sent = dict(context.invocation_metadata())
        if INITIAL in sent:
            context.send_initial_metadata(((INITIAL, sent[INITIAL]),))
        if TRAILING in sent:
            context.set_trailing_metadata(((TRAILING, sent[TRAILING]),))

    def unary(self, request, context):
        self.echo_metadata(context)
        return b"y" * int(request.split(b":")[0])

    def empty(self, request, context):
        return request

    def deadline(self, request, context):
        left = context.time_remaining()
        return b"none" if left is None or left > 1e6 else str(left).encode()

    def status(self, request, context):
        code, message = request.decode().split(":", 1)
        context.abort({code.value[0]: code for code in grpc.StatusCode}[int(code)], message)

    def flaky(self, request, context):
        self.tries += 1
        if self.tries < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "try again")
        return str(self.tries).encode()

    def slow(self, request, context):
        context.add_callback(self.cancelled.set)
        self.began.set()
        # Until the client goes away: its end is what the case is about.
        self.cancelled.wait(30)
        return b""

    def collect(self, requests, context):
        self.echo_metadata(context)
        return str(sum(len(request) for request in requests)).encode()

    def spread(self, request, context):
        for size in request.decode().split(","):
            yield b"y" * int(size)

    def chat(self, requests, context):
        self.echo_metadata(context)
        for request in requests:
            yield b"y" * int(request.split(b":")[0])


def sized(answer, payload):
    return f"{answer}:".encode() + b"x" * payload


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


class Cases:
    def __init__(self, channel, handler):
        self.channel, self.handler = channel, handler

    def unary(self, name):
        return self.channel.unary_unary(f"/{SERVICE}/{name}")

    def empty_unary(self):
        assert self.unary("Empty")(b"") == b""

    def large_unary(self):
        assert self.unary("Unary")(sized(314159, 271828), timeout=30) == b"y" * 314159

    def client_streaming(self):
        call = self.channel.stream_unary(f"/{SERVICE}/Collect")
        assert call(iter([b"x" * size for size in (27182, 8, 1828, 45904)]), timeout=30) == b"74922"

    def server_streaming(self):
        call = self.channel.unary_stream(f"/{SERVICE}/Spread")
        sizes = [31415, 9, 2653, 58979]
        assert [len(part) for part in call(",".join(map(str, sizes)).encode(), timeout=30)] == sizes

    def ping_pong(self):
        requests = queue.Queue()
        answers = self.channel.stream_stream(f"/{SERVICE}/Chat")(iter(requests.get, None), timeout=30)
        for size, payload in ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904)):
            requests.put(sized(size, payload))
            assert len(next(answers)) == size
        requests.put(None)
        assert list(answers) == []

    def empty_stream(self):
        assert list(self.channel.stream_stream(f"/{SERVICE}/Chat")(iter([]), timeout=30)) == []

    def custom_metadata(self):
        metadata = ((INITIAL, "test_initial_metadata_value"), (TRAILING, b"\xab\xab\xab"))
        answer, call = self.unary("Unary").with_call(sized(1, 1), metadata=metadata, timeout=30)
        assert answer == b"y" and dict(call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(call.trailing_metadata())[TRAILING] == b"\xab\xab\xab"
        call = self.channel.stream_stream(f"/{SERVICE}/Chat")(iter([sized(2, 2)]), metadata=metadata, timeout=30)
        assert [len(part) for part in call] == [2]
        assert dict(call.initial_metadata())[INITIAL] == "test_initial_metadata_value"
        assert dict(call.trailing_metadata())[TRAILING] == b"\xab\xab\xab"

    def status_code_and_message(self):
        for code in (2, 3, 5, 13, 16):
            seen = code_of(lambda: self.unary("Status")(f"{code}:test status message".encode(), timeout=30))
            assert seen[0].value[0] == code and seen[1] == "test status message", seen

    def special_status_message(self):
        seen = code_of(lambda: self.unary("Status")(f"2:{ODD_MESSAGE}".encode(), timeout=30))
        assert seen == (grpc.StatusCode.UNKNOWN, ODD_MESSAGE), seen

    def unimplemented_method(self):
        assert code_of(lambda: self.unary("Nothing")(b"", timeout=30))[0] == grpc.StatusCode.UNIMPLEMENTED

    def unimplemented_service(self):
        call = self.channel.unary_unary("/grpc.testing.Nothing/Nothing")
        assert code_of(lambda: call(b"", timeout=30))[0] == grpc.StatusCode.UNIMPLEMENTED

    def no_route(self):
        call = self.channel.unary_unary("/nowhere/At")
        assert code_of(lambda: call(b"", timeout=30))[0] == grpc.StatusCode.UNIMPLEMENTED

    def no_upstream(self):
        call = self.channel.unary_unary("/closed/At")
        assert code_of(lambda: call(b"", timeout=30))[0] == grpc.StatusCode.UNAVAILABLE

    def cancel_after_begin(self):
        requests = queue.Queue()
        call = self.channel.stream_unary(f"/{SERVICE}/Collect").future(iter(requests.get, None))
        call.cancel()
        requests.put(None)
        assert call.cancelled() and call.code() == grpc.StatusCode.CANCELLED

    def cancel_after_first_response(self):
        requests = queue.Queue()
        requests.put(sized(31415, 27182))
        call = self.channel.stream_stream(f"/{SERVICE}/Chat")(iter(requests.get, None), timeout=30)
        assert len(next(call)) == 31415
        call.cancel()
        requests.put(None)
        try:
            next(call)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.CANCELLED
        else:
            raise AssertionError("an answer after the end")

    def a_cancelled_call_is_cancelled_behind_the_proxy(self):
        self.handler.cancelled.clear()
        self.handler.began.clear()
        call = self.unary("Slow").future(b"")
        assert self.handler.began.wait(30)
        call.cancel()
        assert self.handler.cancelled.wait(30)

    def timeout_on_sleeping_server(self):
        self.handler.cancelled.clear()
        # The client's own deadline and the proxy's for the same call come at the same moment: whichever is first, it is that status.
        code = code_of(lambda: self.unary("Slow")(b"", timeout=0.3))[0]
        assert code == grpc.StatusCode.DEADLINE_EXCEEDED, code
        assert self.handler.cancelled.wait(30)

    def the_deadline_travels(self):
        assert 0 < float(self.unary("Deadline")(b"", timeout=25)) < 26
        assert self.unary("Deadline")(b"") == b"none"

    def a_status_is_retried(self):
        assert self.unary("Flaky")(b"", timeout=30) == b"3"

    def the_proxys_own_limit_is_a_status(self):
        call = self.channel.unary_unary(f"/limited.{SERVICE}/Slow")
        self.handler.cancelled.clear()
        # A 504 of the proxy is UNAVAILABLE, as in Envoy.
        assert code_of(lambda: call(b"", timeout=30))[0] == grpc.StatusCode.UNAVAILABLE
        assert self.handler.cancelled.wait(30)

    def many_at_once(self):
        calls = [self.unary("Unary").future(sized(1000 + index, 1000), timeout=30) for index in range(200)]
        assert [len(call.result()) for call in calls] == [1000 + index for index in range(200)]


def main():
    handler = Handler()
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    address = sys.stdin.readline().strip()
    with grpc.insecure_channel(address) as channel:
        cases = Cases(channel, handler)
        for name in [name for name in vars(Cases) if not name.startswith("_") and name != "unary"]:
            try:
                getattr(cases, name)()
                print("ok", name, flush=True)
            except Exception as error:  # whatever it is, it is the case's
                print("not ok", name, repr(error), flush=True)
    server.stop(None)


main()
