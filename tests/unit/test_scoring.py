"""Scores of answers, computed by hand, and one line for each mistake in a file."""

import json
from pathlib import Path

import pytest

from experiments.scoring import Rank, ScoringError, Truth, baseline_files, read_answers, read_truths, score

SERVICES = ["digit", "generator", "load", "lower", "special", "upper"]
OPERATIONS = [f"{service}/{name}" for service in ("digit", "lower") for name in ("GET /", "process", "render")]


def fault(service: str, operations: list[str], verdict: str = "changed") -> dict:
    return {"service": service, "operations": operations, "verdict": verdict}


def truth(experiment: str, *faults: dict) -> Truth:
    return Truth.of({"experiment": experiment, "faults": faults, "services": SERVICES, "operations": OPERATIONS})


SLOW = truth("a1", fault("digit", ["digit/process"]))
STORM = truth("b2", fault("special", ["special/process"]), fault("generator", ["generator/specials"]))
NO_EFFECT = truth("c3", fault("upper", [], "no effect"))


def test_scores_of_two_experiments():
    answers = {
        "a1": ["lower/GET /", "digit/GET /", "digit/process"],  # ranks 2 and 3
        "b2": ["special", "digit/GET /"],  # rank 1, and no operation that is a cause
    }
    service, operation = score(answers, [SLOW, STORM, NO_EFFECT])
    assert (service.level, service.top, service.mean_rank) == ("service", (0.5, 1, 1), 1.5)
    # Of the 8 operations of b2, one is ranked: the causes are between 2 and 8, on average at 5.
    assert (operation.level, operation.top, operation.mean_rank) == ("operation", (0, 0.5, 0.5), (3 + 5) / 2)


def test_no_answer_has_the_mean_rank_of_guessing():
    service, _ = score({}, [SLOW])
    assert (service.top, service.mean_rank) == ((0, 0, 0), (1 + 6) / 2)


@pytest.mark.parametrize(
    ("ranking", "expected"),
    [
        ("dabc", (1, True)),
        ("bcd", (3, True)),
        ("abc", ((4 + 6) / 2, False)),
        ("", (3.5, False)),
        ("abcefgh", (8, False)),
    ],
)
def test_rank_of_d_among_six(ranking, expected):
    assert Rank.of(list(ranking), frozenset("d"), 6) == expected


@pytest.fixture
def files(tmp_path):
    """A function that writes a file in a folder, which has the truth of the experiments a1 and c3."""
    for experiment, found in (
        ("a1", fault("digit", ["digit/process"])),
        ("c3", fault("upper", [], "no effect")),
    ):
        content = {"experiment": experiment, "faults": [found], "services": SERVICES, "operations": OPERATIONS}
        (tmp_path / experiment).mkdir()
        (tmp_path / experiment / "truth.json").write_text(json.dumps(content))

    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_json_and_csv_say_the_same(files, tmp_path):
    truths = read_truths(tmp_path)
    as_json = files("answers.json", '{"a1": ["lower/GET /", "digit"], "c3": ["upper"]}')
    as_csv = files("answers.csv", "experiment,rank,service,operation\na1,2,digit,\nc3,1,upper,\na1,1,lower,GET /\n")
    expected = {"a1": ["lower/GET /", "digit"], "c3": ["upper"]}
    assert read_answers([as_json], truths) == read_answers([as_csv], truths) == expected
    assert score(expected, truths)[0].top == (0, 1, 1)


def test_the_truth_of_one_experiment(files, tmp_path):
    assert read_truths(tmp_path / "a1" / "truth.json") == read_truths(tmp_path / "a1") == [SLOW]


def test_answers_of_a_baseline_in_several_experiments(files, tmp_path):
    files("a1/baselines/self_time.json", '{"a1": ["digit/process"]}')
    files("c3/baselines/self_time.json", '{"c3": ["upper"]}')
    found = read_answers(baseline_files("self_time", tmp_path), read_truths(tmp_path))
    assert found == {"a1": ["digit/process"], "c3": ["upper"]}
    with pytest.raises(ScoringError, match="there is no baseline 'growth' here, but self_time"):
        baseline_files("growth", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "no JSON: "),
        ("a.json", "[]", "not an object that has a list for each experiment"),
        ("a.json", '{"a1": "digit"}', "a1: not a list of texts SERVICE or SERVICE/OPERATION"),
        ("a.json", '{"a1": [1]}', "a1: not a list of texts"),
        ("a.json", b"\xff", "'utf-8' codec can't decode"),
        ("a.json", '{"d4": ["digit"]}', "there is no experiment 'd4'; there are a1, c3"),
        ("a.json", '{"a1": ["digit", "lower", "digit"]}', "a1: 'digit' is ranked more than once"),
        ("a.json", '{"a1": ["dgit/process"]}', f"a1: no service 'dgit'; there are {', '.join(SERVICES)}"),
        ("a.csv", "experiment,service\n", "the columns are not experiment, rank, service and optionally operation"),
        ("a.csv", "experiment,rank,service,note\n", "the columns are not experiment, rank, service and optionally"),
        ("a.csv", "experiment,rank,service\na1,first,digit\n", "line 2: rank 'first' is not a whole number"),
        ("a.csv", "experiment,rank,service\na1,1,digit\na1,1,lower\n", "a1: the ranks are not 1 to 2, each once"),
        ("a.csv", "experiment,rank,service\na1,1\n", "a1: no service ''"),
    ],
)
def test_one_line_for_each_mistake_in_the_answers(files, tmp_path, name, content, message):
    file = files(name, content)
    with pytest.raises(ScoringError) as caught:
        read_answers([file], read_truths(tmp_path))
    assert message in str(caught.value)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"experiment": "a1", "faults": [{}]}'])
def test_not_a_truth(files, content):
    file = files("other/truth.json", content)
    with pytest.raises(ScoringError, match=r"truth\.json: not the truth\.json of an experiment"):
        read_truths(file)


def test_nothing_to_score(files, tmp_path):
    with pytest.raises(ScoringError, match="no fault had an effect"):
        read_truths(tmp_path / "c3")
    with pytest.raises(ScoringError, match=r"there is no truth\.json here"):
        read_truths(tmp_path / "nothing")
