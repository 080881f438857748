"""Several promscales on one database: start, balancing, SIGKILL, upkeep, connections."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from promscale import jaeger, jaeger_pb2, otlp, server, store
from promscale.database import conninfo
from tests.collector import running_collector
from tests.store import citus
from tests.store.interruptions import UPKEEP, is_waiting_for_lock
from tests.store.name_server import name_server
from tests.store.otlp_messages import HOUR, add_service, child, request, span
from tests.store.process import Process
from tests.store.running import Promscale, span_count, value_of
from tests.store.store_contents import check_summaries, contents
from tests.store.tcp_proxy import Proxy
from tests.waiting import free_port, wait_until

PROMSCALES = 3
SENDERS = 2
TRACES = 5  # of one export
BALANCED = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
# Sessions by application_name.
SESSIONS = """
    select application_name, count(*) from pg_stat_activity
    where datname = current_database() and application_name like 'promscale%'
    group by application_name
"""
UPKEEP_LOCK = """
    select l.pid from pg_locks as l join pg_database as d on d.oid = l.database
    where d.datname = current_database() and l.locktype = 'advisory' and l.granted
        and l.objid::bigint = hashtext('_promscale.upkeep')::bigint & x'ffffffff'::bigint
"""


@pytest.fixture
def promscales(empty_dsn, start_process) -> list[Process]:
    """Started at the same time on an empty database, with the same port at several addresses of loopback."""
    port = free_port()
    addresses = [f"127.0.0.{number}:{port}" for number in range(1, PROMSCALES + 1)]
    try:
        for address in addresses:
            socket.create_server((address.partition(":")[0], port)).close()
    except OSError:
        pytest.skip("only Linux has more than one address of loopback")
    started = [start_process(empty_dsn, grpc=address) for address in addresses]
    for promscale in started:
        promscale.wait_until_ready()
    return started


@pytest.fixture
def shared(empty_dsn) -> Iterator[psycopg.Connection]:
    """A connection to the database of `promscales`."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        yield connection


class Sender(threading.Thread):
    """Exports spans of many operations to gRPC's `target`, and repeats each export until it is acknowledged.

    Each export has new traces, and calls of other services in the traces of the one before. Some spans are hours old.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self._random = random.Random(target)
        self._parents: list[Span] = []
        self.acknowledged: list[Span] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        with grpc.insecure_channel(self._target, options=BALANCED) as channel:
            client = TraceServiceStub(channel)
            while not self.stopping.wait(0.1):
                message = self._message()
                while not self._export(client, message):
                    time.sleep(0.1)
                for by_resource in message.resource_spans:
                    self.acknowledged += by_resource.scope_spans[0].spans

    def _message(self) -> ExportTraceServiceRequest:
        message, choose = ExportTraceServiceRequest(), self._random
        children = [child(parent, f"call {choose.randrange(30)}") for parent in self._parents for _ in range(2)]
        start = time.time_ns() - choose.choice([0, 0, 0, 2, 5]) * HOUR
        self._parents = [
            span(f"request {choose.randrange(30)}", {"new": choose.random(), "common": 1}, start_time_unix_nano=start)
            for _ in range(TRACES)
        ]
        add_service(message, *self._parents, service=f"front {choose.randrange(5)}")
        add_service(message, *children, service=f"back {choose.randrange(5)}")
        return message

    def _export(self, client: TraceServiceStub, message: ExportTraceServiceRequest) -> bool:
        try:
            answer = client.Export(message, timeout=20)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return False
            raise
        assert not answer.partial_success.rejected_spans, answer
        return True


@contextmanager
def sending(target: str) -> Iterator[list[Sender]]:
    """Senders that run in the body."""
    senders = [Sender(target) for _ in range(SENDERS)]
    for sender in senders:
        sender.start()
    try:
        yield senders
    finally:
        for sender in senders:
            sender.stopping.set()
        for sender in senders:
            sender.join()


def wait_for_more(senders: list[Sender]) -> None:
    """Wait until each sender has had two more exports acknowledged: the second began after this call."""
    for sender in senders:
        enough = len(sender.acknowledged) + 3 * TRACES
        wait_until(partial(_has_more, sender, enough), "acknowledgements")


def _has_more(sender: Sender, count: int) -> bool:
    return len(sender.acknowledged) > count


def wait_for_spans(promscale: Process) -> None:
    """Wait until this promscale has stored some since its start."""
    wait_until(lambda: promscale.metric("promscale_stored_spans_total") > 0, f"spans for {promscale.grpc}")


def upkeep_holder(promscales: list[Process]) -> Process:
    """The promscale that does the upkeep, which is one."""

    def holders() -> list[Process]:
        return [promscale for promscale in promscales if promscale.metric("promscale_upkeep") == 1]

    wait_until(lambda: len(holders()) == 1, "one promscale that does the upkeep")
    (holder,) = holders()
    return holder


def kill_each_under_load(promscales: list[Process], shared: psycopg.Connection, target: str) -> list[Span]:
    """Send spans to `target`, while each promscale, beginning with the one that does the upkeep, is killed and started
    again. Returns the acknowledged spans."""
    with sending(target) as senders:
        for promscale in promscales:
            wait_for_spans(promscale)
        for promscale in sorted(promscales, key=lambda each: each is not upkeep_holder(promscales)):
            held_upkeep, session = promscale is upkeep_holder(promscales), value_of(shared, UPKEEP_LOCK)
            promscale.kill()
            wait_for_more(senders)
            assert upkeep_holder(promscales) is not promscale
            assert (value_of(shared, UPKEEP_LOCK) != session) == held_upkeep
            promscale.start()
            promscale.wait_until_ready()
            wait_for_spans(promscale)
            wait_for_more(senders)
    return [each for sender in senders for each in sender.acknowledged]


def check_stored_once(shared: psycopg.Connection, acknowledged: list[Span]) -> None:
    """Asserts that the acknowledged spans and no others are stored once, as rows and as OTLP bytes, and summarised."""
    wait_until(lambda: span_count(shared) >= len(acknowledged), "all acknowledged spans")
    expected = Counter((each.trace_id.hex(), int.from_bytes(each.span_id, signed=True)) for each in acknowledged)
    stored = shared.execute("select replace(trace_id::text, '-', ''), span_id from ps_trace.span")
    assert Counter(stored.fetchall()) == expected
    check_summaries(shared)
    wait_until(lambda: value_of(shared, "select count(*) from _promscale.touched_minute") == 0, "all summaries")
    check_summaries(shared)
    reader = Promscale(shared.info.dsn)
    try:
        assert len(contents(reader, shared)["lossless"]) == len(acknowledged)
    finally:
        reader.close()


def test_senders_that_balance_lose_and_double_nothing_when_each_promscale_is_killed(promscales, shared):
    target = "ipv4:" + ",".join(promscale.grpc for promscale in promscales)
    check_stored_once(shared, kill_each_under_load(promscales, shared, target))


def test_the_collector_balances_over_the_addresses_of_a_name(promscales, shared, tmp_path):
    hosts = [promscale.grpc.partition(":")[0] for promscale in promscales]
    port = promscales[0].grpc.partition(":")[2]
    with (
        name_server(hosts) as server,
        running_collector(
            tmp_path, PROMSCALE_ENDPOINT=f"dns://{server}/promscale.test:{port}", NO_PROXY="*"
        ) as address,
    ):
        check_stored_once(shared, kill_each_under_load(promscales, shared, address))


def test_a_sender_behind_a_balancer_of_connections_reaches_every_promscale(dsn, database, monkeypatch):
    """Its only connection is renewed, and goes to another promscale then."""
    monkeypatch.setattr(server, "CONNECTION_SECONDS", 1)
    running = [Promscale(dsn) for _ in range(2)]
    proxy = Proxy(*(("127.0.0.1", promscale.server.port) for promscale in running))
    exports: Counter[Promscale] = Counter()

    def count(promscale: Promscale, write: Callable[[bytes], otlp.Refusals], data: bytes) -> otlp.Refusals:
        exports[promscale] += 1
        return write(data)

    for promscale in running:
        monkeypatch.setattr(promscale.store, "write", partial(count, promscale, promscale.store.write))
    with grpc.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
        client = TraceServiceStub(channel)

        def export() -> bool:
            client.Export(request(span()), timeout=60)
            return len(exports) == len(running)

        wait_until(export, "exports at each promscale")
    assert span_count(database) == exports.total()
    proxy.cut()
    for promscale in running:
        promscale.close()


def test_upkeep_goes_on_elsewhere_when_its_promscale_is_killed_in_a_long_statement(dsn, database, start_process):
    """The database notices during the statement that its client is gone."""
    database.execute(
        """
        create or replace function _promscale.choose_current_tag_sets() returns void
        language sql as 'select pg_sleep(100000)'
        """
    )
    promscales = [start_process(dsn) for _ in range(2)]
    sleeping = f"select count(*) from pg_stat_activity where {UPKEEP} and wait_event = 'PgSleep'"
    wait_until(lambda: value_of(database, sleeping) == 1, "the long statement")
    holder = value_of(database, UPKEEP_LOCK)
    upkeep_holder(promscales).kill()
    wait_until(lambda: database.execute(UPKEEP_LOCK).fetchall() not in ([], [(holder,)]), "another holder of the lock")


@citus.not_with_citus("transactions that write to a reference table wait for each other")
def test_readiness_does_not_wait_for_transactions_of_other_promscales(dsn, start_process):
    """One of them may be stuck after it wrote the origin of spans without names."""
    process = start_process(dsn)
    rows, _ = otlp.encode(request(Span(trace_id=b"t" * 16, span_id=b"s" * 8)).SerializeToString())
    (origin,) = rows.origins.values()
    with psycopg.connect(dsn) as stuck:
        stuck.execute("insert into _promscale.scope (id, tags) values (%s, '{}')", [origin.scope_id])
        process.wait_until_ready()


def test_a_promscale_takes_no_more_connections_than_documented(dsn, database, start_process):
    """docs/scale.md. All of them at once: exports, Jaeger's reads, upkeep and readiness wait for a lock."""
    process = start_process(dsn)
    process.wait_until_ready()
    released = threading.Event()

    def ask_for_readiness() -> None:
        while not released.is_set():
            process.get("/readyz")

    with (
        psycopg.connect(dsn) as holder,
        grpc.insecure_channel(process.grpc) as channel,
        ThreadPoolExecutor(40) as pool,
    ):
        holder.execute("lock table _promscale.span, _promscale.operation in access exclusive mode")
        client, read = TraceServiceStub(channel), channel.unary_unary(f"/{jaeger.TRACE_READER}/GetServices")
        answers = [pool.submit(client.Export, request(span()), timeout=60)]
        # A writer takes all exports that wait: the other writers connect for those that come later.
        wait_until(lambda: is_waiting_for_lock(database, "promscale"), "the first writer")
        answers += [pool.submit(client.Export, request(span()), timeout=60) for _ in range(9)]
        reads = [pool.submit(read, jaeger_pb2.GetServicesRequest().SerializeToString(), timeout=60) for _ in range(8)]
        pool.submit(ask_for_readiness)
        documented = {
            "promscale": store.WRITERS,
            "promscale-jaeger": jaeger.CONNECTIONS,
            "promscale-readiness": 1,
            "promscale-upkeep": 1,
        }
        try:
            wait_until(lambda: dict(database.execute(SESSIONS).fetchall()) == documented, "all connections")
        finally:
            released.set()
            holder.rollback()
        for answer in [*answers, *reads]:
            answer.result()


def test_origins_that_another_promscale_deleted_are_written_again(dsn, database, upkeep):
    """Each keeps in memory which origins are in the database."""
    promscales = [Promscale(dsn) for _ in range(2)]
    for promscale in promscales:
        promscale.export(request(span("work")))
    database.execute("delete from _promscale.span")
    upkeep.summarise(quiet_seconds=0)
    database.execute("select _promscale.delete_unused_origins()")
    assert database.execute("select * from _promscale.origin").fetchall() == []
    for promscale in promscales:
        promscale.export(request(span("work")))
        promscale.close()
    names = database.execute("select service_name, span_name from ps_trace.span").fetchall()
    assert names == [("shop", "work")] * 2


def test_both_ends_give_up_a_connection_whose_other_end_is_gone_without_a_word(dsn):
    """After the loss of a machine, its locks hold up the others for half a minute instead of two hours."""
    with psycopg.connect(conninfo(dsn, "promscale")) as connection:
        settings = ("idle", "interval", "count")
        idle, interval, count = (int(value_of(connection, f"show tcp_keepalives_{name}")) for name in settings)
        assert 0 < idle + interval * count <= 30
        parameters = connection.info.get_parameters()
        assert [int(parameters[f"keepalives_{name}"]) for name in settings] == [idle, interval, count]
