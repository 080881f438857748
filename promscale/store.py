"""The trace store: exports in, committed rows out.

Several exports that wait at the same time share one transaction (group commit). `Store.write` returns after COMMIT and
never before; where it raises, nothing is promised, and the sender is to send again: what then turns out to be stored
already is not stored twice.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
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


class _Pending:
    """An export on its way into the database."""

    def __init__(self, export: otlp.Export, size: int) -> None:
        self.export = export
        self.size = size
        self.traces_data = otlp.traces_data_rows(export.spans)
        self.committed: Future[None] = Future()


class Store:
    """A trace store on the database at `uri` (a postgres URI or any other libpq connection string).

    Call `migrate` until it succeeds, then `start`; `write` may then be called from any thread, until `close`.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        # An acknowledged span is on disk, whatever the database's own default is.
        self._connect = lambda: psycopg.connect(
            uri, autocommit=True, connect_timeout=5, application_name="promscale", options="-c synchronous_commit=on"
        )
        self._changed = threading.Condition()
        self._queue: deque[_Pending] = deque()
        self._held_bytes = 0
        self._closing = False
        self._known = _Known()
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

    def check(self) -> None:
        """Ask the database for a sign of life. Raises StoreUnavailable."""
        with self._unavailable_on_error(), self._connect() as connection:
            connection.execute("select")

    def delete_old_traces(self) -> None:
        """Delete what is older than the retention period. Raises StoreUnavailable."""
        with self._unavailable_on_error(), self._connect() as connection:
            _queries.delete_old_traces(connection)

    def write(self, request: bytes) -> list[str]:
        """Store a serialized ExportTraceServiceRequest; return, after COMMIT, why which span was refused.

        Raises otlp.MalformedRequest, StoreFull and StoreUnavailable; nothing is promised then.
        """
        with self._held(len(request)):
            export = otlp.read_export(request)
            if export.spans:
                pending = _Pending(export, len(request))
                with self._changed:
                    if self._closing or not self._writers:
                        raise StoreUnavailable("promscale is starting or stopping")
                    self._queue.append(pending)
                    self._changed.notify()
                pending.committed.result()
            return export.refused

    @contextlib.contextmanager
    def _held(self, size: int) -> Iterator[None]:
        with self._changed:
            if self._held_bytes and self._held_bytes + size > MAX_HELD_BYTES:
                raise StoreFull(f"{self._held_bytes} bytes of exports wait for the database; the limit is {MAX_HELD_BYTES}")
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
            while self._queue and (not group or size + self._queue[0].size <= MAX_COMMIT_BYTES):
                group.append(self._queue.popleft())
                size += group[-1].size
            return group

    def _commit_group(self, connection: psycopg.Connection, group: list[_Pending]) -> None:
        try:
            spans = [span for pending in group for span in pending.export.spans]
            self._commit(connection, group, spans, b"".join(pending.traces_data for pending in group))
        except _UNSTORABLE:
            for pending in group:
                self._commit_new(connection, pending, pending.export.spans)
                pending.committed.set_result(None)
        else:
            for pending in group:
                pending.committed.set_result(None)

    def _commit_new(self, connection: psycopg.Connection, pending: _Pending, spans: list[otlp.Span]) -> None:
        """Store those spans that are not stored yet, and refuse those that PostgreSQL does.

        The slow way, for what was sent before, or is not as PostgreSQL wants it.
        """
        new = {span.identity: span for span in spans}
        trace_ids = list({UUID(bytes=span.trace_id) for span in spans})
        for trace_id, span_id, start in _queries.stored_identities(connection, trace_ids=trace_ids):
            new.pop((trace_id.bytes, span_id.to_bytes(8, signed=True), int(start)), None)
        metrics.duplicate_spans.inc(len(spans) - len(new))
        if not new:
            return
        spans = list(new.values())
        try:
            self._commit(connection, [pending], spans, otlp.traces_data_rows(spans))
        except errors.UniqueViolation:
            # Another promscale stored some of them since they were looked for; this time they are found.
            self._commit_new(connection, pending, spans)
        except _UNSTORABLE as error:
            if len(spans) == 1:
                pending.export.refused.append(spans[0].refusal(f"PostgreSQL: {error.diag.message_primary}"))
            else:
                middle = len(spans) // 2
                self._commit_new(connection, pending, spans[:middle])
                self._commit_new(connection, pending, spans[middle:])

    def _commit(
        self, connection: psycopg.Connection, group: list[_Pending], spans: list[otlp.Span], traces_data: bytes
    ) -> None:
        """One transaction: all of these spans, or an error and none."""
        while True:
            known = self._known
            with contextlib.suppress(_GenerationChanged), metrics.commit_seconds.time(), connection.transaction():
                inserted = _insert_shared(connection, [pending.export for pending in group], known)
                _copy(connection, _queries.copy_spans.sql, (span.row for span in spans))
                _copy(connection, _queries.copy_traces_data.sql, [traces_data])
                generation = _queries.generation(connection)
                if known.ids and known.generation != generation:
                    self._known = _Known(generation)
                    raise _GenerationChanged
                break
        metrics.stored_spans.inc(len(spans))
        if inserted:
            ids = known.ids | inserted if len(known.ids) < MAX_KNOWN_IDS else inserted
            self._known = _Known(generation, ids)


def _copy(connection: psycopg.Connection, statement: str, rows: Iterable[bytes]) -> None:
    with connection.cursor().copy(statement) as copy:
        copy.write(b"".join((otlp.COPY_HEADER, *rows, otlp.COPY_TRAILER)))


_INSERTS: tuple[tuple[str, Callable], ...] = (
    # delete_all_traces locks the tables in this order too, so that the two cannot wait for one another.
    ("operations", _queries.insert_operations),
    ("resources", _queries.insert_resources),
    ("scopes", _queries.insert_scopes),
)


def _insert_shared(
    connection: psycopg.Connection, exports: list[otlp.Export], known: _Known
) -> frozenset[tuple[str, int]]:
    """Insert what the exports' spans refer to and is not known to be there; return what that was."""
    inserted = set()
    for table, insert in _INSERTS:
        rows = {id: row for export in exports for id, row in getattr(export, table).items()}
        # Sorted, so that two transactions cannot wait for one another.
        if unknown := sorted(id for id in rows if (table, id) not in known.ids):
            insert(connection, [rows[id] for id in unknown])
            inserted.update((table, id) for id in unknown)
    return frozenset(inserted)
