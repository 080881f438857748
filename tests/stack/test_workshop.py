"""The exercises of the workshop on the traffic of the running demo: each answer finds what its text says."""

import shlex
from collections.abc import Callable, Iterator
from html import unescape
from typing import Any

import psycopg
import pytest
import requests
from psycopg.rows import dict_row

from faults.cases import chosen
from telemetry.services import CHARACTER_SERVICES, PAGES
from tests.stack.stacks import OwnStack, checked
from tests.waiting import wait_until
from workshop import Exercise, exercises

PASSWORDS = 150  # after each command, at RATE per second
RATE = 6
SLOW_CHARACTERS = {*"QXZ", *"jkw", *"47", *"%@"}
FAILING_CHARACTERS = {*"$<%&"}

Rows = list[dict[str, Any]]


def passwords_per_minute(rows: Rows) -> None:
    assert rows == sorted(rows, key=lambda row: row["minute"])
    assert sum(row["passwords"] for row in rows) >= PASSWORDS


def percentiles(rows: Rows) -> None:
    assert {row["service_name"] for row in rows} == {"generator", *CHARACTER_SERVICES}
    assert max(rows, key=lambda row: row["p50_ms"])["service_name"] == "generator"
    assert all(row["p99_ms"] > 1.5 * row["p50_ms"] for row in rows)


def where_errors_begin(rows: Rows) -> None:
    begun = {row["service_name"]: row["errors_begun"] for row in rows}
    assert max(begun, key=begun.__getitem__) == "special"
    assert max(rows, key=lambda row: row["error_percent"])["service_name"] == "load"
    # A machine that stalls for seconds makes calls of the generator's time out, and few of them.
    assert begun["load"] == 0 and 10 * begun["generator"] < begun["special"]


def slow_characters(rows: Rows) -> None:
    assert {row["character"] for row in rows} == SLOW_CHARACTERS


def self_time(rows: Rows) -> None:
    operations = {(row["service_name"], row["span_name"]) for row in rows}
    assert operations >= {(service, f"process_{service}") for service in CHARACTER_SERVICES} | {("generator", "GET")}
    assert ("generator", "generator.generate") not in operations


def up_and_down(rows: Rows) -> None:
    above = [(row["distance"], row["service_name"], row["span_name"]) for row in rows if row["distance"] < 0]
    assert above == [
        (-6, "load", "load.request"),
        (-5, "load", "GET"),
        (-4, "generator", "GET /"),
        (-3, "generator", "generator.generate"),
        (-2, "generator", "generator.lowers"),
        (-1, "generator", "GET"),
    ]
    below = {row["span_name"] for row in rows if row["distance"] == 1}
    assert {"random_lower", "process_lower", "render_lower"} <= below


def service_graph(rows: Rows) -> None:
    calls = {(row["caller"], row["callee"]): row["calls"] for row in rows}
    assert calls.keys() == {("load", "generator"), ("lower", "digit")} | {
        ("generator", service) for service in CHARACTER_SERVICES
    }
    assert 0.3 < calls["lower", "digit"] / calls["generator", "lower"] < 0.7


def what_differs(rows: Rows) -> None:
    first, *_ = rows
    assert (first["service_name"], first["span_name"]) == ("digit", "process_digit")
    ratios = {(row["service_name"], row["span_name"]): row["ratio"] for row in rows}
    chain = [
        ratios[operation]
        for operation in (
            ("digit", "process_digit"),
            ("digit", "GET /"),
            ("generator", "generator.digits"),
            ("generator", "generator.generate"),
        )
    ]
    assert chain == sorted(chain, reverse=True)


def slow_case(rows: Rows) -> None:
    first, *_ = rows
    assert (first["caller"], first["service_name"], first["span_name"]) == ("lower", "digit", "process_digit")
    assert first["self_ms"] > 190


def failing_case(rows: Rows) -> None:
    found = [row for row in rows if (row["service_name"], row["span_name"]) == ("special", "process_special")]
    assert {row["character"] for row in found} == FAILING_CHARACTERS
    assert rows[0] in found


CLAIMS: dict[int, Callable[[Rows], None]] = {
    1: passwords_per_minute,
    2: percentiles,
    3: where_errors_begin,
    4: slow_characters,
    5: self_time,
    6: up_and_down,
    7: service_graph,
    8: what_differs,
    9: slow_case,
    10: failing_case,
}
# The exercises that need no fault share their traffic.
GROUPS = [
    [exercise for exercise in exercises() if not exercise.commands],
    *([exercise] for exercise in exercises() if exercise.commands),
]


@pytest.fixture
def busy_stack(own_stack: OwnStack) -> Iterator[OwnStack]:
    """A stack with more traffic than usual, and no spans of before."""
    run = own_stack.checkout.run
    checked(run("faults", "reset"))
    checked(run("load", "--users", "10", "--rate", str(RATE)))
    own_stack.rows("select delete_all_traces()")
    yield own_stack
    checked(run("faults", "reset"))


def wait_for_passwords(stack: OwnStack) -> None:
    """Until so many more are stored."""
    count = "select count(*) from span where service_name = 'generator' and span_name = 'generator.generate'"
    [[before]] = stack.rows(count)
    wait_until(lambda: stack.rows(count)[0][0] >= before + PASSWORDS, f"{PASSWORDS} more passwords")


def wait_for_minutes(stack: OwnStack) -> None:
    """Until spans of two minutes are stored."""
    count = "select count(distinct time_bucket('1 minute', start_time)) from span"
    wait_until(lambda: stack.rows(count)[0][0] > 1, "spans of two minutes")


def end_traffic(stack: OwnStack) -> None:
    """Wait until all traces are complete."""
    checked(stack.checkout.run("load", "--rate", "0.001"))
    quiet = "select max(end_time) < now() - interval '5 seconds' from span"
    wait_until(lambda: stack.rows(quiet)[0][0], "no more spans")


def answered(stack: OwnStack, statement: str) -> Rows:
    with psycopg.connect(stack.dsn, row_factory=dict_row) as connection:
        return connection.execute(statement.encode()).fetchall()


def checked_page(exercise: Exercise, statement: str) -> str:
    """The explorer's page with a check of a statement."""
    url = f"http://localhost:{PAGES['dashboards']}/learn/{exercise.slug}"
    page = requests.get(url, params={"sql": statement, "check": "yes"}, timeout=60)
    assert page.status_code == 200
    return unescape(page.text)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: "-".join(str(exercise.number) for exercise in group))
def test_the_answers_find_what_their_texts_say(busy_stack: OwnStack, group: list[Exercise]) -> None:
    commands = group[0].commands
    for command in commands:
        checked(busy_stack.checkout.run(*shlex.split(command)))
        wait_for_passwords(busy_stack)
    if not commands:
        wait_for_passwords(busy_stack)
        wait_for_minutes(busy_stack)
    end_traffic(busy_stack)
    for exercise in group:
        CLAIMS[exercise.number](answered(busy_stack, exercise.answer))
        assert "<strong>Right.</strong>" in checked_page(exercise, exercise.answer)
        for mistake in exercise.mistakes:
            assert f"<h2>{mistake.title}</h2>" in checked_page(exercise, mistake.sql)


@pytest.mark.parametrize("exercise", exercises()[8:], ids=lambda exercise: exercise.slug)
def test_the_text_of_a_case_names_its_fault(exercise: Exercise) -> None:
    [command] = exercise.commands
    *_, seed = command.split()
    service, _, fault = chosen(int(seed)).flag.partition(".")
    assert f"The fault is `{fault}` of {service}." in exercise.seen
