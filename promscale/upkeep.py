"""Upkeep of the store: creates partitions ahead of time, summarises minutes, enforces limits, closes partitions."""

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib import resources

import aiosql
import psycopg
from psycopg import errors

from promscale import metrics
from promscale.closing import close_partition
from promscale.database import conninfo
from promscale.store import StoreUnavailable

log = logging.getLogger(__name__)

# A minute is summarised when no spans have reached it for this time.
QUIET_SECONDS = 5
# Summaries of one turn are limited, so that a backlog of minutes does not delay the limits.
MINUTES_PER_TURN = 60
LIMITS_SECONDS = 2
STATISTICS_SECONDS = 5
TAG_SETS_SECONDS = 10
FIRST_STATISTICS_SPANS = 1_000
READERS_SECONDS = 60
# Closed partitions store late spans slowly, so a partition is closed when late spans have become rare.
CLOSE_AFTER_MINUTES = 30
# Closing rewrites a partition, which is much work: if spans interrupted it, wait before the next attempt.
CLOSE_RETRY_SECONDS = 60
# Partitions are dropped when this share of the budget is used, to leave room for the spans that arrive before the next
# check, or earlier if the spans of BUDGET_SECONDS take more than the rest.
BUDGET_SHARE = 0.92
BUDGET_SECONDS = 6
# A partition with more than this share of the budget is split, so that dropping one drops little.
SPLIT_SHARE = 1 / 8
SPLIT_SECONDS = 2

# A Bloom filter has at least this number of bits per attribute, and less than twice as many.
FILTER_BITS = 12
FILTER_PROBES = 6
# In a smaller filter, all probes of two hashes coincide too often.
MIN_FILTER_BITS = 64
# A minute with more attributes gets no filter.
MAX_FILTER_ATTRIBUTES = 500_000

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "upkeep.sql").read_text(), "psycopg")


class Upkeep:
    """The upkeep of the store on the database at `uri`. Its methods raise StoreUnavailable. Not thread-safe.

    Call `turn` every second or so; the other public methods are its parts.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._connection: psycopg.Connection | None = None
        self._statistics_at_spans = FIRST_STATISTICS_SPANS
        self._last_disk_use: tuple[float, int] | None = None  # monotonic time of the measurement, and bytes
        self._due: defaultdict[Callable[[], bool | None], float] = defaultdict(float)  # in monotonic time

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        metrics.upkeep.set(0)

    def turn(self) -> None:
        """Do the upkeep that is due, unless another promscale holds the lock for it."""
        with self._connected() as connection:
            holds_lock = _queries.try_lock(connection)
            metrics.upkeep.set(holds_lock)
            if not holds_lock:
                return
        self.create_partitions()
        summarised = self.summarise()
        self._sometimes(self.keep_limits, LIMITS_SECONDS)
        self._sometimes(self.refresh_statistics, STATISTICS_SECONDS)
        self._sometimes(self.choose_tag_sets, TAG_SETS_SECONDS)
        self._sometimes(self.restore_readers, READERS_SECONDS)
        # Closing takes a while, so it waits until there is no backlog of summaries.
        if summarised < MINUTES_PER_TURN:
            self._sometimes(self.close_partition, CLOSE_RETRY_SECONDS)

    def _sometimes(self, part: Callable[[], bool | None], seconds: float) -> None:
        """Call `part`, unless a call that did not return True was less than `seconds` ago."""
        if time.monotonic() >= self._due[part] and not part():
            self._due[part] = time.monotonic() + seconds

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        """The connection, for a part of the upkeep. The part ends without an error if a table is in use."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(conninfo(self._uri, "promscale-upkeep"), autocommit=True)
                _queries.configure(self._connection)
            yield self._connection
        except (errors.LockNotAvailable, errors.SerializationFailure) as error:
            log.info("A table is in use, its upkeep is postponed: %s", error.diag.message_primary)
        except psycopg.Error as error:
            self.close()
            raise StoreUnavailable(f"upkeep: {' '.join(str(error).split())}") from error

    def create_partitions(self) -> None:
        """Create the partitions of this hour and the next one if they are missing."""
        with self._connected() as connection:
            _queries.create_partitions_ahead(connection)

    def summarise(self, quiet_seconds: float = QUIET_SECONDS) -> int:
        """Summarise minutes with new spans, but none within the last `quiet_seconds`; returns the number of minutes."""
        due: list[tuple[datetime, list[int]]] = []
        with self._connected() as connection:
            due = list(_queries.due_minutes(connection, quiet_seconds=quiet_seconds, limit=MINUTES_PER_TURN))
            if due and not _queries.is_settled(connection):
                log.info(
                    "Spans are in doubt after a failure of a worker, summaries are postponed until it is recovered"
                )
                return 0
            for minute, touched_ids in due:
                with connection.transaction():
                    hashes = [value for (value,) in _queries.attribute_hashes(connection, minute=minute)]
                    _queries.summarise(
                        connection, minute=minute, touched_ids=touched_ids, attribute_filter=attribute_filter(hashes)
                    )
        return len(due)

    def refresh_statistics(self) -> None:
        """Update PostgreSQL's planner statistics whenever the number of spans has doubled."""
        with self._connected() as connection:
            spans = _queries.span_count(connection)
            if spans >= self._statistics_at_spans:
                _queries.refresh_statistics(connection)
                self._statistics_at_spans = 2 * spans

    def choose_tag_sets(self) -> None:
        """Choose the attributes that new spans of an origin share, by spans of the last minute."""
        with self._connected() as connection:
            _queries.choose_tag_sets(connection)

    def restore_readers(self) -> None:
        """Restore the settings of the reader roles, which the roles themselves can change."""
        with self._connected() as connection:
            _queries.restore_readers(connection)

    # Limits ---------------------------------------------------------------------------------------------------------

    def keep_limits(self) -> None:
        """Drop partitions beyond the retention period or the disk budget, and split a large partition."""
        with self._connected() as connection:
            deleted = _queries.delete_old_spans(connection)
            dropped = [starts_at for (starts_at,) in _queries.outdated_partitions(connection)]
            for starts_at in dropped:
                _queries.drop_partition(connection, starts_at=starts_at)
            budget = _queries.disk_budget(connection)
            if budget:
                dropped += self._keep_budget(connection, budget)
            if deleted or dropped:
                _queries.delete_unused_origins(connection)

    def _keep_budget(self, connection: psycopg.Connection, budget: int) -> list[datetime]:
        """Drop the oldest partitions until the database fits into `budget` bytes; returns their starts."""
        dropped = []
        partitions = list(_queries.partition_sizes(connection))
        limit = self._disk_limit(connection, budget)
        while (used := _queries.disk_used(connection)) > limit and len(partitions) > 1 and partitions[0][3]:
            starts_at, name, size, _ = partitions.pop(0)
            log.info("Disk budget of %s bytes used up: dropping partition %s with %s bytes", budget, name, size)
            _queries.drop_partition(connection, starts_at=starts_at)
            dropped.append(starts_at)
        self._last_disk_use = time.monotonic(), used
        for _, name, size, over in partitions:
            if not over and size > SPLIT_SHARE * budget:
                log.info("Splitting partition %s with %s bytes", name, size)
                _queries.split_partition(connection, name=name, seconds=SPLIT_SECONDS)
        return dropped

    def _disk_limit(self, connection: psycopg.Connection, budget: int) -> float:
        """Bytes that the database may take now, so that it stays within the budget until the next check."""
        room = (1 - BUDGET_SHARE) * budget
        if self._last_disk_use:
            measured_at, used = self._last_disk_use
            growth = _queries.disk_used(connection) - used
            room = max(room, growth * BUDGET_SECONDS / max(time.monotonic() - measured_at, 1))
        return budget - min(room, budget / 2)

    def close_partition(self, minutes: float = CLOSE_AFTER_MINUTES) -> bool:
        """Close the oldest open partition that ended at least `minutes` ago. Returns False if it was in use."""
        with self._connected() as connection:
            for (name,) in list(_queries.partitions_to_close(connection, minutes=minutes))[:1]:
                started_at = time.monotonic()
                if not close_partition(connection, name):
                    log.info("Partition %s received spans while it was being closed; retrying later", name)
                    return False
                log.info("Closed partition %s in %.1f s", name, time.monotonic() - started_at)
            return True
        return False


def attribute_filter(hashes: list[int]) -> bytes | None:
    """A Bloom filter of 64-bit hashes for the SQL function `_promscale.may_have_attribute`; None for too many."""
    if len(hashes) > MAX_FILTER_ATTRIBUTES:
        return None
    bits = max(MIN_FILTER_BITS, 1 << (FILTER_BITS * len(hashes)).bit_length())
    array = bytearray(bits // 8)
    for value in hashes:
        # Double hashing: the halves of the hash give the first probe and the distance between probes.
        first, step = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF | 1
        for probe in range(FILTER_PROBES):
            bit = (first + probe * step) % bits
            array[bit >> 3] |= 1 << (bit & 7)
    return bytes(array)
