"""Durability and deduplication of acknowledged exports, whatever fails; and the promscale process."""

import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import psycopg
import pytest
import zstandard
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from prometheus_client import REGISTRY
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from promscale import encoders, server
from promscale import store as store_module
from promscale import wire_pb2 as wire
from promscale.server import TRACE_SERVICE
from promscale.store import SchemaMismatch, Store, StoreUnavailable
from tests.store import citus
from tests.store.interruptions import is_waiting_for_lock
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale, span_count
from tests.store.tcp_proxy import Proxy
from tests.waiting import free_port, wait_until


def lossless_span_count(database) -> int:
    """The number of spans in the OTLP bytes."""
    return sum(
        len(scope_spans.spans)
        for (data,) in database.execute("select data from _promscale.traces_data")
        for resource_spans in wire.TracesData.FromString(zstandard.decompress(data)).resource_spans
        for scope_spans in resource_spans.scope_spans
    )


def test_an_acknowledged_span_is_visible_at_once(promscale, database):
    for n in range(20):
        promscale.export(request(span(f"span {n}")))
        assert span_count(database) == n + 1


@citus.not_with_citus("tables cannot have triggers; two-phase commit waits for the disk whatever the setting")
def test_spans_are_durable_although_the_database_prefers_asynchronous_commits(dsn, database):
    name = conninfo_to_dict(dsn)["dbname"]
    database.execute(f"alter database {name} set synchronous_commit = off")
    database.execute(
        """
        create function record_setting() returns trigger language plpgsql as
            $$ begin new.trace_state = current_setting('synchronous_commit'); return new; end $$;
        create trigger record_setting before insert on _promscale.span for each row execute function record_setting();
        """
    )
    promscale = Promscale(dsn)
    promscale.export(request(span()))
    promscale.close()
    assert database.execute("select trace_state from span").fetchone() == ("on",)


@citus.not_with_citus("statistics are those of the shards")
def test_planner_statistics_exist_after_the_first_thousand_spans(promscale, upkeep, database):
    """Autovacuum alone would come later."""
    known = "select exists (select from pg_stats where schemaname = '_promscale' and tablename = 'span')"
    promscale.export(request(*[span() for _ in range(900)]))
    upkeep.refresh_statistics()
    promscale.export(request(*[span() for _ in range(200)]))
    assert database.execute(known).fetchone() == (False,)
    upkeep.refresh_statistics()
    assert database.execute(known).fetchone() == (True,)


def test_gzip_is_accepted(promscale, database):
    promscale.export(request(span("zipped")), compression=grpc.Compression.Gzip)
    assert span_count(database) == 1


def test_a_retried_export_is_stored_once(promscale, database):
    first = request(*(span(f"span {n}") for n in range(10)))
    for _ in range(3):
        assert not promscale.export(first).HasField("partial_success")
    first.resource_spans[0].scope_spans[0].spans.extend([span("new"), span("newer")])
    promscale.export(first)
    assert span_count(database) == 12
    assert lossless_span_count(database) == 12


def test_a_span_that_is_twice_in_a_request_is_stored_once(promscale, database):
    twice = span()
    promscale.export(request(twice, twice))
    assert span_count(database) == 1
    assert lossless_span_count(database) == 1


def test_spans_with_equal_ids_differ_by_the_nanosecond_of_their_start(promscale, database):
    ids = {"trace_id": os.urandom(16), "span_id": os.urandom(8)}
    starts = [1_700_000_000_000_000_000 + n for n in (0, 1, 999, 1000)]
    for _ in range(2):
        promscale.export(request(*(span(start_time_unix_nano=start, **ids) for start in starts)))
    assert span_count(database) == len(starts)


def test_counting_span_ids_and_nanoseconds_are_no_duplicates(promscale, database):
    trace_id, start = os.urandom(16), time.time_ns() // 1000 * 1000
    spans = [
        span(trace_id=trace_id, span_id=number.to_bytes(8), start_time_unix_nano=start + nanosecond)
        for number in range(1, 17)
        for nanosecond in range(16)
    ]
    assert not promscale.export(request(*spans)).HasField("partial_success")
    assert span_count(database) == len(spans)


def test_concurrent_exports(promscale, database):
    requests = [request(*(span() for _ in range(50))) for _ in range(60)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(promscale.export, requests + requests[:20]))
    assert span_count(database) == 60 * 50
    assert lossless_span_count(database) == 60 * 50


def large_request():
    return request(*(span(tags={"fill": "x" * 1000}) for _ in range(600)))


def test_large_exports_survive_a_kill_of_the_encoding_processes(dsn, database):
    promscale = Promscale(dsn, encoder="python")
    promscale.export(large_request())
    for encoder in multiprocessing.active_children():
        encoder.kill()
    promscale.export(large_request())
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(b"\xff" * encoders.LARGE_REQUEST_BYTES)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    promscale.close()
    assert span_count(database) == 1200


def test_encoding_processes_do_not_outlive_a_killed_promscale(dsn, start_process):
    process = start_process(dsn, PROMSCALE_ENCODER="python")
    process.wait_until_ready()
    with grpc.insecure_channel(process.grpc) as channel:
        channel.unary_unary(f"/{TRACE_SERVICE}/Export")(large_request().SerializeToString(), timeout=60)
    encoding = psutil.Process(process.process.pid).children(recursive=True)
    assert len(encoding) >= 2
    process.process.kill()
    assert psutil.wait_procs(encoding, timeout=60)[1] == []


def test_two_promscales_that_receive_the_same_spans_store_them_once(dsn, database):
    promscales = [Promscale(dsn), Promscale(dsn)]
    requests = [request(*(span() for _ in range(20))) for _ in range(30)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: promscales[n % 2].export(requests[n // 2]), range(60)))
    for promscale in promscales:
        promscale.close()
    assert span_count(database) == 600
    assert lossless_span_count(database) == 600


@pytest.fixture
def proxied(dsn):
    """A promscale with a proxy between it and its database."""
    parts = conninfo_to_dict(dsn)
    proxy = Proxy((parts["host"], int(parts["port"])))
    running = Promscale(make_conninfo(dsn, host="127.0.0.1", port=proxy.port))
    yield running, proxy
    running.close()


def test_exports_are_unavailable_while_the_database_is_unreachable(proxied, database):
    promscale, proxy = proxied
    promscale.export(request(span("before")))
    proxy.cut()
    assert promscale.is_unavailable_for(request(span("during")))
    assert promscale.is_unavailable_for(request(span("during")))
    proxy.restore()
    promscale.export_with_retries(request(span("after")))
    assert database.execute("select span_name from ps_trace.span order by start_time").fetchall() == [
        ("before",),
        ("after",),
    ]


def test_a_retry_after_a_lost_acknowledgement_stores_nothing_twice(proxied, database):
    promscale, proxy = proxied
    message = request(*(span() for _ in range(100)))
    proxy.silencing_request = b"COMMIT"
    with ThreadPoolExecutor(1) as pool:
        unavailable = pool.submit(promscale.is_unavailable_for, message)
        wait_until(lambda: span_count(database) == 100, "the spans")
        proxy.cut()
        assert unavailable.result()
    proxy.silencing_request = None
    proxy.restore()
    promscale.export_with_retries(message)
    assert span_count(database) == 100
    assert lossless_span_count(database) == 100


def test_a_retry_of_a_large_export_stores_nothing_twice(promscale, database):
    """Large ones are read again in another process."""
    message = request(*(span(tags={"fill": "x" * 100}) for _ in range(10_000)))
    assert message.ByteSize() > encoders.LARGE_REQUEST_BYTES
    promscale.export(request(*message.resource_spans[0].scope_spans[0].spans[:10]))
    for _ in range(2):
        promscale.export(message)
        assert span_count(database) == 10_000
        assert lossless_span_count(database) == 10_000


def unavailable_exports() -> float:
    return REGISTRY.get_sample_value("promscale_exports_total", {"code": "UNAVAILABLE"}) or 0


def test_an_unexpected_error_is_answered_with_unavailable(promscale, database, monkeypatch, caplog):
    """So that the sender retries; after gRPC's UNKNOWN it would drop the spans."""
    before = unavailable_exports()
    with monkeypatch.context() as broken:
        broken.setattr(promscale.store, "write", lambda request: 1 / 0)
        with pytest.raises(grpc.RpcError) as caught:
            promscale.export(request(span()))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert unavailable_exports() == before + 1
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
    promscale.export(request(span()))
    assert span_count(database) == 1


def test_silent_senders_do_not_keep_memory_reserved(promscale, database, monkeypatch):
    monkeypatch.setattr(server, "RECEIVE_SECONDS", 1)
    call = promscale.channel.stream_unary(f"/{TRACE_SERVICE}/Export")
    test_over = threading.Event()

    def silence():
        test_over.wait()
        yield b""

    silent = [call.future(silence()) for _ in range(6)]
    try:
        wait_until(lambda: all(answer.done() for answer in silent), "answers to the silent senders")
        # There was memory for some of the requests, which reached RECEIVE_SECONDS.
        codes = {answer.code() for answer in silent}
        assert grpc.StatusCode.CANCELLED in codes
        assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    finally:
        test_over.set()
    promscale.export(request(span()))
    assert span_count(database) == 1


def test_a_full_store_asks_to_retry_later(promscale, database, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_REQUEST_BYTES", 40_000)
    monkeypatch.setattr(store_module, "MAX_HELD_BYTES", 50_000)
    big = [request(span(tags={"fill": "x" * 30_000})) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool, psycopg.connect(promscale.dsn) as holder:
        holder.execute("lock table _promscale.span in access exclusive mode")
        waiting = pool.submit(promscale.export, big[0])
        wait_until(lambda: is_waiting_for_lock(database, "promscale"), "the first export's wait for the lock")
        with pytest.raises(grpc.RpcError) as caught:
            promscale.export(big[1])
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.seconds > 0
        holder.rollback()
        waiting.result()
    promscale.export(big[1])
    assert span_count(database) == 2


def test_spans_keep_their_resource_after_delete_all_traces(promscale, database):
    for _ in range(2):
        promscale.export(request(span()))
        database.execute("select ps_trace.delete_all_traces()")
        assert span_count(database) == 0
        assert database.execute("select * from ps_trace.operation").fetchall() == []
    promscale.export(request(span("new")))
    assert database.execute("select resource_tags, instrumentation_lib_name from ps_trace.span").fetchall() == [
        ({"service.name": "shop"}, None)
    ]
    assert database.execute("select service_name, span_name from ps_trace.operation").fetchall() == [("shop", "new")]


def test_delete_all_traces_under_load_leaves_no_span_without_resource(promscale, database):
    stop = threading.Event()

    def load(seed: int) -> None:
        choose = random.Random(seed)
        while not stop.is_set():
            message = request(*(span(f"span {n}") for n in range(20)), service=f"service {choose.randrange(8)}")
            # With retries, because the deletion may drop TimescaleDB's chunks during a COPY.
            promscale.export_with_retries(message)

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load, seed) for seed in range(4)]
        try:
            for _ in range(20):
                database.execute("select ps_trace.delete_all_traces()")
                wait_until(lambda: span_count(database), "spans after the deletion")
        finally:
            stop.set()
        for running in loads:
            running.result()
    assert database.execute("select count(*) from ps_trace.span where resource_tags is null").fetchone() == (0,)
    missing = """
        select s.span_name from ps_trace.span as s
        left join ps_trace.operation as o using (service_name, span_name, span_kind)
        where o.id is null
    """
    assert database.execute(missing).fetchall() == []


def test_migrations_run_once_when_several_promscales_start(empty_dsn):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Store(empty_dsn).migrate(), range(8)))
    with psycopg.connect(empty_dsn) as connection:
        numbers = [number for (number,) in connection.execute("select number from _promscale.migration order by 1")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_schema_of_a_later_promscale_is_refused(dsn, database):
    database.execute("insert into _promscale.migration (number, file_name) values (999, 'later')")
    with pytest.raises(SchemaMismatch, match="999"):
        Store(dsn).migrate()


def test_messages_never_contain_the_password():
    store = Store("postgresql://user:s3cret@127.0.0.1:1/db")
    with pytest.raises(StoreUnavailable) as caught:
        store.migrate()
    assert "127.0.0.1:1/db" in str(caught.value)
    assert "s3cret" not in str(caught.value) + store.address


def test_the_process_waits_for_its_database(dsn, database, start_process):
    parts = conninfo_to_dict(dsn)
    proxy = Proxy((parts["host"], int(parts["port"])))
    proxy.cut()
    process = start_process(make_conninfo(dsn, host="127.0.0.1", port=proxy.port))
    wait_until(lambda: process.get("/healthz")[0] == 200, "liveness")
    assert process.get("/readyz")[0] == 503
    assert process.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    proxy.restore()
    process.wait_until_ready()
    assert process.health() == health_pb2.HealthCheckResponse.SERVING
    proxy.cut()
    wait_until(lambda: process.get("/readyz")[0] == 503, "a loss of readiness")
    assert process.get("/healthz")[0] == 200
    process.stop()
    assert process.process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("alter table _promscale.traces_data rename to gone", 'relation "_promscale.traces_data" does not exist'),
        ("drop function _promscale.touch_minutes", "function _promscale.touch_minutes"),
        ("alter table _promscale.origin add column more int not null", "more"),
    ],
)
def test_readiness_says_why_an_export_would_fail(dsn, database, start_process, damage, message):
    process = start_process(dsn)
    process.wait_until_ready()
    database.execute(damage)
    wait_until(lambda: message in json.loads(process.get("/readyz")[1])["status"], "the reason")
    assert process.get("/readyz")[0] == 503


def test_readiness_stores_nothing(dsn, database, start_process):
    process = start_process(dsn)
    process.wait_until_ready()
    for table in ("span", "traces_data", "origin", "operation", "resource", "scope", "touched_minute"):
        assert database.execute(f"select count(*) from _promscale.{table}").fetchone() == (0,), table


def test_readiness_does_not_wait_for_a_suspended_database(own_cluster, start_process):
    process = start_process(own_cluster.uri)
    process.wait_until_ready()
    suspended = own_cluster.processes()
    for server_process in suspended:
        server_process.suspend()
    try:
        wait_until(lambda: process.get("/readyz")[0] == 503, "a loss of readiness")
    finally:
        for server_process in suspended:
            server_process.resume()
    process.wait_until_ready()


def test_metrics_and_graceful_shutdown(dsn, database, start_process):
    process = start_process(dsn)
    process.wait_until_ready()
    with grpc.insecure_channel(process.grpc) as channel:
        export = channel.unary_unary(f"/{TRACE_SERVICE}/Export")
        export(request(span("one"), span("two"), span("bad", trace_id=b"")).SerializeToString(), timeout=60)
        metrics = process.get("/metrics")[1]
        assert "promscale_stored_spans_total 2.0" in metrics
        assert "promscale_refused_spans_total 1.0" in metrics
        assert 'promscale_exports_total{code="OK"} 1.0' in metrics
        for path in ("/metrics", "/readyz", "/healthz"):
            assert process.get(path, Host="evil.example")[0] == 400
        # An export that is running when SIGTERM arrives is still stored and acknowledged.
        with psycopg.connect(dsn) as holder:
            holder.execute("lock table _promscale.span in access exclusive mode")
            running = export.future(request(span("three")).SerializeToString(), timeout=60)
            wait_until(lambda: is_waiting_for_lock(database, "promscale"), "the export's wait for the lock")
            process.stop()
            stopping = (503, '{"status":"stopping"}\n')
            wait_until(lambda: process.get("/readyz") == stopping, "a loss of readiness")
        running.result(timeout=60)
    assert process.process.wait(timeout=60) == 0
    assert "'bad'" in process.logged()
    assert span_count(database) == 3


@pytest.mark.parametrize("encoder", ["python", "rust"])
def test_the_encoder_in_use_is_shown(dsn, start_process, encoder):
    if encoder == "rust":
        pytest.importorskip(encoders.RUST_MODULE, reason="the Rust encoder is not built, which needs cargo")
    process = start_process(dsn, PROMSCALE_ENCODER=encoder)
    process.wait_until_ready()
    assert f"encoder {encoder}" in process.logged()
    assert json.loads(process.get("/healthz")[1])["encoder"] == encoder
    assert f'promscale_encoder_info{{name="{encoder}"}} 1.0' in process.get("/metrics")[1]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PROMSCALE_WEB_LISTEN_ADDRESS", "nonsense", "not host:port"),
        ("PROMSCALE_DB_CONNECT_RETRIES", "many", "not a number"),
        ("PROMSCALE_ENCODER", "go", "'go' is not one of python, rust"),
        ("ALLOWED_HOSTS", "http://demo", "ALLOWED_HOSTS: 'http://demo' is not a host name"),
        ("PROMSCALE_DB_CONNECT_RETRIES", "0", "127.0.0.1:1/"),
        ("PROMSCALE_TRACING_GRPC_SERVER_ADDRESS", "taken", "cannot listen"),
    ],
)
def test_an_invalid_setting_ends_promscale_with_one_clear_line(variable, value, message):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {
            "PROMSCALE_DB_URI": "postgresql://u:s3cret@127.0.0.1:1/db",
            "PROMSCALE_TRACING_OTLP_SERVER_ADDRESS": f"127.0.0.1:{free_port()}",  # the older name
            "PROMSCALE_WEB_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
            variable: f"127.0.0.1:{port}" if value == "taken" else value,
        }
        run = subprocess.run(
            [sys.executable, "-m", "promscale"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert run.returncode != 0
    assert message in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert "s3cret" not in run.stderr
