"""The trace store: exports in, committed rows out.

Several exports that wait at the same time share one transaction (group commit). `Store.write` returns after COMMIT and
never before; where it raises, nothing is promised, and the sender is to send again: what then turns out to be stored
already is not stored twice.
"""

import contextlib
import gc
import logging
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib import resources
from typing import NamedTuple
from uuid import UUID

import aiosql
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from promscale import metrics, otlp

log = logging.getLogger(__name__)

WRITERS = 2
# Bytes of serialized requests: what may be held in memory at once, and what one transaction may take.
MAX_HELD_BYTES = 48 * 2**20
MAX_COMMIT_BYTES = 8 * 2**20
# Requests from this size on are encoded beside the main process, by so many others.
LARGE_REQUEST_BYTES = 256 * 2**10
ENCODERS = 2
FIRST_REFRESH_SPANS = 1_000
# Shared rows that are remembered as written; a store with more of them writes some of them again.
MAX_KNOWN_IDS = 65_536

_SQL = resources.files("promscale") / "sql"
_queries = aiosql.from_str((_SQL / "store.sql").read_text(), "psycopg")

# PostgreSQL's ways to say that a value is beyond it, which no retry will change.
_UNSTORABLE = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded, errors.StatementTooComplex)


class StoreUnavailable(Exception):
    """The database is away, or not ready; sending again later is right."""


class StoreFull(Exception):
    """Too much is waiting for the database already; sending again later is right."""


class SchemaTooNew(Exception):
    """The database was made ready by a later promscale than this one."""


class _GenerationChanged(Exception):
    """Shared rows that were known to be there have been deleted."""


class _Known(NamedTuple):
    """Shared rows that are known to be in the database, as long as the store's generation is this one.

    Replaced as a whole and never changed, so that a writer's transaction goes by one state of it.
    """

    generation: UUID | None = None
    ids: frozenset[tuple[str, int]] = frozenset()


class _Pending(NamedTuple):
    """An export on its way into the database."""

    request: bytes
    rows: otlp.Rows
    refused: list[str]
    committed: Future[None]


class _Encoders:
    """Encodes requests, the large ones in processes of their own: Python uses one core a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def encode(self, request: bytes) -> tuple[otlp.Rows, list[str]]:
        """otlp.encode. Raises StoreUnavailable, too, when such a process dies."""
        if len(request) < LARGE_REQUEST_BYTES:
            return otlp.encode(request)
        with self._lock:
            if self._pool is None:
                # Not forked: gRPC's threads are running.
                self._pool = ProcessPoolExecutor(
                    ENCODERS, multiprocessing.get_context("spawn"), initializer=_start_encoder
                )
            pool = self._pool
        try:
            return pool.submit(otlp.encode, request).result()
        except BrokenProcessPool as error:
            with self._lock:
                if self._pool is pool:
                    self._pool = None
            raise StoreUnavailable(f"an encoding process died: {error}") from error

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _start_encoder() -> None:
    """In an encoding process, first."""
    # An export makes a million small objects and no cycles; looking for some took a fifth of the time.
    gc.set_threshold(1_000_000)
    # The pool would not notice that promscale was killed.
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


class Store:
    """A trace store on the database at `uri` (a postgres URI or any other libpq connection string).

    Call `migrate` until it succeeds, then `start`; `write` may then be called from any thread, until `close`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connect = partial(psycopg.connect, uri, autocommit=True, connect_timeout=5, application_name="promscale")
        self._changed = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._held_bytes = 0
        self._closing = False
        self._known = _Known()
        self._stored_spans = 0
        self._refresh_at_spans = FIRST_REFRESH_SPANS
        self._encoders = _Encoders()
        self._writers: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """Where the database is, without secrets."""
        parts = conninfo_to_dict(self._uri)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"

    def migrate(self) -> None:
        """Create the schema, or bring it up to date. Raises StoreUnavailable and SchemaTooNew."""
        files = {int(file.name[:3]): file for file in (_SQL / "migrations").iterdir()}
        with self._unavailable_on_error(), self._connect() as connection, connection.transaction():
            _queries.lock_migrations(connection)
            _queries.prepare_migrations(connection)
            applied = {number for (number,) in _queries.applied_migrations(connection)}
            if unknown := applied - set(files):
                raise SchemaTooNew(
                    f"the schema at {self.address} has version {max(unknown)}, and this promscale knows up to "
                    f"{max(files)}: run the later promscale"
                )
            for number in sorted(set(files) - applied):
                log.info("Applying migration %s", files[number].name)
                connection.execute(files[number].read_text())
                _queries.record_migration(connection, number=number, file_name=files[number].name)

    def start(self) -> None:
        self._writers = [
            threading.Thread(target=self._write_groups, name=f"writer-{n}", daemon=True) for n in range(WRITERS)
        ]
        for writer in self._writers:
            writer.start()

    def close(self) -> None:
        """Commit what is waiting, then stop."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for writer in self._writers:
            writer.join()
        self._encoders.close()

    def check(self) -> None:
        """Ask the database for a sign of life. Raises StoreUnavailable."""
        with self._unavailable_on_error(), self._connect() as connection:
            connection.execute("select")

    def delete_old_traces(self) -> None:
        """Delete what is older than the retention period. Raises StoreUnavailable."""
        with self._unavailable_on_error(), self._connect() as connection:
            _queries.delete_old_traces(connection)

    def refresh_statistics(self) -> None:
        """Have PostgreSQL look at what is stored whenever that has doubled. Raises StoreUnavailable."""
        if self._stored_spans >= self._refresh_at_spans:
            self._refresh_at_spans = 2 * self._stored_spans
            with self._unavailable_on_error(), self._connect() as connection:
                _queries.refresh_statistics(connection)

    def write(self, request: bytes) -> list[str]:
        """Store a serialized ExportTraceServiceRequest; return, after COMMIT, why which span was refused.

        Raises otlp.MalformedRequest, StoreFull and StoreUnavailable; nothing is promised then.
        """
        with self._held(len(request)):
            rows, refused = self._encoders.encode(request)
            if rows.count:
                pending = _Pending(request, rows, refused, Future())
                with self._changed:
                    if self._closing or not self._writers:
                        raise StoreUnavailable("promscale is starting or stopping")
                    self._queue.append(pending)
                    self._changed.notify()
                pending.committed.result()
            return refused

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[None]:
        with self._changed:
            if self._held_bytes and self._held_bytes + size > MAX_HELD_BYTES:
                raise StoreFull(
                    f"{self._held_bytes} bytes of exports wait for the database; the limit is {MAX_HELD_BYTES}"
                )
            self._held_bytes += size
        try:
            yield
        finally:
            with self._changed:
                self._held_bytes -= size

    @contextlib.contextmanager
    def _unavailable_on_error(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise StoreUnavailable(f"database {self.address}: {' '.join(str(error).split())}") from error

    # The writers' threads -------------------------------------------------------------------------------------------

    def _write_groups(self) -> None:
        connection = None
        while group := self._next_group():
            try:
                with self._unavailable_on_error():
                    if connection is None or connection.closed:
                        connection = self._connect()
                        _queries.commit_to_disk(connection)
                    self._commit_group(connection, group)
            except Exception as error:
                if isinstance(error, StoreUnavailable):
                    log.warning("Not stored, to be sent again: %s", error)
                else:
                    log.exception("Not stored")
                if connection is not None:
                    connection.close()
                for pending in group:
                    if not pending.committed.done():
                        pending.committed.set_exception(error)
        if connection is not None:
            connection.close()

    def _next_group(self) -> list[_Pending]:
        """Wait for exports, and take those that fit in one transaction. Empty when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            group, size = [], 0
            while self._queue and (not group or size + len(self._queue[0].request) <= MAX_COMMIT_BYTES):
                group.append(self._queue.popleft())
                size += len(group[-1].request)
            return group

    def _commit_group(self, connection: psycopg.Connection, group: list[_Pending]) -> None:
        try:
            self._commit(connection, [pending.rows for pending in group])
        except _UNSTORABLE:
            for pending in group:
                export = otlp.read_export(pending.request)
                pending.refused.extend(self._commit_new(connection, export, export.spans))
                pending.committed.set_result(None)
        else:
            for pending in group:
                pending.committed.set_result(None)

    def _commit_new(self, connection: psycopg.Connection, export: otlp.Export, spans: list[otlp.Span]) -> list[str]:
        """Store those spans that are not stored yet, and return why which of them PostgreSQL refused.

        The slow way, for what was sent before, or is not as PostgreSQL wants it.
        """
        new = {span.identity: span for span in spans}
        trace_ids = list({UUID(bytes=span.trace_id) for span in spans})
        for trace_id, span_id, start in _queries.stored_identities(connection, trace_ids=trace_ids):
            new.pop((trace_id.bytes, span_id.to_bytes(8, signed=True), int(start)), None)
        metrics.duplicate_spans.inc(len(spans) - len(new))
        spans = list(new.values())
        if not spans:
            return []
        try:
            self._commit(connection, [export.rows(spans)])
        except errors.UniqueViolation:
            # Another promscale stored some of them since they were looked for; this time they are found.
            return self._commit_new(connection, export, spans)
        except _UNSTORABLE as error:
            if len(spans) == 1:
                return [spans[0].refusal(f"PostgreSQL: {error.diag.message_primary}")]
            middle = len(spans) // 2
            halves = spans[:middle], spans[middle:]
            return [line for half in halves for line in self._commit_new(connection, export, half)]
        return []

    def _commit(self, connection: psycopg.Connection, group: list[otlp.Rows]) -> None:
        """One transaction: all of these rows, or an error and none."""
        while True:
            known = self._known
            with contextlib.suppress(_GenerationChanged), metrics.commit_seconds.time(), connection.transaction():
                inserted = _insert_shared(connection, group, known)
                copy_rows(connection, group)
                generation = _queries.generation(connection)
                if known.ids and known.generation != generation:
                    self._known = _Known(generation)
                    raise _GenerationChanged
                break
        stored = sum(rows.count for rows in group)
        metrics.stored_spans.inc(stored)
        self._stored_spans += stored
        if inserted:
            ids = known.ids | inserted if len(known.ids) < MAX_KNOWN_IDS else inserted
            self._known = _Known(generation, ids)


def copy_rows(connection: psycopg.Connection, group: list[otlp.Rows]) -> None:
    """COPY spans and their bytes into their tables, in the caller's transaction. Raises psycopg.Error."""
    _copy(connection, _queries.copy_spans.sql, (rows.spans for rows in group))
    _copy(connection, _queries.copy_traces_data.sql, (rows.traces_data for rows in group))


def _copy(connection: psycopg.Connection, statement: str, rows: Iterable[bytes]) -> None:
    with connection.cursor().copy(statement) as copy:
        copy.write(b"".join((otlp.COPY_HEADER, *rows, otlp.COPY_TRAILER)))


_INSERTS: tuple[tuple[str, Callable], ...] = (
    # delete_all_traces locks the tables in this order too, so that the two cannot wait for one another.
    ("operations", _queries.insert_operations),
    ("resources", _queries.insert_resources),
    ("scopes", _queries.insert_scopes),
)


def _insert_shared(connection: psycopg.Connection, group: list[otlp.Rows], known: _Known) -> frozenset[tuple[str, int]]:
    """Insert what the spans refer to and is not known to be there; return what that was."""
    inserted = set()
    for table, insert in _INSERTS:
        shared = {id: row for rows in group for id, row in getattr(rows, table).items()}
        # Sorted, so that two transactions cannot wait for one another.
        if unknown := sorted(id for id in shared if (table, id) not in known.ids):
            insert(connection, [shared[id] for id in unknown])
            inserted.update((table, id) for id in unknown)
    return frozenset(inserted)
