"""The store to measure: one that is started for the measurement, or one that is already running."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from local.postgres import Cluster, as_account
from tests.waiting import free_port


@dataclass
class Target:
    """A store and its database."""

    endpoint: str  # of gRPC, as "host:port"
    web: str | None  # of metrics, as "host:port", if known
    dsn: str  # of the database, for a superuser
    store: psutil.Process | None  # if it runs on this machine
    database: psutil.Process | None


def running(endpoint: str, dsn: str) -> Target:
    """A store that is already running. Its processes are those that listen on the ports."""
    with psycopg.connect(dsn) as connection:
        database_port = connection.info.port
    return Target(endpoint, None, dsn, _listening(int(endpoint.rpartition(":")[2])), _listening(database_port))


@contextlib.contextmanager
def own() -> Iterator[Target]:
    """A new PostgreSQL as in the local stack, and a promscale; both are deleted afterwards."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster(folder / "postgres", free_port())
        cluster.prepare()
        stack.callback(cluster.delete)
        database = _start(stack, cluster.server, signal.SIGINT, cwd="/", **as_account())
        grpc, web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        environment = {
            "PROMSCALE_DB_URI": cluster.uri,
            "PROMSCALE_DISK_BUDGET": "0",
            "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": grpc,
            "PROMSCALE_WEB_LISTEN_ADDRESS": web,
        }
        store = _start(stack, [sys.executable, "-m", "promscale"], signal.SIGTERM, env=os.environ | environment)
        deadline = time.monotonic() + 60
        while not _ready(f"http://{web}/readyz"):
            if time.monotonic() > deadline or store.poll() is not None:
                raise RuntimeError("promscale did not become ready within 60 s")
            time.sleep(0.1)
        yield Target(grpc, web, cluster.superuser_uri, psutil.Process(store.pid), psutil.Process(database.pid))


def cpu_seconds(process: psutil.Process) -> float:
    """CPU time of a process and its descendants, including those that have ended."""
    total = 0.0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(member.cpu_times()[:4])
    return total


def memory_bytes(process: psutil.Process) -> int:
    """Memory of a process and its descendants: the proportional set size, or the resident set size outside of Linux."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            info = member.memory_full_info()
            total += getattr(info, "pss", info.rss)
    return total


def _start(stack: contextlib.ExitStack, command: list[str], stop_signal: int, **options) -> subprocess.Popen:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)

    def stop() -> None:
        process.send_signal(stop_signal)
        process.wait()

    stack.callback(stop)
    return process


def _listening(port: int) -> psutil.Process | None:
    for connection in psutil.net_connections("tcp"):
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid
        ):
            return psutil.Process(connection.pid)
    return None


def _ready(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=2).status == 200
    except (urllib.error.URLError, OSError):
        return False
