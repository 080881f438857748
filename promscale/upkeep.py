"""Keeps the store ready and bounded: partitions ahead of time, summaries, limits by age and by size, closed partitions."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from importlib import resources

import aiosql
import psycopg
from psycopg import errors

from promscale.closing import close_partition
from promscale.database import conninfo
from promscale.store import StoreUnavailable

log = logging.getLogger(__name__)

# A minute is summarised when nothing has touched it for so long.
QUIET_SECONDS = 5
# So that limits are kept although many minutes wait for their summary.
MINUTES_A_TURN = 60
LIMITS_SECONDS = 2
STATISTICS_SECONDS = 5
FIRST_STATISTICS_SPANS = 1_000
READERS_SECONDS = 60
# Late spans are slow to store in a closed partition, so it is closed when they are rare.
CLOSE_AFTER_MINUTES = 30
# Writing a partition anew is much work, so what has kept it from being closed is given some time to end.
CLOSE_AGAIN_SECONDS = 60
# To leave room for what comes before the next look, partitions are dropped at this part of the budget, or earlier where
# what comes in so many seconds takes more.
BUDGET_PART = 0.92
BUDGET_SECONDS = 6
# A partition that is larger than this part of the budget is split, so that dropping one drops little.
SPLIT_PART = 1 / 8
SPLIT_SECONDS = 2

# A Bloom filter has so many bits for each attribute, or up to twice as many, and more attributes make no filter.
FILTER_BITS = 12
FILTER_PROBES = 6
# In a smaller filter, two hashes have all their probes in common too often.
MIN_FILTER_BITS = 64
MAX_FILTER_ATTRIBUTES = 500_000

_queries = aiosql.from_str((resources.files("promscale") / "sql" / "upkeep.sql").read_text(), "psycopg")


class Upkeep:
    """The upkeep of the store on the database at `uri`. Its methods raise StoreUnavailable.

    `turn` is to be called again and again; the other methods are its parts. Not for several threads.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._open: psycopg.Connection | None = None
        self._statistics_at_spans = FIRST_STATISTICS_SPANS
        self._last_look: tuple[float, int] | None = None  # when, and how many bytes of the disk were used
        parts = self.keep_limits, self.refresh_statistics, self.restore_readers, self.close_partition
        self._due = dict.fromkeys(parts, 0.0)

    def close(self) -> None:
        if self._open:
            self._open.close()

    def turn(self) -> None:
        """Do what is due, unless another promscale does."""
        with self._connection() as connection:
            if not _queries.try_lock(connection):
                return
        self.create_partitions()
        summarised = self.summarise()
        self._sometimes(self.keep_limits, LIMITS_SECONDS)
        self._sometimes(self.refresh_statistics, STATISTICS_SECONDS)
        self._sometimes(self.restore_readers, READERS_SECONDS)
        # It takes a while, so it does not keep minutes waiting for their summary.
        if summarised < MINUTES_A_TURN:
            self._sometimes(self.close_partition, CLOSE_AGAIN_SECONDS)

    def _sometimes(self, part: Callable[[], bool | None], seconds: float) -> None:
        """Call it, but not for so long after a call that did not return True."""
        if time.monotonic() >= self._due[part] and not part():
            self._due[part] = time.monotonic() + seconds

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection]:
        try:
            if self._open is None or self._open.closed:
                self._open = psycopg.connect(conninfo(self._uri, "promscale-upkeep"), autocommit=True)
                _queries.configure(self._open)
            yield self._open
        except errors.LockNotAvailable:
            log.info("A table is in use; its upkeep is put off")
        except psycopg.Error as error:
            self.close()
            raise StoreUnavailable(f"upkeep: {' '.join(str(error).split())}") from error

    def create_partitions(self) -> None:
        """See to it that the partitions of this hour and the next are there."""
        with self._connection() as connection:
            _queries.create_partitions_ahead(connection)

    def summarise(self, quiet_seconds: float = QUIET_SECONDS) -> int:
        """Summarise minutes that spans have reached and that have been quiet for so long; returns how many."""
        due = []
        with self._connection() as connection:
            due = list(_queries.due_minutes(connection, quiet_seconds=quiet_seconds, limit=MINUTES_A_TURN))
            for minute, touched_ids in due:
                with connection.transaction():
                    hashes = [hash for (hash,) in _queries.attribute_hashes(connection, minute=minute)]
                    _queries.summarise(
                        connection, minute=minute, touched_ids=touched_ids, attribute_filter=attribute_filter(hashes)
                    )
        return len(due)

    def refresh_statistics(self) -> None:
        """Have PostgreSQL look at what is stored whenever that has doubled."""
        with self._connection() as connection:
            spans = _queries.span_count(connection)
            if spans >= self._statistics_at_spans:
                _queries.refresh_statistics(connection)
                self._statistics_at_spans = 2 * spans

    def restore_readers(self) -> None:
        """Undo what somebody has set for the roles of readers."""
        with self._connection() as connection:
            _queries.restore_readers(connection)

    # Limits ---------------------------------------------------------------------------------------------------------

    def keep_limits(self) -> None:
        """Drop what is older than the retention period or more than the disk budget, and split a large partition."""
        with self._connection() as connection:
            deleted = _queries.delete_old_spans(connection)
            dropped = [starts_at for (starts_at,) in _queries.outdated_partitions(connection)]
            for starts_at in dropped:
                _queries.drop_partition(connection, starts_at=starts_at)
            budget = _queries.disk_budget(connection)
            if budget:
                dropped += self._keep_budget(connection, budget)
            if deleted or dropped:
                _queries.delete_unused_origins(connection)

    def _keep_budget(self, connection: psycopg.Connection, budget: int) -> list:
        dropped = []
        partitions = list(_queries.partition_sizes(connection))
        limit = self._drop_at(connection, budget)
        while (used := _queries.disk_used(connection)) > limit and len(partitions) > 1 and partitions[0][3]:
            starts_at, name, size, _ = partitions.pop(0)
            log.info("The disk budget of %s bytes is used up: dropping partition %s, %s bytes", budget, name, size)
            _queries.drop_partition(connection, starts_at=starts_at)
            dropped.append(starts_at)
        self._last_look = time.monotonic(), used
        for starts_at, name, size, over in partitions:
            if not over and size > SPLIT_PART * budget:
                log.info("Splitting partition %s, %s bytes", name, size)
                _queries.split_partition(connection, name=name, seconds=SPLIT_SECONDS)
        return dropped

    def _drop_at(self, connection: psycopg.Connection, budget: int) -> float:
        """How many bytes of the disk may be used now."""
        room = (1 - BUDGET_PART) * budget
        if self._last_look:
            looked_at, used = self._last_look
            grown = _queries.disk_used(connection) - used
            room = max(room, grown * BUDGET_SECONDS / max(time.monotonic() - looked_at, 1))
        return budget - min(room, budget / 2)

    def close_partition(self, minutes: float = CLOSE_AFTER_MINUTES) -> bool:
        """Close the oldest partition that has been over for so long. Returns False where it was in use."""
        with self._connection() as connection:
            for (name,) in list(_queries.partitions_to_close(connection, minutes=minutes))[:1]:
                began = time.monotonic()
                if not close_partition(connection, name):
                    log.info("Partition %s got spans while it was being closed; its closing is put off", name)
                    return False
                log.info("Closed partition %s in %.1f s", name, time.monotonic() - began)
            return True
        return False


def attribute_filter(hashes: list[int]) -> bytes | None:
    """A Bloom filter of 64-bit hashes, as `_promscale.may_have_attribute` reads it; None for too many of them."""
    if len(hashes) > MAX_FILTER_ATTRIBUTES:
        return None
    bits = max(MIN_FILTER_BITS, 1 << (FILTER_BITS * len(hashes)).bit_length())
    array = bytearray(bits // 8)
    for hash in hashes:
        first, step = hash & 0xFFFFFFFF, hash >> 32 & 0xFFFFFFFF | 1
        for probe in range(FILTER_PROBES):
            bit = (first + probe * step) % bits
            array[bit >> 3] |= 1 << (bit & 7)
    return bytes(array)
