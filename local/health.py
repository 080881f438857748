"""Whether a stack works, local or in containers: its ports, the health of its parts, its first trace."""

import errno
import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import psutil
import psycopg

from local import Trouble

GENERATOR_PORT = 5050
ON_DISK = "a span that it acknowledged is in its queue, on disk"  # OpenTelemetry's Collector
STORE_PORT = 9201
STORE_SECONDS = 15  # promscale waits for the database itself
# Without any progress; for one part, however much it has to say; passwords whose traces are waited for.
PATIENCE_SECONDS = 120
MAX_WAIT_SECONDS = 1800
MAX_PASSWORDS = 120


@dataclass(frozen=True)
class State:
    """How a part is now."""

    name: str
    pid: int | None  # None: does not run
    since: datetime | None
    healthy: bool


def reach_address(bind_address: str) -> str:
    """Where something that listens there is found from this machine."""
    return "127.0.0.1" if bind_address in ("0.0.0.0", "localhost") else bind_address


def check_ports(listens: Iterable[tuple[str, str, int]]) -> None:
    """Takes (part, address, port). Raises Trouble that names every port that is taken, and by whom."""
    taken = []
    for name, address, port in listens:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise Trouble(
                        f"cannot listen on {address}: {error}; BIND_ADDRESS must be an IPv4 address of this"
                        " machine, or 0.0.0.0 for all"
                    ) from None
                taken.append(f"port {port} ({name}) is taken by {_owner(port)}")
    if taken:
        raise Trouble("; ".join(taken) + "; stop that and run this again")


def _owner(port: int) -> str:
    with suppress(psutil.Error):  # macOS tells only root
        for connection in psutil.net_connections("tcp"):
            if connection.pid and connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return f"PID {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    return "a process of another user"


def wait(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Until it holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def wait_until_healthy(
    waits_for: Callable[[], str | None],
    dies: Callable[[str], bool],
    last_line: Callable[[str], str],
    store_status: Callable[[], str],
) -> None:
    """Until `waits_for` names no part any more. Raises Trouble where a part dies again and again, or makes no progress.

    Progress is that another part is waited for, that the store is further with an upgrade, which is printed, and for
    some time that the part writes to its log. `last_line`: of that.
    """
    seen = set()
    upgrade = line = ""
    began = deadline = 0.0
    while name := waits_for():
        if name == "promscale" and (status := store_status()).startswith("upgrading") and status != upgrade:
            print(f"promscale: {status}", flush=True)
            upgrade = status
        now = time.monotonic()
        if (name, upgrade) not in seen:
            seen.add((name, upgrade))
            began, deadline, line = now, now + PATIENCE_SECONDS, last_line(name)
        elif deadline < now < began + MAX_WAIT_SECONDS and (news := last_line(name)) != line:
            print(f"Still waiting for {name}: {news}", flush=True)
            deadline, line = now + PATIENCE_SECONDS, news
        doomed = dies(name)
        if doomed or now > deadline:
            trouble = "dies again and again" if doomed else f"is not healthy after {now - began:.0f} s"
            raise Trouble(
                f"{name} {trouble}; its last word: {last_line(name)!r}; ./run.sh logs {name} shows all,"
                " ./run.sh down stops everything"
                + ("; if the data is beyond repair, ./run.sh reset deletes it" if name == "postgres" else "")
            )
        time.sleep(0.1)


def wait_for_a_trace(host: str, database: str) -> None:
    """Ask for a password a second, as not all traces may be kept, and wait until the trace of one of them can be read
    from the database. Raises Trouble."""
    stored = """
        select true from ps_trace.span where trace_id = any(%s::text[]::ps_trace.trace_id[])
        group by trace_id having count(distinct service_name) > 1 and bool_or(is_root_span)
    """
    traces: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(traces) < MAX_PASSWORDS and time.monotonic() < deadline:
        ask_again_at = time.monotonic() + 1
        if trace := _password_trace(host):
            traces += trace
            deadline = time.monotonic() + PATIENCE_SECONDS
        while not (traces and query(database, stored, traces)):
            if time.monotonic() > ask_again_at:
                break
            time.sleep(0.05)
        else:
            return
    raise Trouble(
        f"all parts are healthy, but of {len(traces)} passwords no trace reached the database; ./run.sh logs may say"
        " why, unless an OTEL_ variable or a TRACE_SAMPLING_PERCENT of yours keeps traces away"
    )


def _password_trace(host: str) -> list[str]:
    """The trace id of a password made now, if there was an answer. One that failed, as some are to, has one too."""
    try:
        with _open(f"http://{host}:{GENERATOR_PORT}/", 60) as answer:
            return [json.load(answer)["trace_id"]]
    except urllib.error.HTTPError as answer:
        return [json.load(answer)["trace_id"]]
    except (OSError, http.client.HTTPException):  # the generator was just healthy, and is not any more
        return []


def store_status(host: str) -> str:
    """What promscale says of itself: "ok", or why it cannot store now, or that it does not answer."""
    try:
        with _open(f"http://{host}:{STORE_PORT}/readyz", STORE_SECONDS) as answer:
            return json.load(answer)["status"]
    except urllib.error.HTTPError as answer:
        return json.load(answer)["status"]
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def query(database: str, statement: str, *parameters: object) -> tuple | None:
    """The first row, or None if there is none or PostgreSQL does not answer, or not yet in full."""
    try:
        with psycopg.connect(database, connect_timeout=2) as connection:
            return connection.execute(statement, parameters).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return None


def answers(url: str) -> bool:
    try:
        with _open(url, 2):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    """Without the proxy that the environment may name. Raises urllib.error.HTTPError for all but 2xx, OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout)


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False
