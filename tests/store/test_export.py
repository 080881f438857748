"""Exports: files that other tools read, whole traces, labels left out, and nothing half-done after an error."""

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pandas
import polars
import pytest
import rcabench_platform.v3.sdk.pedestals.generic  # noqa: F401, which registers the system otel-demo
from psycopg.conninfo import make_conninfo
from rcabench_platform.v3.internal.sources.convert import validate_traces
from rcabench_platform.v3.internal.sources.rcaeval import convert_traces
from rcabench_platform.v3.sdk.datasets.rcabench import RCABenchAnalyzerLoader
from rcabench_platform.v3.sdk.graphs.sdg.build_.rcabench import load_inject_time, load_traces
from rcabench_platform.v3.sdk.samplers.path_encoding import build_trace_path_encoding

from local import CHECKOUT
from tests.store import citus
from tests.store.known_traces import ALL, NOON
from tests.store.otlp_messages import attributes, request, span
from tests.store.running import span_count, value_of
from tests.waiting import wait_until
from transfer import FORMATS, TransferError, export
from transfer.reading import read_file

FROM, TO = ALL["time_from"], ALL["time_to"]
FAULTS = (CHECKOUT / "faults" / "schema.sql").read_text()
INJECTED = NOON + timedelta(seconds=60)
LABELS = {"demo.fault.name": ["digit.errors"], "demo.fault.added_ms": 1.5, "demo.fault.error": "no digit today"}


@pytest.fixture
def reader(dsn, traces, database):
    """A connection string for the role of those who only read, to a database with three known traces, and without the
    table of the faults."""
    database.execute("drop schema demo cascade")
    return make_conninfo(dsn, user="explorer")


@pytest.fixture
def faults(reader, database):
    """The table of the faults, with one that began before the last of the three traces."""
    database.execute(FAULTS)
    database.execute("insert into demo.fault values (%s, null, 'digit.errors', 'strong', 'digit', 7)", [INJECTED])


def query(statement: str) -> list[tuple]:
    return duckdb.connect().execute(statement).fetchall()


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_duckdb_reads_what_sql_reads(reader, database, faults, tmp_path, file_format):
    done = export(reader, FROM, TO, tmp_path / "out", file_format=file_format)
    spans, truth = (str(tmp_path / "out" / f"{name}.{file_format}") for name in ("spans", "faults"))
    assert [str(path) for path in done.files] == [truth, spans]
    counts = f"select service_name, span_name, span_kind, count(*), sum(duration_ms) from '{spans}' group by all"
    stored = "select service_name, span_name, span_kind::text, count(*), sum(duration_ms) from span group by 1, 2, 3"
    assert sorted(query(counts)) == sorted(database.execute(stored).fetchall())
    # Ids are those that OpenTelemetry shows; a child finds its parent.
    assert query(f"select count(*) from '{spans}' as c join '{spans}' as p on p.span_id = c.parent_span_id") == [
        (value_of(database, "select count(*) from span where parent_span_id is not null"),)
    ]
    assert query(f"select flag, variant, seed, start_time::timestamptz = '{INJECTED}' from '{truth}'") == [
        ("digit.errors", "strong", 7, True)
    ]
    assert done.spans == span_count(database)


def test_a_table_has_attributes_events_links_scope_and_resource(dsn, promscale, tmp_path):
    message = shop_request()
    promscale.export(message)
    export(dsn, "-1h", "now", tmp_path / "out", file_format="parquet")
    [row] = pandas.read_parquet(tmp_path / "out" / "spans.parquet").to_dict("records")
    [sent] = message.resource_spans[0].scope_spans[0].spans
    assert (row["trace_id"], row["span_id"]) == (sent.trace_id.hex(), sent.span_id.hex())
    assert pandas.isna(row["parent_span_id"])
    assert row["start_time"].value == sent.start_time_unix_nano // 1000 * 1000
    assert json.loads(row["span_tags"]) == {"items": 3, "size": 1.5, "paid": True, "names": ["a", "b"], **LABELS}
    assert json.loads(row["events"]) == [
        [5, "feature_flag.evaluation", {"feature_flag.key": "digit.errors"}],
        [6, "checked", {"ok": True}],
    ]
    assert json.loads(row["links"]) == [{"t": "0a" * 16, "s": "0b" * 8, "a": {"why": "retry"}}]
    assert (row["scope_name"], row["scope_version"]) == ("shop.checkout", "2")
    assert json.loads(row["resource_tags"]) == {"service.name": "shop", "service.version": "1"}


@pytest.mark.parametrize("file_format", FORMATS)
def test_without_labels_nothing_names_a_fault(dsn, promscale, database, faults, tmp_path, file_format):
    message = shop_request()
    promscale.export(message)
    done = export(dsn, "-1h", "now", tmp_path / "out", file_format=file_format, labels=False)
    [path] = done.files
    content = pandas.read_parquet(path).to_csv() if file_format == "parquet" else path.read_bytes().decode("latin-1")
    assert "demo.fault" not in content and "feature_flag" not in content and "digit.errors" not in content
    assert "items" in content and "checked" in content


def shop_request():
    """A request with one span, which has labels of a fault, and a value in most fields."""
    message = request(span("checkout", {"items": 3, "size": 1.5, "paid": True, "names": ["a", "b"], **LABELS}))
    resource_spans = message.resource_spans[0]
    resource_spans.resource.attributes.extend(attributes({"service.version": "1"}))
    scope_spans = resource_spans.scope_spans[0]
    scope_spans.scope.name, scope_spans.scope.version = "shop.checkout", "2"
    [sent] = scope_spans.spans
    start = sent.start_time_unix_nano // 1000 * 1000
    for name, micros, tags in (
        ("feature_flag.evaluation", 5, {"feature_flag.key": "digit.errors"}),
        ("checked", 6, {"ok": True}),
    ):
        sent.events.add(name=name, time_unix_nano=start + 1000 * micros, attributes=attributes(tags))
    sent.links.add(trace_id=b"\x0a" * 16, span_id=b"\x0b" * 8, attributes=attributes({"why": "retry"}))
    return message


@pytest.mark.parametrize("file_format", FORMATS)
def test_whole_traces_are_exported(reader, database, tmp_path, file_format):
    """The condition is fulfilled by some spans of one trace."""
    done = export(
        reader, FROM, TO, tmp_path / "out", file_format=file_format, where="status_code = 'error' -- the last trace"
    )
    assert done.spans == span_count(database) / 3
    if file_format.startswith("otlp"):
        assert sum(spans for _, spans in read_file(done.files[0])) == done.spans


def test_times_are_those_of_psql_and_relative_ones(reader, database, tmp_path):
    hours = value_of(database, "select ceil(extract(epoch from now() - %s) / 3600)::int", [NOON])
    for number, (time_from, time_to, traces) in enumerate(
        [
            ("2026-01-01T12:00:00Z", "2026-01-01 12:00:20+00", 1),
            ("2026-01-01 13:00:30+01", NOON + timedelta(minutes=5), 2),
            (f"-{hours}h", "now", 3),
            (f"now-{hours + 1}h", "tomorrow", 3),
        ]
    ):
        done = export(reader, time_from, time_to, tmp_path / str(number), file_format="otlp")
        assert done.spans == traces * span_count(database) / 3


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"where": "nonsense = 1"}, 'column "nonsense" does not exist'),
        ({"where": "span_name = "}, "syntax error"),
        ({"where": "true); delete from span; select (true"}, "syntax error"),
        ({"where": "1 / (duration_ms - duration_ms) > 0"}, "division by zero"),
        ({"where": "set_trace_retention_period('1 day')"}, "permission denied"),
        ({"where": "service_name = 'nobody'"}, "no span that fulfils"),
        ({"time_from": "soon"}, "--from: 'soon' is not a time; write"),
        ({"time_to": "-3 parsecs"}, "--to: '-3 parsecs' is not a time; write"),
        ({"time_from": TO, "time_to": FROM}, "is not before --to"),
        ({"file_format": "xml"}, "'xml' is not one of parquet, otlp, otlp-json, csv"),
        ({"file_format": "", "layout": "other"}, "name one of rcabench, rcaeval"),
        ({"file_format": "csv", "layout": "rcabench"}, "has files of the format parquet, not csv"),
        ({"file_format": "", "layout": "rcaeval"}, "name the time of the injection"),
        ({"file_format": "", "layout": "rcaeval", "inject_time": "2027-01-01"}, "must be at least a second after"),
        ({"database_uri": "postgresql://explorer@127.0.0.1:1/postgres"}, "no trace database answers"),
    ],
)
def test_an_error_is_one_line_and_leaves_nothing(reader, database, tmp_path, arguments, cause):
    before = span_count(database)
    given = {"database_uri": reader, "time_from": FROM, "time_to": TO, "file_format": "csv"} | arguments
    with pytest.raises(TransferError) as raised:
        export(**given, folder=tmp_path / "out")
    assert cause in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    assert span_count(database) == before


def test_an_occupied_folder_is_left_as_it_is(reader, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TransferError, match="not an empty folder"):
        export(reader, FROM, TO, tmp_path, file_format="csv")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_is_filled(reader, tmp_path):
    assert export(reader, FROM, TO, tmp_path, file_format="csv").files == [tmp_path / "spans.csv"]


def test_an_interrupted_export_leaves_nothing(reader, database, tmp_path):
    """The condition waits for a lock until the process gets Ctrl+C or SIGTERM."""
    for signal_name in ("SIGINT", "SIGTERM"):
        run = transfer("export", *range_options(reader), "--where", "pg_sleep(600) is null", tmp_path / "out")
        interrupt(run, signal_name, database)
        assert run.wait() == 130
        assert list(tmp_path.iterdir()) == []


def transfer(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "transfer", *map(str, arguments)]
    return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def range_options(uri: str) -> list[str]:
    return ["--database", uri, "--from", FROM.isoformat(), "--to", TO.isoformat(), "--format", "csv"]


def interrupt(run: subprocess.Popen[str], signal_name: str, database) -> None:
    sessions = "citus_stat_activity" if citus.WORKERS else "pg_stat_activity"
    waiting = f"select count(*) from {sessions} where wait_event = 'PgSleep' and datname = current_database()"
    wait_until(lambda: value_of(database, waiting) or run.poll() is not None, "the statement")
    run.send_signal(getattr(signal, signal_name))


def test_the_command_prints_what_it_has_done_and_one_line_for_an_error(reader, database, tmp_path):
    run = transfer("export", *range_options(reader), tmp_path / "out")
    assert run.communicate() == (f"Exported {span_count(database)} spans: {tmp_path}/out/spans.csv\n", "")
    for arguments, cause in (
        ([*range_options(reader), tmp_path / "out"], "is not an empty folder"),
        ([tmp_path / "new"], "--format '' is not one of"),
        (["--nonsense", tmp_path / "new"], "unrecognized arguments: --nonsense; usage: ./run.sh export"),
    ):
        run = transfer("export", *arguments)
        _, stderr = run.communicate()
        assert run.returncode == 1
        assert len(stderr.splitlines()) == 1 and cause in stderr


def test_rcabench_platform_reads_a_data_pack(reader, database, faults, tmp_path):
    folder = tmp_path / "pack" / "converted"
    folder.parent.mkdir()
    done = export(reader, FROM, TO, folder, layout="rcabench")
    assert done.spans == span_count(database)
    for part, traces in (("normal", 2), ("abnormal", 1)):
        frame = polars.scan_parquet(folder / f"{part}_traces.parquet")
        validate_traces(frame)
        assert frame.select("trace_id").unique().collect().height == traces
    assert load_inject_time(folder) == INJECTED
    pack = RCABenchAnalyzerLoader("pack", folder.parent)
    assert pack.get_root_services() == ["digit"]
    assert set(pack.get_all_services()) == {"generator", "lower", "digit"}
    assert pack.get_entry_service() == "loadgenerator"
    calls = pack.get_service_dependency_graph()
    assert calls.has_edge("loadgenerator", "generator") and calls.has_edge("lower", "digit")
    frame = load_traces(folder, "otel-demo").collect()
    # The 100 ms of a load.request are four times as long in the trace after the injection.
    assert frame.filter(frame["duration"] == 400e6)["anomal"].to_list() == [1]
    first = polars.read_parquet(folder / "abnormal_traces.parquet")
    assert build_trace_path_encoding(first, "rcabench").startswith("loadgenerator:load.request")


def test_a_data_pack_without_labels_has_no_answer(reader, faults, tmp_path):
    done = export(reader, FROM, TO, tmp_path / "out", layout="rcabench", labels=False, root_service="nobody")
    assert [path.name for path in done.files] == ["abnormal_traces.parquet", "env.json", "normal_traces.parquet"]
    services = polars.read_parquet(done.files[0])["service_name"].unique()
    assert "load" in services and "loadgenerator" not in services


def test_a_case_of_rcaeval(reader, database, tmp_path):
    done = export(reader, FROM, TO, tmp_path / "out", layout="rcaeval", inject_time=INJECTED)
    assert [path.name for path in done.files] == ["inject_time.txt", "traces.csv"]
    assert int(done.files[0].read_text()) == INJECTED.timestamp()
    frame = pandas.read_csv(done.files[1])
    assert list(frame.columns) == [
        "time", "traceID", "spanID", "serviceName", "methodName", "operationName", "startTimeMillis", "startTime",
        "duration", "statusCode", "parentSpanID",
    ]  # fmt: skip
    root = frame[frame["parentSpanID"].isna()].sort_values("startTime").iloc[0]
    assert (root["operationName"], root["duration"], root["time"]) == ("load.request", 100_000, "12:00")
    assert root["startTime"] == 1000 * root["startTimeMillis"] == (NOON.timestamp() + 10) * 1e6
    assert (frame["statusCode"] == 2).sum() == value_of(
        database, "select count(*) from span where status_code = 'error'"
    )
    # rcabench-platform converts RCAEval's cases: the same spans.
    converted = convert_traces(done.files[1]).collect()
    validate_traces(converted)
    assert converted.height == len(frame) == span_count(database)


def test_an_absent_table_of_faults_is_no_error(reader, tmp_path):
    names = [path.name for path in export(reader, FROM, TO, tmp_path / "out", file_format="parquet").files]
    assert names == ["spans.parquet"]
    assert Path(tmp_path / "out").is_dir()
