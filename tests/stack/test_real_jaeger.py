"""Current Jaeger with the running stack's promscale: its HTTP API returns what the services have exported."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests

from local import CHECKOUT
from queries.dashboards import DASHBOARDS
from telemetry.services import CHARACTER_SERVICES
from tests import built
from tests.waiting import free_port, wait_until


@contextmanager
def running_jaeger(folder: Path, **environment: str) -> Iterator[Callable[..., Any]]:
    """A Jaeger on free ports with its log in `folder`, as a function that queries the API and returns its data."""
    program = built.jaeger()
    ports = {name: free_port() for name in ("jaeger_query.http", "jaeger_query.grpc", "healthcheckv2.http")}
    api = f"http://127.0.0.1:{ports['jaeger_query.http']}/api"
    options = [f"--set=extensions.{name.replace('.', '::')}::endpoint=127.0.0.1:{port}" for name, port in ports.items()]
    log = folder / "log"
    with log.open("w") as output:
        command = [str(program), f"--config={CHECKOUT / 'jaeger' / 'config.yaml'}", *options]
        process = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT)

    def ask(path: str, **parameters: str | int) -> Any:
        answer = requests.get(f"{api}/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def up() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"{api}/services", timeout=10).ok
        except requests.RequestException:
            return False

    try:
        wait_until(up, "Jaeger's API")
        yield ask
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def jaeger(stack, tmp_path_factory):
    """A Jaeger that finds spans of all services."""
    with running_jaeger(tmp_path_factory.mktemp("jaeger")) as ask:
        wait_until(lambda: {"load", "generator", *CHARACTER_SERVICES} <= set(ask("services")), "spans of all services")
        yield ask


def test_jaeger_exports_no_traces_of_itself(stack, tmp_path):
    """Jaeger exports its last spans before it ends, so that it would have connected by then."""
    with socket.create_server(("127.0.0.1", 0)) as collector:
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        with running_jaeger(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="5000"):
            pass
        collector.setblocking(False)
        with pytest.raises(BlockingIOError):
            collector.accept()


def tags(span: dict) -> dict:
    return {tag["key"]: tag["value"] for tag in span["tags"]}


def test_services(jaeger, stack):
    assert sorted(jaeger("services")) == [
        name for (name,) in stack.rows("select distinct service_name from span order by 1")
    ]


def test_operations(jaeger):
    expected = {("GET /", "server"), ("random_digit", "internal"), ("render_digit", "internal")}

    def names():
        return {(operation["name"], operation["spanKind"]) for operation in jaeger("operations", service="digit")}

    wait_until(lambda: expected <= names(), "digit's operations")


def test_a_trace_is_the_same_as_in_sql(jaeger, stack):
    """Name, parent, start and duration of each span."""
    ((trace_id,),) = wait_until(
        lambda: stack.rows(
            "select trace_id::text from span group by trace_id having count(*) > 20"
            " and bool_or(service_name = 'load' and is_root_span) order by min(start_time) limit 1"
        ),
        "a password's trace",
    )

    def spans_by_sql():
        return sorted(
            (f"{span_id % 2**64:016x}", name, f"{parent % 2**64:016x}" if parent is not None else None, start, duration)
            for span_id, name, parent, start, duration in stack.rows(
                "select span_id, span_name, parent_span_id, cast(extract(epoch from start_time) * 1000000 as bigint),"
                " cast(trunc(cast(duration_ms as numeric) * 1000) as bigint) from span where trace_id = %s",
                trace_id,
            )
        )

    def spans_by_jaeger():
        (trace,) = jaeger(f"traces/{trace_id.replace('-', '')}")
        return sorted(
            (
                span["spanID"],
                span["operationName"],
                next((reference["spanID"] for reference in span["references"]), None),
                span["startTime"],
                span["duration"],
            )
            for span in trace["spans"]
        )

    def unchanged():
        """Both results, if no further span was stored between them."""
        before, read = spans_by_sql(), spans_by_jaeger()
        return before == spans_by_sql() and (before, read)

    by_sql, by_jaeger = wait_until(unchanged, "a trace to which no span is added meanwhile")
    assert by_jaeger == by_sql


@pytest.mark.parametrize(
    ("search", "matches"),
    [
        ({"service": "digit"}, lambda span, service: service == "digit"),
        ({"service": "upper", "operation": "random_upper"}, lambda span, _: span["operationName"] == "random_upper"),
        ({"service": "generator", "tags": json.dumps({"pwlen": "16"})}, lambda span, _: tags(span).get("pwlen") == 16),
        ({"service": "generator", "minDuration": "300ms"}, lambda span, _: span["duration"] >= 300_000),
        ({"service": "digit", "maxDuration": "5ms"}, lambda span, _: span["duration"] <= 5_000),
        ({"service": "load", "tags": json.dumps({"service.name": "load"})}, lambda span, service: service == "load"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "matches",
)
def test_searches(jaeger, search, matches):
    traces = wait_until(lambda: jaeger("traces", limit=5, lookback="1h", **search), f"traces by {search}")
    assert len(traces) <= 5
    for trace in traces:
        services = {key: process["serviceName"] for key, process in trace["processes"].items()}
        assert any(matches(span, services[span["processID"]]) for span in trace["spans"])


LINKS = {link.path(str, "start", "end"): link for board in DASHBOARDS for panel in board.panels for link in panel.links}
VALUES = {
    "service_name": "digit",
    "callee": "digit",
    "span_name": "GET /",
    "duration_from_ms": "0000000001.584893",
    "duration_to_ms": "19952.623149688788",
    **dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), "1.25"),
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_links_of_the_dashboards(jaeger, stack, link):
    """The API requests that Jaeger's page sends when it is opened at this link."""
    newest = "select replace(cast(trace_id as text), '-', '') from span where service_name = 'digit' limit 1"
    values = VALUES | {"trace_id": stack.rows(newest)[0][0]}
    ((now,),) = stack.rows("select cast(extract(epoch from now()) * 1000000 as bigint)")

    def results():
        path = link.path(lambda column: quote(values[column], safe=""), str(now - 3_600_000_000), str(now))
        return jaeger(path.replace("search?", "traces?").replace("trace/", "traces/"))

    if link.failed:
        results()  # succeeds; there may be no failed span yet
    else:
        wait_until(results, "traces")


def test_a_search_that_finds_nothing(jaeger):
    assert jaeger("traces", service="digit", tags=json.dumps({"char": "none"}), lookback="1h") == []


def test_dependencies(jaeger, stack):
    expected = {("generator", name) for name in CHARACTER_SERVICES} | {("load", "generator"), ("lower", "digit")}

    def calls():
        end = stack.rows("select cast(extract(epoch from now()) * 1000 as bigint)")[0][0]
        return {(call["parent"], call["child"]) for call in jaeger("dependencies", endTs=end, lookback=3_600_000)}

    wait_until(lambda: expected <= calls(), "a call of each kind")
    assert calls() == expected
