"""The trace store: writes exports to the database.

Exports that wait at the same time share one transaction (group commit). `Store.write` returns after COMMIT, never
before. If it raises, some spans may be stored or none, and the sender should retry: delivery is at least once, and
writing is idempotent, because spans that are stored already are not stored again (deduplication).
"""

import contextlib
import errno
import hashlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from importlib import resources
from typing import NamedTuple
from uuid import UUID

import aiosql
import orjson
import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from promscale import copying, metrics, otlp
from promscale import wire_pb2 as wire
from promscale.database import conninfo, deadline
from promscale.encoders import Encoder, chosen_encoder, read_exports
from promscale.upgrade import upgrade

log = logging.getLogger(__name__)

WRITERS = 2
# The largest serialized request: the Collector's limit.
MAX_REQUEST_BYTES = 16 * 2**20
# Backpressure: no further request is received while the requests at hand and their rows take more than this.
MAX_HELD_BYTES = 32 * 2**20
# Bytes of requests in one transaction.
MAX_COMMIT_BYTES = 8 * 2**20
# How long a request waits for memory before StoreFull.
ROOM_SECONDS = 2
DEFAULT_DISK_BUDGET = 2 * 10**9
# Size of the cache of origins and hours that are in the database. Beyond it, some of them are written again.
MAX_KNOWN = 65_536
# Tag sets that the encoder keeps in memory, usually of some hundred bytes each. Spans get no larger ones on arrival.
MAX_TAG_SETS = 4096
MAX_TAG_SET_BYTES = 4096
# Retries after a concurrent writer stored the same spans between the lookup and the COPY.
MAX_RACES = 3
# How long no partitions are created after a lock timeout.
PARTITION_RETRY_SECONDS = 30
# A lasting error is logged once per this time; a full disk is taken to be full for this time.
REPORT_SECONDS = 60
# How long a result of `Store.check` is valid, and how long the database may take for it.
CHECK_SECONDS = 3
CHECK_TIMEOUT_SECONDS = 5
_HOUR_MINUTES = 60

_SQL = resources.files("promscale") / "sql"
_queries = aiosql.from_str((_SQL / "store.sql").read_text(), "psycopg")

# PostgreSQL's errors for values that it cannot store; a retry would fail as well (poison messages).
_UNSTORABLE = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded, errors.StatementTooComplex)
# What may be the error of a duplicate. Citus reports any error of COPY on a worker without its SQLSTATE: the function
# ReportCopyError in https://github.com/citusdata/citus/blob/v14.0.1/src/backend/distributed/commands/multi_copy.c
_MAYBE_DUPLICATE = (errors.UniqueViolation, errors.InternalError_)


class StoreUnavailable(Exception):
    """The database does not answer, or cannot store; the sender should retry."""


class StoreFull(Exception):
    """Too many exports wait for the database; the sender should retry."""


class SchemaMismatch(Exception):
    """The database's schema is from a later version of promscale, or from an edited migration."""


class _GenerationChanged(Exception):
    """Shared rows were deleted, so that `_Known` is no longer valid."""


class _NeedsSlowPath(Exception):
    """The spans must be looked up and encoded again: they belong into partitions that may be closed, without an
    identity index for deduplication, or they were encoded with tag sets that may have been deleted since."""


class _Known(NamedTuple):
    """A cache of the origins in the database and of the hours with a partition, valid for one generation of the store.

    Immutable: a writer's transaction uses one state of it.
    """

    generation: UUID | None = None
    origins: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()  # since 1970


class _State(NamedTuple):
    """The store's state during a transaction."""

    generation: UUID
    closed_until: float  # the end of the time in which partitions may be closed, in seconds since 1970
    tag_sets_version: int
    tag_sets_valid_since: int  # the version

    def accepts(self, group: list[otlp.Rows], minutes: set[int]) -> bool:
        """Whether the rows, which are of these minutes, can be stored as they are."""
        return 60 * min(minutes) >= self.closed_until and all(
            rows.tag_sets_version is None or rows.tag_sets_version >= self.tag_sets_valid_since for rows in group
        )


class _Pending(NamedTuple):
    """An export that waits for its COMMIT."""

    request: bytes
    rows: otlp.Rows
    refusals: otlp.Refusals
    committed: Future[None]


class Store:
    """A trace store on the database at `uri` (a postgres URI or any other libpq connection string).

    `disk_budget`: bytes, 0 for no limit; `ps_trace.set_trace_disk_budget` overrides it. `encoder`: by default, the
    fastest one that is installed.

    Call `migrate`, exhaust `upgrade`, and call `start`. Then `write` may be called from any thread, until `close`.
    """

    def __init__(self, uri: str, disk_budget: int = DEFAULT_DISK_BUDGET, encoder: Encoder | None = None) -> None:
        self._uri = uri
        self._disk_budget = disk_budget
        self._connect = partial(psycopg.connect, conninfo(uri, "promscale"), autocommit=True)
        lock = threading.RLock()
        self._changed = threading.Condition(lock)  # of the queue: writers wait for it
        self._freed = threading.Condition(lock)  # memory: requests wait for it
        self._queue: deque[_Pending] = deque()
        self._held_bytes = 0
        self._closing = False
        self._known = _Known()
        self._missing_hours: set[int] = set()  # hours since 1970 whose partitions are to be created
        self._create_from = -math.inf  # in monotonic time
        self._loading = threading.Lock()
        self._tag_sets_version = 0
        self._reported: dict[type, float] = {}
        self._disk_full: tuple[StoreUnavailable, float] | None = None
        self._checking = threading.Lock()
        self._checked: tuple[StoreUnavailable | None, float] | None = None
        self.encoder = encoder or chosen_encoder()
        self._writers: list[threading.Thread] = []

    @property
    def address(self) -> str:
        """host:port/database, without user and password."""
        parts = conninfo_to_dict(self._uri)
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"

    def migrate(self) -> None:
        """Apply the migrations that the database does not have yet. Raises StoreUnavailable and SchemaMismatch."""
        files = {int(file.name[:3]): file for file in (_SQL / "migrations").iterdir()}
        with self._unavailable_on_error(), self._connect() as connection, connection.transaction():
            _queries.lock_migrations(connection)
            _queries.prepare_migrations(connection)
            applied = {number: (name, sha256) for number, name, sha256 in _queries.applied_migrations(connection)}
            if unknown := applied.keys() - files.keys():
                raise SchemaMismatch(
                    f"the schema at {self.address} has version {max(unknown)}, this promscale knows versions up to "
                    f"{max(files)}: run the later promscale"
                )
            for number, file in sorted(files.items()):
                sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
                if number not in applied:
                    log.info("Applying migration %s", file.name)
                    connection.execute(file.read_text())
                    _queries.record_migration(connection, number=number, file_name=file.name, sha256=sha256)
                elif applied[number][1] not in (sha256, None):
                    raise SchemaMismatch(
                        f"migration {file.name} was edited after it had been applied to {self.address}: restore the "
                        "file and put the change into a new migration"
                    )
            _queries.set_default_disk_budget(connection, disk_budget=self._disk_budget)

    def upgrade(self) -> Iterator[tuple[int, int]]:
        """Copy the spans of the first schema; yields the numbers of copied and all spans. Raises StoreUnavailable."""
        with self._unavailable_on_error(), self._connect() as connection:
            yield from upgrade(connection)

    def start(self) -> None:
        self._writers = [
            threading.Thread(target=self._write_groups, name=f"writer-{n}", daemon=True) for n in range(WRITERS)
        ]
        for writer in self._writers:
            writer.start()

    def close(self) -> None:
        """Graceful shutdown: commit the waiting exports, then stop the writers."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for writer in self._writers:
            writer.join()
        self.encoder.close()

    def check(self) -> None:
        """Readiness: raises StoreUnavailable if an export could not be stored. Caches the result for a few seconds."""
        with self._checking:
            now = time.monotonic()
            if self._disk_full and now - self._disk_full[1] < REPORT_SECONDS:
                raise self._disk_full[0]
            if self._checked is None or now - self._checked[1] >= CHECK_SECONDS:
                try:
                    self._rehearse()
                    error = None
                except StoreUnavailable as unavailable:
                    error = unavailable
                self._checked = error, time.monotonic()
            if self._checked[0]:
                raise self._checked[0]

    def _rehearse(self) -> None:
        """Write a span as an export does, then roll back. Raises StoreUnavailable."""
        # A new origin each time: with one that others write too, this would wait for their transactions to end.
        unique, now = os.urandom(8), time.time_ns()
        span = wire.Span(
            trace_id=os.urandom(16),
            span_id=unique,
            name=unique.hex().encode(),
            start_time_unix_nano=now,
            end_time_unix_nano=now,
        ).SerializeToString()
        envelope = otlp.Envelope(schema_url=unique.hex().encode())
        rows, _ = self.encoder.encode(otlp.traces_data({otlp.Source(envelope, envelope): [span]}))
        with (
            self._unavailable_on_error(),
            self._connect(application_name="promscale-readiness") as connection,
            deadline(connection, CHECK_TIMEOUT_SECONDS),
            connection.transaction(force_rollback=True),
        ):
            _insert_origins(connection, list(rows.origins.values()))
            copy_rows(connection, [rows])
            _touch(connection, rows.minutes, [rows])

    @contextlib.contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Reserve memory for a request before it is received; yields a function to call with its real size, in bytes.

        Raises StoreFull: backpressure.
        """
        held = MAX_REQUEST_BYTES

        def hold(size: int) -> None:
            nonlocal held
            with self._freed:
                self._held_bytes += size - held
                held = size
                self._freed.notify_all()

        with self._freed:
            if not self._freed.wait_for(lambda: self._held_bytes + held <= MAX_HELD_BYTES, ROOM_SECONDS):
                raise StoreFull(
                    f"{self._held_bytes:,} bytes of exports wait for the database; the limit is {MAX_HELD_BYTES:,}"
                )
            self._held_bytes += held
        try:
            yield hold
        finally:
            hold(0)

    def write(self, request: bytes) -> otlp.Refusals:
        """Store a serialized ExportTraceServiceRequest; returns its refused spans, after COMMIT.

        Raises otlp.MalformedRequest and StoreUnavailable. After the latter, some of the spans may be stored.
        """
        rows, refusals = self.encoder.encode(request)
        if rows.count:
            pending, size = _Pending(request, rows, refusals, Future()), rows.size()
            with self._changed:
                if self._closing or not self._writers:
                    raise StoreUnavailable("promscale is starting or stopping")
                self._queue.append(pending)
                self._held_bytes += size
                self._changed.notify()
            try:
                pending.committed.result()
            finally:
                with self._freed:
                    self._held_bytes -= size
                    self._freed.notify_all()
        return refusals

    @contextlib.contextmanager
    def _unavailable_on_error(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise StoreUnavailable(f"database {self.address}: {' '.join(str(error).split())}") from error
        except TimeoutError as error:
            raise StoreUnavailable(f"database {self.address}: no answer") from error

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
                    self._report(error)
                else:
                    log.exception("An export could not be stored")
                if connection is not None:
                    connection.close()
                for pending in group:
                    if not pending.committed.done():
                        pending.committed.set_exception(error)
            group.clear()  # frees their memory while this thread waits for more
        if connection is not None:
            connection.close()

    def _report(self, error: StoreUnavailable) -> None:
        """Log an error, each kind of error once a minute, and remember a full disk."""
        # libpq gives no SQLSTATE for an error on connecting, so that only the text tells a full disk.
        full = os.strerror(errno.ENOSPC) in str(error.__cause__)
        kind, now = errors.DiskFull if full else type(error.__cause__), time.monotonic()
        if now - self._reported.get(kind, -math.inf) >= REPORT_SECONDS:
            log.warning("An export could not be stored, its sender should retry: %s", error)
            self._reported[kind] = now
        if kind is errors.DiskFull:
            self._disk_full = error, now

    def _next_group(self) -> list[_Pending]:
        """Wait for exports and take as many as fit in one transaction. Empty when the store is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            group: list[_Pending] = []
            size = 0
            while self._queue and (not group or size + len(self._queue[0].request) <= MAX_COMMIT_BYTES):
                group.append(self._queue.popleft())
                size += len(group[-1].request)
            return group

    def _commit_group(self, connection: psycopg.Connection, group: list[_Pending]) -> None:
        try:
            group_rows = [pending.rows for pending in group]
            self._create_partitions(connection, group_rows)
            origins: dict[int, otlp.Origin] = {}
            for rows in group_rows:
                origins |= rows.origins
            self._commit(connection, origins, lambda: group_rows)
        except (_NeedsSlowPath, *_MAYBE_DUPLICATE, *_UNSTORABLE):
            for pending in group:
                self._commit_slowly(connection, pending)
        else:
            for pending in group:
                pending.committed.set_result(None)

    def _create_partitions(self, connection: psycopg.Connection, group: list[otlp.Rows]) -> None:
        """Create the missing partitions for these rows. Spans of future hours go into the default partition. While a
        long transaction, such as that of a backup, reads this partition, spans do not wait but go there as well."""
        known = self._known
        hours = {minute // _HOUR_MINUTES for rows in group for minute in rows.minutes} - known.hours
        if len(self._missing_hours) < MAX_KNOWN:
            self._missing_hours.update(hour for hour in hours if hour <= time.time() // 3600)
        if self._missing_hours and time.monotonic() >= self._create_from:
            missing = sorted(self._missing_hours, reverse=True)
            try:
                for hour in missing:
                    _queries.create_partition(connection, hour=hour)
            except errors.LockNotAvailable:
                self._create_from = time.monotonic() + PARTITION_RETRY_SECONDS
                log.info("Lock timeout: the default partition is in use, new partitions are postponed")
            except errors.SerializationFailure:
                # Another writer has just put spans of the hour into the default partition. The next export takes them
                # into account; these spans follow them.
                log.info("The default partition is in use, the next export creates the new partitions")
            else:
                self._missing_hours.difference_update(missing)
                self._known = known._replace(hours=_remember(known.hours, missing))

    def _commit_slowly(self, connection: psycopg.Connection, pending: _Pending) -> None:
        """The slow path: for retries, for late spans, and to find the poison message in an export."""
        try:
            with contextlib.closing(read_exports(pending.request)) as exports:
                for export in exports:
                    self._commit_new(connection, pending.refusals, export, export.spans)
        except otlp.MalformedRequest as error:
            pending.committed.set_exception(error)
        else:
            pending.committed.set_result(None)

    def _commit_new(
        self,
        connection: psycopg.Connection,
        refusals: otlp.Refusals,
        export: otlp.Export,
        spans: list[otlp.Span],
        races: int = 0,
    ) -> None:
        """Store the spans that are not stored yet; spans that PostgreSQL rejects, which bisection finds, are added to
        the refusals."""

        def new_spans() -> list[otlp.Rows]:
            _queries.lock_late_spans(connection)
            new = {span.identity: span for span in spans}
            trace_ids = list({UUID(bytes=span.trace_id) for span in spans})
            for trace_id, span_id, start in _queries.stored_identities(connection, trace_ids=trace_ids):
                new.pop((trace_id.bytes, span_id.to_bytes(8, signed=True), int(start)), None)
            return [export.rows(list(new.values()))] if new else []

        try:
            stored = self._commit(connection, export.origins, new_spans, late=True)
        except (*_MAYBE_DUPLICATE, *_UNSTORABLE) as error:
            # Another promscale stored some of the spans after `new_spans` looked for them: look again.
            if isinstance(error, _MAYBE_DUPLICATE) and races < MAX_RACES:
                self._commit_new(connection, refusals, export, spans, races + 1)
            elif isinstance(error, errors.InternalError_):
                raise
            elif len(spans) == 1:
                refusals.add(otlp.refusal(spans[0].raw, f"PostgreSQL: {error.diag.message_primary}"))
            else:
                middle = len(spans) // 2
                for half in (spans[:middle], spans[middle:]):
                    self._commit_new(connection, refusals, export, half)
        else:
            metrics.duplicate_spans.inc(len(spans) - stored)

    def _commit(
        self,
        connection: psycopg.Connection,
        origins: dict[int, otlp.Origin],
        choose: Callable[[], list[otlp.Rows]],
        late: bool = False,
    ) -> int:
        """Store the rows that `choose` returns in one transaction, in which it is called. Returns the number of spans.

        Raises _NeedsSlowPath, unless `late`: then `choose` leaves out spans that are stored already.
        """
        while True:
            known = self._known
            with contextlib.suppress(_GenerationChanged), metrics.commit_seconds.time(), connection.transaction():
                # Before `choose` reads spans, because delete_all_traces locks origins before spans.
                new_origins = [origins[origin_id] for origin_id in origins.keys() - known.origins]
                _insert_origins(connection, new_origins)
                group = choose()
                if not group:
                    return 0
                copy_rows(connection, group)
                minutes = {minute for rows in group for minute in rows.minutes}
                state = _touch(connection, minutes, group)
                if known.generation not in (state.generation, None):
                    self._known = _Known(state.generation)
                    raise _GenerationChanged
                if not (late or state.accepts(group, minutes)):
                    raise _NeedsSlowPath
                break
        self._disk_full = None
        stored = sum(rows.count for rows in group)
        metrics.stored_spans.inc(stored)
        if new_origins or known.generation is None:
            written = _remember(known.origins, {origin.id for origin in new_origins})
            self._known = known._replace(generation=state.generation, origins=written)
        self._use_tag_sets(connection, state.tag_sets_version)
        return stored

    def _use_tag_sets(self, connection: psycopg.Connection, version: int) -> None:
        """Let the encoder use the current tag sets, unless it has this version of them already."""
        with self._loading:
            if version != self._tag_sets_version:
                current = _queries.current_tag_sets(connection, limit=MAX_TAG_SETS, max_bytes=MAX_TAG_SET_BYTES)
                by_origin = {
                    origin_id: otlp.TagSet.of(tag_set_id, orjson.loads(tags)) for tag_set_id, origin_id, tags in current
                }
                self.encoder.use_tag_sets(otlp.TagSets(version, by_origin))
                self._tag_sets_version = version


def _remember(known: frozenset[int], more: Iterable[int]) -> frozenset[int]:
    return known.union(more) if len(known) < MAX_KNOWN else frozenset(more)


def copy_rows(connection: psycopg.Connection, group: list[otlp.Rows]) -> None:
    """COPY spans and their OTLP bytes into their tables, in the caller's transaction. Raises psycopg.Error."""
    spans = (data for rows in group for data in rows.spans)
    traces_data = (data for rows in group for data in rows.traces_data)
    copying.copy_rows(connection, copying.COPY_SPANS, spans)
    copying.copy_rows(connection, copying.COPY_TRACES_DATA, traces_data)


def _touch(connection: psycopg.Connection, minutes: set[int], group: list[otlp.Rows]) -> _State:
    """Record that these minutes have new spans."""
    trace_ids = {UUID(bytes=trace_id) for rows in group for trace_id in rows.trace_ids}
    return _State._make(_queries.touch_minutes(connection, minutes=list(minutes), trace_ids=list(trace_ids)))


def _insert_origins(connection: psycopg.Connection, origins: list[otlp.Origin]) -> None:
    """Insert origins with their operations, resources and scopes."""
    # In the order in which delete_all_traces locks the tables, to avoid a deadlock with it.
    inserts = (
        (_queries.insert_resources, {origin.resource_id: origin.resource for origin in origins}),
        (_queries.insert_scopes, {origin.scope_id: origin.scope for origin in origins}),
        (_queries.insert_operations, {origin.operation_id: origin.operation for origin in origins}),
        (
            _queries.insert_origins,
            {
                origin.id: (origin.operation_id, origin.resource_id, origin.scope_id, *origin.operation)
                for origin in origins
            },
        ),
    )
    for insert, rows in inserts:
        # Sorted, to avoid a deadlock of two transactions.
        if rows:
            insert(connection, [(row_id, *row) for row_id, row in sorted(rows.items())])
