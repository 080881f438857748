"""The part `faults`, a real process with a real flag file and database: what the API changes, who may do it, and the
record of the truth."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import requests
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from explorer.traces import create_traces
from faults.cases import chosen
from faults.recorder import SCHEMA, State, record
from local import CHECKOUT
from tests.store.otlp_messages import attributes, request, span
from tests.store.tcp_proxy import Proxy
from tests.waiting import free_port, wait_until

STRONG = {"set": {"digit.errors": "strong"}}


class FaultsPart:
    """A process `python -m faults`, which can be killed and started again."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.file = folder / "flags.json"
        self.log = folder / "log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._variables = {"FAULTS_FILE": str(self.file), "FAULTS_DB_URI": uri, "PORT": str(self.port)}
        self._process: subprocess.Popen | None = None

    def start(self, **variables: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH")}
        environment = inherited | {"PYTHONPATH": str(CHECKOUT)} | self._variables | variables
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faults"], cwd=CHECKOUT, env=environment, stdout=log, stderr=log
            )
        wait_until(self._answers, "an answer of the part")

    def kill(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"{self.url}/healthz", timeout=10).ok
        except requests.ConnectionError:
            return False

    def post(self, body: object = None, path: str = "/flags", **options: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=30, allow_redirects=False, **options)

    def changed(self) -> dict[str, str]:
        """The faults that are not at their defaults, by the API."""
        flags = requests.get(f"{self.url}/flags", timeout=10).json()["flags"]
        return {name: flag["variant"] for name, flag in flags.items() if flag["variant"] != flag["default"]}

    def edit(self, flag: str, variant: str) -> datetime:
        """Change the file by hand; returns its time of modification."""
        content = json.loads(self.file.read_text())
        content["flags"][flag]["defaultVariant"] = variant
        self.file.write_text(json.dumps(content))
        return modified(self.file)


def modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime_ns // 1000 / 10**6, UTC)


@pytest.fixture
def proxy(postgres_uri) -> Iterator[Proxy]:
    address = conninfo_to_dict(postgres_uri)
    proxy = Proxy((str(address["host"]), int(str(address["port"]))))
    yield proxy
    proxy.cut()


@pytest.fixture
def stopped_part(dsn, proxy, tmp_path) -> Iterator[FaultsPart]:
    part = FaultsPart(tmp_path, make_conninfo(dsn, host="127.0.0.1", port=proxy.port))
    yield part
    part.kill()


@pytest.fixture
def part(stopped_part) -> FaultsPart:
    stopped_part.start()
    return stopped_part


@pytest.fixture
def intervals(database) -> Callable[..., list[tuple]]:
    """A function that returns the rows of demo.fault of one flag: variant, start, end."""
    statement = "select variant, start_time, end_time from demo.fault where flag = %s order by start_time"
    return lambda flag="digit.errors": database.execute(statement, [flag]).fetchall()


@pytest.fixture
def recorded(intervals) -> Callable[..., list[tuple]]:
    """A function that waits until the flag has so many intervals with these variants, and returns them."""

    def recorded(*variants: str, flag: str = "digit.errors") -> list[tuple]:
        def found() -> list[tuple]:
            rows = intervals(flag)
            return rows if [variant for variant, *_ in rows] == list(variants) else []

        return wait_until(found, f"{flag}: {variants}")

    return recorded


# The record ----------------------------------------------------------------------------------------------------------


def test_at_the_start_the_variants_that_do_something_are_recorded(part, database, recorded):
    recorded("mild")
    assert part.changed() == {}
    rows = database.execute("select flag, variant, service, end_time, seed from demo.fault").fetchall()
    flags = requests.get(f"{part.url}/flags", timeout=10).json()["flags"]
    on = {name: flag for name, flag in flags.items() if flag["variants"][flag["variant"]]}
    assert sorted(rows) == sorted((name, "mild", flag["service"], None, None) for name, flag in on.items())
    assert database.execute("select count(*) from demo.fault_change").fetchone() == (0,)


def test_a_change_ends_an_interval_and_begins_another(part, recorded, database):
    recorded("mild")
    assert part.post(STRONG).status_code == 200
    changed_at = modified(part.file)
    (_, begin, end), (_, *strong) = recorded("mild", "strong")
    assert begin < end == changed_at and strong == [changed_at, None]
    assert part.post({"set": {"digit.errors": "off"}}).status_code == 200
    wait_until(lambda: recorded("mild", "strong")[1][2] == modified(part.file), "the end of the interval")
    changes = database.execute("select flag, from_variant, to_variant from demo.fault_change order by time").fetchall()
    assert changes == [("digit.errors", "mild", "strong"), ("digit.errors", "strong", "off")]


def test_changes_in_quick_succession_are_all_recorded(part, recorded):
    variants = ["strong", "mild"] * 10
    for variant in variants:
        assert part.post({"set": {"digit.errors": variant}}).ok
    rows = recorded("mild", *variants)
    assert all(begin < end for _, begin, end in rows[:-1])
    assert [end for *_, end in rows[:-1]] == [begin for _, begin, _ in rows[1:]]


def test_load_and_sampling_are_recorded_as_well(part, recorded, database):
    assert part.post({"load": {"users": 8, "seed": 7}, "sampling": {"percent": 25}}).ok
    recorded("users=8,seed=7", flag="load")
    recorded("percent=25", flag="sampling")
    assert part.post({"reset": True}).ok
    wait_until(lambda: recorded("percent=25", flag="sampling")[0][2], "the end of the interval")
    changes = "select flag, from_variant, to_variant from demo.fault_change order by time, flag"
    assert database.execute(changes).fetchall() == [
        ("load", "default", "users=8,seed=7"),
        ("sampling", "default", "percent=25"),
        ("load", "users=8,seed=7", "default"),
        ("sampling", "percent=25", "default"),
    ]


def test_each_interval_has_the_seed_of_its_time(stopped_part, database):
    stopped_part.start(DEMO_SEED="5")
    assert stopped_part.post({"load": {"seed": 7}}).ok
    seeds = "select seed, end_time is null from demo.fault where flag = 'digit.errors' order by start_time"
    wait_until(lambda: database.execute(seeds).fetchall() == [(5, False), (7, True)], "the seed of each interval")
    changes = database.execute("select flag from demo.fault_change").fetchall()
    assert changes == [("load",)]


def test_a_change_by_hand_is_recorded_with_the_files_time(part, recorded):
    recorded("mild")
    edited_at = part.edit("digit.errors", "strong")
    (_, _, end), (_, begin, _) = recorded("mild", "strong")
    assert end == begin == edited_at
    assert part.changed() == {"digit.errors": "strong"}


def test_a_change_by_hand_to_nonsense_changes_nothing(part, recorded):
    recorded("mild")
    content = part.file.read_text()
    part.file.write_text(content[:100])
    wait_until(lambda: "is not a file of flags in flagd's format" in part.log.read_text(), "a line in the log")
    answer = part.post(STRONG)
    assert answer.status_code == 400 and "is not a file of flags in flagd's format" in answer.json()["error"]
    assert requests.get(f"{part.url}/", timeout=10).text.count("Reset everything") == 1
    assert part.post({"reset": True}).ok
    assert part.changed() == {}
    assert part.post(STRONG).ok
    recorded("mild", "strong")


def test_a_restart_records_nothing_twice(part, recorded, database):
    assert part.post(STRONG).ok
    recorded("mild", "strong")
    before = database.execute("select * from demo.fault order by flag, start_time").fetchall()
    part.kill()
    part.start()
    assert part.changed() == {"digit.errors": "strong"}
    assert part.post({"set": {"upper.errors": "strong"}}).ok
    recorded("mild", "strong", flag="upper.errors")
    others = "select * from demo.fault where flag <> 'upper.errors' order by flag, start_time"
    assert database.execute(others).fetchall() == [row for row in before if row[2] != "upper.errors"]


def test_a_change_while_the_part_was_down_is_recorded_with_its_time(part, recorded):
    recorded("mild")
    part.kill()
    edited_at = part.edit("digit.errors", "strong")
    part.start()
    assert recorded("mild", "strong")[1][1] == edited_at


def test_changes_while_the_database_is_away_are_recorded_when_it_is_back(part, proxy, recorded, intervals):
    recorded("mild")
    proxy.cut()
    times = []
    for variant in ("strong", "off", "strong"):
        assert part.post({"set": {"digit.errors": variant}}).status_code == 200
        times.append(modified(part.file))
    assert part.changed() == {"digit.errors": "strong"}
    wait_until(lambda: "Changes wait in changes.jsonl until the database takes them" in part.log.read_text(), "a line")
    page = requests.get(part.url, timeout=30)
    assert page.ok and "The database does not answer; changes are recorded when it does." in page.text
    # The process dies as well: the journal still has the changes.
    part.kill()
    part.start()
    assert intervals() == [("mild", intervals()[0][1], None)]
    proxy.restore()
    (_, _, end), (_, *first), (_, *second) = recorded("mild", "strong", "strong")
    assert [end, *first, *second] == [times[0], times[0], times[1], times[2], None]


def test_half_a_line_of_a_killed_process_loses_nothing(part, proxy, recorded):
    recorded("mild")
    proxy.cut()
    assert part.post(STRONG).ok
    part.kill()
    with part.file.with_name("changes.jsonl").open("a") as journal:
        journal.write('{"time": "2026-')
    part.start()
    assert part.post({"set": {"digit.errors": "off"}}).ok
    proxy.restore()
    assert recorded("mild", "strong")[1][2] is not None


def test_the_part_starts_before_the_database(stopped_part, proxy, recorded):
    proxy.cut()
    stopped_part.start()
    assert stopped_part.file.exists()
    assert stopped_part.post(STRONG).ok
    proxy.restore()
    recorded("mild", "strong")


def test_states_that_are_recorded_already_change_nothing(database):
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    variants: list[dict[str, str]] = [{"a.b": "mild"}, {"a.b": "strong"}, {}, {"a.b": "mild"}]
    states = [State(begin + timedelta(minutes=number), None, on) for number, on in enumerate(variants)]
    record(database, states)
    before = database.execute("select * from demo.fault order by start_time").fetchall()
    assert [row[3] for row in before] == ["mild", "strong", "mild"]
    for repeated in (states, states[2:], states[-1:]):
        record(database, repeated)
        assert database.execute("select * from demo.fault order by start_time").fetchall() == before


def test_a_file_that_was_replaced_by_an_older_one_is_recorded_as_of_now(database):
    long_ago, before = datetime(2026, 1, 1, tzinfo=UTC), datetime.now(UTC)
    record(database, [State(before - timedelta(hours=1), None, {"a.b": "strong"})])
    record(database, [State(long_ago, None, {"a.b": "mild"})])
    [(end,), (begin,)] = database.execute(
        "select end_time from demo.fault where variant = 'strong'"
        " union all select start_time from demo.fault where variant = 'mild'"
    ).fetchall()
    assert before <= begin == end


def test_readers_may_read_the_truth_and_not_change_it(dsn, database):
    database.execute(SCHEMA)
    record(database, [State(datetime.now(UTC), None, {"a.b": "mild"})])
    with psycopg.connect(dsn, user="explorer", autocommit=True) as reader:
        reader.execute("set default_transaction_read_only = off")
        assert reader.execute("select flag from demo.fault").fetchall() == [("a.b",)]
        for statement in ("delete from demo.fault", "drop view demo.fault_change", "create table demo.own (a int)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


# The API -------------------------------------------------------------------------------------------------------------


def test_tail_sampling_ends_with_a_collector_that_has_none(stopped_part):
    stopped_part.start()
    assert stopped_part.post({"sampling": {"percent": 10, "tail_latency_ms": 500}}).ok
    stopped_part.kill()
    stopped_part.start(TAIL_SAMPLING="off")
    now = requests.get(f"{stopped_part.url}/flags", timeout=10).json()
    assert now["sampling"] == {"percent": 10, "tail_latency_ms": None}


def test_a_change_returns_what_is_in_effect(stopped_part):
    stopped_part.start(LOAD_USERS="5", DEMO_SEED="42")
    before = requests.get(f"{stopped_part.url}/flags", timeout=10).json()
    assert before["load"] == {"users": 5, "rate": 1, "seed": 42} and before["sampling"] == {
        "percent": None,
        "tail_latency_ms": None,
    }
    after = stopped_part.post({**STRONG, "load": {"rate": 2.5}, "sampling": {"percent": 10}}).json()
    assert after["load"] == {"users": 5, "rate": 2.5, "seed": 42} and after["sampling"] == {
        "percent": 10,
        "tail_latency_ms": None,
    }
    assert after["flags"]["digit.errors"] == before["flags"]["digit.errors"] | {"variant": "strong"}
    assert list(after["flags"]["digit.errors"]["variants"]) == ["off", "mild", "strong"]
    assert stopped_part.post({"reset": True}).json() == before


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"FAULTS_FILE": ""}, "faults: FAULTS_FILE is not set"),
        ({"DEMO_SEED": "-1"}, "faults: DEMO_SEED='-1' is not a whole number from 0"),
        ({"DEMO_TOKEN": "short"}, "faults: DEMO_TOKEN "),
        ({"PORT": "0"}, "PORT='0' is not a port"),
    ],
)
def test_a_start_with_a_bad_variable_ends_with_one_line(stopped_part, variables, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        stopped_part.start(**variables)
    assert stopped_part.log.read_text().count("\n") <= 2 and "Traceback" not in stopped_part.log.read_text()


# Who may change something --------------------------------------------------------------------------------------------


TOKEN = "the-token-of-this-test"
OPEN = {"BIND_ADDRESS": "127.0.0.1", "PUBLISHED_ADDRESS": "0.0.0.0"}


def test_where_others_reach_the_demo_changes_need_the_token(stopped_part):
    stopped_part.start(DEMO_TOKEN=TOKEN, **OPEN)
    assert requests.get(stopped_part.url, timeout=10).ok
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
        answer = stopped_part.post(STRONG, headers=headers)
        assert answer.status_code == 401 and "need the token that ./run.sh prints" in answer.json()["error"]
        assert stopped_part.post(path="/", data={"reset": "true"}, headers=headers).status_code == 401
    assert stopped_part.changed() == {}
    assert stopped_part.post(STRONG, headers={"Authorization": f"Bearer {TOKEN}"}).ok
    other_site = {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}
    assert stopped_part.post({"reset": True}, headers=other_site).status_code == 403
    assert stopped_part.changed() == {"digit.errors": "strong"}
    assert TOKEN not in stopped_part.log.read_text()


def test_the_page_keeps_the_token_in_a_cookie_that_no_script_and_no_other_site_gets(stopped_part):
    stopped_part.start(DEMO_TOKEN=TOKEN, **OPEN)
    refused = stopped_part.post(path="/token", data={"token": f"{TOKEN}x"})
    assert refused.status_code == 401 and "Set-Cookie" not in refused.headers
    assert "This is not the token" in refused.text
    accepted = stopped_part.post(path="/token", data={"token": TOKEN})
    assert accepted.status_code == 303
    assert {"HttpOnly", "SameSite=Strict"} <= set(accepted.headers["Set-Cookie"].split("; "))
    form = stopped_part.post(path="/", data={"set": "digit.errors=strong"}, cookies=accepted.cookies)
    assert form.status_code == 303
    assert stopped_part.changed() == {"digit.errors": "strong"}


def test_a_generated_token_is_kept_for_this_user_alone(stopped_part):
    stopped_part.start(**OPEN)
    file = stopped_part.file.with_name("token")
    token = file.read_text()
    assert len(token) >= 32 and file.stat().st_mode & 0o777 == 0o600
    stopped_part.kill()
    stopped_part.start(**OPEN)
    assert file.read_text() == token
    assert stopped_part.post(STRONG, headers={"Authorization": f"Bearer {token}"}).ok
    assert token not in stopped_part.log.read_text()
    stopped_part.kill()
    stopped_part.start(PUBLISHED_ADDRESS="127.0.0.1")
    assert not file.exists()
    assert stopped_part.post({"reset": True}).ok


# Cases ---------------------------------------------------------------------------------------------------------------


def answer(seed: int) -> dict[str, str]:
    service, _, fault = chosen(seed).flag.partition(".")
    return {"service": service, "fault": fault}


def everything(database) -> list[tuple]:
    return database.execute("select flag, variant, start_time, end_time from demo.fault order by flag, 3").fetchall()


def test_a_case_is_recorded_when_it_has_ended_with_its_true_times(part, recorded, database):
    assert part.post({"set": {"upper.errors": "strong"}}).ok
    recorded("mild", "strong", flag="upper.errors")
    before = everything(database)
    assert part.post({"seed": 7}, "/case").ok
    began_at = modified(part.file)
    assert part.post({"load": {"rate": 5}}).ok
    changed_at = modified(part.file)
    assert part.post({"service": "digit", "fault": "wave"}, "/case/solve").json()["solved"] is False
    # The page waits until everything that can be recorded is recorded.
    assert "upper.errors</a> mild → strong" in requests.get(part.url, timeout=30).text
    assert everything(database) == before
    assert part.post(answer(7), "/case/solve").json()["solved"]
    ended_at = modified(part.file)
    flag, variant = chosen(7)[:2]
    assert recorded(variant, flag=flag) == [(variant, began_at, ended_at)]
    assert recorded("seed=7", flag="case") == [("seed=7", began_at, ended_at)]
    assert recorded("rate=5", flag="load") == [("rate=5", changed_at, None)]
    assert recorded("mild", "strong", "strong", flag="upper.errors")[1:] == [
        ("strong", before[[row[:2] for row in before].index(("upper.errors", "strong"))][2], began_at),
        ("strong", ended_at, None),
    ]
    assert "upper.errors" in part.changed()


def test_a_case_survives_a_restart_and_an_edit_by_hand_and_tells_nothing(part, recorded, database):
    recorded("mild")
    before = everything(database)
    assert part.post({"seed": 7}, "/case").ok
    began_at = modified(part.file)
    part.kill()
    part.start()
    edited_at = part.edit("digit.errors", "strong")
    wait_until(lambda: edited_at.isoformat() in part.file.with_name("changes.jsonl").read_text(), "the edit's time")
    requests.get(part.url, timeout=30)
    assert everything(database) == before
    part.kill()
    part.start()
    assert requests.get(f"{part.url}/case", timeout=10).json()["open"]
    assert chosen(7).flag not in part.log.read_text()
    assert part.post(path="/case/give-up").json()["flag"] == chosen(7).flag
    ended_at = modified(part.file)
    (_, _, end), (_, *strong), (_, *restored) = recorded("mild", "strong", "mild")
    assert [end, *strong, *restored] == [began_at, edited_at, ended_at, ended_at, None]
    assert recorded(chosen(7).variant, flag=chosen(7).flag) == [(chosen(7).variant, began_at, ended_at)]


def test_what_was_on_before_a_case_is_recorded_while_it_is_open(stopped_part, proxy, recorded):
    proxy.cut()
    stopped_part.start()
    assert stopped_part.post(STRONG).ok
    switched_at = modified(stopped_part.file)
    assert stopped_part.post({"seed": 7}, "/case").ok
    began_at = modified(stopped_part.file)
    proxy.restore()
    assert recorded("mild", "strong")[1][1:] == (switched_at, None)
    assert stopped_part.post({"reset": True}).ok
    assert recorded("mild", "strong", "mild")[1][2] == began_at


def test_a_change_of_a_case_needs_the_token(stopped_part):
    stopped_part.start(DEMO_TOKEN=TOKEN, **OPEN)
    for path, body in (("/case", {"seed": 7}), ("/case/solve", answer(7)), ("/case/give-up", {})):
        assert stopped_part.post(body, path).status_code == 401
        assert stopped_part.post(body, path, headers={"Origin": "http://evil.example"}).status_code == 403
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert stopped_part.post({"seed": 7}, "/case", headers=headers).ok
    assert stopped_part.post(answer(7), "/case/solve", headers=headers).json()["solved"]


# The page ------------------------------------------------------------------------------------------------------------


def pressed(page: str) -> dict[str, str]:
    """The variant of each flag that the page shows as the one that is on."""
    return dict(value.split("=") for value in re.findall(r'name="set" value="([^"]+)"\s+aria-pressed="true"', page))


def test_the_forms_of_the_page_change_what_they_say(part):
    for form, anchor in (
        ({"set": "digit.errors=strong"}, "#digit.errors"),
        ({"users": "12", "rate": " ", "seed": ""}, ""),
        ({"percent": "30"}, ""),
    ):
        answer = part.post(path="/", data=form)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/{anchor}")
    changes = (
        "digit.errors</a> mild → strong",
        "load</a> default → users=12",
        "sampling</a> default → percent=30",
    )

    def complete_page() -> str:
        page = requests.get(part.url, timeout=10).text
        return page if all(change in page for change in changes) else ""

    page = wait_until(complete_page, "the page with all changes, which are recorded meanwhile")
    assert pressed(page)["digit.errors"] == "strong"
    assert re.search(r'name="users"[^>]*value="12"', page) and re.search(r'name="percent"[^>]*value="30"', page)
    assert "<title>Faults: 3 changed</title>" in page
    assert part.post(path="/", data={"reset": "true"}).status_code == 303
    assert part.changed() == {}


def test_a_form_with_an_error_says_so_and_changes_nothing(part):
    answer = part.post(path="/", data={"users": "0", "rate": "5"})
    assert answer.status_code == 400
    assert "users=&#39;0&#39; is not a whole number from 1 to 1000" in answer.text
    assert requests.get(f"{part.url}/flags", timeout=10).json()["load"]["rate"] == 1


def test_the_links_of_a_flag_lead_to_the_traces_with_the_fault(part, dsn, promscale, database):
    """A span has the names of all faults that took effect on it as an array, and an event for each of them."""
    for name, faults in (("one", ["digit.errors"]), ("two", ["digit.wave", "digit.errors"]), ("none", ["digit.wave"])):
        labelled = span(name, tags={"demo.fault.name": faults})
        for fault in faults:
            event = {"feature_flag.key": fault, "feature_flag.result.variant": "mild"}
            labelled.events.add(
                name="feature_flag.evaluation",
                time_unix_nano=labelled.start_time_unix_nano,
                attributes=attributes(event),
            )
        promscale.export(request(labelled, service="digit"))
    page = requests.get(part.url, timeout=10).text.replace("&amp;", "&").replace("&#39;", "'")
    [search] = [url for url in re.findall(r'href="([^"]*/search\?[^"]*)"', page) if "digit.errors" in url]
    [sql] = [
        statement
        for url in re.findall(r'href="([^"]*/sql\?[^"]*)"', page)
        if "digit.errors" in (statement := parse_qs(urlsplit(url).query)["sql"][0])
    ]
    for uri in (make_conninfo(dsn, user="explorer"), None):
        client = create_traces(f"127.0.0.1:{promscale.server.port}", uri).test_client()
        found = client.get(f"/search?{urlsplit(search).query}").text
        assert set(re.findall(r"<strong>digit: (\w+)</strong>", found)) == {"one", "two"}
    database.execute("set search_path = ps_trace")
    assert {row[2] for row in database.execute(sql).fetchall()} == {"one", "two"}
