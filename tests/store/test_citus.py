"""What is particular to Citus. All other tests of the store run on it as well (tests/store/citus.py)."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.store import citus
from tests.store.otlp_messages import child, request, span
from tests.store.running import span_count, value_of
from tests.store.store_contents import check_summaries
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not citus.WORKERS, reason="needs Citus: TEST_POSTGRES_URI of its coordinator, TEST_CITUS_WORKERS of its workers"
)
# Of a coordinator whose number is another one's, so that Citus leaves it alone.
IN_DOUBT = "citus_99_1_1_0"


def trace(spans: int = 4):
    root = span()
    return [root, *(child(root) for _ in range(spans - 1))]


def test_each_worker_has_spans_and_each_trace_is_on_one(promscale, database):
    promscale.export(request(*(one for _ in range(100) for one in trace())))
    traces_of_nodes = database.execute(
        """
        select p.nodename, p.nodeport, sum(s.result::int)
        from run_command_on_shards('_promscale.span', 'select count(distinct trace_id) from %s') as s
        join pg_dist_shard_placement as p on p.shardid = s.shardid
        group by 1, 2
        """
    ).fetchall()
    assert len(traces_of_nodes) == len(citus.WORKERS)
    assert sum(traces for *_, traces in traces_of_nodes) == 100


@pytest.mark.parametrize("relation", ["ps_trace.span", "ps_trace.event", "ps_trace.jaeger_traces_data"])
def test_a_trace_is_read_from_one_shard(promscale, database, relation):
    promscale.export(request(span()))
    trace_id = value_of(database, "select trace_id::text from span")
    plan = database.execute(f"explain select * from {relation} where trace_id = '{trace_id}'").fetchall()
    assert [line.strip() for (line,) in plan if "Task Count" in line] == ["Task Count: 1"]


def test_a_minute_is_not_summarised_while_its_spans_may_be_in_doubt(promscale, upkeep, database):
    promscale.export(request(*trace()))
    with psycopg.connect(worker_of(database), autocommit=True) as worker:
        worker.execute("begin")
        worker.execute("select txid_current()")
        worker.execute(f"prepare transaction '{IN_DOUBT}'")
        try:
            assert upkeep.summarise(quiet_seconds=0) == 0
            check_summaries(database)
        finally:
            worker.execute(f"rollback prepared '{IN_DOUBT}'")
    assert upkeep.summarise(quiet_seconds=0) >= 1
    assert value_of(database, "select sum(spans) from _promscale.minute") == 4
    check_summaries(database)


def worker_of(database: psycopg.Connection) -> str:
    """A connection string to this database on a worker."""
    return make_conninfo(citus.WORKERS[-1], dbname=database.info.dbname)


def test_acknowledged_spans_are_stored_once_whichever_node_crashes(promscale, upkeep, dsn, superuser_uri):
    stop, acknowledged = threading.Event(), threading.Semaphore(0)

    def export() -> int:
        traces = 0
        while not stop.is_set():
            promscale.export_with_retries(request(*(one for _ in range(5) for one in trace())))
            traces += 5
            acknowledged.release()
        return traces

    with ThreadPoolExecutor(4) as pool:
        senders = [pool.submit(export) for _ in range(4)]
        try:
            for uri in (*citus.WORKERS, superuser_uri):
                for _ in range(20):
                    assert acknowledged.acquire(timeout=120)
                crash(uri)
                wait_until(partial(answers, uri), "the node")
                while acknowledged.acquire(blocking=False):
                    pass
            for _ in range(20):
                assert acknowledged.acquire(timeout=120)
        finally:
            stop.set()
        traces = sum(sender.result() for sender in senders)
    with psycopg.connect(dsn, autocommit=True) as database:
        wait_until(lambda: span_count(database) == 4 * traces, "the recovery of transactions in doubt")

        def all_summarised() -> bool:
            upkeep.summarise(quiet_seconds=0)
            return not value_of(database, "select count(*) from _promscale.touched_minute")

        wait_until(all_summarised, "the summaries of all minutes")
        check_summaries(database)


def crash(uri: str) -> None:
    """SIGKILL one session of a server, which then ends all others and recovers from its write-ahead log."""
    with psycopg.connect(uri, autocommit=True) as connection, pytest.raises(psycopg.OperationalError):
        connection.execute("copy (select 1) to program 'kill -9 $PPID'")


def answers(uri: str) -> bool:
    try:
        psycopg.connect(uri, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
