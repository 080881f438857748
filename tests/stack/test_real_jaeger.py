"""Today's Jaeger on the running stack's promscale: what its HTTP API says of the traffic that the services made."""

import json
import subprocess
from urllib.parse import quote

import pytest
import requests

from queries.dashboards import DASHBOARDS
from tests import built
from tests.stack.checkout import ROOT, wait_for

# Beside the stack's own.
HTTP, GRPC, HEALTH = 26686, 26685, 23134
CALLEES = {"upper", "lower", "digit", "special"}


@pytest.fixture(scope="module")
def jaeger(stack, tmp_path_factory):
    """A function that asks the API, and returns its data."""
    program = built.jaeger()
    ports = {"jaeger_query.http": HTTP, "jaeger_query.grpc": GRPC, "healthcheckv2.http": HEALTH}
    options = [f"--set=extensions.{name.replace('.', '::')}::endpoint=127.0.0.1:{port}" for name, port in ports.items()]
    log = tmp_path_factory.mktemp("jaeger") / "log"
    with open(log, "w") as output:
        command = [program, f"--config={ROOT / 'jaeger' / 'config.yaml'}", *options]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def ask(path: str, **parameters):
        answer = requests.get(f"http://127.0.0.1:{HTTP}/api/{path}", params=parameters, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def up():
        assert process.poll() is None, log.read_text()
        try:
            return requests.get(f"http://127.0.0.1:{HTTP}/api/services", timeout=10).ok
        except requests.RequestException:
            return False

    try:
        wait_for(up, "Jaeger's API")
        wait_for(lambda: {"load", "generator", *CALLEES} <= set(ask("services")), "spans of all services")
        yield ask
    finally:
        process.terminate()
        process.wait()


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

    wait_for(lambda: expected <= names(), "digit's operations")


def test_one_trace_is_whole(jaeger, stack):
    """Each span has the name, parent, start and duration that SQL says."""
    ((trace_id,),) = wait_for(
        lambda: stack.rows(
            "select trace_id::text from span group by trace_id having count(*) > 20"
            " and bool_or(service_name = 'load' and is_root_span) order by min(start_time) limit 1"
        ),
        "a password's trace",
    )

    def ours():
        return sorted(
            (f"{span_id % 2**64:016x}", name, f"{parent % 2**64:016x}" if parent is not None else None, start, duration)
            for span_id, name, parent, start, duration in stack.rows(
                "select span_id, span_name, parent_span_id, cast(extract(epoch from start_time) * 1000000 as bigint),"
                " cast(trunc(cast(duration_ms as numeric) * 1000) as bigint) from span where trace_id = %s",
                trace_id,
            )
        )

    def theirs():
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
        """What both say, if no span came in between."""
        before, read = ours(), theirs()
        return before == ours() and (before, read)

    by_sql, by_jaeger = wait_for(unchanged, "a trace that is read while it stays as it is")
    assert by_jaeger == by_sql


@pytest.mark.parametrize(
    ("search", "holds"),
    [
        ({"service": "digit"}, lambda span, service: service == "digit"),
        ({"service": "upper", "operation": "random_upper"}, lambda span, _: span["operationName"] == "random_upper"),
        ({"service": "generator", "tags": json.dumps({"pwlen": "16"})}, lambda span, _: tags(span).get("pwlen") == 16),
        ({"service": "generator", "minDuration": "300ms"}, lambda span, _: span["duration"] >= 300_000),
        ({"service": "digit", "maxDuration": "5ms"}, lambda span, _: span["duration"] <= 5_000),
        ({"service": "load", "tags": json.dumps({"service.name": "load"})}, lambda span, service: service == "load"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "holds",
)
def test_searches(jaeger, search, holds):
    found = wait_for(lambda: jaeger("traces", limit=5, lookback="1h", **search), f"traces by {search}")
    assert len(found) <= 5
    for trace in found:
        services = {id: process["serviceName"] for id, process in trace["processes"].items()}
        assert any(holds(span, services[span["processID"]]) for span in trace["spans"])


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
    """To what Jaeger's page asks when it is opened there."""
    traces = "select replace(cast(trace_id as text), '-', '') from span where service_name = 'digit' limit 1"
    values = VALUES | {"trace_id": stack.rows(traces)[0][0]}
    ((now,),) = stack.rows("select cast(extract(epoch from now()) * 1000000 as bigint)")

    def found():
        path = link.path(lambda column: quote(values[column], safe=""), str(now - 3_600_000_000), str(now))
        return jaeger(path.replace("search?", "traces?").replace("trace/", "traces/"))

    if link.failed:
        found()  # there may be none yet
    else:
        assert wait_for(found, "traces")


def test_a_search_that_finds_nothing(jaeger):
    assert jaeger("traces", service="digit", tags=json.dumps({"char": "none"}), lookback="1h") == []


def test_dependencies(jaeger, stack):
    expected = {("generator", name) for name in CALLEES} | {("load", "generator"), ("lower", "digit")}

    def calls():
        end = stack.rows("select cast(extract(epoch from now()) * 1000 as bigint)")[0][0]
        return {(call["parent"], call["child"]) for call in jaeger("dependencies", endTs=end, lookback=3_600_000)}

    wait_for(lambda: expected <= calls(), "a call of each kind")
    assert calls() == expected
