"""Scenarios of experiments: the included ones, and one line for each mistake."""

import pytest

from experiments.scenario import FOLDER, Load, Phase, ScenarioError, find, parse

INCLUDED = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TEXT = """
description: digit fails
phases:
  - name: normal
    duration: 90s
    load: {users: 3, rate: 2.5}
    faults: {upper.errors: mild, digit.errors: off}
  - name: errors
    duration: 2min
    load: {users: 3, rate: 2.5}
    sampling: 50
    faults: {upper.errors: mild, digit.errors: strong}
"""


def test_a_scenario():
    scenario = parse(TEXT, "example")
    assert (scenario.name, scenario.description) == ("example", "digit fails")
    normal, errors = scenario.phases
    assert normal == Phase("normal", 90, Load(3, 2.5), {"upper.errors": "mild"}, 100)
    assert errors == Phase("errors", 120, Load(3, 2.5), {"upper.errors": "mild", "digit.errors": "strong"}, 50)
    assert (scenario.injected(normal), scenario.injected(errors)) == ({}, {"digit.errors": "strong"})


@pytest.mark.parametrize("name", INCLUDED)
def test_an_included_scenario_compares_a_fault_with_a_normal_phase_of_the_same_load(name):
    normal, *others = find(name).phases
    assert normal.name == "normal"
    assert all(find(name).injected(phase) for phase in others)
    assert {phase.load for phase in others} == {normal.load}


def test_there_are_five_scenarios():
    assert len(INCLUDED) == 5


def test_a_scenario_in_a_file_of_the_user(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert find(str(tmp_path / "mine.yaml")) == parse(TEXT, "mine")


def test_there_is_no_such_scenario():
    with pytest.raises(ScenarioError, match=f"no scenario 'latency'; name one of {', '.join(INCLUDED)}, or a YAML"):
        find("latency")


def test_the_error_of_a_file_names_it(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff")
    with pytest.raises(ScenarioError, match=r"^mine\.yaml: 'utf-8' codec"):
        find(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("description: digit fails", "", "the scenario: the key 'description' is missing"),
        ("description: digit fails", "description: [a]", "description: not a text"),
        ("description: digit fails", "about: it", "unknown key 'about'; name one of description, phases"),
        ("duration: 90s", "length: 90s", "unknown key 'length'; name one of name, duration, load, faults, sampling"),
        ("duration: 90s", "duration: 90", "duration of 'normal': '90' is none; write 90s or 2min, from 1s to 60min"),
        ("duration: 90s", "duration: 0s", "duration of 'normal': '0s' is none"),
        ("duration: 90s", "duration: 61min", "duration of 'normal': '61min' is none"),
        ("duration: 90s", "duration: 59min", "they take 3660 s together; the limit is 3600 s"),
        ("rate: 2.5", "rate: 60", "they send 5700 requests together; the limit is 5000"),
        ("rate: 2.5", "rate: nan", "rate of 'normal': 'nan' is not a number above 0 and up to 1000"),
        ("users: 3", "users: 0", "users of 'normal': '0' is not a number above 0 and up to 1000"),
        ("users: 3", "users: 1.5", "users of 'normal': 1.5 is not a whole number from 1 to 1000"),
        ("users: 3", "clients: 3", "load of 'normal': unknown key 'clients'; name one of users, rate"),
        ("users: 3", "users: 3, users: 4", "'users' is there twice"),
        ("sampling: 50", "sampling: 0", "sampling of 'errors': '0' is not a number above 0 and up to 100"),
        (
            "digit.errors: off",
            "digit.slow: off",
            "unknown key 'digit.slow'; name one of generator.",
        ),
        ("digit.errors: off", "load: off", "faults of 'normal': unknown key 'load'; name one of generator."),
        ("digit.errors: strong", "digit.errors: worse", "digit.errors has no variant 'worse'; name one of off, mild, "),
        ("digit.errors: strong", "digit.errors: off", "none has a fault that the first one does not have"),
        ("name: errors", "name: normal", "more than one is named 'normal'"),
        ("phases:", "phases: {", "no YAML: "),
        (TEXT, "[]", "the scenario: not a mapping of names to values"),
        (TEXT, "{description: a, phases: [b]}", "phases: not a list of 2 to 20 phases, of which the first is"),
        (TEXT, "{description: a, phases: [b, c]}", "a phase: not a mapping of names to values"),
    ],
)
def test_one_line_for_each_mistake(old, new, message):
    assert old in TEXT
    with pytest.raises(ScenarioError) as caught:
        parse(TEXT.replace(old, new, 1), "example")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
