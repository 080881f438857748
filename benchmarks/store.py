"""The trace store to measure: a promscale, started for the measurement or already running, or any other store.

A Target says where spans are sent to, which processes and bytes belong to the store, and how its spans are counted.
"""

import abc
import contextlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit
from uuid import UUID

import psutil
import psycopg

from benchmarks import processes
from local.postgres import Cluster, as_account
from tests.waiting import free_port, wait_until

# Longer than stores usually wait before they write what they have in memory, or make it visible.
QUIET_SECONDS = 10
SETTLE_SECONDS = 300
READERS = 4

_SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass
class ReadBack:
    """How many of the acknowledged spans were looked for, and how many of these were found."""

    spans: int
    found: int

    @property
    def missing(self) -> int:
        return self.spans - self.found


class Target(abc.ABC):
    """A trace store with OTLP.

    `endpoint` is that of `senders.send`. `processes` are those of its `parts` that are known on
    this machine. The command `restart` starts it after a crash.
    """

    def __init__(self, endpoint: str, parts: Mapping[str, psutil.Process | None], restart: Sequence[str] = ()) -> None:
        self.endpoint = endpoint
        self.processes = {name: process for name, process in parts.items() if process}
        self._restart = restart

    @abc.abstractmethod
    def sizes(self) -> dict[str, int]:
        """Bytes by what they are, of which the growth during a measurement is of interest."""

    @abc.abstractmethod
    def settle(self) -> str:
        """Wait until `sizes` are final, and describe how that ended. Empty if there is nothing to wait for."""

    @abc.abstractmethod
    def read_back(self, traces: Mapping[bytes, int]) -> ReadBack:
        """Look for traces, given as the number of spans of each trace id, or for a random sample of them."""

    def crash(self) -> None:
        """Kill all processes at once, start the store again, and wait until it answers."""
        if not self.processes:
            raise RuntimeError("the processes of the store are not known, so they cannot be killed")
        processes.kill(self.processes.values())
        self.start()

    def start(self) -> None:
        """Start the store, which is not running, and wait until it answers. It keeps running after the measurement."""
        subprocess.Popen(self._restart, start_new_session=True, **_SILENT)
        wait_until(self._answers, "an answer of the store")

    @abc.abstractmethod
    def _answers(self) -> bool: ...


class Promscale(Target):
    """A promscale, or any store with OTLP and the view `span` in PostgreSQL."""

    def __init__(
        self, endpoint: str, dsn: str, parts: Mapping[str, psutil.Process | None], restart: Sequence[str] = ()
    ) -> None:
        super().__init__(endpoint, parts, restart)
        self.dsn = dsn  # of the database, for a superuser

    @classmethod
    def running(
        cls, endpoint: str, dsn: str, restart: Sequence[str] = (), pids: Mapping[str, int] | None = None
    ) -> "Promscale":
        """One that is already running, or several. Their processes, also those of Citus's workers, are found by the
        ports that they listen on, except for those in `pids`, by the names of the parts."""
        addresses = [_address(each) for each in endpoint.split(",")]
        with psycopg.connect(dsn) as connection:
            ports = {"database": connection.info.port}
            ports |= {_numbered("store", n, len(addresses)): port for n, (_, port) in enumerate(addresses, 1)}
            ports |= {f"worker {n}": port for n, port in enumerate(worker_ports(connection), 1)}
        parts = {name: processes.listening(port) for name, port in ports.items() if name not in (pids or {})}
        parts |= {name: psutil.Process(pid) for name, pid in (pids or {}).items()}
        return cls(endpoint, dsn, parts, restart)

    def sizes(self) -> dict[str, int]:
        """Of the database and all of Citus's workers."""
        statements = {
            "database": "select pg_database_size(current_database())",
            "write-ahead log": "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8",
        }
        with psycopg.connect(self.dsn) as connection:
            return {name: sum(on_nodes(connection, statement)) for name, statement in statements.items()}

    def settle(self) -> str:
        return ""

    def wait_for_upkeep(self) -> None:
        """Wait until all minutes are summarised and all old partitions closed."""
        unfinished = """
            select
                (select count(*) from _promscale.touched_minute)
                + (
                    select count(*) from _promscale.partition
                    where closed_at is null and ends_at < now() - interval '31 minutes'
                )
        """
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            wait_until(lambda: not one_value(connection, unfinished), "the upkeep", math.inf)  # as long as spans need
            connection.execute("vacuum analyze")

    def read_back(self, traces: Mapping[bytes, int]) -> ReadBack:
        """All of the traces."""
        ids = [UUID(bytes=trace_id) for trace_id in traces]
        with psycopg.connect(self.dsn) as connection:
            found = one_value(connection, "select count(*) from ps_trace.span where trace_id = any(%s)", ids)
            return ReadBack(sum(traces.values()), found)

    def _answers(self) -> bool:
        try:
            for endpoint in self.endpoint.split(","):
                socket.create_connection(_address(endpoint), timeout=2).close()
            psycopg.connect(self.dsn, connect_timeout=2).close()
        except (OSError, psycopg.OperationalError):
            return False
        return True


class OwnPromscale(Promscale):
    """A new PostgreSQL as in the local stack, with its data in `folder`, and a promscale, or several."""

    def __init__(self, folder: Path, encoder: str | None, promscales: int) -> None:
        self._cluster = Cluster(folder / "postgres", free_port())
        endpoint = ",".join(f"127.0.0.1:{free_port()}" for _ in range(promscales))
        super().__init__(endpoint, self._cluster.superuser_uri, {})
        self._webs = [f"127.0.0.1:{free_port()}" for _ in range(promscales)]
        self.web = self._webs[0]  # of metrics
        self._children: list[subprocess.Popen] = []
        self._environment = os.environ | {"PROMSCALE_DB_URI": self._cluster.uri, "PROMSCALE_DISK_BUDGET": "0"}
        if encoder:
            self._environment["PROMSCALE_ENCODER"] = encoder

    def start(self) -> None:
        self._cluster.prepare()
        database = subprocess.Popen(self._cluster.server, cwd="/", **_SILENT, **as_account())
        self._children = [database]
        self.processes = {"database": psutil.Process(database.pid)}
        for n, (grpc, web) in enumerate(zip(self.endpoint.split(","), self._webs, strict=True), 1):
            addresses = {"PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": grpc, "PROMSCALE_WEB_LISTEN_ADDRESS": web}
            command, environment = [sys.executable, "-m", "promscale"], self._environment | addresses
            store = subprocess.Popen(command, env=environment, **_SILENT)
            self._children.append(store)
            self.processes[_numbered("store", n, len(self._webs))] = psutil.Process(store.pid)
        wait_until(self._answers, "an answer of promscale")

    @property
    def encoder(self) -> str:
        """The name of the encoder in use."""
        with urllib.request.urlopen(f"http://{self.web}/healthz", timeout=10) as response:
            return json.load(response)["encoder"]

    def delete(self) -> None:
        """Stop the processes and delete the data."""
        for process in reversed(self._children):  # promscale before its database
            process.send_signal(signal.SIGINT)
            process.wait()
        self._cluster.delete()

    def _answers(self) -> bool:
        if any(process.poll() is not None for process in self._children):
            raise RuntimeError("promscale or its database did not start")
        try:
            for web in self._webs:
                urllib.request.urlopen(f"http://{web}/readyz", timeout=2).close()
        except OSError:
            return False
        return True


class OtherStore(Target):
    """Any running store whose traces can be read by the HTTP API of Jaeger's query service.

    `jaeger` is the URL in front of "/api/traces", `folder` has the store's files, and `sample` is how many traces are
    read back at most.
    """

    def __init__(
        self,
        endpoint: str,
        jaeger: str,
        sample: int,
        pid: int | None = None,
        folder: Path | None = None,
        restart: Sequence[str] = (),
    ) -> None:
        process = psutil.Process(pid) if pid else processes.listening(_address(endpoint)[1])
        super().__init__(endpoint, {"store": process}, restart)
        self.sample, self._jaeger, self._folder = sample, jaeger.rstrip("/"), folder

    def sizes(self) -> dict[str, int]:
        return {"on disk": processes.disk_bytes(self._folder)} if self._folder else {}

    def settle(self) -> str:
        """Stores write in the background: wait until the disk use has not changed for QUIET_SECONDS."""
        if not self._folder:
            return ""
        began = changed = time.monotonic()
        sizes = self.sizes()
        while (now := time.monotonic()) < changed + QUIET_SECONDS:
            if now > began + SETTLE_SECONDS:
                return f"still changing after {SETTLE_SECONDS} s"
            time.sleep(1)
            if (current := self.sizes()) != sizes:
                sizes, changed = current, time.monotonic()
        return f"stable after {changed - began:.0f} s"

    def read_back(self, traces: Mapping[bytes, int]) -> ReadBack:
        """A random sample of the traces. Stores make spans visible in the background, so those that are incomplete are
        read again until nothing was found for QUIET_SECONDS."""
        sample = random.sample(sorted(traces), min(self.sample, len(traces)))
        found = dict.fromkeys(sample, 0)
        progress = time.monotonic()
        incomplete = sample
        with ThreadPoolExecutor(READERS) as readers:
            while incomplete and time.monotonic() < progress + QUIET_SECONDS:
                for trace_id, spans in zip(incomplete, readers.map(self._spans, incomplete), strict=True):
                    if spans > found[trace_id]:
                        found[trace_id], progress = spans, time.monotonic()
                incomplete = [each for each in incomplete if found[each] < traces[each]]
                time.sleep(0.1)
        return ReadBack(sum(traces[each] for each in sample), sum(found.values()))

    def _spans(self, trace_id: bytes) -> int:
        """The number of spans of this trace that can be read, each counted once."""
        try:
            with urllib.request.urlopen(f"{self._jaeger}/api/traces/{trace_id.hex()}", timeout=60) as response:
                traces = json.load(response)["data"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return 0
            raise
        return len({span["spanID"] for trace in traces for span in trace["spans"]})

    def _answers(self) -> bool:
        try:
            socket.create_connection(_address(self.endpoint), timeout=2).close()
            urllib.request.urlopen(f"{self._jaeger}/api/services", timeout=10).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def own(encoder: str | None = None, promscales: int = 1) -> Iterator[OwnPromscale]:
    """A new PostgreSQL and promscales, with this setting of PROMSCALE_ENCODER; all are deleted afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        store = OwnPromscale(Path(folder), encoder, promscales)
        try:
            store.start()
            yield store
        finally:
            store.delete()


def worker_ports(connection: psycopg.Connection) -> list[int]:
    """The ports of Citus's workers. Empty without Citus."""
    if not _has_citus(connection):
        return []
    nodes = "select nodeport from pg_dist_node where noderole = 'primary' and groupid <> 0 and isactive order by nodeid"
    return [port for (port,) in connection.execute(nodes)]


def one_value(connection: psycopg.Connection, statement: LiteralString, *parameters: object) -> Any:
    """The only column of the statement's only row."""
    [(value,)] = connection.execute(statement, parameters)
    return value


def on_nodes(connection: psycopg.Connection, statement: LiteralString) -> list[int]:
    """The number that an SQL statement returns on the database's server, followed by those on Citus's workers."""
    numbers = [int(number) for (number,) in connection.execute(statement)]
    if _has_citus(connection):
        workers = connection.execute("select result from run_command_on_workers(%s)", [statement])
        numbers += [int(number) for (number,) in workers]
    return numbers


def _has_citus(connection: psycopg.Connection) -> bool:
    return connection.execute("select from pg_extension where extname = 'citus'").fetchone() is not None


def _numbered(name: str, number: int, count: int) -> str:
    return name if count == 1 else f"{name} {number}"


def _address(endpoint: str) -> tuple[str, int]:
    """Host and port of an endpoint."""
    address = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return address.hostname or "localhost", address.port or 80
