"""Fixtures of several kinds of tests, and the summaries at the end of a run."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from xdist.scheduler import LoadScopeScheduling

from faults.flags import FlagFile
from serving import Server
from serving.hosts import WSGIApp
from tests.hostile import outcomes
from tests.stack import exporter

pytest_plugins = ["tests.databases"]
REPORTS = {
    "spans counted while parts were killed": exporter.counts,
    "attacks and their outcomes": outcomes.lines,
}
# The tests that use the demo's own ports run one after the other. So do those in a browser: Chromium gives up its
# requests, even those to loopback, when a container's network comes or goes (net::ERR_NETWORK_CHANGED).
SERIAL: tuple[str, ...] = (
    "tests/browser/",
    "tests/compose/",
    "tests/kubernetes/",
    "tests/stack/",
    "tests/store/test_jaeger_suite.py",
)
if os.environ.get("TEST_POSTGRES_URI"):  # one server, whose roles the databases of all tests share
    SERIAL = (*SERIAL, "tests/hostile/", "tests/store/")


class Scheduling(LoadScopeScheduling):
    """Each file runs in one of pytest-xdist's processes, and all serial tests in the same one."""

    def _split_scope(self, nodeid):
        return "serial" if nodeid.startswith(SERIAL) else nodeid.split("::")[0]


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the slow tests, as continuous integration does")


def pytest_collection_modifyitems(config, items):
    if config.getoption("slow"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: ./run.sh test --slow runs it"))


def pytest_xdist_make_scheduler(config, log):
    return Scheduling(config, log)


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["reports"] = REPORTS


def pytest_testnodedown(node):
    for title, lines in getattr(node, "workeroutput", {}).get("reports", {}).items():  # a crashed process has none
        REPORTS[title] += lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = Counter(
        report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.stats.get("skipped", [])
    )
    reasons = [f"{count:>4}  {reason}" for reason, count in skipped.most_common()]
    for title, lines in {**REPORTS, "skipped tests, and why": reasons}.items():
        if lines:
            terminalreporter.section(title)
            terminalreporter.write_line("\n".join(lines))


@pytest.fixture
def flag_file(tmp_path) -> FlagFile:
    """A file with the flags at their defaults."""
    file = FlagFile(tmp_path / "flags.json")
    file.prepare()
    return file


@pytest.fixture
def slow_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers keep connections on which nothing moves, and wait for requests, for longer than any test takes."""
    monkeypatch.setattr("serving.server.IDLE_SECONDS", 3600)
    monkeypatch.setattr("serving.server.REQUEST_SECONDS", 3600)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """A function that serves a WSGI app at a port of loopback (default: a free one), and returns its URL."""
    running = []

    def serve(app: WSGIApp, port: int = 0) -> str:
        server = Server(app, "127.0.0.1", port)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.port}"

    yield serve
    for server, thread in running:
        server.close()
        thread.join()
