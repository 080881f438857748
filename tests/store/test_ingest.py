"""What an acknowledgement promises, whatever happens around it."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import psycopg
import pytest
import zstandard
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from promscale import encoders, metrics, server
from promscale import store as store_module
from promscale import wire_pb2 as wire
from promscale.server import TRACE_SERVICE
from promscale.store import SchemaMismatch, Store, StoreUnavailable
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale
from tests.store.tcp_proxy import Proxy


def count(database) -> int:
    return database.execute("select count(*) from ps_trace.span").fetchone()[0]


def stored_raw(database) -> int:
    """How many spans are kept as they came."""
    return sum(
        len(scope_spans.spans)
        for (data,) in database.execute("select data from _promscale.traces_data")
        for resource_spans in wire.TracesData.FromString(zstandard.decompress(data)).resource_spans
        for scope_spans in resource_spans.scope_spans
    )


def eventually(condition, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
    return result


def test_an_acknowledged_span_is_there_for_everyone(promscale, database):
    for n in range(20):
        promscale.export(request(span(f"span {n}")))
        assert count(database) == n + 1


def test_an_acknowledged_span_is_on_disk_whatever_the_database_prefers(dsn, database):
    name = conninfo_to_dict(dsn)["dbname"]
    database.execute(f"alter database {name} set synchronous_commit = off")
    database.execute(
        """
        create function note() returns trigger language plpgsql as
            $$ begin new.trace_state = current_setting('synchronous_commit'); return new; end $$;
        create trigger note before insert on _promscale.span for each row execute function note();
        """
    )
    promscale = Promscale(dsn)
    promscale.export(request(span()))
    promscale.close()
    assert database.execute("select trace_state from span").fetchone() == ("on",)


def test_the_planner_knows_a_new_store_soon(promscale, upkeep, database):
    """Not only when autovacuum comes by: statistics are there when the first thousand spans are."""
    known = "select exists (select from pg_stats where schemaname = '_promscale' and tablename = 'span')"
    promscale.export(request(*[span() for _ in range(900)]))
    upkeep.refresh_statistics()
    promscale.export(request(*[span() for _ in range(200)]))
    assert database.execute(known).fetchone() == (False,)
    upkeep.refresh_statistics()
    assert database.execute(known).fetchone() == (True,)


def test_gzip_is_accepted(promscale, database):
    promscale.export(request(span("zipped")), compression=grpc.Compression.Gzip)
    assert count(database) == 1


def test_sent_again_stored_once(promscale, database):
    first = request(*(span(f"span {n}") for n in range(10)))
    for _ in range(3):
        assert not promscale.export(first).HasField("partial_success")
    first.resource_spans[0].scope_spans[0].spans.extend([span("new"), span("newer")])
    promscale.export(first)
    assert count(database) == 12
    assert stored_raw(database) == 12


def test_twice_in_one_request_stored_once(promscale, database):
    twice = span()
    promscale.export(request(twice, twice))
    assert count(database) == 1
    assert stored_raw(database) == 1


def test_a_span_is_told_apart_by_its_start_down_to_the_nanosecond(promscale, database):
    ids = {"trace_id": os.urandom(16), "span_id": os.urandom(8)}
    starts = [1_700_000_000_000_000_000 + n for n in (0, 1, 999, 1000)]
    for _ in range(2):
        promscale.export(request(*(span(start_time_unix_nano=start, **ids) for start in starts)))
    assert count(database) == len(starts)


def test_counting_span_ids_and_nanoseconds_are_no_duplicates(promscale, database):
    trace_id, start = os.urandom(16), time.time_ns() // 1000 * 1000
    spans = [
        span(trace_id=trace_id, span_id=number.to_bytes(8), start_time_unix_nano=start + nanosecond)
        for number in range(1, 17)
        for nanosecond in range(16)
    ]
    assert not promscale.export(request(*spans)).HasField("partial_success")
    assert count(database) == len(spans)


def test_many_exports_at_once(promscale, database):
    requests = [request(*(span() for _ in range(50))) for _ in range(60)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(promscale.export, requests + requests[:20]))
    assert count(database) == 60 * 50
    assert stored_raw(database) == 60 * 50


def large_request():
    return request(*(span(tags={"fill": "x" * 1000}) for _ in range(600)))


def test_large_exports_outlive_the_processes_that_encode_them(promscale, database):
    promscale.export(large_request())
    for encoder in multiprocessing.active_children():
        os.kill(encoder.pid, signal.SIGKILL)
    again = large_request()
    promscale.export(again)
    with pytest.raises(grpc.RpcError) as caught:
        promscale.export(b"\xff" * encoders.LARGE_REQUEST_BYTES)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert count(database) == 1200


def test_encoding_processes_end_with_a_promscale_that_is_killed(dsn, start_process):
    process = start_process(dsn)
    eventually(lambda: process.get("/readyz")[0] == 200)
    with grpc.insecure_channel(process.grpc) as channel:
        channel.unary_unary(f"/{TRACE_SERVICE}/Export")(large_request().SerializeToString(), timeout=60)
    encoders = psutil.Process(process.process.pid).children(recursive=True)
    assert len(encoders) >= 2
    process.process.kill()
    assert psutil.wait_procs(encoders, timeout=60)[1] == []


def test_two_promscales_on_one_database_sent_the_same(dsn, database):
    both = [Promscale(dsn), Promscale(dsn)]
    requests = [request(*(span() for _ in range(20))) for _ in range(30)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: both[n % 2].export(requests[n // 2]), range(60)))
    for each in both:
        each.close()
    assert count(database) == 600
    assert stored_raw(database) == 600


@pytest.fixture
def proxied(dsn):
    """A promscale with a proxy between it and its database."""
    parts = conninfo_to_dict(dsn)
    proxy = Proxy((parts["host"], int(parts["port"])))
    running = Promscale(make_conninfo(**parts | {"host": "127.0.0.1", "port": proxy.port}))
    yield running, proxy
    running.close()


def unavailable(promscale, message) -> bool:
    try:
        promscale.export(message)
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


def test_while_the_database_is_away_exports_are_unavailable(proxied, database):
    promscale, proxy = proxied
    promscale.export(request(span("before")))
    proxy.cut()
    assert unavailable(promscale, request(span("during")))
    assert unavailable(promscale, request(span("during")))
    proxy.mend()
    promscale.export(request(span("after")))
    assert database.execute("select span_name from ps_trace.span order by start_time").fetchall() == [
        ("before",),
        ("after",),
    ]


def test_an_acknowledgement_lost_after_commit_doubles_nothing(proxied, database):
    promscale, proxy = proxied
    message = request(*(span() for _ in range(100)))
    proxy.last_words = b"COMMIT"
    with ThreadPoolExecutor(1) as pool:
        answered = pool.submit(unavailable, promscale, message)
        eventually(lambda: count(database) == 100)
        proxy.cut()
        assert answered.result()
    proxy.last_words = None
    proxy.mend()
    promscale.export(message)
    assert count(database) == 100
    assert stored_raw(database) == 100


def test_an_error_that_nobody_has_thought_of_is_not_final(promscale, database, monkeypatch, caplog):
    counted = metrics.exports.labels("UNAVAILABLE")._value.get()
    with monkeypatch.context() as broken:
        broken.setattr(promscale.store, "write", lambda request: 1 / 0)
        with pytest.raises(grpc.RpcError) as caught:
            promscale.export(request(span()))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert metrics.exports.labels("UNAVAILABLE")._value.get() == counted + 1
    assert "ZeroDivisionError" in caplog.text and "Traceback" in caplog.text
    promscale.export(request(span()))
    assert count(database) == 1


def test_a_sender_that_sends_nothing_leaves_room_for_others(promscale, database, monkeypatch):
    monkeypatch.setattr(server, "RECEIVE_SECONDS", 1)
    call = promscale.channel.stream_unary(f"/{TRACE_SERVICE}/Export")
    over = threading.Event()

    def nothing():
        over.wait(60)
        yield b""

    silent = [call.future(nothing()) for _ in range(6)]
    try:
        eventually(lambda: not unavailable(promscale, request(span())))
        eventually(lambda: all(each.done() for each in silent))
        # Those for which there was no room were refused sooner.
        codes = {each.code() for each in silent}
        assert grpc.StatusCode.CANCELLED in codes
        assert codes <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    finally:
        over.set()


def test_a_full_store_asks_to_send_later(promscale, database, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_REQUEST_BYTES", 40_000)
    monkeypatch.setattr(store_module, "MAX_HELD_BYTES", 50_000)
    # A lock of ours keeps the first export waiting for the database.
    database.execute("begin; lock table _promscale.span in access exclusive mode")
    big = [request(span(tags={"fill": "x" * 30_000})) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(promscale.export, big[0])
        eventually(lambda: promscale.store._held_bytes not in (0, 40_000))
        with pytest.raises(grpc.RpcError) as caught:
            promscale.export(big[1])
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        retry = error_details_pb2.RetryInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(retry)
        assert retry.retry_delay.seconds > 0
        database.execute("rollback")
        waiting.result()
    promscale.export(big[1])
    assert count(database) == 2


def test_spans_keep_their_resource_after_delete_all_traces(promscale, database):
    for _ in range(2):
        promscale.export(request(span()))
        database.execute("select ps_trace.delete_all_traces()")
        assert count(database) == 0
        assert database.execute("select * from ps_trace.operation").fetchall() == []
    promscale.export(request(span("new")))
    assert database.execute("select resource_tags, instrumentation_lib_name from ps_trace.span").fetchall() == [
        ({"service.name": "shop"}, None)
    ]
    assert database.execute("select service_name, span_name from ps_trace.operation").fetchall() == [("shop", "new")]


def test_delete_all_traces_under_load_leaves_no_span_without_resource(promscale, database):
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            message = request(*(span(f"span {n}") for n in range(20)), service=f"service {os.urandom(1)[0] % 8}")
            # Deleting takes TimescaleDB's chunks away from under a COPY: then it is to be sent again.
            eventually(lambda message=message: not unavailable(promscale, message))

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for _ in range(20):
                database.execute("select ps_trace.delete_all_traces()")
                time.sleep(0.05)
            eventually(lambda: count(database))
        finally:
            stop.set()
        for each in loads:
            each.result()
    assert database.execute("select count(*) from ps_trace.span where resource_tags is null").fetchone() == (0,)
    missing = """
        select s.span_name from ps_trace.span as s
        left join ps_trace.operation as o using (service_name, span_name, span_kind)
        where o.id is null
    """
    assert database.execute(missing).fetchall() == []


def test_migrations_run_once_however_many_start(empty_dsn):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: Store(empty_dsn).migrate(), range(8)))
    with psycopg.connect(empty_dsn) as connection:
        numbers = [number for (number,) in connection.execute("select number from _promscale.migration order by 1")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_schema_of_a_later_promscale_is_left_alone(dsn, database):
    database.execute("insert into _promscale.migration (number, file_name) values (999, 'later')")
    with pytest.raises(SchemaMismatch, match="999"):
        Store(dsn).migrate()


def test_a_password_is_never_shown(caplog):
    store = Store("postgresql://user:s3cret@127.0.0.1:1/db")
    with pytest.raises(StoreUnavailable) as caught:
        store.migrate()
    assert "127.0.0.1:1/db" in str(caught.value)
    assert "s3cret" not in str(caught.value) + store.address


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Process:
    """`python -m promscale` as a user runs it."""

    def __init__(self, dsn: str, log: Path) -> None:
        self.log = log
        self.grpc, self.web = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "promscale"],
            env=os.environ
            | {
                "PROMSCALE_DB_URI": dsn,
                "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": self.grpc,
                "PROMSCALE_WEB_LISTEN_ADDRESS": self.web,
            },
            stderr=log.open("w"),
        )

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(f"http://{self.web}{path}", headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:
            return 0, ""

    def health(self) -> int:
        with grpc.insecure_channel(self.grpc) as channel:
            asked = health_pb2.HealthCheckRequest(service=TRACE_SERVICE)
            return health_pb2_grpc.HealthStub(channel).Check(asked, timeout=10).status

    def logged(self) -> str:
        return self.log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@pytest.fixture
def start_process(tmp_path):
    started = []

    def start(dsn: str) -> Process:
        started.append(Process(dsn, tmp_path / "promscale.log"))
        return started[-1]

    yield start
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            each.process.kill()
        each.process.wait()


def test_the_process_waits_for_its_database(dsn, database, start_process):
    parts = conninfo_to_dict(dsn)
    proxy = Proxy((parts["host"], int(parts["port"])))
    proxy.cut()
    process = start_process(make_conninfo(**parts | {"host": "127.0.0.1", "port": proxy.port}))
    eventually(lambda: process.get("/healthz")[0] == 200)
    assert process.get("/readyz")[0] == 503
    assert process.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    proxy.mend()
    eventually(lambda: process.get("/readyz")[0] == 200)
    assert process.health() == health_pb2.HealthCheckResponse.SERVING
    proxy.cut()
    eventually(lambda: process.get("/readyz")[0] == 503)
    assert process.get("/healthz")[0] == 200
    process.stop()
    assert process.process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("alter table _promscale.traces_data rename to gone", 'relation "_promscale.traces_data" does not exist'),
        ("drop function _promscale.touch_minutes", "function _promscale.touch_minutes"),
        ("alter table _promscale.span add column more int not null", "more"),
    ],
)
def test_readiness_names_what_an_export_lacks(dsn, database, start_process, taken, named):
    process = start_process(dsn)
    eventually(lambda: process.get("/readyz")[0] == 200)
    database.execute(taken)
    eventually(lambda: process.get("/readyz")[0] == 503)
    assert named in json.loads(process.get("/readyz")[1])["status"]


def test_readiness_stores_nothing(dsn, database, start_process):
    process = start_process(dsn)
    eventually(lambda: process.get("/readyz")[0] == 200)
    for table in ("span", "traces_data", "origin", "operation", "resource", "scope", "touched_minute"):
        assert database.execute(f"select count(*) from _promscale.{table}").fetchone() == (0,), table


def test_readiness_does_not_wait_for_a_database_that_is_stopped(own_cluster, start_process):
    process = start_process(own_cluster.uri)
    eventually(lambda: process.get("/readyz")[0] == 200)
    stopped = own_cluster.processes()
    for each in stopped:
        each.suspend()
    try:
        eventually(lambda: process.get("/readyz")[0] == 503)
    finally:
        for each in stopped:
            each.resume()
    eventually(lambda: process.get("/readyz")[0] == 200)


def test_the_process_counts_and_stops_gracefully(dsn, database, start_process):
    process = start_process(dsn)
    eventually(lambda: process.get("/readyz")[0] == 200)
    with grpc.insecure_channel(process.grpc) as channel:
        export = channel.unary_unary(f"/{TRACE_SERVICE}/Export")
        export(request(span("one"), span("two"), span("bad", trace_id=b"")).SerializeToString(), timeout=60)
        metrics = process.get("/metrics")[1]
        assert "promscale_stored_spans_total 2.0" in metrics
        assert "promscale_refused_spans_total 1.0" in metrics
        assert 'promscale_exports_total{code="OK"} 1.0' in metrics
        for path in ("/metrics", "/readyz", "/healthz"):
            assert process.get(path, Host="evil.example")[0] == 400
        # An export under way when the signal comes is still answered, and what is answered is stored.
        database.execute("begin; lock table _promscale.span in access exclusive mode")
        under_way = export.future(request(span("three")).SerializeToString(), timeout=60)
        waiting = "select from pg_stat_activity where application_name = 'promscale' and wait_event_type = 'Lock'"
        with psycopg.connect(dsn, autocommit=True) as other:
            eventually(lambda: other.execute(waiting).fetchall())
        process.stop()
        eventually(lambda: process.get("/readyz") == (503, '{"status":"stopping"}\n'))
        database.execute("rollback")
        under_way.result(timeout=60)
    assert process.process.wait(timeout=60) == 0
    assert "'bad'" in process.logged()
    assert count(database) == 3


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PROMSCALE_WEB_LISTEN_ADDRESS", "nonsense", "not host:port"),
        ("PROMSCALE_DB_CONNECT_RETRIES", "many", "not a number"),
        ("ALLOWED_HOSTS", "http://demo", "ALLOWED_HOSTS: 'http://demo' is no host name"),
        ("PROMSCALE_DB_CONNECT_RETRIES", "0", "127.0.0.1:1/"),
        ("PROMSCALE_TRACING_GRPC_SERVER_ADDRESS", "taken", "cannot listen"),
    ],
)
def test_a_wrong_setting_ends_with_one_clear_line(variable, value, message):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment = {
            "PROMSCALE_DB_URI": "postgresql://u:s3cret@127.0.0.1:1/db",
            "PROMSCALE_TRACING_OTLP_SERVER_ADDRESS": f"127.0.0.1:{free_port()}",  # the older name
            "PROMSCALE_WEB_LISTEN_ADDRESS": f"127.0.0.1:{free_port()}",
            variable: f"127.0.0.1:{port}" if value == "taken" else value,
        }
        ended = subprocess.run(
            [sys.executable, "-m", "promscale"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode != 0
    assert message in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert "s3cret" not in ended.stderr
