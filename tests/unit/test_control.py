"""./run.sh faults, load, sampling, case and solve: what they print of the running demo, and their errors."""

import re

import pytest

from faults.app import create_app
from faults.recorder import Recorder
from local import CommandError, control
from tests.stack.checkout import Checkout, error_line
from tests.waiting import free_port

TOKEN = "the-token-of-this-test"


@pytest.fixture
def api(serve, flag_file, monkeypatch) -> control.FaultsAPI:
    url = serve(create_app(flag_file, Recorder(flag_file, "postgresql://127.0.0.1:1/none", None), TOKEN))
    monkeypatch.setattr(control, "FAULTS_PORT", int(url.rpartition(":")[2]))
    return control.FaultsAPI("127.0.0.1", TOKEN)


def test_the_table_marks_the_faults_that_are_not_at_their_defaults(api, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "All faults are at their defaults.\n" in control.faults_table(api.in_effect())
    api.change(control.set_body(["digit.errors", "strong", "upper.errors", "off"]))
    lines = control.faults_table(api.in_effect()).splitlines()
    assert re.split(r"\s{2,}", lines[0].strip()) == ["flag", "state", "default", "variants", "description"]
    assert [line.split()[:4] for line in lines if line.startswith("*")] == [
        ["*", "upper.errors", "off", "mild"],
        ["*", "digit.errors", "strong", "mild"],
        ["*", "not", "at", "its"],
    ]
    [row] = [line for line in lines if "digit.errors" in line]
    assert row.endswith("off, mild, strong  Rendering fails at times: mild only in every fifth minute, strong always.")


def test_the_table_fits_a_terminal_of_100_columns(api, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert max(map(len, control.faults_table(api.in_effect()).splitlines())) <= 100


def test_numbers_are_changed_and_reported(api):
    assert control.load_report(api.in_effect()) == "load: 3 users, 1 requests per second of all together, seed none"
    api.change({"load": control.options("load", ["--users", "10", "--seed=7"], ("users", "rate", "seed"))})
    assert control.load_report(api.in_effect()) == "load: 10 users, 1 requests per second of all together, seed 7"
    assert "OTEL_TRACES_SAMPLER" in control.sampling_report(api.in_effect())
    api.change({"sampling": control.options("sampling", ["--percent", "12.5"], ("percent",))})
    assert control.sampling_report(api.in_effect()) == "sampling: 12.5 %"
    words = ["--tail-latency-ms", "500"]
    api.change({"sampling": control.options("sampling", words, ("percent", "tail_latency_ms"))})
    report = "sampling: 12.5 %; and others with an error, or that last 500 ms or more"
    assert control.sampling_report(api.in_effect()) == report
    api.change({"sampling": control.options("sampling", ["--tail-latency-ms="], ("tail_latency_ms",))})
    assert control.sampling_report(api.in_effect()) == "sampling: 12.5 %"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"set": {"digit.error": "off"}},
            r"^there is no fault 'digit\.error'; name one of generator\.parallel_fetching",
        ),
        ({"set": {"digit.errors": "on"}}, r"^digit\.errors has no variant 'on'; name one of off, mild, strong$"),
        ({"load": {"users": "ten"}}, "^users='ten' is not a whole number from 1 to 1000$"),
        ({"sampling": {"percent": "all"}}, "^percent='all' is not a number from 0 to 100$"),
        ({"sampling": {"tail_latency_ms": -1}}, "^tail_latency_ms=-1 is not a whole number from 0 to 3600000$"),
    ],
)
def test_what_the_api_refuses_is_the_error(api, flag_file, body, message):
    before = flag_file.path.read_text()
    with pytest.raises(CommandError, match=message):
        api.change(body)
    assert flag_file.path.read_text() == before


def test_a_wrong_token(api):
    with pytest.raises(CommandError, match=r"^Changes need the token"):
        control.FaultsAPI("127.0.0.1", "another-token").change({"reset": True})


def test_a_part_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(control, "FAULTS_PORT", free_port())
    with pytest.raises(CommandError, match=r"the part faults does not answer at .*; \./run\.sh status shows"):
        control.FaultsAPI("127.0.0.1", "").in_effect()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["faults", "set"],
            "faults set takes pairs of a flag and its variant: ./run.sh faults set digit.errors strong",
        ),
        (["faults", "set", "digit.errors"], "faults set takes pairs"),
        (["faults", "on"], "faults does not take 'on'; name set, off or reset, or nothing"),
        (["faults", "reset", "digit.errors"], "faults does not take 'reset digit.errors'"),
        (
            ["load", "--users"],
            "--users: expected one argument; usage: ./run.sh load [-h] [--users U] [--rate R]",
        ),
        (["load", "--user", "3"], "--user 3; usage: ./run.sh load"),
        (["case", "7"], "7; usage: ./run.sh case [-h] [--seed N | --give-up]"),
        (["case", "--seed"], "--seed: expected one argument; usage: ./run.sh case"),
        (["case", "--seed", "7", "--give-up"], "--give-up: not allowed with argument --seed; usage: ./run.sh case"),
        (["solve", "digit"], "solve does not take 'digit'; ./run.sh help lists its arguments"),
        (["sampling", "50"], "50; usage: ./run.sh sampling [-h] [--percent P] [--tail-latency-ms T]"),
    ],
)
def test_arguments_that_are_none(tmp_path, arguments, words):
    assert words in error_line(Checkout(tmp_path / "checkout").run(*arguments))


def test_commands_without_a_running_stack(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    for arguments in (
        ["faults"],
        ["faults", "set", "digit.errors", "off"],
        ["load", "--users", "3"],
        ["sampling"],
        ["case", "--seed", "7"],
        ["solve", "digit", "errors"],
    ):
        line = error_line(checkout.run(*arguments))
        assert "nothing is running whose faults could be switched; start it with ./run.sh" in line
