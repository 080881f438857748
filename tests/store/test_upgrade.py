"""A database with the first schema is upgraded at the start of promscale, with all its spans."""

import re
from importlib import resources
from pathlib import Path

import psycopg
import pytest
import zstandard
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from promscale.store import SchemaMismatch, Store
from tests.store.running import Promscale

RECORDED = Path(__file__).with_name("first_schema.sql").read_text()
FIRST_MIGRATION = resources.files("promscale") / "sql" / "migrations" / "001_schema.sql"


@pytest.fixture
def first(empty_dsn):
    """A connection to a database as the first promscale left it."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("create schema _ps_trace")
        connection.execute(
            "create table _ps_trace.migration"
            " (number int primary key, file_name text not null, applied_at timestamptz not null default now())"
        )
        connection.execute("insert into _ps_trace.migration values (1, '001_schema.sql')")
        connection.execute(FIRST_MIGRATION.read_text())
        # Without this, the retention period would tell the upgraded promscale to delete what is recorded here.
        connection.execute("select ps_trace.set_trace_retention_period('100 years')")
        for statement, rows in re.findall(
            r"^(copy .*?;)\n(.*?)^\\\.$", RECORDED, re.MULTILINE | re.DOTALL | re.IGNORECASE
        ):
            with connection.cursor().copy(statement) as copy:
                copy.write(rows)
        yield connection


def seen(connection) -> dict[str, list[tuple]]:
    """All that the views show."""
    order = {
        "span": "trace_id, span_id",
        "event": "trace_id, span_id, time",
        "link": "span_id, dropped_link_tags_count",
    }
    return {
        view: connection.execute(f"select * from ps_trace.{view} order by {columns}").fetchall()
        for view, columns in order.items()
    }


def frames(connection, table: str) -> list[bytes]:
    return [data for (data,) in connection.execute(f"select data from {table} order by data")]


def test_all_spans_are_kept(first, empty_dsn):
    before, bytes_before = seen(first), frames(first, "_ps_trace.traces_data")
    assert {view: len(rows) > 1 for view, rows in before.items()} == {"span": True, "event": True, "link": True}
    store = Store(empty_dsn)
    store.migrate()
    progress = list(store.upgrade())
    assert progress[-1] == (len(before["span"]), len(before["span"]))
    assert seen(first) == before
    assert frames(first, "_promscale.traces_data") == bytes_before
    assert first.execute("select to_regclass('_promscale.first_span')").fetchone() == (None,)


def test_an_upgrade_that_is_killed_goes_on_where_it_was(first, empty_dsn):
    before, bytes_before = seen(first), frames(first, "_ps_trace.traces_data")
    for _ in range(2):
        store = Store(empty_dsn)
        store.migrate()
        copied, spans = next(store.upgrade())
        assert copied < spans
    list(store.upgrade())
    assert seen(first) == before
    assert frames(first, "_promscale.traces_data") == bytes_before


def test_a_span_of_the_first_schema_that_is_sent_again_is_stored_once(first, empty_dsn):
    before, stored = len(seen(first)["span"]), frames(first, "_ps_trace.traces_data")
    promscale = Promscale(empty_dsn)
    try:
        list(promscale.store.upgrade())
        for data in stored:
            promscale.export(ExportTraceServiceRequest.FromString(zstandard.decompress(data)))
    finally:
        promscale.close()
    assert len(seen(first)["span"]) == before


def test_an_edited_migration_is_refused(dsn, database):
    database.execute("update _promscale.migration set sha256 = 'other' where number = 2")
    with pytest.raises(SchemaMismatch, match="002_storage.sql was edited"):
        Store(dsn).migrate()
