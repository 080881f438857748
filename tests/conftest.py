"""What tests of several kinds need."""

import socket
import threading

import pytest
from werkzeug.serving import make_server
from xdist.scheduler import LoadScopeScheduling

from tests.hostile import outcomes
from tests.stack import exporter

REPORTS = {
    "spans counted while parts were killed": exporter.counts,
    "attacks, and what came of them": outcomes.lines,
}
# These use the demo's own ports, and so run one after the other.
FIXED_PORTS = ("tests/compose/", "tests/stack/", "tests/store/test_jaeger_suite.py")


class Scheduling(LoadScopeScheduling):
    """Each file runs in one of pytest-xdist's processes, and all that use the demo's own ports in the same one."""

    def _split_scope(self, nodeid):
        return "fixed ports" if nodeid.startswith(FIXED_PORTS) else nodeid.split("::")[0]


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["reports"] = REPORTS


def pytest_testnodedown(node):
    for title, lines in getattr(node, "workeroutput", {}).get("reports", {}).items():  # a crashed process has none
        REPORTS[title] += lines


def pytest_terminal_summary(terminalreporter):
    for title, lines in REPORTS.items():
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
