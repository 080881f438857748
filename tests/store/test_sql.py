"""The SQL interface: the schema ps_trace and its roles."""

import os
import re
import time
from pathlib import Path

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale.store import Store
from promscale.upkeep import Upkeep
from tests.store import citus
from tests.store.otlp_messages import add_service, attributes, child, request, span

SPAN_COLUMNS = """
    trace_id trace_id, span_id bigint, trace_state text, parent_span_id bigint, is_root_span boolean,
    service_name text, span_name text, span_kind span_kind, start_time timestamp with time zone,
    end_time timestamp with time zone, time_range tstzrange, duration_ms double precision, span_tags tag_map,
    dropped_tags_count integer, event_time tstzrange, dropped_events_count integer, dropped_link_count integer,
    status_code status_code, status_message text, instrumentation_lib_name text, instrumentation_lib_version text,
    instrumentation_lib_schema_url text, resource_tags tag_map, resource_dropped_tags_count integer,
    resource_schema_url text
"""
EVENT_COLUMNS = """
    trace_id trace_id, span_id bigint, time timestamp with time zone, event_name text, event_tags tag_map,
    dropped_tags_count integer, trace_state text, service_name text, span_name text, span_kind span_kind,
    span_start_time timestamp with time zone, span_end_time timestamp with time zone, span_time_range tstzrange,
    span_duration_ms double precision, span_tags tag_map, dropped_span_tags_count integer, resource_tags tag_map,
    resource_dropped_tags_count integer, status_code status_code, status_message text
"""


def columns(text: str) -> list[tuple[str, str]]:
    names_and_types = (column.partition(" ") for column in " ".join(text.split()).split(", "))
    return [(name, data_type) for name, _, data_type in names_and_types]


def linked_columns() -> list[tuple[str, str]]:
    return [(f"linked_{name.replace('instrumentation_lib', 'inst_lib')}", kind) for name, kind in columns(SPAN_COLUMNS)]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("span", columns(SPAN_COLUMNS)),
        ("event", columns(EVENT_COLUMNS)),
        (
            "link",
            columns(SPAN_COLUMNS) + linked_columns() + columns("link_tags tag_map, dropped_link_tags_count integer"),
        ),
    ],
)
def test_views_have_promscales_columns(database, view, expected):
    actual = database.execute(
        """
        select attname, format_type(atttypid, null) from pg_attribute
        where attrelid = format('ps_trace.%%I', %s::text)::regclass and attnum > 0
        order by attnum
        """,
        [view],
    ).fetchall()
    assert actual == expected


def test_enums_and_domains(database):
    labels = database.execute(
        "select enum_range(null::span_kind)::text, enum_range(null::status_code)::text"
    ).fetchone()
    assert labels == ("{unspecified,internal,server,client,producer,consumer}", "{unset,ok,error}")


def test_the_spans_of_a_trace_are_found_by_an_index(promscale, database):
    """Although the column is stored as a uuid and shown as a trace_id."""
    promscale.export(request(span()))  # TimescaleDB uses no index of a table without chunks
    database.execute("set enable_seqscan = off")
    for value in ("'4bf92f3577b34da6a3ce929d0e0e4736'", "'4bf92f3577b34da6a3ce929d0e0e4736'::ps_trace.trace_id"):
        plan = database.execute(f"explain select * from span where trace_id = {value}").fetchall()
        assert any("Index Cond: (trace_id = " in line for (line,) in plan), plan


def test_the_children_of_a_span_are_found_by_an_index(promscale, database):
    """Otherwise a correlated subquery on the children of each span would read the whole trace for each span."""
    trace = [span()]
    trace += [child(trace[0]) for _ in range(10)]
    trace += [child(parent) for parent in trace[1:] for _ in range(50)]
    promscale.export(request(*trace))
    database.execute("analyze")
    statement = """
        select (select sum(c.duration_ms) from span as c where c.trace_id = s.trace_id and c.parent_span_id = s.span_id)
        from span as s
    """
    if citus.WORKERS:
        database.execute("set citus.explain_all_tasks = on")
    plan = database.execute(f"explain {statement}").fetchall()
    assert any("Index Cond: ((trace_id = " in line and "(parent_span_id = " in line for (line,) in plan), plan


def test_all_columns_of_a_span(promscale, database):
    trace_id, span_id, parent_id = os.urandom(16), b"\xff" * 8, b"\x00" * 7 + b"\x05"
    sent = span(
        "buy",
        {"pwlen": 25, "ratio": 1.0, "ok": True},
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_id,
        trace_state="a=b",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=1_700_000_000_123_456_789,
        end_time_unix_nano=1_700_000_000_125_956_789,
        status={"code": 2, "message": "no money"},
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
        events=[
            Span.Event(time_unix_nano=1_700_000_000_124_000_000, name="first", attributes=attributes({"n": 1})),
            Span.Event(time_unix_nano=1_700_000_000_125_000_000, name="last", dropped_attributes_count=4),
        ],
    )
    message = request(sent)
    message.resource_spans[0].schema_url = "resource/schema"
    message.resource_spans[0].resource.dropped_attributes_count = 5
    scope_spans = message.resource_spans[0].scope_spans[0]
    scope_spans.scope.name, scope_spans.scope.version, scope_spans.schema_url = "lib", "1.2", "lib/schema"
    promscale.export(message)
    # Without a schema name, because ps_trace is in the search path.
    cursor = database.execute(
        """
        select *, start_time at time zone 'UTC' as start_utc,
            time_range = tstzrange(start_time, end_time, '[]') as is_closed_range
        from span where span_tags -> 'pwlen' = '25'
        """
    )
    row = dict(zip([column.name for column in cursor.description], cursor.fetchone(), strict=True))
    assert row["trace_id"].bytes == trace_id
    assert row["span_id"] == -1  # the 8 bytes as a signed big-endian integer
    assert row["parent_span_id"] == 5
    assert row["is_root_span"] is False
    assert row["start_utc"].isoformat() == "2023-11-14T22:13:20.123456"
    assert row["is_closed_range"] is True
    assert row["duration_ms"] == 2.5
    expected = {
        "trace_state": "a=b",
        "service_name": "shop",
        "span_name": "buy",
        "span_kind": "client",
        "span_tags": {"pwlen": 25, "ratio": 1.0, "ok": True},
        "dropped_tags_count": 1,
        "dropped_events_count": 2,
        "dropped_link_count": 3,
        "status_code": "error",
        "status_message": "no money",
        "instrumentation_lib_name": "lib",
        "instrumentation_lib_version": "1.2",
        "instrumentation_lib_schema_url": "lib/schema",
        "resource_tags": {"service.name": "shop"},
        "resource_dropped_tags_count": 5,
        "resource_schema_url": "resource/schema",
    }
    assert {name: row[name] for name in expected} == expected
    events = database.execute(
        """
        select event_name, event_tags, dropped_tags_count, dropped_span_tags_count, span_duration_ms
        from event order by time
        """
    ).fetchall()
    assert events == [("first", {"n": 1}, 0, 1, 2.5), ("last", {}, 4, 1, 2.5)]
    [(first_to_last,)] = database.execute(
        "select event_time = (select tstzrange(min(time), max(time), '[]') from event) from span"
    ).fetchall()
    assert first_to_last is True


def test_links_show_both_spans(promscale, database):
    linked = span("linked", {"a": 1})
    links = [
        Span.Link(trace_id=linked.trace_id, span_id=linked.span_id, attributes=attributes({"why": "because"})),
        Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8, dropped_attributes_count=2),
        Span.Link(trace_id=b"short", span_id=b""),
    ]
    promscale.export(request(linked, span("linking", links=links)))
    rows = database.execute(
        """
        select span_name, linked_span_name, linked_span_tags, link_tags, dropped_link_tags_count from link
        order by dropped_link_tags_count, link_tags desc
        """
    ).fetchall()
    assert rows == [
        ("linking", "linked", {"a": 1}, {"why": "because"}, 0),
        ("linking", None, None, {}, 0),
        ("linking", None, None, {}, 2),
    ]


def test_spans_with_equal_ids_that_start_a_nanosecond_apart_have_links_of_their_own(promscale, database):
    ids = {"trace_id": os.urandom(16), "span_id": os.urandom(8)}
    start, links = 1_700_000_000_123_456_788, [Span.Link(trace_id=b"x" * 16, span_id=b"y" * 8)]
    promscale.export(request(*(span(f"at {n}", start_time_unix_nano=start + n, links=links, **ids) for n in (0, 1))))
    assert database.execute("select span_name from link order by 1").fetchall() == [("at 0",), ("at 1",)]


@pytest.fixture
def family(promscale):
    """A trace of these spans, and of `loop`, which is its own parent, and `orphan`, whose parent is not stored:

    root ─┬─ left ─┬─ leaf
          └─ right └─ twig
    """
    root = span("root")
    left, right = child(root, "left"), child(root, "right")
    leaf, twig = child(left, "leaf"), child(left, "twig")
    orphan = span("orphan", trace_id=root.trace_id, parent_span_id=b"\x01" * 8)
    loop = span("loop", trace_id=root.trace_id)
    loop.parent_span_id = loop.span_id
    spans = [root, left, right, leaf, twig, orphan, loop]
    promscale.export(request(*spans, span("another trace")))
    return Family(spans)


class Family:
    def __init__(self, spans: list[Span]) -> None:
        self.trace_id = spans[0].trace_id.hex()
        self.ids = {span.name: int.from_bytes(span.span_id, signed=True) for span in spans}
        self.names = {span_id: name for name, span_id in self.ids.items()}

    def rows(self, database, columns: str, call: str, *names: str) -> set[tuple]:
        """The rows of a function call whose parameters are the trace id and the ids of the spans `names`.

        Span ids in the rows are replaced by names, and paths of them by names joined with slashes.
        """
        parameters = [self.trace_id, *(self.ids[name] for name in names)]
        rows = database.execute(f"select {columns} from {call}", parameters).fetchall()
        return {tuple(self._shown(value) for value in row) for row in rows}

    def _shown(self, value):
        if isinstance(value, list):
            return "/".join(self.names[span_id] for span_id in value)
        return self.names.get(value, value) if not isinstance(value, bool) else value


def test_trace_tree(database, family):
    assert family.rows(database, "span_id, parent_span_id, lvl, path", "trace_tree(%s)") == {
        ("root", None, 1, "root"),
        ("left", "root", 2, "root/left"),
        ("right", "root", 2, "root/right"),
        ("leaf", "left", 3, "root/left/leaf"),
        ("twig", "left", 3, "root/left/twig"),
    }


def test_upstream_spans(database, family):
    assert family.rows(database, "span_id, dist, path", "upstream_spans(%s, %s)", "leaf") == {
        ("leaf", 0, "leaf"),
        ("left", 1, "left/leaf"),
        ("root", 2, "root/left/leaf"),
    }
    assert family.rows(database, "span_id, dist", "upstream_spans(%s, %s, 1)", "leaf") == {("leaf", 0), ("left", 1)}


def test_downstream_spans(database, family):
    assert family.rows(database, "span_id, dist, path", "downstream_spans(%s, %s)", "left") == {
        ("left", 0, "left"),
        ("leaf", 1, "left/leaf"),
        ("twig", 1, "left/twig"),
    }
    assert family.rows(database, "span_id", "downstream_spans(%s, %s, max_dist => 0)", "left") == {("left",)}


def test_sibling_spans(database, family):
    assert family.rows(database, "span_id, parent_span_id", "sibling_spans(%s, %s)", "leaf") == {
        ("leaf", "left"),
        ("twig", "left"),
    }
    assert family.rows(database, "span_id", "sibling_spans(%s, %s)", "root") == {("root",)}


def test_span_tree(database, family):
    assert family.rows(database, "span_id, dist, is_upstream, is_downstream, path", "span_tree(%s, %s)", "left") == {
        ("root", 1, True, False, "root/left"),
        ("left", 0, False, False, "left"),
        ("leaf", 1, False, True, "left/leaf"),
        ("twig", 1, False, True, "left/twig"),
    }


@pytest.mark.parametrize("function", ["upstream_spans", "downstream_spans", "span_tree"])
def test_a_span_that_is_its_own_parent_causes_no_endless_recursion(database, family, function):
    assert family.rows(database, "span_id, dist", f"{function}(%s, %s)", "loop") == {("loop", 0)}


def test_functions_return_no_rows_for_unknown_traces(database, family):
    for call in ("trace_tree(%s)", "upstream_spans(%s, 1)", "span_tree(%s, 1)", "sibling_spans(%s, 1)"):
        assert database.execute(f"select * from {call}", ["f" * 32]).fetchall() == []


def test_operation_calls(promscale, database):
    for _ in range(2):
        root = span("ask", kind=Span.SPAN_KIND_CLIENT)
        message = request(root, service="front")
        add_service(message, child(root, "answer"), child(root, "answer"), service="back")
        promscale.export(message)
    calls = """
        select p.service_name, p.span_name, p.span_kind, c.service_name, c.span_name, cnt
        from operation_calls(%s, %s)
        join operation p on p.id = parent_operation_id
        join operation c on c.id = child_operation_id
    """
    hour_ago, later = "-1 hours", "1 hours"
    during = database.execute(calls.replace("%s", "now() + %s::interval"), [hour_ago, later]).fetchall()
    assert during == [("front", "ask", "client", "back", "answer", 4)]
    assert database.execute(calls.replace("%s", "now() + %s::interval"), [later, later]).fetchall() == []


def test_spans_beyond_the_retention_period_are_deleted(promscale, upkeep, database):
    assert database.execute("select get_trace_retention_period() = interval '7 days'").fetchone() == (True,)
    now, day = time.time_ns(), 86_400 * 10**9
    old, recent = (span(name, start_time_unix_nano=now - days * day) for name, days in (("old", 8), ("recent", 2)))
    split = span("older part", trace_id=recent.trace_id, start_time_unix_nano=now - 40 * day)
    promscale.export(request(old, recent, split))
    upkeep.keep_limits()
    assert database.execute("select span_name from span").fetchall() == [("recent",)]
    assert database.execute("select count(*) from _promscale.traces_data").fetchone() == (1,)
    assert database.execute("select set_trace_retention_period('1 day')").fetchone() == (True,)
    upkeep.keep_limits()
    assert database.execute("select count(*) from span").fetchone() == (0,)
    assert database.execute("select count(*) from _promscale.traces_data").fetchone() == (0,)


def test_a_retention_period_below_zero_is_refused(database):
    with pytest.raises(psycopg.errors.CheckViolation):
        database.execute("select set_trace_retention_period('-1 day')")


def test_time_bucket(database):
    buckets = """
        select time_bucket(interval '1 minute', t) at time zone 'UTC', time_bucket('5 seconds', t) at time zone 'UTC'
        from (values ('2026-01-02 03:04:58.9+00'::timestamptz)) as at (t)
    """
    [(minute, five_seconds)] = database.execute(buckets).fetchall()
    assert minute.isoformat() == "2026-01-02T03:04:00"
    assert five_seconds.isoformat() == "2026-01-02T03:04:55"


def test_percentiles_as_the_toolkit_writes_them(promscale, database):
    for millis in (1, 2, 3, 4, 100):
        promscale.export(request(span(start_time_unix_nano=0, end_time_unix_nano=millis * 1_000_000)))
    percentiles = (
        "approx_percentile(0.5, percentile_agg(duration_ms)), approx_percentile(1, percentile_agg(duration_ms))"
    )
    assert database.execute(f"select {percentiles} from span").fetchone() == (3, 100)
    assert database.execute(f"select {percentiles} from span where false").fetchone() == (None, None)


DOCS = Path(__file__).parents[2] / "docs" / "sql.md"


@pytest.mark.parametrize("example", re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL))
def test_every_example_of_the_documentation_runs(database, family, example):
    statements = [statement for statement in example.split(";") if statement.strip()]
    assert statements
    for statement in statements:
        cursor = database.execute(statement)
        # Examples return rows, except some whose conditions match nothing in this small trace.
        if cursor.description and "where" not in statement and "link" not in statement:
            assert cursor.fetchall()


def test_the_documentation_names_every_view_function_and_column(database):
    documented = "".join(page.read_text() for page in DOCS.parent.glob("*.md"))
    names = database.execute(
        """
        select distinct proname from pg_proc where pronamespace = 'ps_trace'::regnamespace
        union select relname from pg_class where relnamespace = 'ps_trace'::regnamespace and relkind = 'v'
        union select attname from pg_attribute
        where attrelid in ('ps_trace.event'::regclass, 'ps_trace.operation'::regclass) and attnum > 0
        """
    ).fetchall()
    assert [name for (name,) in names if name not in documented] == []


@pytest.fixture
def reader(dsn, promscale, database):
    """A connection with the role prom_reader."""
    promscale.export(request(span("seen", events=[Span.Event(name="event")])))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set role prom_reader")
        yield connection


@pytest.mark.parametrize(
    "statement",
    [
        "select * from span",
        "select * from event",
        "select * from operation",
        "select (trace_tree(trace_id)).* from span",
        "select (span_tree(trace_id, span_id)).* from span",
        "select get_trace_retention_period()",
        "select time_bucket('1 minute', start_time) from span",
    ],
)
def test_a_reader_may_read(reader, statement):
    assert len(reader.execute(statement).fetchall()) == 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(
            "select * from _promscale.span",
            marks=citus.not_with_citus("readers read the tables of the spans on the workers"),
        ),
        "select * from _promscale.store",
        "insert into ps_trace.operation values (1, 's', 'client', 'n')",
        "select ps_trace.delete_all_traces()",
        "select ps_trace.set_trace_retention_period('1 day')",
        "select _promscale.delete_old_spans()",
        "create table ps_trace.mine ()",
    ],
)
def test_a_reader_may_do_nothing_else(reader, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(statement)


def test_a_viewer_cannot_become_more_than_a_reader(reader, dsn):
    with psycopg.connect(dsn, user="trace_viewer", autocommit=True) as connection:
        assert connection.execute("select span_name from span").fetchall() == [("seen",)]
        connection.execute("set default_transaction_read_only = off")
        for statement in (
            "set role postgres",
            "set session authorization postgres",
            "select ps_trace.delete_all_traces()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_writer_can_run_promscale(dsn, database, promscale):
    """prom_writer may store spans, and delete them by functions only."""
    database.execute("create role test_writer login in role prom_writer")
    try:
        store = Store(f"{dsn} user=test_writer")
        store.start()
        assert store.write(request(span("by the writer")).SerializeToString()).count == 0
        upkeep = Upkeep(f"{dsn} user=test_writer")
        upkeep.turn()
        upkeep.close()
        store.close()
        assert database.execute("select span_name from span").fetchall() == [("by the writer",)]
    finally:
        database.execute("drop role test_writer")
