"""The file of the flags: what can be set, all or nothing, and what stays when the definitions change."""

import json
from pathlib import Path

import pytest

from faults.flags import DEFINITIONS, FlagError, FlagFile


@pytest.fixture
def file(tmp_path) -> FlagFile:
    file = FlagFile(tmp_path / "flags.json")
    file.prepare()
    return file


def on(file: FlagFile) -> dict[str, str]:
    """The flags that are not at their defaults."""
    return {name: flag.variant for name, flag in file.flags().items() if flag.variant != flag.default}


def edit(path: Path, **changes: object) -> None:
    """Change the definition of digit.errors in the file."""
    content = json.loads(path.read_text())
    content["flags"]["digit.errors"] |= changes
    path.write_text(json.dumps(content))


def test_a_new_file_has_all_flags_at_their_defaults(file):
    assert json.loads(file.path.read_text()) == json.loads(DEFINITIONS.read_text())
    assert on(file) == {}


def test_the_variants_that_are_on_stay_when_the_file_is_prepared_again(file):
    file.set({"digit.errors": "strong", "upper.errors": "off"}, load={"users": 9}, sampling={"percent": 12.5})
    chosen = on(file)
    content = json.loads(file.path.read_text())
    content["flags"]["digit.errors"]["variants"]["strong"] = {"of an": "earlier version"}
    content["flags"]["digit.removed"] = content["flags"]["digit.errors"]
    file.path.write_text(json.dumps(content))
    file.prepare()
    assert on(file) == chosen
    assert file.flags()["load"].parameters == {"users": 9}
    assert file.flags()["digit.errors"].variants == FlagFile(DEFINITIONS).flags()["digit.errors"].variants
    assert "digit.removed" not in file.flags()


def test_a_variant_that_no_longer_exists_is_replaced_by_the_default(file):
    edit(file.path, variants={"mild": {}, "terrible": {"probability": 1}}, defaultVariant="terrible")
    file.prepare()
    assert on(file) == {}


def test_a_file_that_needs_no_change_keeps_its_time_of_modification(file):
    file.set({"digit.errors": "strong"})
    before = file.path.stat().st_mtime_ns
    file.prepare()
    assert file.path.stat().st_mtime_ns == before


def test_every_change_has_a_later_time_of_modification(file):
    times = []
    for variant in ("off", "strong", "mild") * 5:
        file.set({"digit.errors": variant})
        times.append(file.path.stat().st_mtime_ns)
    assert sorted(set(times)) == times


def test_what_is_not_given_stays_as_it_is(file):
    file.set({"digit.errors": "strong"}, load={"users": "20", "rate": "2.5", "seed": 7})
    file.set({"upper.errors": "off"}, load={"users": 10, "seed": None})
    assert on(file) == {"digit.errors": "strong", "upper.errors": "off", "load": "users=10,rate=2.5"}
    assert file.flags()["load"].parameters == {"users": 10, "rate": 2.5}
    file.set(load={"users": None, "rate": None})
    assert "load" not in on(file)


def test_a_reset_restores_all_defaults(file):
    file.set({"digit.errors": "strong"}, load={"users": 20}, sampling={"percent": 0})
    file.reset()
    assert on(file) == {}


CHOICES = r"name one of generator\.parallel_fetching, .*special\.slow_characters$"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": {"digit.error": "strong"}}, rf"there is no fault 'digit\.error'; {CHOICES}"),
        ({"variants": {"load": "default"}}, rf"there is no fault 'load'; {CHOICES}"),
        ({"variants": {"digit.wave": "wild"}}, r"digit\.wave has no variant 'wild'; name one of off, mild, strong$"),
        ({"variants": {"digit.wave": None}}, r"digit\.wave has no variant None"),
        ({"load": {"user": 3}}, "load has no value 'user'; name one of users, rate, seed$"),
        ({"load": {"users": 0}}, "users=0 is not a whole number from 1 to 1000$"),
        ({"load": {"users": 1001}}, "users=1001 is not"),
        ({"load": {"users": 2.5}}, r"users=2\.5 is not"),
        ({"load": {"users": True}}, "users=True is not"),
        ({"load": {"users": "ten"}}, "users='ten' is not"),
        ({"load": {"rate": 0}}, "rate=0 is not a number above 0 and up to 1000$"),
        ({"load": {"rate": float("nan")}}, "rate=nan is not"),
        ({"load": {"rate": [1]}}, r"rate=\[1\] is not"),
        ({"load": {"seed": -1}}, "seed=-1 is not a whole number from 0 to 9223372036854775807$"),
        ({"load": {"seed": 2**63}}, "seed=9223372036854775808 is not"),
        ({"sampling": {"percent": 100.1}}, r"percent=100\.1 is not a number from 0 to 100$"),
        ({"sampling": {"percent": "inf"}}, "percent='inf' is not"),
        ({"sampling": {"percents": 1}}, "sampling has no value 'percents'; name one of percent, tail_latency_ms$"),
    ],
)
def test_a_change_with_an_error_changes_nothing(file, change, message):
    valid = {"variants": {"upper.errors": "strong"}, "load": {"rate": 5}, "sampling": {"percent": 50}}
    before = file.path.read_text()
    with pytest.raises(FlagError, match=message):
        file.set(**valid | {name: valid[name] | values for name, values in change.items()})
    assert file.path.read_text() == before
    assert [path.name for path in file.path.parent.iterdir()] == ["flags.json"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"flags": {}}', '{"flags": {"load": 1}}', '{"flags": []}', "{"])
def test_a_file_of_something_else_is_refused_and_kept(file, content):
    file.path.write_text(content)
    for action in (file.flags, file.prepare, lambda: file.set({"digit.errors": "off"})):
        with pytest.raises(FlagError, match=r"flags\.json is not a file of flags in flagd's format: "):
            action()
    assert file.path.read_text() == content
    file.reset()
    assert on(file) == {}


def test_a_variant_that_does_not_exist_is_refused(file):
    edit(file.path, defaultVariant="wild")
    with pytest.raises(FlagError, match="wild"):
        file.flags()
