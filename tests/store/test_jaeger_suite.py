"""Jaeger's own integration suite for foreign stores, on ours: with its real program between the suite and the store."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests import built

# Of Jaeger as the suite starts it: OTLP, query, health and metrics.
PORTS = (4317, 4318, 16685, 16686, 13133, 8888)
CASES = {"GetServices", "GetOperations", "GetTrace", "GetLargeTrace", "GetTraceWithDuplicateSpans", "FindTraces"}


@pytest.fixture
def purger(database):
    """A URL; a POST there empties the store. The product has no such thing, for good reason."""

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
    sources = built.jaeger_sources()
    for port in PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port}, which Jaeger's suite needs, is taken")
    endpoint = f"127.0.0.1:{promscale.server.port}"
    run = built.go(
        *("test", "-json", "-count=1", "-timeout=20m", "-run=^TestGRPCStorage$", "./cmd/jaeger/internal/integration"),
        cwd=sources,
        STORAGE="grpc",
        CUSTOM_STORAGE="true",
        REMOTE_STORAGE_ENDPOINT=endpoint,
        REMOTE_STORAGE_WRITER_ENDPOINT=endpoint,
        PURGER_ENDPOINT=purger,
    )
    results, output = {}, []
    for line in run.stdout.splitlines():
        event = json.loads(line)
        output.append(event.get("Output", ""))
        if event["Action"] in ("pass", "fail", "skip") and "Test" in event:
            results[event["Test"].removeprefix("TestGRPCStorage/")] = event["Action"]
    others = {name: result for name, result in results.items() if result != "pass"}
    assert run.returncode == 0 and not others, f"{others}\n{''.join(output)[-8000:]}{run.stderr[-2000:]}"
    assert results.keys() >= CASES
    assert sum(name.startswith("FindTraces/") for name in results) >= 22
