"""./run.sh experiment and ./run.sh score: the table of scores, and one line for each mistake."""

import json

import pytest

from tests.stack.checkout import Checkout, error_line


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("commands") / "checkout")


@pytest.fixture
def folder(tmp_path):
    """A folder with the experiment a1, of which digit is the cause, and its baseline, which suspects lower first."""
    experiment = tmp_path / "first"
    (experiment / "baselines").mkdir(parents=True)
    fault = {"service": "digit", "operations": ["digit/process_digit"], "verdict": "changed"}
    truth = {"services": ["digit", "lower"], "operations": ["digit/GET /", "digit/process_digit", "lower/GET /"]}
    (experiment / "truth.json").write_text(json.dumps({"experiment": "a1", "faults": [fault], **truth}))
    (experiment / "baselines" / "self_time.json").write_text('{"a1": ["lower/GET /", "digit/process_digit"]}')
    return tmp_path


def test_scores_of_answers_and_of_a_baseline(checkout, folder):
    (folder / "answers.csv").write_text("experiment,rank,service\na1,1,digit\n")
    scored = checkout.run("score", str(folder / "answers.csv"), str(folder))
    assert scored.stdout.splitlines() == [
        "experiments: 1; with an answer: 1",
        "             top-1   top-3   top-5   mean rank",
        "service       100%    100%    100%         1.0",
        "operation       0%      0%      0%         2.0",
    ]
    scored = checkout.run("score", "--baseline", "self_time", str(folder))
    assert scored.stdout.splitlines()[2:] == [
        "service         0%    100%    100%         2.0",
        "operation       0%    100%    100%         2.0",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score",), "the following arguments are required: TRUTH; usage: ./run.sh score"),
        (("score", "TRUTH"), "either ANSWERS or --baseline is required"),
        (("score", "--baseline", "growth", "TRUTH"), "there is no baseline 'growth' here, but self_time"),
        (("score", "answers.json", "TRUTH"), "No such file or directory: 'answers.json'"),
        (("score", "answers.json", "nothing"), "nothing: there is no truth.json here"),
        (("experiment",), "the following arguments are required: SCENARIO, --seed, --out; usage: ./run.sh experiment"),
        (("experiment", "outage", "--seed", "7", "--out", "x"), "there is no scenario 'outage'; name one of errors-"),
        (("experiment", "retry-storm", "--seed", "-7", "--out", "x"), "--seed '-7' is not a whole number from 0 to "),
        (("experiment", "retry-storm", "--seed", "seven", "--out", "x"), "--seed 'seven' is not a whole number from 0"),
        (("experiment", "retry-storm", "--seed", "7", "--out", "x", "--fast"), "unrecognized arguments: --fast"),
    ],
)
def test_one_line_for_each_mistake(checkout, folder, arguments, message):
    words = [str(folder) if word == "TRUTH" else word for word in arguments]
    assert message in error_line(checkout.run(*words, cwd=folder))
    assert {path.name for path in folder.iterdir()} == {"first"}
