"""Statements on the explorer's SQL page that try to write, to change settings for others, or to use all memory."""

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from tests.hostile import outcomes
from tests.store.otlp_messages import request, span

WRITING = [
    "insert into ps_trace.operation values (1, 's', 'client', 'n')",
    "set role postgres",
    "reset role; select 1",
    "select pg_read_file('/etc/passwd')",
    "copy (select 1) to program 'true'",
    "select ps_trace.delete_all_traces()",
    "select * from _promscale.span",
    "create table mine ()",
    "drop view ps_trace.span",
    "select 1; select 2",
    "show search_path; select 1",
    # A procedure may end the read-only transaction: https://www.postgresql.org/docs/current/plpgsql-transactions.html
    """do $$ begin
        perform set_config('default_transaction_read_only', 'off', false);
        commit;
        alter role explorer set search_path = nowhere;
    end $$""",
    "call pg_catalog.nothing()",
    "commit",
    "begin read write",
    "with gone as (delete from ps_trace.operation returning *) select * from gone",
    "select * into mine from span",
    "select * from ps_trace.operation for update",
    "explain analyze delete from ps_trace.operation",
    "explain analyze create table mine as select 1",
    "explain analyze select set_config('transaction_read_only', 'off', false)",
    "/* a comment */ -- and another\n do $$ begin end $$",
    "/* /* nested */ select 1 */ drop view ps_trace.span",
    "select set_config('transaction_read_only', 'off', true)",
    "select query_to_xml('alter role explorer set search_path = nowhere', true, true, '')",
    "select $1",
    "declare another cursor for select 1",
    "set search_path = nowhere",
    "lock table ps_trace.operation",
    "listen anything",
]
LARGE = [
    "select string_agg(repeat('x', 1000000), '') from generate_series(1, 30)",
    "select repeat('x', 20000) from generate_series(1, 1000)",
    "select array_agg(repeat('x', 1000)) from generate_series(1, 20000)",
]


@pytest.fixture
def ask(dsn, promscale):
    """A function that posts a statement to the page. The database has one span."""
    promscale.export(request(span("there")))
    client = create_dashboards(make_conninfo(dsn, user="explorer")).test_client()
    own = {"Origin": "http://localhost"}
    return lambda sql, **form: client.post("/sql", data={"sql": sql} | form, headers=own)


def state(dsn: str) -> list[tuple]:
    """What a statement could have changed."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            """
            select 'spans', count(*)::text from ps_trace.span
            union all select 'operations', count(*)::text from ps_trace.operation
            union all select 'relations', count(*)::text from pg_class
            union all select 'large objects', count(*)::text from pg_largeobject_metadata
            union all select rolname, rolconfig::text from pg_roles
            where rolname in ('explorer', 'trace_viewer', 'grafana')
            order by 1
            """
        ).fetchall()


def test_statements_that_write_are_refused(ask, dsn):
    before = state(dsn)
    for sql in WRITING:
        response = ask(sql)
        assert response.status_code == 400, sql
        assert 'class="failed"' in response.text, sql
        assert state(dsn) == before, sql
    outcomes.note(f"{len(WRITING)} statements that write, on the SQL page", "all refused, nothing changed")
    assert "<td>there</td>" in ask("select span_name from span").text


def test_large_results_are_refused(ask):
    for sql in LARGE:
        for form in ({}, {"csv": "yes"}):
            response = ask(sql, **form)
            assert response.status_code == 400, sql
            assert "the result has more than 16777216 bytes" in response.text, sql
    outcomes.note(f"{len(LARGE)} statements with large results, on the SQL page and as CSV", "all refused")
