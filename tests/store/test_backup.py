"""A store that is restored from a backup, or whose spans were moved to another database, shows what it showed."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks.recording import Replay
from promscale.upkeep import Upkeep
from tests.databases import data_folder, running_cluster
from tests.store.otlp_messages import SECOND, child, request
from tests.store.running import Promscale, span_count, value_of
from tests.store.store_contents import check_summaries, close_all, contents, hours_ago, odd_spans, span_at
from transfer import export, import_files

# From the first time that OTLP has to one after the last.
ALL_TIMES = ("1970-01-01Z", "2600-01-01Z")
recorded = Replay(200)


class Opened(NamedTuple):
    """A promscale on a database, the upkeep of the test, and a connection."""

    promscale: Promscale
    upkeep: Upkeep
    database: psycopg.Connection

    def contents(self) -> dict:
        """What users see, in an order that does not depend on the database."""
        seen = contents(self.promscale, self.database)
        return {name: sorted(rows) if isinstance(rows, list) else rows for name, rows in seen.items()}

    def keep_up(self) -> None:
        """Do all upkeep that promscale does while time passes."""
        self.upkeep.turn()
        self.upkeep.summarise(quiet_seconds=0)
        close_all(self.upkeep, self.database)
        check_summaries(self.database)

    def set_limits(self) -> None:
        """No disk budget, because on a server with other databases the write-ahead log could exceed any."""
        self.database.execute("select ps_trace.set_trace_retention_period('30 days')")
        self.database.execute("select ps_trace.set_trace_disk_budget(0)")


@contextlib.contextmanager
def opened(dsn: str) -> Iterator[Opened]:
    with contextlib.ExitStack() as stack:
        promscale = stack.enter_context(contextlib.closing(Promscale(dsn)))
        upkeep = stack.enter_context(contextlib.closing(Upkeep(dsn)))
        yield Opened(promscale, upkeep, stack.enter_context(psycopg.connect(dsn, autocommit=True)))


@pytest.fixture
def plain():
    """Another cluster, of the newest PostgreSQL without extensions."""
    with data_folder() as folder, running_cluster(folder) as cluster:
        yield cluster


def fill(store: Opened) -> list[ExportTraceServiceRequest]:
    """Store spans in closed and open partitions and in the default one, on time and late. Returns the exports."""
    store.set_limits()
    day_ago = hours_ago(24)
    sent = [
        ExportTraceServiceRequest.FromString(recorded.request(day_ago)),
        request(*odd_spans(day_ago)),
        request(span_at(hours_ago(20 * 24), "old"), span_at(hours_ago(-3), "of the future")),
    ]
    for message in sent:
        store.promscale.export(message)
    store.keep_up()
    late = span_at(day_ago, "late")
    now = odd_spans(time.time_ns() - 5 * SECOND)  # old enough for the choice of tag sets
    for message in (request(*now[::2]), request(late, child(late)), request(*now[1::2])):
        store.promscale.export(message)
        store.upkeep.choose_tag_sets()
        sent.append(message)
    kinds = "select count(*) filter (where closed_at is null), count(*) filter (where closed_at is not null)"
    assert all(*store.database.execute(f"{kinds} from _promscale.partition").fetchall())
    for condition in ("tag_set_id is not null", "start_time > now() + interval '2 hours'"):
        assert value_of(store.database, f"select count(*) from _promscale.span where {condition}")
    return sent


def test_a_store_is_restored_from_a_dump(cluster, dsn, superuser_uri, plain, tmp_path):
    """By the commands of docs/backup.md."""
    if not cluster:
        pytest.skip("needs pg_dump of the server's own release: runs without TEST_POSTGRES_URI only")
    name = str(conninfo_to_dict(dsn)["dbname"])
    source, target = make_conninfo(superuser_uri, dbname=name), plain.superuser_uri
    programs, roles, dump = Path(plain.server[0]).parent, tmp_path / "roles.sql", tmp_path / "store.dump"

    def run(program: str, *arguments: str | Path) -> None:
        done = subprocess.run([programs / program, *arguments], stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    with opened(dsn) as store:
        sent = fill(store)
        before = store.contents()
    run("pg_dumpall", "--roles-only", "-d", source, "-f", roles)
    run("pg_dump", "--format=custom", "-d", source, "-f", dump)
    run("psql", "-q", "-d", target, "-f", roles)
    run("pg_restore", "--exit-on-error", "--create", "-d", target, dump)

    restored = make_conninfo(plain.uri, dbname=name)
    with psycopg.connect(make_conninfo(restored, user="explorer")) as reader:
        assert value_of(reader, "select count(*) from span") == len(before["span"])
        assert value_of(reader, "show statement_timeout") == "30s"
    with opened(restored) as store:
        assert store.contents() == before
        for message in sent:
            store.promscale.export(message)
        assert span_count(store.database) == len(before["span"])
        store.keep_up()
        assert store.contents() == before
        new = [span_at(hours_ago(hours), "new") for hours in (0, 3, 24, 20 * 24)]
        store.promscale.export(request(*new))
        store.keep_up()
        assert span_count(store.database) == len(before["span"]) + len(new)


def test_spans_move_to_another_engine_and_back(dsn, plain, tmp_path):
    with psycopg.connect(plain.superuser_uri, autocommit=True) as superuser:
        superuser.execute("create database last owner postgres")
    with opened(plain.uri) as first, opened(dsn) as other, opened(make_conninfo(plain.uri, dbname="last")) as last:
        fill(first)
        before = first.contents()
        for number, (source, target) in enumerate(((first, other), (other, last))):
            target.set_limits()
            exported = export(source.promscale.dsn, *ALL_TIMES, tmp_path / str(number), file_format="otlp")
            endpoint, spans = f"127.0.0.1:{target.promscale.server.port}", len(before["span"])
            for new in (spans, 0):
                done = import_files(exported.files, endpoint, target.promscale.dsn)
                assert (done.read, done.new, done.refusals.count, done.expired) == (spans, new, 0, 0)
                assert target.contents() == before
                target.keep_up()
            assert target.contents() == before
