"""The disk use of the stored traces, and when the oldest will be dropped, for ./run.sh status."""

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
    """A row of the view ps_trace.disk_usage. Without times: the partition of spans that belong to no other one."""

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


class Limits(NamedTuple):
    """What is used of the disk budget (0: none), and for how long spans are kept."""

    used_bytes: int
    budget_bytes: int
    retention: timedelta
    now: datetime


def report(database: str) -> str:
    """Lines to print about the database at this URI; one line with the reason if it cannot be queried."""
    try:
        with psycopg.connect(database, connect_timeout=2) as connection:
            partitions = [Partition(*row) for row in connection.execute(PARTITIONS)]
            [limits] = [Limits(*row) for row in connection.execute(LIMITS)]
    except psycopg.Error as error:
        return f"spans stored so far: unknown: {str(error).splitlines()[0]}"
    budget = limits.budget_bytes
    lines = [
        f"spans stored so far: {sum(partition.spans for partition in partitions)}",
        f"disk use: {_megabytes(limits.used_bytes)}, "
        + (f"of {_megabytes(budget)}, the disk budget" if budget else "there is no disk budget"),
    ]
    oldest = partitions[0] if partitions else None
    if oldest and oldest.starts_at and oldest.ends_at:
        size = sum(partition.bytes for partition in partitions if partition.starts_at)
        drop_time = _drop_time(oldest.starts_at, oldest.ends_at, size, limits)
        lines.append(
            f"oldest spans: from {oldest.starts_at:%Y-%m-%d %H:%M}, {_age(limits.now - oldest.starts_at)} old;"
            f" dropped at about {drop_time:%Y-%m-%d %H:%M}"
        )
    lines.append(f"\n{'partition':<34}{'state':<8}{'spans':>12}{'rows':>10}{'indexes':>10}{'lossless':>10}")
    return "\n".join([*lines, *map(_table_row, partitions)])


def _table_row(partition: Partition) -> str:
    period = "any other time"
    if partition.starts_at and partition.ends_at:
        period = f"{partition.starts_at:%Y-%m-%d %H:%M} to {partition.ends_at:%H:%M}"
    sizes = (partition.row_bytes, partition.index_bytes, partition.lossless_bytes)
    state = "closed" if partition.closed else "open"
    return f"{period:<34}{state:<8}{partition.spans:>12}" + "".join(f"{_megabytes(size):>10}" for size in sizes)


def _drop_time(starts_at: datetime, ends_at: datetime, size: int, limits: Limits) -> datetime:
    """When the oldest partition, from `starts_at` to `ends_at`, will be dropped.

    That is at the end of the retention period, or earlier when the disk budget is used up, if the `size` bytes of all
    partitions keep growing at their average rate.
    """
    by_age = ends_at + limits.retention
    bytes_per_second = size / max((limits.now - starts_at).total_seconds(), 1)
    if not limits.budget_bytes or not bytes_per_second:
        return by_age
    seconds = max(limits.budget_bytes - limits.used_bytes, 0) / bytes_per_second
    return min(by_age, limits.now + timedelta(seconds=min(seconds, limits.retention.total_seconds())))


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:,.0f} MB"


def _age(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h" if hours else "less than an hour"
