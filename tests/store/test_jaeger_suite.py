"""Jaeger's own integration suite for remote storage, with the real Jaeger between the suite and promscale."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests import built

# The ports of the Jaeger that the suite starts: OTLP, query, health and metrics.
PORTS = (4317, 4318, 16685, 16686, 13133, 8888)
CASES = {"GetServices", "GetOperations", "GetTrace", "GetLargeTrace", "GetTraceWithDuplicateSpans", "FindTraces"}


@pytest.fixture
def purger(database):
    """The URL of a server that deletes all traces on POST, as the suite needs it between its tests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            database.execute("select delete_all_traces()")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def test_jaegers_suite(promscale, purger):
    suite = built.jaeger_suite()
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port}, which Jaeger's suite needs, is in use")
    endpoint = f"127.0.0.1:{promscale.server.port}"
    run = built.go(
        *("tool", "test2json", suite, "-test.v=test2json", "-test.timeout=20m", "-test.run=^TestGRPCStorage$"),
        cwd=suite.parent,
        STORAGE="grpc",
        CUSTOM_STORAGE="true",
        REMOTE_STORAGE_ENDPOINT=endpoint,
        REMOTE_STORAGE_WRITER_ENDPOINT=endpoint,
        PURGER_ENDPOINT=purger,
    )
    results: dict[str, str] = {}
    output: list[str] = []
    for line in run.stdout.splitlines():
        event = json.loads(line)
        output.append(event.get("Output", ""))
        if event["Action"] in ("pass", "fail", "skip") and "Test" in event:
            results[event["Test"].removeprefix("TestGRPCStorage/")] = event["Action"]
    not_passed = {name: result for name, result in results.items() if result != "pass"}
    assert run.returncode == 0 and not not_passed, f"{not_passed}\n{''.join(output)[-8000:]}{run.stderr[-2000:]}"
    assert results.keys() >= CASES
    assert sum(name.startswith("FindTraces/") for name in results) >= 22
