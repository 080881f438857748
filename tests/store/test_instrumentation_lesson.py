"""docs/workshop/instrumentation.md: its changes of the code, one after the other, and what its statements then find."""

import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress

import psycopg
import pytest

from faults.flags import OFF
from local import CHECKOUT, control
from telemetry.services import SERVICES
from tests.demo_services import Processes
from tests.documents import blocks

DOCUMENT = CHECKOUT / "docs" / "workshop" / "instrumentation.md"
STEPS = re.findall(r"^## Step \d.*?(?=^## )", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
DIFFS = [diff for step in STEPS for diff in blocks(step, "diff")]
COPIED = [*SERVICES, "faults", "frame", "serving", "telemetry"]
MAX_CHANGED_LINES = 15
CHARACTERS, PASSWORDS = 30, 10  # how many are requested


@pytest.fixture
def checkout(tmp_path):
    """A copy of the services' code, with time-outs that no machine exceeds, however busy it is."""
    folder = tmp_path / "checkout"
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    calls = folder / "telemetry" / "call.py"
    patient, count = re.subn(r"TIMEOUT = \(1, \d\)", "TIMEOUT = (60, 60)", calls.read_text())
    assert count == 2
    calls.write_text(patient)
    return folder


@pytest.fixture
def apply(checkout):
    """A function that applies the page's changes up to a step, as the page says."""
    if not shutil.which("git"):
        pytest.skip("git, which applies changes, is not installed")

    def apply(number: int) -> None:
        for diff in (diff for step in STEPS[: number + 1] for diff in blocks(step, "diff")):
            applied = subprocess.run(
                ["git", "apply", "-"], cwd=checkout, input=diff, capture_output=True, text=True, timeout=60
            )
            assert applied.returncode == 0, applied.stderr

    return apply


@pytest.fixture
def run(apply, checkout, promscale, database, flag_file, tmp_path):
    """A function that requests characters of digit, and passwords if all services run, from the code of a step, with
    the page's faults. It returns the rows of the step's statements, which have the columns that the page shows."""
    processes = Processes(tmp_path, promscale.server.port, checkout)
    [words] = [line for line in blocks(STEPS[0], "sh")[0].splitlines() if line.startswith("./run.sh faults set ")]
    everything_off = {name: OFF for name, flag in flag_file.flags().items() if flag.is_fault}
    flag_file.set(everything_off | control.set_body(shlex.split(words)[3:])["set"])

    def run(number: int, *services: str) -> list[list[tuple]]:
        apply(number)
        mode = "off" if number == 0 else "auto"
        processes.start(*services, DEMO_INSTRUMENTATION=mode, FAULTS_FILE=str(flag_file.path))
        for name, requests in {"digit": CHARACTERS, "generator": PASSWORDS}.items():
            for seed in range(requests if name in services else 0):
                get(processes.urls[name], seed)
        processes.stop()
        return [rows(database, statement, shown) for statement, shown in statements(STEPS[number])]

    yield run
    processes.kill()


def get(url: str, seed: int) -> None:
    with suppress(urllib.error.HTTPError):  # digit fails at times
        urllib.request.urlopen(urllib.request.Request(url, headers={"baggage": f"demo.seed={seed}"}), timeout=60)


def statements(step: str) -> list[tuple[str, str]]:
    """Each statement, and what it prints according to the page."""
    found = list(zip(blocks(step, "sql"), blocks(step, "text"), strict=True))
    assert found
    return found


def rows(database: psycopg.Connection, statement: str, shown: str) -> list[tuple]:
    """All rows, however slow this machine is and however many of them the page shows."""
    complete = re.sub(r"^limit \d+", "", statement.replace("'1 minute'", "'1 day'"), flags=re.MULTILINE)
    assert complete.count("'1 day'") == 1
    cursor = database.execute(complete)
    assert [column.name for column in cursor.description or ()] == [name.strip() for name in header(shown).split("|")]
    return cursor.fetchall()


def header(shown: str) -> str:
    return shown.splitlines()[0]


def test_there_are_four_small_changes():
    assert len(DIFFS) == 4
    for diff in DIFFS:
        changed = [line for line in diff.splitlines() if re.match(r"[+-](?![+-])", line)]
        assert len(changed) <= MAX_CHANGED_LINES


def test_step_0_has_no_spans(run):
    assert run(0, *SERVICES) == [[(0,)]]


def test_step_1_has_the_calls_and_where_errors_begin(run):
    spans, errors = run(1, *SERVICES)
    characters = {name for name in SERVICES if name != "generator"}
    assert {row[:3] for row in spans} == {
        ("generator", "client", "GET"),
        *((name, "server", "GET /") for name in SERVICES),
    }
    slowest = {name: max_ms for name, kind, _, _, max_ms in spans if kind == "server" and name in characters}
    assert slowest["digit"] >= 120
    calls = {(name, kind): count for name, kind, _, count, _ in spans}
    assert calls["generator", "server"] == PASSWORDS and calls["generator", "client"] == 16 * PASSWORDS
    assert {row[:4] for row in errors} == {
        ("digit", "server", "500", None),
        ("generator", "client", "500", None),
    }


def test_step_2_has_the_steps_of_digit_and_the_error_of_one(run, database):
    [found] = run(2, "digit")
    by_name = {name: row for name, *row in found}
    assert by_name.keys() == {"GET /", "process_digit", "render_digit"}
    assert by_name["process_digit"][1] >= 120
    failures = {name: (errors, message) for name, (_, _, errors, message) in by_name.items()}
    assert failures["GET /"] == failures["process_digit"] == (0, None)
    errors, message = failures["render_digit"]
    assert errors > 0 and message.startswith("RuntimeError: digit has run out of ink, rendering ")
    parents = database.execute(
        """
        select child.span_name, parent.span_name, parent.service_name, parent.span_kind
        from ps_trace.span as child left join ps_trace.span as parent
            on parent.span_id = child.parent_span_id and parent.trace_id = child.trace_id
        where child.span_kind = 'internal' group by 1, 2, 3, 4
        """
    ).fetchall()
    server = ("GET /", "digit", "server")
    assert set(parents) == {("process_digit", *server), ("render_digit", *server)}
    recorded = "select distinct span_name, event_tags ->> 'exception.type' from ps_trace.event"
    assert database.execute(recorded).fetchall() == [("render_digit", "RuntimeError")]


def test_step_3_has_the_characters_that_are_slow(run):
    [found] = run(3, "digit")
    means = {char: mean_ms for char, _, mean_ms in found}
    assert means.keys() == set("0123456789")
    assert min(means["4"], means["7"]) >= 120


def test_step_4_has_the_time_of_each_event(run):
    [found] = run(4, "digit")
    (first, worked, early), (second, slowed, late) = found
    assert (first, second) == ("worked", "worked on slow characters")
    assert worked == slowed > 0
    assert late - early >= 119  # each is rounded


def test_step_5_has_the_passwords_that_lack_a_character(run, database):
    requests, messages = run(5, *SERVICES)
    counts = {row[:3]: row[3] for row in requests}
    assert counts.keys() == {("200", "error", "a character is missing"), ("200", "unset", None)}
    assert sum(counts.values()) == PASSWORDS
    assert all(
        re.search("answered 500: digit has run out of ink, rendering [0-9]$", message) for message, _ in messages
    )
    marked = """
        select bool_and(exists (
            select from ps_trace.span as failed
            where failed.trace_id = password.trace_id and failed.service_name = 'digit' and failed.status_code = 'error'
        ))
        from ps_trace.span as password
        where service_name = 'generator' and span_kind = 'server' and status_code = 'error'
    """
    assert database.execute(marked).fetchone() == (True,)
