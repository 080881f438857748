"""What the README promises of a running stack."""

import contextlib
import re
import resource
import shutil
import socket
from pathlib import Path

import psutil
import psycopg
import pytest
import requests

from local import health
from tests.hostile import outcomes
from tests.stack.checkout import ROOT, wait_for

LINKS = sorted(set(re.findall(r"[<(](http://localhost:[^\s>)]+)[>)]", (ROOT / "README.md").read_text())))
QUERIES = sorted(path.name for path in (ROOT / "queries").glob("0*.sql"))
SERVICES = {"generator", "upper", "lower", "digit", "special"}


def a_password(stack) -> dict:
    """One that was made: some fail, and are to."""

    def made():
        answer = requests.get(stack.generator, timeout=60)
        return answer.json() if answer.ok else None

    return wait_for(made, "a password")


def opens(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).ok
    except requests.ConnectionError:
        return False


def test_a_password_comes_with_a_trace_in_the_database(stack):
    answer = a_password(stack)
    assert answer["password"]
    assert re.fullmatch("[0-9a-f]{32}", answer["trace_id"])
    question = f"select distinct service_name from ps_trace.span where trace_id = '{answer['trace_id']}'"
    wait_for(lambda: set(stack.psql("-Atc", question).split()) == SERVICES, "the trace, with all services")


def test_the_trace_has_one_root_and_no_loose_ends(stack):
    trace_id = a_password(stack)["trace_id"]

    def whole():
        return stack.rows(
            "select count(*) filter (where is_root_span) = 1 and count(*) filter (where not is_root_span and not exists"
            "  (select from ps_trace.span p where p.trace_id = s.trace_id and p.span_id = s.parent_span_id)) = 0"
            " from ps_trace.span s where trace_id = %s",
            trace_id,
        ) == [(True,)]

    wait_for(whole, "one root, and each other span's parent")


def test_there_are_six_query_files():
    assert [name[:2] for name in QUERIES] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("name", QUERIES)
def test_each_query_file_returns_rows(stack, name):
    path = str(ROOT / "queries" / name)

    def answered():
        counts = re.findall(r"^\((\d+) rows?\)$", stack.psql("-v", "ON_ERROR_STOP=1", "-f", path), re.MULTILINE)
        return any(int(count) for count in counts)

    wait_for(answered, f"rows from {name}")


@pytest.mark.parametrize("link", LINKS)
def test_each_link_of_the_readme_opens(stack, link):
    if ":3000" in link and not stack.checkout and not health.accepts("127.0.0.1", 3000):
        pytest.skip("this stack runs without Grafana, of whose image there is no stand-in")
    wait_for(lambda: opens(link), link)


def test_a_passwords_trace_opens_where_its_page_leads(stack):
    trace_id = a_password(stack)["trace_id"]
    wait_for(lambda: opens(f"http://localhost:16686/trace/{trace_id}"), "the trace")


def test_the_load_goes_on(stack):
    count = "select count(*) from ps_trace.span where service_name = 'load'"
    before = stack.rows(count)
    wait_for(lambda: stack.rows(count) > before, "more spans of the load")


def test_status_says_that_all_is_healthy(own_stack):
    others = {"supervisord", "postgres", "promscale", "collector", "load", "dashboards"}
    others.add("jaeger" if shutil.which("jaeger") else "traces")
    assert wait_for(own_stack.pids, "health").keys() == others | SERVICES
    assert own_stack.stored_spans() > 0


def test_starting_it_again_is_harmless(own_stack):
    before = wait_for(own_stack.pids, "health")
    again = own_stack.checkout.run("local")
    assert again.returncode == 0, again.stderr
    assert "running already" in again.stdout
    assert wait_for(own_stack.pids, "health") == before


def test_psql_passes_its_exit_code_on(own_stack):
    assert own_stack.checkout.run("psql", "-c", "no such statement").returncode == 1
    assert own_stack.checkout.run("psql", "-d", "no_such_database", "-c", "select 1").returncode == 2


def test_psql_finds_files_from_where_it_is_called(own_stack, tmp_path):
    (tmp_path / "mine.sql").write_text("select 'found it'")
    assert "found it" in own_stack.checkout.run("psql", "-f", "mine.sql", cwd=tmp_path).stdout


def test_logs_of_an_unknown_part_lists_the_known(own_stack):
    known = own_stack.checkout.run("logs", "nobody")
    assert known.returncode == 1
    assert "collector, dashboards, digit, generator" in known.stderr


def test_all_processes_stay_under_1200_megabytes(own_stack):
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("only Linux says how much memory processes share")
    used = 0
    for process in own_stack.checkout.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # a connection of PostgreSQL's that was closed since
            used += process.memory_full_info().pss
    assert used < 1200 * 10**6


def test_nobody_is_superuser_over_tcp(own_stack):
    assert own_stack.rows("show is_superuser") == [("off",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        own_stack.rows("copy (select 1) to program 'true'")
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(own_stack.dsn, user="superuser")


def test_one_statement_cannot_take_all_memory(own_stack):
    since = own_stack.rows("select pg_postmaster_start_time()")
    with pytest.raises(psycopg.errors.OutOfMemory):
        own_stack.rows("select length(string_agg(repeat('x', 1000000), '')) from generate_series(1, 900)")
    assert own_stack.rows("select pg_postmaster_start_time()") == since


def test_silent_connections_keep_nobody_waiting(own_stack):
    """Those that are ours: neither Grafana nor Jaeger."""
    ports = {"generator": 5050, "digit": 5051, "promscale": 9201, "dashboards": 3000, "traces": 16686}
    running = wait_for(own_stack.pids, "health")
    ports = {name: port for name, port in ports.items() if name in running}
    with contextlib.ExitStack() as limits:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= hard < 1024:
            pytest.skip(f"a process may have {hard} open files here, too few for 500 connections")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
        limits.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for name, port in ports.items():
            with contextlib.ExitStack() as silent:
                for _ in range(500):
                    silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                assert requests.get(f"http://localhost:{port}/healthz", timeout=60).ok, name
    outcomes.note("500 silent connections to each page", f"{', '.join(ports)} answer")
