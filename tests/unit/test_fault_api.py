"""The API of the part `faults`: what it refuses, and the requests of other sites. Nothing is recorded here."""

import pytest
import requests

from faults.app import create_app
from faults.flags import FlagFile
from faults.recorder import Recorder

STRONG = {"set": {"digit.errors": "strong"}}


@pytest.fixture
def url(serve, flag_file) -> str:
    """Of the app, without a database."""
    return serve(create_app(flag_file, Recorder(flag_file, "postgresql://127.0.0.1:1/none", None)))


def changed(flag_file: FlagFile) -> dict[str, str]:
    return {name: flag.variant for name, flag in flag_file.flags().items() if flag.variant != flag.default}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[" * 10_000, "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"[]", "the body is not a JSON object with some of set, load, sampling, reset"),
        (b"{}", "the body is not a JSON object"),
        (b'{"faults": {}}', "there is no key 'faults'; name some of set, load, sampling, reset"),
        (b'{"set": "digit.errors"}', "set is not a JSON object"),
        (b'{"load": null}', "load is not a JSON object"),
        (b'{"reset": 1.5}', 'a reset is {"reset": true}, and nothing else with it'),
        (b'{"reset": true, "load": {}}', 'a reset is {"reset": true}, and nothing else with it'),
        (b'{"set": {"digit.errors": "strong", "digit.wave": "wild"}}', "digit.wave has no variant 'wild'"),
        (b'{"set": {"digit.errors": "strong", "nothing": "off"}}', "there is no fault 'nothing'; name one of"),
        (b'{"set": {"digit.errors": "strong"}, "load": {"rate": NaN}}', "rate=nan is not a number above 0"),
        (b'{"set": {"digit.errors": "strong"}, "sampling": {"percent": "1%"}}', "percent='1%' is not a number"),
    ],
)
def test_a_bad_body_gets_one_sentence_and_changes_nothing(flag_file, url, body, message):
    answer = requests.post(f"{url}/flags", data=body, timeout=10)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.startswith(message) and "\n" not in error
    assert changed(flag_file) == {}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # programs other than browsers
        ({"Origin": "{own}"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "{own}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "{own}", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "evil.example"}, 400),
    ],
)
def test_pages_of_other_sites_change_nothing(flag_file, url, headers, status):
    sent = {name: value.format(own=url) for name, value in headers.items()}
    assert requests.post(f"{url}/flags", json=STRONG, headers=sent, timeout=10).status_code == status
    form = requests.post(url, data={"set": "upper.errors=strong"}, headers=sent, timeout=10, allow_redirects=False)
    assert form.status_code == (303 if status == 200 else status)
    expected = {"digit.errors": "strong", "upper.errors": "strong"} if status == 200 else {}
    assert changed(flag_file) == expected


def test_tail_sampling_with_a_collector_that_has_none(serve, flag_file):
    url = serve(create_app(flag_file, Recorder(flag_file, "postgresql://127.0.0.1:1/none", None), tail_sampling=False))
    answer = requests.post(f"{url}/flags", json={"sampling": {"percent": 10, "tail_latency_ms": 500}}, timeout=60)
    assert answer.status_code == 400
    assert "rotel, the Collector of this stack, has no tail sampling" in answer.json()["error"]
    assert not changed(flag_file)
    page = requests.get(url, timeout=60).text
    assert "There is no tail sampling" in page and 'name="tail_latency_ms"' not in page
    nothing = requests.post(f"{url}/flags", json={"sampling": {"percent": 10, "tail_latency_ms": None}}, timeout=60)
    assert nothing.json()["sampling"] == {"percent": 10, "tail_latency_ms": None}
