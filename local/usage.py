"""What the stored traces take on the disk, and when the oldest will go: for ./run.sh status."""

from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg

MEGABYTE = 10**6

PARTITIONS = """
    select starts_at, ends_at, closed_at is not null, spans, row_bytes, index_bytes, lossless_bytes
    from ps_trace.disk_usage
    where spans > 0
"""
LIMITS = "select ps_trace.disk_used(), ps_trace.get_trace_disk_budget(), ps_trace.get_trace_retention_period(), now()"


class Partition(NamedTuple):
    """A row of the view ps_trace.disk_usage; without times, the partition of spans of any other age."""

    starts_at: datetime | None
    ends_at: datetime | None
    closed: bool
    spans: int
    row_bytes: int
    index_bytes: int
    lossless_bytes: int

    @property
    def bytes(self) -> int:
        return self.row_bytes + self.index_bytes + self.lossless_bytes


def report(database: str) -> str:
    """Lines to print. They say so where the database cannot be asked."""
    try:
        with psycopg.connect(database, connect_timeout=2) as connection:
            partitions = [Partition(*row) for row in connection.execute(PARTITIONS)]
            used, budget, retention, now = connection.execute(LIMITS).fetchone()
    except psycopg.Error as error:
        return f"spans stored so far: unknown: {str(error).splitlines()[0]}"
    lines = [f"spans stored so far: {sum(partition.spans for partition in partitions)}"]
    limit = f"of {_megabytes(budget)}, the disk budget" if budget else "there is no disk budget"
    lines.append(f"disk use: {_megabytes(used)}, {limit}")
    timed = [partition for partition in partitions if partition.starts_at]
    if timed:
        drop_at = _drop_time(timed, used, budget, retention, now)
        lines.append(
            f"oldest spans: from {timed[0].starts_at:%Y-%m-%d %H:%M}, {_age(now - timed[0].starts_at)} old;"
            f" dropped at about {drop_at:%Y-%m-%d %H:%M}"
        )
    lines.append(f"\n{'partition':<34}{'state':<8}{'spans':>12}{'rows':>10}{'indexes':>10}{'lossless':>10}")
    for partition in partitions:
        sizes = (partition.row_bytes, partition.index_bytes, partition.lossless_bytes)
        times = (
            f"{partition.starts_at:%Y-%m-%d %H:%M} to {partition.ends_at:%H:%M}"
            if partition.starts_at
            else "any other time"
        )
        lines.append(
            f"{times:<34}{'closed' if partition.closed else 'open':<8}{partition.spans:>12}"
            + "".join(f"{_megabytes(size):>10}" for size in sizes)
        )
    return "\n".join(lines)


def _drop_time(partitions: list[Partition], used: int, budget: int, retention: timedelta, now: datetime) -> datetime:
    """When the oldest partition will be dropped: for its age, or before that for want of space, if all goes on so."""
    by_age = partitions[0].ends_at + retention
    since = partitions[0].starts_at
    growth = sum(partition.bytes for partition in partitions) / max((now - since).total_seconds(), 1)
    if not budget or not growth:
        return by_age
    return min(by_age, now + timedelta(seconds=min(max(budget - used, 0) / growth, retention.total_seconds())))


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB"


def _age(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h" if hours else "less than an hour"
