"""Experiments with the real API of the part `faults`, promscale and PostgreSQL, and simulated traces of the demo."""

import itertools
import json
import threading
from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from psycopg.conninfo import make_conninfo
from pyarrow import parquet

from experiments import control
from experiments.running import ExperimentError, run
from experiments.scenario import parse
from experiments.scoring import baseline_files, read_answers, read_truths, score
from faults.app import create_app
from faults.flags import FlagFile
from faults.recorder import Recorder
from local import CHECKOUT, CommandError
from local.control import FaultsAPI
from tests.demo_traces import Fault, passwords
from tests.documents import code_blocks
from tests.store.labelled_traces import ADDED_MS, labelled

SLOW = Fault("digit", lambda char, _: char in "47", slowness=12)
DOCUMENT = CHECKOUT / "docs" / "experiments.md"
TRACES_PER_SECOND = 12
SCENARIO = """
description: digit is slow for some characters
phases:
  - {name: normal, duration: SECONDS, load: {users: 2, rate: 3}}
  - {name: slow, duration: SECONDS, load: {users: 2, rate: 3}, faults: {digit.slow_characters: strong}, sampling: 50}
"""


def scenario(seconds: int):
    return parse(SCENARIO.replace("SECONDS", f"{seconds}s"), "example")


def api_at(url: str, token: str = "") -> FaultsAPI:
    """A client of the API at another port than the demo's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("local.control.FAULTS_PORT", int(url.rpartition(":")[2]))
        return FaultsAPI("127.0.0.1", token)


class Demo:
    """Stands for the services: its thread stores passwords, with slow digits while the flag is on.

    Each export has the traces of the whole time since the one before, or up to a change of the flags, so that every
    phase has traces of its own flags however slow the machine is.
    """

    def __init__(self, folder, promscale, serve) -> None:
        self.file = FlagFile(folder / "flags.json")
        self.file.prepare()
        self.url = serve(create_app(self.file, Recorder(self.file, promscale.dsn, None)))
        self.database = make_conninfo(promscale.dsn, user="explorer")
        self.states: list[tuple] = []  # of the flags, whenever one has changed
        self._promscale = promscale
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def state(self):
        flags = self.file.flags()
        faults = {name: flag.variant for name, flag in flags.items() if flag.is_fault and flag.variant != "off"}
        return faults, flags["load"].variant, flags["sampling"].variant

    def run(self, out, seconds=3, blind=False, report=print) -> None:
        run(scenario(seconds), 7, out, api_at(self.url), self.database, blind, report)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        begin, state = datetime.now(UTC), self.state()
        self.states.append(state)
        for seed in itertools.count():
            if self._stopping.wait(0.2):
                return
            end, new_state = datetime.now(UTC), self.state()
            if new_state != state:
                end = datetime.fromtimestamp(self.file.path.stat().st_mtime, UTC)
                self.states.append(new_state)
            self._export(seed, begin, end, slow=state[0].get("digit.slow_characters") == "strong")
            begin, state = end, new_state

    def _export(self, seed: int, begin: datetime, end: datetime, slow: bool) -> None:
        number = max(1, round(TRACES_PER_SECOND * (end - begin).total_seconds()))
        made = passwords(seed, number, SLOW if slow else None, minutes=(end - begin) / timedelta(minutes=1))
        characters = "47" if slow else ""
        self._promscale.export(labelled(made, begin, "digit.slow_characters", "digit", characters))


@pytest.fixture
def demo(tmp_path, promscale, serve):
    demo = Demo(tmp_path, promscale, serve)
    yield demo
    demo.stop()


@pytest.fixture
def results(tmp_path):
    """A folder for the folders of experiments."""
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def read(file):
    return json.loads(file.read_text())


def test_an_experiment_is_refused_while_a_case_is_open(demo, results):
    api_at(demo.url).start_case("7")
    before = demo.file.path.read_text()
    with pytest.raises(CommandError, match=r"^a case is open: solve it or give it up first"):
        demo.run(results / "first")
    assert demo.file.path.read_text() == before
    assert not any(results.iterdir())


def test_an_experiment(demo, results, monkeypatch):
    before = demo.state()
    out, lines = results / "first", []
    demo.run(out, seconds=5, report=lines.append)
    assert demo.state() == before
    assert ({}, "users=2,rate=3,seed=7", "percent=100") in demo.states
    assert ({"digit.slow_characters": "strong"}, "users=2,rate=3,seed=8", "percent=50") in demo.states

    manifest, truth = read(out / "manifest.json"), read(out / "truth.json")
    [fault] = manifest["faults"]
    assert (fault["fault"], fault["verdict"], fault["phase"]) == ("digit.slow_characters", "changed", "slow")
    assert fault["during"] > 2 * fault["before"] and fault["p_value"] < manifest["significance"] == 0.01
    assert (fault["service"], fault["operations"]) == ("digit", ["digit/process_digit"])
    assert [phase["seed"] for phase in manifest["phases"]] == [7, 8]
    assert any("digit.slow_characters  strong" in line and line.endswith("changed") for line in lines)
    [answer] = truth["faults"]
    assert {**fault, **answer} == fault
    assert truth["experiment"] == manifest["experiment"] and "digit/process_digit" in truth["operations"]

    spans = [json.loads(line) for line in (out / "affected_spans.jsonl").read_text().splitlines()]
    assert len(spans) == fault["affected_spans"] > len({span["trace_id"] for span in spans}) == fault["affected_traces"]
    assert {(span["phase"], span["injected"], span["cause"]) for span in spans} == {
        ("slow", True, "digit/process_digit")
    }
    periods = read(out / "traces" / "periods.json")
    assert periods["experiment"] == manifest["experiment"]
    for phase, period in zip(manifest["phases"], (periods["before"], periods["during"]), strict=True):
        assert {**phase, **period} == phase
    exported = parquet.read_table(out / "traces" / "parquet" / "spans.parquet")
    assert exported.num_rows == sum(phase["spans"] for phase in manifest["phases"])
    assert "demo.fault.name" in str(exported.column("span_tags").to_pylist())

    # The statements of the documentation: the causes, and each span with the fault whose effect has reached it.
    [block] = [text for text in code_blocks(DOCUMENT, "sql") if "parquet" in text]
    monkeypatch.chdir(results)
    causes, reached = (duckdb.sql(statement).fetchall() for statement in block.split(";") if statement.strip())
    assert causes == [("digit/process_digit", "digit.slow_characters", len(spans), ADDED_MS * len(spans))]
    assert len(reached) == exported.num_rows
    assert sum(row[-1] is not None for row in reached) == len(
        {(span["trace_id"], number) for span in spans for number in span["path_span_ids"]}
    )

    truths = read_truths(results)
    answers = read_answers(baseline_files("self_time", results), truths)
    assert [(found.top[0], found.mean_rank) for found in score(answers, truths)] == [(1, 1), (1, 1)]


def test_blind_traces_do_not_tell_the_answer(demo, results):
    demo.run(results / "first", blind=True)
    files = [path for path in (results / "first" / "traces").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["periods.json", "spans.parquet", "traces.otlp"]
    for word in (b"slow_characters", b"demo.fault", b"feature_flag", b"strong", b"example", b"is slow"):
        assert not [path for path in files if word in path.read_bytes()], word
    assert b"process_digit" in (results / "first" / "traces" / "otlp" / "traces.otlp").read_bytes()
    exported = parquet.read_table(results / "first" / "traces" / "parquet" / "spans.parquet").to_pylist()
    texts = str(exported)
    assert "process_digit" in texts and not any(word in texts for word in ("demo.fault", "feature_flag", "strong"))
    assert "digit.slow_characters" in (results / "first" / "affected_spans.jsonl").read_text()


def test_after_a_failure_the_stack_is_as_before_and_no_folder_remains(demo, results):
    demo.file.set({"upper.errors": "strong"}, load={"users": 5}, sampling={"percent": 20})
    before = demo.state()

    def interrupt(line):
        if line == "Exporting the traces":
            assert [*results.glob("*/truth.json")]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.run(results / "first", report=interrupt)
    assert demo.state() == before
    assert list(results.iterdir()) == []


def test_it_replaces_nothing(demo, results):
    (results / "notes.txt").write_text("mine")
    with pytest.raises(CommandError, match="results is not an empty folder; name a new one"):
        demo.run(results)
    assert [file.name for file in results.iterdir()] == ["notes.txt"]
    assert demo.states in ([demo.state()], [])


def test_no_demo_is_running(results, dsn):
    with pytest.raises(CommandError, match="the part faults does not answer at http://127"):
        run(scenario(1), 7, results / "first", api_at("http://127.0.0.1:9"), dsn, False, print)
    assert list(results.iterdir()) == []


def test_a_refused_change(promscale, tmp_path, results, serve):
    file = FlagFile(tmp_path / "flags.json")
    file.prepare()
    before = file.path.read_bytes()
    url = serve(create_app(file, Recorder(file, promscale.dsn, None), token="a-secret-token"))
    with pytest.raises(CommandError, match=r"Changes need the token that \./run\.sh prints"):
        run(scenario(1), 7, results / "first", api_at(url), promscale.dsn, False, print)
    assert file.path.read_bytes() == before
    with control.restoring(api_at(url, "a-secret-token")):
        file.set({"upper.errors": "strong"})
    assert json.loads(file.path.read_bytes()) == json.loads(before)


def test_no_traces(promscale, tmp_path, results, serve):
    file = FlagFile(tmp_path / "flags.json")
    file.prepare()
    url = serve(create_app(file, Recorder(file, promscale.dsn, None)))
    with pytest.raises(ExperimentError, match="no trace of the phase 'normal' is stored"):
        run(scenario(1), 7, results / "first", api_at(url), promscale.dsn, False, print)
    assert list(results.iterdir()) == []
