"""What tests of several kinds need."""

import socket
import threading

import pytest
from werkzeug.serving import make_server

from tests.hostile import outcomes
from tests.stack import exporter


def pytest_terminal_summary(terminalreporter):
    for title, lines in (
        ("spans counted while parts were killed", exporter.counts),
        ("attacks, and what came of them", outcomes.lines),
    ):
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def serve():
    """A function that serves a WSGI app on a free port of loopback, or at a socket that is bound; returns its URL."""
    servers = []

    def serve(app, bound: socket.socket | None = None) -> str:
        if bound:
            bound.listen()
        server = make_server("127.0.0.1", 0, app, threaded=True, fd=bound and bound.fileno())
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
