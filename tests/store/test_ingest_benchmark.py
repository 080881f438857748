"""`./run.sh bench ingest` and `scale` with little load: what a store takes and has, and what a killed one has lost."""

import psutil
import pytest

from benchmarks import processes, scale, worksheet
from benchmarks.ingest import measure, report
from benchmarks.store import OtherStore, Promscale, own
from tests import built
from tests.waiting import free_port

# A second at this rate.
SPANS, SECONDS, RATE = 500, 1, 2000
# Jaeger with its storage in memory.
CONFIGURATION = """
extensions:
  jaeger_storage:
    backends:
      memory:
        memory:
          max_traces: 100000
  jaeger_query:
    storage:
      traces: memory
    enable_tracing: false
    http:
      endpoint: 127.0.0.1:{query}
    grpc:
      endpoint: 127.0.0.1:{query_grpc}
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:{grpc}
      http:
        endpoint: 127.0.0.1:{http}
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    metrics:
      level: none
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Jaeger writes to memory at once, and nothing else in its folder."""
    monkeypatch.setattr("benchmarks.store.QUIET_SECONDS", 1)


def alive(running: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in running if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def test_promscale():
    with own() as store:
        result = measure(store, SPANS, SECONDS, RATE, kill=False)
        assert result.read_back.spans == result.read_back.found == result.sent.spans > 0
        rows = report(result, killed=False)
        assert rows["spans"] == f"acknowledged {result.sent.spans:,}, missing 0"
        for part in ("sender", "store", "database", "together"):
            assert float(rows[f"CPU s/million spans: {part}"]) > 0
        for part in ("database", "write-ahead log"):
            assert f"bytes per span: {part}" in rows


def test_promscale_and_a_kill():
    with own() as store:
        before = [member for each in store.processes.values() for member in (each, *each.children(recursive=True))]
        result = measure(store, SPANS, SECONDS, RATE, kill=True)
        assert not alive(before)
        assert alive(list(store.processes.values()))
        assert result.read_back.found == result.sent.spans
        assert report(result, killed=True)["spans, and SIGKILL"].endswith("missing 0")


def test_what_spans_take_with_two_promscales_that_run_already(monkeypatch):
    monkeypatch.setattr(scale, "EXPORT_SPANS", SPANS)
    with own(promscales=2) as store:
        running = Promscale.running(store.endpoint, store.dsn)
        assert {name: process.pid for name, process in running.processes.items()} == {
            name: process.pid for name, process in store.processes.items()
        }
        values = scale.measure(running, SECONDS, rounds=2, closed_spans=SPANS)
        with pytest.raises(RuntimeError, match="closed partitions"):
            scale.measure(running, SECONDS)
    assert values.keys() == worksheet.LABELS.keys() - {"cpu_workers", "worker_sessions"}
    assert all(value > 0 for value in values.values())
    assert values["closed_bytes"] < values["open_bytes"]


@pytest.fixture(params=["grpc", "http"])
def jaeger(request, tmp_path):
    """A running Jaeger, to which spans are sent by this protocol."""
    ports = {name: free_port() for name in ("query", "query_grpc", "grpc", "http")}
    configuration = tmp_path / "config.yaml"
    configuration.write_text(CONFIGURATION.format(**ports))
    command = [str(built.jaeger()), f"--config={configuration}"]
    endpoint = {"grpc": f"127.0.0.1:{ports['grpc']}", "http": f"http://127.0.0.1:{ports['http']}/v1/traces"}

    def target() -> OtherStore:
        api = f"http://127.0.0.1:{ports['query']}"
        return OtherStore(endpoint[request.param], api, sample=10_000, folder=tmp_path, restart=command)

    target().start()
    yield target()
    processes.kill(target().processes.values())


def test_another_store(jaeger):
    result = measure(jaeger, SPANS, SECONDS, RATE, kill=False)
    assert result.read_back.spans == result.read_back.found == result.sent.spans > 0
    rows = report(result, killed=False)
    assert float(rows["CPU s/million spans: store"]) > 0
    assert rows["disk use"].startswith("stable after")
    jaeger.sample = 2
    some = jaeger.read_back(result.sent.traces)
    assert 0 < some.spans == some.found < result.sent.spans


def test_another_store_and_a_kill(jaeger):
    """In memory, so that all is lost."""
    result = measure(jaeger, SPANS, SECONDS, RATE, kill=True)
    assert not alive(list(jaeger.processes.values()))
    assert result.read_back.spans == result.sent.spans
    sent = f"{result.sent.spans:,}"
    assert report(result, killed=True)["spans, and SIGKILL"] == f"acknowledged {sent}, missing {sent}"
