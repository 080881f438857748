"""A short blind experiment on the local stack, and the score of a baseline."""

import json

from tests.stack.stacks import checked

SCENARIO = """
description: digit fails at times
phases:
  - {name: normal, duration: 15s, load: {users: 6, rate: 6}}
  - {name: errors, duration: 15s, load: {users: 6, rate: 6}, faults: {digit.errors: strong}}
"""


def test_a_blind_experiment(quiet_stack, tmp_path):
    """Without the default faults: a service that is late to read its flags would have them in the first phase."""
    (tmp_path / "short.yaml").write_text(SCENARIO)
    folder = tmp_path / "first"
    run = quiet_stack.checkout.run
    before = checked(run("faults")).stdout
    checked(run("experiment", str(tmp_path / "short.yaml"), "--seed", "7", "--out", str(folder), "--blind"))
    assert checked(run("faults")).stdout == before

    [fault] = json.loads((folder / "truth.json").read_text())["faults"]
    assert (fault["verdict"], fault["operations"]) == ("changed", ["digit/render_digit"])
    spans = [json.loads(line) for line in (folder / "affected_spans.jsonl").read_text().splitlines()]
    assert {(span["fault"], span["path"][1]) for span in spans} == {("digit.errors", "digit/GET /")}

    files = [path for path in (folder / "traces").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"periods.json", "spans.parquet", "traces.otlp"}
    for word in (b"digit.errors", b"demo.fault", b"feature_flag", b"short"):
        assert not [path for path in files if word in path.read_bytes()], word

    scored = checked(run("score", "--baseline", "error_origins", str(folder)))
    assert scored.stdout.splitlines()[3].split() == ["operation", "100%", "100%", "100%", "1.0"]
