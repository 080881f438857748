"""promscale upgrades the database of each earlier version at its start, and keeps all spans."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import psycopg
import pytest
import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from promscale.store import SchemaMismatch, Store
from promscale.upgrade import upgrade
from promscale.upkeep import Upkeep
from tests.store.running import Promscale, span_count, value_of
from tests.store.store_contents import check_summaries, close_all, contents
from tests.waiting import wait_until

RECORDED = Path(__file__).with_name("first_schema.sql").read_text()
MIGRATIONS = sorted((resources.files("promscale") / "sql" / "migrations").iterdir(), key=lambda file: file.name)
# The versions from which on the schema has the second tables with their views, the functions of the upkeep, and those
# for Citus.
SECOND_TABLES = 4
UPKEEP = 5
CITUS = 11


@pytest.fixture
def first(empty_dsn):
    """A connection to a database of the first version, with spans."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create schema _ps_trace")
        connection.execute(
            "create table _ps_trace.migration"
            " (number int primary key, file_name text not null, applied_at timestamptz not null default now())"
        )
        connection.execute("insert into _ps_trace.migration values (1, '001_schema.sql')")
        connection.execute(MIGRATIONS[0].read_text())
        # The recorded spans are older than the default retention period.
        connection.execute("select ps_trace.set_trace_retention_period('100 years')")
        # In a dump of COPY statements, a line `\.` ends the rows of each.
        for statement, rows in re.findall(
            r"^(copy .*?;)\n(.*?)^\\\.$", RECORDED, re.MULTILINE | re.DOTALL | re.IGNORECASE
        ):
            with connection.cursor().copy(statement) as copy:
                copy.write(rows)
        yield connection


def advance_to(connection: psycopg.Connection, dsn: str, version: int) -> None:
    """Upgrade a database of the first version to a later one: its schema, its spans and the upkeep of them."""
    connection.execute(
        "create schema _promscale; alter table _ps_trace.migration set schema _promscale;"
        " alter table _promscale.migration add column sha256 text"
    )
    for number, file in enumerate(MIGRATIONS[1:version], start=2):
        connection.execute(file.read_text())
        row = [number, file.name, hashlib.sha256(file.read_bytes()).hexdigest()]
        connection.execute("insert into _promscale.migration (number, file_name, sha256) values (%s, %s, %s)", row)
    if version >= SECOND_TABLES:
        list(upgrade(connection))
    if version >= UPKEEP:
        if version < CITUS:  # today's upkeep asks
            connection.execute("create function _promscale.is_settled() returns boolean language sql return true")
        upkeep = Upkeep(dsn)
        upkeep.summarise(quiet_seconds=0)
        close_all(upkeep, connection)
        upkeep.close()
        if version < CITUS:
            connection.execute("drop function _promscale.is_settled")


def rows_of_views(connection: psycopg.Connection) -> dict[str, list[tuple]]:
    order = {
        "span": "trace_id, span_id",
        "event": "trace_id, span_id, time",
        "link": "span_id, dropped_link_tags_count",
    }
    return {
        view: connection.execute(f"select * from ps_trace.{view} order by {columns}").fetchall()
        for view, columns in order.items()
    }


def frames(connection: psycopg.Connection, table: str) -> list[bytes]:
    return [data for (data,) in connection.execute(f"select data from {table} order by data")]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_all_spans_of_each_version_are_kept(first, empty_dsn, version):
    before = rows_of_views(first)
    assert all(len(rows) > 1 for rows in before.values())
    if version > 1:
        advance_to(first, empty_dsn, version)
    promscale = Promscale(empty_dsn)
    try:
        list(promscale.store.upgrade())
        assert rows_of_views(first) == before
        check_summaries(first)
        # Jaeger reads every span, with what OTLP has and the views do not show.
        assert len(contents(promscale, first)["lossless"]) == len(before["span"])
    finally:
        promscale.close()
    applied = first.execute("select number from _promscale.migration order by number").fetchall()
    assert applied == [(number,) for number in range(1, len(MIGRATIONS) + 1)]


def test_the_first_version_is_upgraded_byte_for_byte(first, empty_dsn):
    spans, frames_before = span_count(first), frames(first, "_ps_trace.traces_data")
    store = Store(empty_dsn)
    store.migrate()
    progress = list(store.upgrade())
    assert progress[-1] == (spans, spans)
    assert frames(first, "_promscale.traces_data") == frames_before
    assert value_of(first, "select to_regclass('_promscale.first_span')") is None


def test_an_interrupted_upgrade_continues(first, empty_dsn):
    before, frames_before = rows_of_views(first), frames(first, "_ps_trace.traces_data")
    for _ in range(2):
        store = Store(empty_dsn)
        store.migrate()
        copied, spans = next(store.upgrade())
        assert copied < spans
    list(store.upgrade())
    assert rows_of_views(first) == before
    assert frames(first, "_promscale.traces_data") == frames_before


def test_several_promscales_may_upgrade_at_the_same_time(first, empty_dsn):
    before = rows_of_views(first)
    Store(empty_dsn).migrate()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    with ThreadPoolExecutor() as executor:
        first.execute("select pg_advisory_lock(hashtext('_promscale.upgrade'))")
        upgrades = [executor.submit(lambda: list(Store(empty_dsn).upgrade())) for _ in range(3)]
        wait_until(lambda: value_of(first, waiting) == len(upgrades), "all upgrades wait")
        first.execute("select pg_advisory_unlock(hashtext('_promscale.upgrade'))")
        for upgraded in upgrades:
            upgraded.result()
    assert rows_of_views(first) == before


def test_a_retried_span_of_the_first_version_is_stored_once(first, empty_dsn):
    spans, stored_frames = span_count(first), frames(first, "_ps_trace.traces_data")
    promscale = Promscale(empty_dsn)
    try:
        list(promscale.store.upgrade())
        for frame in stored_frames:
            promscale.export(ExportTraceServiceRequest.FromString(zstandard.decompress(frame)))
    finally:
        promscale.close()
    assert span_count(first) == spans


def test_an_edited_migration_is_refused(dsn, database):
    database.execute("update _promscale.migration set sha256 = 'other' where number = 2")
    with pytest.raises(SchemaMismatch, match=r"002_storage\.sql was edited"):
        Store(dsn).migrate()
