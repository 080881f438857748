"""Imports: exactly the spans of the files, once, or one clear line."""

import gzip
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import zstandard
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, Phase, given, settings
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from psycopg.conninfo import make_conninfo

from explorer.traces import create_traces
from promscale.server import TRACE_SERVICE
from promscale.store import MAX_REQUEST_BYTES
from tests.databases import new_database
from tests.store.any_otlp import assign_ids, requests
from tests.store.known_traces import ALL, export_passwords
from tests.store.otlp_messages import request, span
from tests.store.running import Promscale, span_count
from tests.store.searching import traces_request
from tests.store.store_contents import spans_by_identity
from transfer import TransferError, export, import_files
from transfer.__main__ import main

ALL_TIME = ("0001-01-01", "9999-01-01")


@pytest.fixture
def other(postgres_uri, superuser_uri, migrated):
    """A second promscale, with an empty store."""
    with new_database(postgres_uri, superuser_uri, template=migrated) as dsn:
        running = Promscale(dsn)
        yield running
        running.close()


def import_into(promscale: Promscale, *paths: Path) -> tuple[int, int, int]:
    """The numbers of spans that were read, new, and refused."""
    reader = make_conninfo(promscale.dsn, user="explorer")
    done = import_files(paths, f"127.0.0.1:{promscale.server.port}", reader)
    return done.read, done.new, done.refusals.count


def stored(promscale: Promscale, *trace_ids: bytes) -> dict[tuple, tuple]:
    read: dict = {}
    for chunk in promscale.read("GetTraces", traces_request(*trace_ids)):
        read |= spans_by_identity(chunk.resource_spans)
    return read


@pytest.mark.parametrize("file_format", ["otlp", "otlp-json"])
def test_otlp_is_equal_field_by_field_in_another_store(promscale, other, tmp_path, file_format):
    @settings(
        max_examples=8,
        phases=[Phase.generate],  # smaller examples would take minutes to find
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(requests)
    def exported_and_imported(message):
        trace_ids = [uuid.uuid4().bytes, uuid.uuid4().bytes]
        assign_ids(trace_ids, message)
        sent = spans_by_identity(message.resource_spans)
        if not sent:
            return
        promscale.export(message)
        condition = " or ".join(f"trace_id = '{uuid.UUID(bytes=trace_id)}'" for trace_id in trace_ids)
        folder = tmp_path / uuid.uuid4().hex
        done = export(promscale.dsn, *ALL_TIME, folder, file_format=file_format, where=condition)
        assert done.spans == len(sent)
        assert import_into(other, done.files[-1]) == (len(sent), len(sent), 0)
        assert stored(other, *trace_ids) == sent

    exported_and_imported()


def test_an_import_that_is_repeated_stores_nothing_twice(promscale, other, database, tmp_path):
    export_passwords(promscale)
    spans = span_count(database)
    [*_, path] = export(promscale.dsn, ALL["time_from"], ALL["time_to"], tmp_path / "out", file_format="otlp").files
    assert import_into(other, path, path) == (2 * spans, spans, 0)
    assert import_into(other, path) == (spans, 0, 0)


@pytest.mark.parametrize("file_format", ["otlp", "otlp-json"])
def test_the_folder_of_an_export_is_imported(promscale, other, database, tmp_path, capsys, file_format):
    export_passwords(promscale)
    spans = span_count(database)
    folder = tmp_path / "out"
    faults, _ = export(promscale.dsn, ALL["time_from"], ALL["time_to"], folder, file_format=file_format).files
    (folder / ".hidden").touch()
    options = ["--endpoint", f"127.0.0.1:{other.server.port}", "--database", make_conninfo(other.dsn, user="explorer")]
    for arguments, new in (([tmp_path], spans), (folder.glob("[!.]*"), 0)):
        assert main(["import", *options, *map(str, arguments)]) == 0
        skipped, imported, expired = capsys.readouterr().out.splitlines()
        assert skipped == f"Skipped {faults}, which has no spans: it is the table of the faults of an export"
        assert imported == f"Imported {spans} spans: {new} new, {spans - new} stored already, 0 refused"
        assert f"{spans} of them are older than the retention period" in expired


def test_a_folder_with_another_file_and_one_without_spans(promscale, database, tmp_path):
    (tmp_path / "faults.csv").touch()
    for paths in ([tmp_path], [tmp_path / "faults.csv"]):
        with pytest.raises(TransferError, match=f"there is no file with spans in {paths[0]}"):
            import_into(promscale, *paths)
    (tmp_path / "a.otlp").write_bytes(GOOD)
    (tmp_path / "spans.csv").write_text("trace_id,span_id\n1,2\n")
    with pytest.raises(TransferError, match=r"spans\.csv cannot be imported: .*; readable are"):
        import_into(promscale, tmp_path)
    assert span_count(database) == 0


def as_json(message: ExportTraceServiceRequest) -> bytes:
    """OTLP/JSON of a request with one span, written by hand."""
    [sent] = message.resource_spans[0].scope_spans[0].spans
    return json.dumps(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
                    "scopeSpans": [
                        {
                            "spans": [
                                {
                                    "traceId": sent.trace_id.hex().upper(),
                                    "spanId": sent.span_id.hex(),
                                    "parentSpanId": "",
                                    "name": sent.name,
                                    "startTimeUnixNano": str(sent.start_time_unix_nano),
                                    "endTimeUnixNano": str(sent.end_time_unix_nano),
                                    "attributes": [{"key": "items", "value": {"intValue": 3}}],
                                }
                            ]
                        }
                    ],
                }
            ]
        }
    ).encode()


def delimited(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4) + message for message in messages)


FORMATS = {
    "a single message": lambda proto, text: proto,
    "messages with lengths, as the Collector writes them": lambda proto, text: delimited(proto),
    "each of them compressed": lambda proto, text: delimited(zstandard.compress(proto)),
    "JSON with lengths": lambda proto, text: delimited(zstandard.compress(text)),
    "JSON lines": lambda proto, text: text + b"\n",
    "JSON of several lines": lambda proto, text: b"\n" + json.dumps(json.loads(text), indent=2).encode(),
    "gzip": lambda proto, text: gzip.compress(delimited(proto)),
    "zstd": lambda proto, text: zstandard.compress(text),
}


@pytest.mark.parametrize("written", FORMATS.values(), ids=FORMATS)
def test_a_format_is_recognised_from_the_content(promscale, tmp_path, written):
    message = request(span("checkout", {"items": 3}))
    [sent] = message.resource_spans[0].scope_spans[0].spans
    path = tmp_path / "file.txt"
    path.write_bytes(written(message.SerializeToString(), as_json(message)))
    assert import_into(promscale, path) == (1, 1, 0)
    assert stored(promscale, sent.trace_id) == spans_by_identity(message.resource_spans)


def test_json_as_other_programs_write_it(promscale, tmp_path):
    """Protobuf's JSON mapping: names of enums, numbers as numbers or strings, null, and fields of a later version."""
    message = request(span("checkout", {"share": 3.0}, kind=3))
    [sent] = message.resource_spans[0].scope_spans[0].spans
    document = json.loads(as_json(message))
    [written] = document["resourceSpans"][0]["scopeSpans"][0]["spans"]
    written |= {
        "kind": "SPAN_KIND_CLIENT",
        "startTimeUnixNano": sent.start_time_unix_nano,
        "traceState": None,
        "events": [],
        "attributes": [{"key": "share", "value": {"doubleValue": "3"}}],
        "laterField": {"a": 1},
    }
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document))
    assert import_into(promscale, path) == (1, 1, 0)
    assert stored(promscale, sent.trace_id) == spans_by_identity(message.resource_spans)


def test_jaegers_json_is_what_jaegers_page_downloads(promscale, other, traces, tmp_path):
    """The download of the imported traces is the same."""
    ids = "&".join(f"traceID={root.trace_id.hex()}" for root in traces)
    path = tmp_path / "download.json"
    path.write_bytes(download(promscale, ids))
    spans = sum(len(trace["spans"]) for trace in json.loads(path.read_bytes())["data"])
    assert import_into(other, path) == (spans, spans, 0)
    assert json.loads(download(other, ids)) == json.loads(path.read_bytes())


def download(promscale: Promscale, ids: str) -> bytes:
    """Traces as Jaeger's page of a trace downloads them."""
    client = create_traces(f"127.0.0.1:{promscale.server.port}").test_client()
    return client.get(f"/api/traces?{ids}").data


def test_jaegers_json_keeps_kinds_status_references_and_types(promscale, tmp_path):
    trace_id, parent, other_trace = "1" * 31, "22", "3" * 32
    tags = {
        "span.kind": ("string", "client"),
        "otel.status_code": ("string", "ERROR"),
        "otel.status_description": ("string", "no digit"),
        "error": ("bool", True),
        "otel.scope.name": ("string", "shop.checkout"),
        "w3c.tracestate": ("string", "a=1"),
        "items": ("int64", 3),
        "share": ("float64", 0.5),
        "paid": ("bool", False),
        "raw": ("binary", "AAE="),
    }
    document = {
        "data": [
            {
                "traceID": trace_id,
                "spans": [
                    {
                        "traceID": trace_id,
                        "spanID": "44",
                        "operationName": "checkout",
                        "references": [
                            {"refType": "CHILD_OF", "traceID": trace_id, "spanID": parent},
                            {"refType": "FOLLOWS_FROM", "traceID": other_trace, "spanID": "55"},
                        ],
                        "startTime": 1_767_268_800_000_001,
                        "duration": 2,
                        "tags": [{"key": k, "type": t, "value": v} for k, (t, v) in tags.items()],
                        "logs": [
                            {
                                "timestamp": 1_767_268_800_000_002,
                                "fields": [{"key": "event", "type": "string", "value": "checked"}],
                            }
                        ],
                        "processID": "p1",
                        "warnings": None,
                    }
                ],
                "processes": {
                    "p1": {"serviceName": "shop", "tags": [{"key": "version", "type": "string", "value": "1"}]}
                },
            }
        ]
    }
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document, indent=2))
    assert import_into(promscale, path) == (1, 1, 0)
    [chunk] = promscale.read("GetTraces", traces_request(bytes.fromhex("0" + trace_id)))
    [resource_spans] = chunk.resource_spans
    [scope_spans] = resource_spans.scope_spans
    [read] = scope_spans.spans
    assert {item.key: item.value.string_value for item in resource_spans.resource.attributes} == {
        "service.name": "shop",
        "version": "1",
    }
    assert (scope_spans.scope.name, read.name, read.kind) == ("shop.checkout", "checkout", 3)
    assert (read.parent_span_id.hex(), read.trace_state) == (parent.zfill(16), "a=1")
    assert (read.status.code, read.status.message) == (2, "no digit")
    assert read.end_time_unix_nano - read.start_time_unix_nano == 2000
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in read.links] == [(other_trace, "55".zfill(16))]
    assert [(event.name, event.time_unix_nano) for event in read.events] == [("checked", 1_767_268_800_000_002_000)]
    values = {item.key: item.value for item in read.attributes}
    assert (values["items"].int_value, values["share"].double_value, values["raw"].bytes_value) == (3, 0.5, b"\0\1")
    assert values["paid"].WhichOneof("value") == "bool_value" and values.keys() == {"items", "share", "paid", "raw"}


GOOD = request(span()).SerializeToString()
BAD_FILES = {
    "empty": (b"", "it has no spans"),
    "a text": (b"time,traceID\n1,2\n", "readable are OTLP protobuf, OTLP/JSON lines, and Jaeger's JSON"),
    "another protobuf message": (b"\x12\x00", "readable are"),
    "other JSON": (b'{"logs": []}', "neither the field resourceSpans nor data"),
    "metrics": (b'{"resourceMetrics": []}\n', "line 1: it has neither the field resourceSpans nor data"),
    "a bad second line": (b'{"resourceSpans": []}\n{"resource\n', "line 2 is not JSON"),
    "an id that is no hex": (
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}', "line 1: non-hexadecimal",
    ),
    "two values of an attribute": (
        b'{"resourceSpans": [{"resource": {"attributes": [{"value": {"intValue": 1, "boolValue": true}}]}}]}',
        "line 1: Failed to parse resourceSpans field: Failed to parse resource field: Failed to parse attributes field:"
    ),
    "a text instead of a list": (
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": ""}]}]}]}', "Failed to parse attributes field",
    ),
    "a number instead of an id": (
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": 1}]}]}]}', "line 1: fromhex() argument must be str",
    ),
    "a value that is nested too deeply": (
        b'{"resourceSpans": [{"resource": {"attributes": [{"value": '
        + b'{"arrayValue": {"values": [' * 100 + b"]}}" * 100 + b"}]}}]}",
        "line 1: Failed to parse resourceSpans field",
    ),
    "not a trace of Jaeger": (b'{"data": [{"spans": [{}]}]}', "not a trace in Jaeger's JSON"),
    "cut off": (delimited(GOOD, GOOD)[:-1], f"the message at byte {len(GOOD) + 4} is cut off"),
    "cut off in gzip": (gzip.compress(delimited(GOOD))[:-10], "readable are"),
    "a length that is none": (delimited(GOOD) + b"\xff\xff\xff\xff", "no length of a message at byte"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "cause"), BAD_FILES.values(), ids=BAD_FILES)
def test_nothing_is_sent_if_a_file_cannot_be_imported(promscale, database, tmp_path, content, cause):
    good, bad = tmp_path / "good.otlp", tmp_path / "bad.otlp"
    good.write_bytes(GOOD)
    bad.write_bytes(content)
    with pytest.raises(TransferError) as raised:
        import_into(promscale, good, bad)
    message = str(raised.value)
    assert cause in message and str(bad) in message and len(message.splitlines()) == 1
    assert span_count(database) == 0


def test_a_file_that_does_not_exist(promscale, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.otlp"):
        import_into(promscale, tmp_path / "nothing.otlp")


def test_refused_spans_are_reported(promscale, tmp_path):
    message = request(span("good"), span("bad", trace_id=b"short"))
    path = tmp_path / "file.otlp"
    path.write_bytes(message.SerializeToString())
    reader = make_conninfo(promscale.dsn, user="explorer")
    done = import_files([path], f"127.0.0.1:{promscale.server.port}", reader)
    assert (done.read, done.new, done.refusals.count) == (2, 1, 1)
    assert "trace_id has 5 bytes instead of 16" in str(done.refusals)


def test_no_promscale_answers(dsn, tmp_path):
    path = tmp_path / "file.otlp"
    path.write_bytes(GOOD)
    with pytest.raises(TransferError, match=r"no promscale answers at 127\.0\.0\.1:1; start the demo"):
        import_files([path], "127.0.0.1:1", dsn)


def test_a_busy_or_stopped_promscale_is_asked_again(promscale, tmp_path):
    """Between the import and promscale is a server that refuses the first two requests, as promscale does."""
    retry = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
    retry.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1)))
    answers = [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE]

    def refuse_twice(data: bytes, context: grpc.ServicerContext):
        if answers:
            context.set_trailing_metadata((("grpc-status-details-bin", retry.SerializeToString()),))
            context.abort(answers.pop(0), "busy")
        return promscale.export(data)

    handler = grpc.unary_unary_rpc_method_handler(
        refuse_twice, response_serializer=ExportTraceServiceResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(TRACE_SERVICE, {"Export": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    path = tmp_path / "file.otlp"
    path.write_bytes(GOOD)
    done = import_files([path], f"127.0.0.1:{port}", promscale.dsn)
    server.stop(None).wait()
    assert (done.read, done.new, answers) == (1, 1, [])


def test_what_promscale_never_stores_is_not_sent_again(promscale, tmp_path):
    path = tmp_path / "file.otlp"
    path.write_bytes(request(span("x" * (MAX_REQUEST_BYTES + 1))).SerializeToString())
    with pytest.raises(TransferError, match=r"does not store the spans \(INVALID_ARGUMENT: the request has"):
        import_into(promscale, path)
