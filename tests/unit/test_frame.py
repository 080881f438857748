"""The header of all pages: its links, the time range that they carry, and the form for a trace id."""

import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask, render_template_string

from explorer.ranges import carried
from frame import add_frame
from telemetry.services import EXPLORER

PAGE = '{% extends "frame.html" %}{% block title %}A page{% endblock %}'


@pytest.fixture
def client():
    app = Flask("a_page")
    add_frame(app, "traces", carried)

    @app.get("/<path:path>")
    def page(path: str) -> str:
        return render_template_string(PAGE)

    return app.test_client()


def links(client, path: str, **headers: str) -> dict[str, str]:
    page = client.get(path, headers=headers).text
    return {title: unescape(url) for url, title in re.findall(r'<a [^>]*?href="([^"]*)"[^>]*>([^<]*)</a>', page)}


def current(client, path: str) -> list[str]:
    return re.findall(r'aria-current="page">([^<]*)<', client.get(path).text)


def test_all_pages_are_linked_on_the_host_that_the_browser_asked(client):
    found = links(client, "/search", Host="192.0.2.7:16686")
    assert found == {
        "Skip to the content": "#main",
        "Tracing demo": "http://192.0.2.7:3000/",
        "Password": "http://192.0.2.7:5050/",
        "Dashboards": "http://192.0.2.7:3000/dashboards",
        "Traces": "http://192.0.2.7:16686/search",
        "Service map": "http://192.0.2.7:16686/dependencies",
        "Analysis": "http://192.0.2.7:3000/analysis/differences",
        "SQL": "http://192.0.2.7:3000/sql",
        "Workshop": "http://192.0.2.7:3000/learn",
        "Faults": "http://192.0.2.7:5055/",
    }


@pytest.mark.parametrize(
    ("path", "title"),
    [("/search", ["Traces"]), ("/trace/0a", ["Traces"]), ("/dependencies", ["Service map"]), ("/d/x", [])],
)
def test_the_header_says_which_page_this_is(client, path, title):
    assert current(client, path) == title


def test_the_form_for_a_trace_id_may_be_sent(client):
    page = client.get("/search")
    [action] = re.findall(r'<form action="([^"]*)"', page.text)
    assert action == "http://localhost:16686/trace"
    assert "form-action 'self' http://*:16686;" in page.headers["Content-Security-Policy"]


def test_grafana_and_jaeger_are_linked_where_the_explorer_is_beside_them(client, monkeypatch):
    monkeypatch.setitem(EXPLORER, "dashboards", 3001)
    monkeypatch.setitem(EXPLORER, "traces", 16687)
    found = links(client, "/search")
    assert (found["Grafana"], found["Jaeger"]) == ("http://localhost:3000/", "http://localhost:16686/")
    assert (found["SQL"], found["Traces"]) == ("http://localhost:3001/sql", "http://localhost:16687/search")


HOUR = ("1700000000000", "1700003600000")  # milliseconds


@pytest.mark.parametrize(
    ("asked", "dashboards", "search"),
    [
        ("", {}, {}),
        ("lookback=6h", {"from": "now-6h", "to": "now"}, {"lookback": "6h"}),
        ("from=now-6h", {"from": "now-6h"}, {"lookback": "6h"}),
        ("from=now-6h&to=now", {"from": "now-6h", "to": "now"}, {"lookback": "6h"}),
        (
            f"from={HOUR[0]}&to={HOUR[1]}",
            {"from": HOUR[0], "to": HOUR[1]},
            {"lookback": "custom", "start": f"{HOUR[0]}000", "end": "1700003599999999"},
        ),
        (
            f"start={HOUR[0]}000&end={HOUR[1]}000&lookback=custom",
            {"from": HOUR[0], "to": HOUR[1]},
            {"start": f"{HOUR[0]}000", "end": f"{HOUR[1]}000", "lookback": "custom"},
        ),
        ("from=yesterday", {"from": "yesterday"}, {}),
        ("start=soon", {}, {"start": "soon"}),
    ],
)
def test_the_time_range_travels_between_pages(client, asked, dashboards, search):
    found = links(client, f"/search?{asked}")
    expected = {"Dashboards": dashboards, "Traces": search, "Service map": search, "Analysis": search, "SQL": {}}
    for title, parameters in expected.items():
        assert parse_qs(urlsplit(found[title]).query) == {name: [value] for name, value in parameters.items()}, title


def test_a_duration_that_is_no_choice_of_dashboards_travels_as_times(client):
    query = parse_qs(urlsplit(links(client, "/search?lookback=1.5h")["Dashboards"]).query)
    assert int(query["to"][0]) - int(query["from"][0]) - 90 * 60_000 in (0, 1)  # rounded to whole milliseconds
