"""Checks of a stack, local or in containers: free ports, the health of its parts, the first trace in the database."""

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
from typing import Any

import psutil
import psycopg

from local import CommandError
from telemetry.services import PROMSCALE_HTTP_PORT, SERVICES

PROMSCALE_TIMEOUT_SECONDS = 15  # /readyz itself waits for the database
PATIENCE_SECONDS = 120  # how long a start may go on without progress
MAX_WAIT_SECONDS = 1800  # how long a start may wait for one part that keeps writing to its log
MAX_PASSWORDS = 120  # how many passwords are requested until one of their traces is in the database

# What ./run.sh status says of OpenTelemetry's Collector.
QUEUE_ON_DISK = "a span that it acknowledged is in its queue, on disk"


@dataclass(frozen=True)
class State:
    """The state of a part. `since` is None if it does not run, and `pid` also if it runs elsewhere."""

    name: str
    pid: int | None
    since: datetime | None
    healthy: bool


def reach_address(bind_address: str) -> str:
    """The address by which this machine connects to a server that listens on `bind_address`."""
    return "127.0.0.1" if bind_address in ("0.0.0.0", "localhost") else bind_address


def check_ports(listeners: Iterable[tuple[str, str, int]]) -> None:
    """Check that each (part, address, port) is free. Raises CommandError, which names the owner of each port in use."""
    in_use = []
    for name, address, port in listeners:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise CommandError(
                        f"cannot listen on {address}: {error}; set BIND_ADDRESS to an IPv4 address of this machine, or"
                        " to 0.0.0.0 for all of them"
                    ) from None
                in_use.append(f"port {port} ({name}) is in use by {_owner(port)}")
    if in_use:
        raise CommandError("; ".join(in_use) + "; stop that process and run this again")


def _owner(port: int) -> str:
    with suppress(psutil.Error):  # on macOS, only root may see the sockets of other processes
        for connection in psutil.net_connections("tcp"):
            address = connection.laddr
            if connection.pid and connection.status == psutil.CONN_LISTEN and address and address.port == port:
                words = " ".join(psutil.Process(connection.pid).cmdline()).split()  # without line breaks
                return f"PID {connection.pid} ({' '.join(words)[:80]})"
    return "a process of another user"


def wait(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until the condition is true, at most for this long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def wait_until_healthy(
    first_unhealthy: Callable[[], str | None],
    crash_loops: Callable[[str], bool],
    last_log_line: Callable[[str], str],
    store_status: Callable[[], str],
) -> None:
    """Poll until `first_unhealthy` names no part.

    Raises CommandError if that part crashes repeatedly, or if there is no progress for PATIENCE_SECONDS. Progress is:
    another part is the first unhealthy one; promscale is at another step of a schema upgrade, which is also printed;
    or, until MAX_WAIT_SECONDS, the part has written to its log.
    """
    seen = set()
    upgrade = log_line = ""
    began = deadline = 0.0
    while name := first_unhealthy():
        if name == "promscale" and (status := store_status()).startswith("upgrading") and status != upgrade:
            print(f"promscale: {status}", flush=True)
            upgrade = status
        now = time.monotonic()
        if (name, upgrade) not in seen:
            seen.add((name, upgrade))
            began, deadline, log_line = now, now + PATIENCE_SECONDS, last_log_line(name)
        elif deadline < now < began + MAX_WAIT_SECONDS and (newer := last_log_line(name)) != log_line:
            print(f"Still waiting for {name}: {newer}", flush=True)
            deadline, log_line = now + PATIENCE_SECONDS, newer
        crashes = crash_loops(name)
        if crashes or now > deadline:
            problem = "crashes repeatedly" if crashes else f"is not healthy after {now - began:.0f} s"
            raise CommandError(
                f"{name} {problem}; last log line: {last_log_line(name)!r}; ./run.sh logs {name} shows more,"
                " ./run.sh down stops everything"
                + ("; if the data is corrupt, ./run.sh reset deletes it" if name == "postgres" else "")
            )
        time.sleep(0.1)


def wait_for_a_trace(host: str, database: str) -> bool:
    """Request passwords until the trace of one of them is in the database, one per second because of head sampling.

    Returns whether there is one: there is none with DEMO_INSTRUMENTATION=off, when the generator's answers have no
    trace id. Raises CommandError after MAX_PASSWORDS, or when nothing has answered for PATIENCE_SECONDS.
    """
    stored = """
        select true from ps_trace.span where trace_id = any(%s::text[]::ps_trace.trace_id[])
        group by trace_id having count(distinct service_name) > 1 and bool_or(is_root_span)
    """
    traces: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(traces) < MAX_PASSWORDS and time.monotonic() < deadline:
        next_request_at = time.monotonic() + 1
        if (trace := _password_trace(host)) is not None:
            if not trace:
                return False
            traces.append(trace)
            deadline = time.monotonic() + PATIENCE_SECONDS
        while not (traces and query(database, stored, traces)):
            if time.monotonic() > next_request_at:
                break
            time.sleep(0.05)
        else:
            return True
    raise CommandError(
        f"all parts are healthy, but none of the traces of {len(traces)} passwords reached the database; ./run.sh logs"
        " may say why, unless a sampler (OTEL_TRACES_SAMPLER, TRACE_SAMPLING_PERCENT) drops them"
    )


def _password_trace(host: str) -> str | None:
    """The trace id of a new password, "" if it is not traced; None if the generator does not answer.

    A response with an error has a trace id too, and some requests fail on purpose.
    """
    try:
        return str(_get_json(f"http://{host}:{SERVICES['generator']}/", timeout=60).get("trace_id", ""))
    except (OSError, http.client.HTTPException):
        return None


def store_status(host: str) -> str:
    """promscale's own status: "ok", the reason why it cannot store spans now, or that it does not answer."""
    return _ask_promscale(host, "readyz", "status")


def encoder(host: str) -> str:
    """The encoder that promscale uses, or that it does not answer."""
    return _ask_promscale(host, "healthz", "encoder")


def _ask_promscale(host: str, endpoint: str, name: str) -> str:
    try:
        url = f"http://{host}:{PROMSCALE_HTTP_PORT}/{endpoint}"
        # One that was started by an earlier version of the demo may lack the name.
        return str(_get_json(url, timeout=PROMSCALE_TIMEOUT_SECONDS).get(name, "unknown"))
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error}"


def query(database: str, statement: str, *parameters: object) -> tuple[Any, ...] | None:
    """The first row; None if there is no row, or if PostgreSQL or the schema is not ready."""
    try:
        with psycopg.connect(database, connect_timeout=2) as connection:
            return connection.execute(statement.encode(), parameters).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return None


def answers(url: str) -> bool:
    """Whether GET returns a 2xx status within 2 s."""
    try:
        with _open(url, 2):
            return True
    except (OSError, http.client.HTTPException):
        return False


def accepts(host: str, port: int) -> bool:
    """Whether a TCP connection is accepted within 2 s."""
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False


def _get_json(url: str, timeout: float) -> Any:
    """The JSON of a response with any status. Raises OSError, http.client.HTTPException."""
    try:
        with _open(url, timeout) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as answer:
        return json.load(answer)


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    """GET without any proxy of the environment. Raises urllib.error.HTTPError for a status other than 2xx, OSError."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    response: http.client.HTTPResponse = opener.open(url, timeout=timeout)
    return response
