"""What the README says of a running stack."""

import contextlib
import itertools
import re
import resource
import shutil
import socket
from pathlib import Path

import psutil
import psycopg
import pytest
import requests

from faults.cases import chosen
from local import CHECKOUT, health
from telemetry.services import FAULTS_PORT, PAGES, PROMSCALE_HTTP_PORT, SERVICES
from tests.hostile import outcomes
from tests.stack.checkout import error_line
from tests.stack.stacks import OwnStack, checked
from tests.waiting import wait_until

LINKS = sorted(set(re.findall(r"[<(](http://localhost:[^\s>)]+)[>)]", (CHECKOUT / "README.md").read_text())))
QUERIES = sorted(path.name for path in (CHECKOUT / "queries").glob("0*.sql"))


def new_password(stack) -> dict[str, str]:
    """The generator's answer to the first request that succeeds: some requests fail on purpose."""

    def response() -> dict[str, str]:
        answer = requests.get(stack.generator, timeout=60)
        return answer.json() if answer.ok else {}

    return wait_until(response, "a password")


def opens(url: str) -> bool:
    try:
        return requests.get(url, timeout=60).ok
    except requests.ConnectionError:
        return False


def test_a_password_comes_with_a_trace_in_the_database(stack):
    answer = new_password(stack)
    assert answer["password"]
    assert re.fullmatch("[0-9a-f]{32}", answer["trace_id"])
    services = f"select distinct service_name from ps_trace.span where trace_id = '{answer['trace_id']}'"
    wait_until(lambda: set(stack.psql("-Atc", services).split()) == set(SERVICES), "the trace, with all services")


def test_the_trace_has_one_root_span_and_every_other_span_has_a_parent(stack):
    trace_id = new_password(stack)["trace_id"]

    def is_complete():
        return stack.rows(
            "select count(*) filter (where is_root_span) = 1 and count(*) filter (where not is_root_span and not exists"
            "  (select from ps_trace.span p where p.trace_id = s.trace_id and p.span_id = s.parent_span_id)) = 0"
            " from ps_trace.span s where trace_id = %s",
            trace_id,
        ) == [(True,)]

    wait_until(is_complete, "one root span, and the parent of each other span")


@pytest.mark.parametrize("name", QUERIES)
def test_each_query_file_returns_rows(stack, name):
    path = str(CHECKOUT / "queries" / name)

    def has_rows():
        counts = re.findall(r"^\((\d+) rows?\)$", stack.psql("-v", "ON_ERROR_STOP=1", "-f", path), re.MULTILINE)
        return any(int(count) for count in counts)

    wait_until(has_rows, f"rows from {name}")


def test_a_fault_is_switched_by_the_api_and_recorded(stack):
    url = f"http://localhost:{FAULTS_PORT}/flags"
    before = requests.get(url, timeout=60).json()["flags"]["digit.errors"]["variant"]
    other = "strong" if before != "strong" else "mild"
    changes = (
        "select from_variant, to_variant from demo.fault_change where flag = 'digit.errors' order by time desc limit 1"
    )
    for variant, change in ((other, (before, other)), (before, (other, before))):
        answer = requests.post(url, json={"set": {"digit.errors": variant}}, timeout=60)
        assert answer.json()["flags"]["digit.errors"]["variant"] == variant
        wait_until(lambda change=change: stack.rows(changes) == [change], "the record of the change")


def test_a_case_hides_its_fault_until_it_is_solved(quiet_stack):
    """Of the seed whose fault is lower.lost_context: its traces are recognized by their root spans."""
    run = quiet_stack.checkout.run
    seed = next(seed for seed in itertools.count() if chosen(seed).flag == "lower.lost_context")
    recorded = "select count(*) from demo.fault where flag in ('lower.lost_context', 'case')"
    before = quiet_stack.rows(recorded)
    assert f"A case is open: seed {seed}" in checked(run("case", "--seed", str(seed))).stdout
    lost = (
        "select count(*), count(*) filter (where span_tags -> 'demo.fault.name' is not null) from ps_trace.span"
        " where service_name = 'lower' and is_root_span and start_time > now() - interval '30 seconds'"
    )
    wait_until(lambda: quiet_stack.rows(lost)[0][0] > 5, "traces that begin in lower")
    assert quiet_stack.rows(lost)[0][1] == 0
    assert "hidden" in checked(run("faults")).stdout
    assert "a case is open: solve it or give it up first" in error_line(run("faults", "off"))
    wrong = run("solve", "digit", "wave")
    assert (wrong.returncode, wrong.stdout[:6]) == (1, "Wrong:")
    assert quiet_stack.rows(recorded) == before
    right = checked(run("solve", "lower", "lost_context")).stdout
    assert right.startswith("Right: it was lower.lost_context, strong.") and "attempts: 2" in right
    [(count,)] = before
    wait_until(lambda: quiet_stack.rows(recorded) == [(count + 2,)], "the record of the case")
    flags = requests.get(f"http://localhost:{FAULTS_PORT}/flags", timeout=60).json()["flags"]
    assert {flag["variant"] for flag in flags.values()} == {"off"}


@pytest.mark.parametrize("link", LINKS)
def test_each_link_of_the_readme_opens(stack, link):
    port = PAGES["dashboards"]
    if f":{port}" in link and not isinstance(stack, OwnStack) and not health.accepts("127.0.0.1", port):
        pytest.skip("this stack runs without Grafana: its image is not available, and has no stand-in")
    wait_until(lambda: opens(link), link)


def test_the_page_of_a_passwords_trace_opens(stack):
    trace_id = new_password(stack)["trace_id"]
    wait_until(lambda: opens(f"http://localhost:{PAGES['traces']}/trace/{trace_id}"), "the trace")


def test_load_keeps_sending_requests(stack):
    count = "select count(*) from ps_trace.span where service_name = 'load'"
    before = stack.rows(count)
    wait_until(lambda: stack.rows(count) > before, "more spans of the load")


def test_status_says_that_all_parts_are_healthy(own_stack):
    others = {"supervisord", "postgres", "promscale", "collector", "faults", "load", "dashboards"}
    others.add("jaeger" if shutil.which("jaeger") else "traces")
    assert own_stack.healthy_pids().keys() == others | set(SERVICES)
    assert own_stack.stored_spans() > 0


def test_another_start_changes_nothing(own_stack):
    before = own_stack.healthy_pids()
    again = own_stack.checkout.run("local")
    assert again.returncode == 0, again.stderr
    assert "already running" in again.stdout
    assert own_stack.healthy_pids() == before


def test_psql_passes_its_exit_code_on(own_stack):
    assert own_stack.checkout.run("psql", "-c", "no such statement").returncode == 1
    assert own_stack.checkout.run("psql", "-d", "no_such_database", "-c", "select 1").returncode == 2


def test_psql_finds_files_in_the_current_folder(own_stack, tmp_path):
    (tmp_path / "mine.sql").write_text("select 'found it'")
    assert "found it" in own_stack.checkout.run("psql", "-f", "mine.sql", cwd=tmp_path).stdout


def test_logs_of_an_unknown_part_lists_the_parts(own_stack):
    listing = own_stack.checkout.run("logs", "nobody")
    assert listing.returncode == 1
    assert "collector, dashboards, digit, faults, generator" in listing.stderr


def test_all_processes_stay_under_1200_megabytes(own_stack):
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("only Linux reports the memory that processes share")
    used = 0
    for process in own_stack.checkout.processes():
        with contextlib.suppress(psutil.NoSuchProcess):  # a session of PostgreSQL that has ended meanwhile
            used += process.memory_full_info().pss
    assert used < 1200 * 10**6


def test_nobody_is_superuser_over_tcp(own_stack):
    assert own_stack.rows("show is_superuser") == [("off",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        own_stack.rows("copy (select 1) to program 'true'")
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(own_stack.dsn, user="superuser")


def test_one_statement_cannot_use_all_memory(own_stack):
    since = own_stack.rows("select pg_postmaster_start_time()")
    with pytest.raises(psycopg.errors.OutOfMemory):
        own_stack.rows("select length(string_agg(repeat('x', 1000000), '')) from generate_series(1, 900)")
    assert own_stack.rows("select pg_postmaster_start_time()") == since


def test_silent_connections_do_not_block_others(own_stack):
    """On the demo's own web servers: not Grafana's or Jaeger's."""
    ports = {**SERVICES, "faults": FAULTS_PORT, "promscale": PROMSCALE_HTTP_PORT, **PAGES}
    running = own_stack.healthy_pids()
    ports = {name: port for name, port in ports.items() if name in running}
    with contextlib.ExitStack() as limits:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= hard < 1024:
            pytest.skip(f"the limit of {hard} open files is too low for 500 connections")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
        limits.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for name, port in ports.items():
            with contextlib.ExitStack() as silent:
                for _ in range(500):
                    silent.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                assert requests.get(f"http://localhost:{port}/healthz", timeout=60).ok, name
    outcomes.note("500 silent connections to each page", f"{', '.join(ports)} answer")
