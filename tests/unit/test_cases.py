"""Cases: which fault a seed chooses, what the API and the page tell while one is open, and how it ends. Nothing is
recorded here."""

import itertools
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests

from faults import cases
from faults.app import create_app
from faults.cases import BACKGROUND, CASES, ERRORS_OR_STRUCTURE, LATENCY, CaseFile, chosen
from faults.flags import DEFINITIONS, FlagError, FlagFile
from faults.recorder import Recorder
from local import CommandError, control
from local import __main__ as commands

CONFLICT = "a case is open: solve it or give it up first"
SEEDS = {case.flag: next(seed for seed in itertools.count() if chosen(seed) == case) for case in CASES}
WRONG = {"service": "upper", "fault": "errors"}  # not the fault of FOUND
FOUND = "digit.slow_for_lower"


@pytest.fixture
def url(serve, flag_file, monkeypatch) -> str:
    """Of the app, without a database, for which the page does not wait."""
    monkeypatch.setattr("faults.recorder.RETRY_SECONDS", 0)
    return serve_app(serve, flag_file)


def serve_app(serve, flag_file: FlagFile) -> str:
    return serve(create_app(flag_file, Recorder(flag_file, "postgresql://127.0.0.1:1/none", None)))


def post(url: str, path: str, body: object = None) -> requests.Response:
    return requests.post(f"{url}{path}", json=body, timeout=60)


def on(file: FlagFile) -> dict[str, str]:
    return {name: flag.variant for name, flag in file.flags().items() if flag.parameters}


def start(url: str, flag: str = FOUND) -> dict:
    answer = post(url, "/case", {"seed": SEEDS[flag]})
    assert answer.ok, answer.text
    return answer.json()


# The choice ----------------------------------------------------------------------------------------------------------


def test_a_seed_chooses_the_same_fault_everywhere():
    """The classes of a course compare their answers, on machines with other versions of Python."""
    assert [chosen(seed).flag for seed in (*range(8), 42, 2024, 2**63 - 1)] == [
        "digit.wave",
        "upper.errors",
        "digit.slow_calls",
        "lower.lost_context",
        "upper.slow_characters",
        "upper.clock_skew",
        "lower.slow_calls",
        "digit.pool_of_one",
        "digit.pool_of_one",
        "digit.errors",
        "generator.parallel_fetching",
    ]


def test_seeds_side_by_side_have_different_faults():
    for begin in (0, len(CASES), 50 * len(CASES)):
        assert {chosen(seed) for seed in range(begin, begin + len(CASES))} == set(CASES)
    orders = [[chosen(begin + place).flag for place in range(len(CASES))] for begin in (0, len(CASES))]
    assert orders[0] != orders[1] != [case.flag for case in CASES]


def test_each_case_is_a_fault_that_shows():
    flags = FlagFile(DEFINITIONS).flags()
    for case in CASES:
        assert flags[case.flag].is_fault and flags[case.flag].variants[case.variant]
        assert case.evidence.endswith(".") and case.kind in (LATENCY, ERRORS_OR_STRUCTURE)
    assert len({case.flag for case in CASES}) == len(CASES)
    assert all(flags[flag].variants[variant] for flag, variant in BACKGROUND.items())
    assert not BACKGROUND.keys() & {case.flag for case in CASES}
    for kind in (LATENCY, ERRORS_OR_STRUCTURE):
        assert len([case for case in CASES if case.kind == kind]) >= 8


# While a case is open ------------------------------------------------------------------------------------------------


def test_only_the_fault_of_the_case_is_on(flag_file, url):
    flag_file.set({"upper.errors": "strong"}, load={"rate": 5})
    state = start(url)
    assert state == {
        "open": True,
        "seed": SEEDS[FOUND],
        "begin": state["begin"],
        "seconds": state["seconds"],
        "attempts": 0,
    }
    assert on(flag_file) == {
        "lower.needless_calls": "mild",
        FOUND: "strong",
        "load": "rate=5",
        "case": f"seed={SEEDS[FOUND]}",
    }


def test_nothing_that_the_part_shows_depends_on_the_fault(flag_file, url, caplog):
    """For every possible case, all answers are the same but for the seed and the times."""
    varying = re.compile(rf"{datetime.now(UTC):%Y}-\d\d-\d\d[T ][\d:.+]+|\"seconds\":[ \d.]+|\(\d+ s\)")
    shown = set()
    assert post(url, "/flags", {"load": {"rate": 5}}).ok
    caplog.set_level("INFO")
    for flag, seed in SEEDS.items():
        caplog.clear()
        answers = [post(url, "/case", {"seed": seed})]
        answers += [requests.get(url + path, timeout=60) for path in ("/", "/flags", "/case")]
        answers.append(post(url, "/flags", {"load": {"rate": 5}}))
        answers += [post(url, "/flags", {"set": {name: "off"}}) for name in ("digit.errors", flag)]
        text = "\n".join(answer.text for answer in answers) + caplog.text
        shown.add(re.sub(rf'("seed": ?|open: seed ){seed}\b', r"\1N", varying.sub("", text)))
        table = control.faults_table(answers[2].json())
        assert not [line for line in table.splitlines() if line.startswith("*")]
        assert answers[2].json()["flags"][flag]["variant"] == "hidden" and "A case is open: seed" in table
        assert post(url, "/case/give-up").json()["flag"] == flag
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/flags", {"set": {"digit.errors": "strong"}}),
        ("/flags", {"set": {"digit.errors": "strong"}, "load": {"rate": 5}}),
        ("/flags", {"set": {"digit.errors": "no variant"}}),
        ("/case", {"seed": 8}),
    ],
)
def test_changes_of_faults_are_refused(flag_file, url, path, body):
    start(url)
    before = flag_file.path.read_text()
    answer = post(url, path, body)
    assert answer.status_code == 409 and answer.json()["error"].startswith(CONFLICT)
    assert flag_file.path.read_text() == before


def test_the_traffic_and_the_sampling_may_change(flag_file, url):
    start(url)
    before = on(flag_file)
    answer = post(url, "/flags", {"load": {"users": 9}, "sampling": {"percent": 50}})
    assert answer.ok and answer.json()["load"]["users"] == 9 and answer.json()["case"]["open"]
    assert requests.post(url, data={"users": "8", "rate": "2", "seed": "7"}, timeout=60).ok
    assert on(flag_file) == before | {"load": "users=8,rate=2,seed=7", "sampling": "percent=50"}


# Its end -------------------------------------------------------------------------------------------------------------


def test_a_wrong_answer_says_whether_the_service_is_right(flag_file, url):
    start(url)
    before = flag_file.path.read_text()
    for attempts, (service, fault, is_right) in enumerate(
        [("upper", "errors", False), ("digit", "errors", True), ("digit", "digit.wave", True)], start=1
    ):
        answer = post(url, "/case/solve", {"service": service, "fault": fault}).json()
        assert (answer["solved"], answer["service_is_right"], answer["attempts"]) == (False, is_right, attempts)
        assert answer["open"] and "flag" not in answer
    assert requests.get(f"{url}/case", timeout=60).json()["attempts"] == 3
    assert flag_file.path.read_text() == before


@pytest.mark.parametrize("fault", ["slow_for_lower", "digit.slow_for_lower"])
def test_the_right_answer_ends_the_case_and_restores_what_was_on(flag_file, url, fault):
    flag_file.set({"upper.errors": "strong", "digit.wave": "off"}, load={"rate": 5})
    before = on(flag_file)
    begin = start(url)["begin"]
    post(url, "/flags", {"load": {"rate": 7}})
    post(url, "/case/solve", WRONG)
    answer = post(url, "/case/solve", {"service": "digit", "fault": fault}).json()
    assert 0 <= answer.pop("seconds") <= (datetime.now(UTC) - datetime.fromisoformat(begin)).total_seconds()
    assert answer == {
        "open": False,
        "solved": True,
        "service_is_right": True,
        "seed": SEEDS[FOUND],
        "begin": begin,
        "attempts": 2,
        "description": flag_file.flags()[FOUND].description,
        **chosen(SEEDS[FOUND])._asdict(),
    }
    assert on(flag_file) == before | {"load": "rate=7"}
    assert requests.get(f"{url}/case", timeout=60).json() == {"open": False}
    assert not flag_file.path.with_name("case.json").exists()


def test_a_case_that_is_given_up_shows_its_fault(flag_file, url):
    before = on(flag_file)
    start(url)
    answer = post(url, "/case/give-up").json()
    assert (answer["solved"], answer["flag"], answer["variant"], answer["attempts"]) == (False, FOUND, "strong", 0)
    assert on(flag_file) == before
    for path, body in (("/case/give-up", {}), ("/case/solve", WRONG)):
        answer = post(url, path, body)
        assert answer.status_code == 409 and answer.json() == {
            "error": "no case is open; ./run.sh case --seed N starts one"
        }


def test_a_reset_ends_the_case_and_restores_all_defaults(flag_file, url):
    flag_file.set({"upper.errors": "strong"})
    start(url)
    answer = post(url, "/flags", {"reset": True}).json()
    assert answer["case"] == {"open": False} and answer["flags"]["upper.errors"]["variant"] == "mild"
    assert not flag_file.path.with_name("case.json").exists()
    start(url)


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/case", {"seed": -1}, "seed=-1 is not a whole number from 0 to 9223372036854775807"),
        ("/case", {"seed": "seven"}, "seed='seven' is not a whole number"),
        ("/case", {"number": 7}, "there is no key 'number'; name some of seed"),
        ("/case", {}, "the body is not a JSON object with some of seed; send something like"),
        ("/case/solve", {"service": "digits", "fault": "wave"}, "there is no service 'digits'; name one of generator,"),
        ("/case/solve", {"service": ["digit"], "fault": "wave"}, "there is no service ['digit']; name one of"),
        ("/case/solve", {"fault": "wave"}, "there is no service None; name one of"),
        ("/case/solve", {"service": "digit", "fault": "waves"}, "no case has a fault 'waves' of digit; name one of er"),
        ("/case/solve", {"service": "digit", "fault": "upper.errors"}, "no case has a fault 'upper.errors' of digit;"),
        ("/case/solve", {"service": "lower", "fault": "needless_calls"}, "no case has a fault 'needless_calls' of"),
        ("/case/solve", {"service": "digit"}, "no case has a fault None of digit; name one of errors, pool_of_one,"),
    ],
)
def test_a_mistake_is_one_line_and_costs_no_attempt(flag_file, url, path, body, message):
    if path != "/case":
        start(url)
    before = flag_file.path.read_text()
    answer = post(url, path, body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error.startswith(message) and "\n" not in error
    assert requests.get(f"{url}/case", timeout=60).json().get("attempts", 0) == 0
    assert flag_file.path.read_text() == before


# The files -----------------------------------------------------------------------------------------------------------


def test_a_restart_keeps_the_case(flag_file, url, serve):
    flag_file.set({"upper.errors": "strong"})
    before = on(flag_file)
    start(url)
    post(url, "/case/solve", WRONG)
    flag_file.prepare()
    again = serve_app(serve, FlagFile(flag_file.path))
    state = requests.get(f"{again}/case", timeout=60).json()
    assert (state["open"], state["seed"], state["attempts"]) == (True, SEEDS[FOUND], 1)
    assert post(again, "/case/solve", {"service": "digit", "fault": FOUND}).json()["attempts"] == 2
    assert on(flag_file) == before


def edit(path: Path, flag: str, variant: str) -> None:
    content = json.loads(path.read_text())
    content["flags"][flag]["defaultVariant"] = variant
    path.write_text(json.dumps(content))


def test_a_flag_that_is_edited_by_hand_stays_hidden_until_the_end(flag_file, url):
    before = on(flag_file)
    start(url)
    edit(flag_file.path, "special.errors", "strong")
    state = requests.get(f"{url}/flags", timeout=60).json()
    assert {flag["variant"] for flag in state["flags"].values()} == {"hidden"}
    assert post(url, "/case/give-up").ok
    assert on(flag_file) == before


def test_a_case_that_is_ended_by_hand_is_closed(flag_file, url):
    start(url)
    edit(flag_file.path, "case", "default")
    assert requests.get(f"{url}/case", timeout=60).json() == {"open": False}
    assert post(url, "/flags", {"set": {"digit.errors": "off"}}).ok
    assert start(url)["attempts"] == 0


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_without_the_file_of_the_case_a_reset_ends_it(flag_file, url, content):
    start(url)
    file = flag_file.path.with_name("case.json")
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    answer = requests.get(f"{url}/case", timeout=60)
    assert answer.status_code == 500 and "./run.sh faults reset ends it" in answer.json()["error"]
    page = requests.get(url, timeout=60).text
    assert "./run.sh faults reset ends it" in page and "Reset everything" in page
    assert post(url, "/flags", {"reset": True}).ok
    start(url)


def test_what_no_longer_exists_at_the_end_is_at_its_default(flag_file):
    flag_file.set({"upper.errors": "strong", "digit.errors": "off"})
    case_file = CaseFile(flag_file)
    opened = case_file.start(7)
    content = json.loads((path := flag_file.path.with_name("case.json")).read_text())
    content["before"] |= {"upper.errors": "terrible", "upper.removed": "strong"}
    path.write_text(json.dumps(content))
    assert case_file.solve(opened.case.flag)[0]
    assert {name: on(flag_file).get(name) for name in ("upper.errors", "digit.errors")} == {
        "upper.errors": "mild",
        "digit.errors": None,
    }


def test_the_file_of_a_former_version_has_no_case(flag_file):
    flag_file.set({"digit.errors": "strong"})
    content = json.loads(flag_file.path.read_text())
    del content["flags"]["case"]
    flag_file.path.write_text(json.dumps(content))
    assert CaseFile(flag_file).present()[1] is None
    flag_file.prepare()
    assert "case" in json.loads(flag_file.path.read_text())["flags"]
    assert flag_file.flags()["digit.errors"].variant == "strong"


def test_an_open_case_refuses_another_one(flag_file):
    case_file = CaseFile(flag_file)
    case_file.start("7")
    with pytest.raises(FlagError, match=CONFLICT):
        case_file.start(7)


# The page and the commands -------------------------------------------------------------------------------------------


def test_the_forms_of_the_page_start_and_end_a_case(flag_file, url):
    page = requests.post(url, data={"case": str(SEEDS[FOUND])}, timeout=60)
    assert page.ok and page.url.endswith("/#case")
    assert f"A case is open: seed {SEEDS[FOUND]}, since " in page.text
    answers = re.findall(r"<option>(.+?)</option>", page.text)
    assert answers == [case.flag for case in CASES]
    assert 'name="set"' in page.text and "aria-pressed" not in page.text
    assert all("disabled" in button for button in re.findall(r'<button name="set".*?>', page.text))
    wrong = requests.post(url, data={"answer": "digit.errors"}, timeout=60)
    assert wrong.ok and re.search(r"Wrong: the service is right\. Time: \d+ s; attempts: 1\.", wrong.text)
    right = requests.post(url, data={"answer": FOUND}, timeout=60)
    assert f"Right: it was {FOUND}, strong." in right.text and "aria-pressed" in right.text
    assert requests.post(url, data={"answer": FOUND}, timeout=60).status_code == 409
    start(url)
    assert f"Given up: it was {FOUND}" in requests.post(url, data={"give-up": "true"}, timeout=60).text


def test_a_form_with_a_mistake_says_so(flag_file, url):
    answer = requests.post(url, data={"case": "-1"}, timeout=60)
    assert answer.status_code == 400 and "seed=&#39;-1&#39; is not a whole number" in answer.text
    start(url)
    answer = requests.post(url, data={"answer": ""}, timeout=60)
    assert answer.status_code == 400 and "there is no service &#39;&#39;; name one of generator" in answer.text


@pytest.fixture
def api(url, monkeypatch) -> control.FaultsAPI:
    monkeypatch.setattr(control, "FAULTS_PORT", int(url.rpartition(":")[2]))
    return control.FaultsAPI("127.0.0.1", "")


def test_the_commands_of_a_case(api, monkeypatch, capsys):
    monkeypatch.setattr(commands, "faults_api", lambda: api)
    service, _, fault = FOUND.partition(".")
    outcomes = [
        (["case"], 0, "No case is open."),
        (["case", "--seed", str(SEEDS[FOUND])], 0, "./run.sh solve SERVICE FAULT says whether it is."),
        (["case"], 0, f"A case is open: seed {SEEDS[FOUND]}, since "),
        (["faults"], 0, f"A case is open: seed {SEEDS[FOUND]}, since "),
        (["load", "--rate", "2"], 0, "load: 3 users, 2 requests per second"),
        (["solve", service, "errors"], 1, "Wrong: the service is right."),
        (["solve", service, fault], 0, f"Right: it was {FOUND}, strong."),
        (["case", "--seed", "0"], 0, "A case is open: seed 0"),
        (["case", "--give-up"], 0, f"Given up: it was {chosen(0).flag}, strong."),
    ]
    for arguments, code, words in outcomes:
        assert commands.main(arguments) == code
        assert words in capsys.readouterr().out
    for arguments in (["solve", "digit", "errors"], ["case", "--give-up"]):
        with pytest.raises(CommandError, match=r"^no case is open; \./run\.sh case --seed N starts one$"):
            commands.main(arguments)


def test_the_report_of_a_case(api):
    assert cases.report(api.case()) == "No case is open. ./run.sh case --seed N starts one."
    assert re.fullmatch(
        rf"A case is open: seed {SEEDS[FOUND]}, since [\d-]+ [\d:]+ UTC \(\d+ s\), attempts: 0\.",
        cases.report(api.start_case(str(SEEDS[FOUND]))),
    )
    with pytest.raises(CommandError, match=rf"^{CONFLICT}"):
        api.change(control.set_body(["digit.errors", "strong"]))
    with pytest.raises(CommandError, match=r"^no case has a fault 'nothing' of digit"):
        api.solve("digit", "nothing")
    state = api.solve("upper", "errors")
    assert re.fullmatch(r"Wrong: the service is another one\. Time: \d+ s; attempts: 1\.", cases.report(state))
    state = api.solve("digit", FOUND) | {"seconds": 3725.4}
    assert cases.report(state) == (
        f"Right: it was {FOUND}, strong. Time: 1 h 2 min 5 s; attempts: 2. {state['description']}"
        f" {chosen(SEEDS[FOUND]).evidence} The faults are as they were before the case."
    )
    api.start_case("7")
    assert cases.report(api.give_up()).startswith(f"Given up: it was {chosen(7).flag}, strong. Time: ")
