"""OTLP/HTTP on promscale's port of HTTP: the same spans and answers as by gRPC, within limits of memory and threads."""

import gzip
import socket
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import count, islice

import psycopg
import pytest
import requests
from google.rpc import code_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client import REGISTRY

from promscale import store as store_module
from promscale import web
from promscale.otlp_http import JSON, MAX_EXPORTS, MAX_JSON_VALUES, PATH, PROTOBUF
from promscale.store import MAX_REQUEST_BYTES, Store
from promscale.web import Web
from tests.store.interruptions import is_waiting_for_lock
from tests.store.otlp_messages import HOSTILE_TEXT, add_service, attributes, child, request, span
from tests.store.running import span_count
from tests.store.store_contents import contents
from tests.waiting import wait_until
from transfer.otlp_files import to_json

FORMATS = [PROTOBUF, JSON]


def url(server: Web, path: str = PATH) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def post(server: Web, body, content_type: str = PROTOBUF, **fields: str) -> requests.Response:
    """Send a body, with more fields of the header: an underscore in their names stands for a hyphen."""
    headers = {"Content-Type": content_type} | {name.replace("_", "-"): value for name, value in fields.items()}
    return requests.post(url(server), data=body, headers=headers, timeout=120)


def encoded(message, content_type: str) -> bytes:
    data = message.SerializeToString()
    return to_json(data) if content_type == JSON else data


def error(answer: requests.Response) -> tuple[int, int, str]:
    """HTTP's status, and the code and message of the google.rpc.Status."""
    if answer.headers["Content-Type"] == JSON:
        return answer.status_code, answer.json()["code"], answer.json()["message"]
    assert answer.headers["Content-Type"] == PROTOBUF
    status = status_pb2.Status.FromString(answer.content)
    return answer.status_code, status.code, status.message


def every_field():
    root = span(
        HOSTILE_TEXT,
        {
            "text": "red",
            "bytes": b"\0\xff",
            "list": [1, [2.5, None]],
            "map": {"deep": {"deeper": True}},
            "big": 2**63 - 1,
        },
        kind=Span.SPAN_KIND_SERVER,
        trace_state="vendor=1",
        flags=0x101,
        status=Status(code=Status.STATUS_CODE_ERROR, message="it failed"),
        events=[Span.Event(name="event", time_unix_nano=1, attributes=attributes({"key": "value"}))],
        links=[Span.Link(trace_id=b"1" * 16, span_id=b"2" * 8, attributes=attributes({"key": 1}))],
        dropped_attributes_count=1,
    )
    message = request(root, child(root), service="shop")
    add_service(message, child(root, "pay"), service="till")
    message.resource_spans[0].schema_url = "https://example.org"
    message.resource_spans[0].scope_spans[0].scope.name = "library"
    return message


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("content_type", FORMATS)
def test_the_same_spans_are_stored_as_by_grpc(promscale, database, content_type, compressed):
    message = every_field()
    promscale.export(message)
    by_grpc = contents(promscale, database)
    database.execute("select ps_trace.delete_all_traces()")
    body = encoded(message, content_type)
    answer = (
        post(promscale.web, gzip.compress(body), content_type, Content_Encoding="gzip")
        if compressed
        else post(promscale.web, body, f"{content_type}; charset=utf-8")
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.content == (b"{}" if content_type == JSON else b"")
    assert contents(promscale, database) == by_grpc


def test_a_body_in_chunks(promscale, database):
    message = request(*(span(tags={"fill": "x" * 5_000}) for _ in range(100)))
    data = message.SerializeToString()
    assert post(promscale.web, iter([data[:10], data[10:]])).status_code == 200
    assert span_count(database) == 100


def test_a_retry_by_another_protocol_stores_nothing_twice(promscale, database):
    message = every_field()
    promscale.export(message)
    for content_type in FORMATS * 2:
        assert post(promscale.web, encoded(message, content_type), content_type).status_code == 200
    assert span_count(database) == 3


@pytest.mark.parametrize("content_type", FORMATS)
def test_refused_spans_are_named(promscale, database, caplog, content_type):
    message = request(span("good"), span("odd", trace_id=bytes(16)))
    answer = post(promscale.web, encoded(message, content_type), content_type)
    assert answer.status_code == 200
    if content_type == JSON:
        partial = answer.json()["partialSuccess"]
        count, reason = int(partial["rejectedSpans"]), partial["errorMessage"]
    else:
        partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
        count, reason = partial.rejected_spans, partial.error_message
    assert count == 1 and "'odd'" in reason and "trace_id is all zero" in reason
    assert reason in caplog.text
    assert database.execute("select span_name from ps_trace.span").fetchall() == [("good",)]


# What cannot succeed -------------------------------------------------------------------------------------------------

GZIP = gzip.compress(request(span()).SerializeToString())
DEEP_VALUE = '{"arrayValue":{"values":[' * 300 + "{}" + "]}}" * 300
ONE_SPAN = '{"resourceSpans":[{"scopeSpans":[{"spans":[%s]}]}]}'


@pytest.mark.parametrize(
    ("body", "content_type", "fields"),
    [
        (b"\xff\xff\xff\xff not protobuf", PROTOBUF, {}),
        (b"not gzip", PROTOBUF, {"Content_Encoding": "gzip"}),
        (GZIP[:-9], PROTOBUF, {"Content_Encoding": "gzip"}),
        (GZIP[:-8] + bytes(8), PROTOBUF, {"Content_Encoding": "gzip"}),
        (GZIP[:20] + bytes(20) + GZIP[40:], PROTOBUF, {"Content_Encoding": "gzip"}),
        (b"", JSON, {}),
        (b"{", JSON, {}),
        (b"\xff", JSON, {}),
        (b"[]", JSON, {}),
        (b'"resourceSpans"', JSON, {}),
        (b"[" * 100_000, JSON, {}),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, JSON, {}),
        (b'{"resourceSpans":' + b"9" * 10_000 + b"}", JSON, {}),
        ((ONE_SPAN % '{"startTimeUnixNano":%s}' % ("9" * 10_000)).encode(), JSON, {}),
        ((ONE_SPAN % '{"startTimeUnixNano":"%s"}' % ("9" * 10_000)).encode(), JSON, {}),
        ((ONE_SPAN % '{"startTimeUnixNano":1e999}').encode(), JSON, {}),
        ((ONE_SPAN % '{"traceId":"no hex"}').encode(), JSON, {}),
        ((ONE_SPAN % '{"traceId":{"a":1}}').encode(), JSON, {}),
        ((ONE_SPAN % '{"name":"\\ud800"}').encode(), JSON, {}),
        ((ONE_SPAN % '{"attributes":[{"key":"k","value":%s}]}' % DEEP_VALUE).encode(), JSON, {}),
        ((ONE_SPAN % "7").encode(), JSON, {}),
    ],
    ids=map(str, count()),  # the bodies differ from process to process
)
def test_malformed_bodies(promscale, database, body, content_type, fields):
    status, code, message = error(post(promscale.web, body, content_type, **fields))
    assert (status, code) == (400, code_pb2.INVALID_ARGUMENT)
    assert message and len(message) < 400
    assert post(promscale.web, encoded(request(span()), content_type), content_type).status_code == 200
    assert span_count(database) == 1


TOO_LARGE = bytes(MAX_REQUEST_BYTES + 1)


@pytest.mark.parametrize(
    ("body", "content_type", "fields"),
    [
        (TOO_LARGE, PROTOBUF, {}),
        (bytes(3 * MAX_REQUEST_BYTES), JSON, {}),
        (iter([TOO_LARGE]), PROTOBUF, {}),
        (gzip.compress(TOO_LARGE), PROTOBUF, {"Content_Encoding": "gzip"}),
        (gzip.compress(bytes(40 * MAX_REQUEST_BYTES)), JSON, {"Content_Encoding": "gzip"}),
        (b'{"a":[' + b"1," * MAX_JSON_VALUES + b"1]}", JSON, {}),
    ],
    ids=["protobuf", "JSON", "in chunks", "compressed", "a bomb", "many values"],
)
def test_a_request_that_is_too_large_is_answered_and_not_reset(promscale, body, content_type, fields):
    status, code, message = error(post(promscale.web, body, content_type, **fields))
    assert (status, code) == (413, code_pb2.INVALID_ARGUMENT)
    assert "limit" in message
    assert post(promscale.web, b"").status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_site_stores_nothing(promscale, database, content_type):
    """A browser sends these types without asking first; it must ask (CORS) for JSON or protobuf, or for gzip."""
    for body in (encoded(request(span()), name) for name in FORMATS):
        status, _, message = error(post(promscale.web, body, content_type))
        assert status == 415 and "Content-Type" in message
    asked = requests.options(
        url(promscale.web),
        headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
        timeout=120,
    )
    assert not [name for name in asked.headers if name.lower().startswith("access-control")]
    assert span_count(database) == 0


def test_another_encoding_is_refused(promscale):
    status, _, message = error(post(promscale.web, b"", Content_Encoding="br"))
    assert status == 415 and "'br'" in message


def test_the_host_is_checked(promscale, database):
    answer = post(promscale.web, request(span()).SerializeToString(), Host="evil.example")
    assert answer.status_code == 400 and "is not known here" in answer.text
    assert span_count(database) == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_other_methods(promscale, method):
    assert requests.request(method, url(promscale.web), timeout=120).status_code == 405


# What may succeed later ----------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_before_the_commit(promscale, database):
    with ThreadPoolExecutor(1) as pool, psycopg.connect(promscale.dsn) as holder:
        holder.execute("lock table _promscale.span in access exclusive mode")
        answer = pool.submit(post, promscale.web, request(span()).SerializeToString())
        wait_until(lambda: is_waiting_for_lock(database, "promscale"), "the export's wait for the lock")
        assert not answer.done()
        holder.rollback()
        assert answer.result().status_code == 200
    assert span_count(database) == 1


def test_a_full_store_asks_to_retry_later(promscale, database, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_REQUEST_BYTES", 40_000)
    monkeypatch.setattr(store_module, "MAX_HELD_BYTES", 50_000)
    big = [request(span(tags={"fill": "x" * 30_000})).SerializeToString() for _ in range(2)]
    with ThreadPoolExecutor(1) as pool, psycopg.connect(promscale.dsn) as holder:
        holder.execute("lock table _promscale.span in access exclusive mode")
        waiting = pool.submit(post, promscale.web, big[0])
        wait_until(lambda: is_waiting_for_lock(database, "promscale"), "the first export's wait for the lock")
        answer = post(promscale.web, big[1])
        assert error(answer)[:2] == (429, code_pb2.RESOURCE_EXHAUSTED)
        assert int(answer.headers["Retry-After"]) > 0
        holder.rollback()
        assert waiting.result().status_code == 200
    assert post(promscale.web, big[1]).status_code == 200
    assert span_count(database) == 2


def test_slow_exports_leave_threads_to_monitoring(promscale, database):
    data = [request(span()).SerializeToString() for _ in range(3 * MAX_EXPORTS)]
    with ThreadPoolExecutor(len(data)) as pool, psycopg.connect(promscale.dsn) as holder:
        holder.execute("lock table _promscale.span in access exclusive mode")
        answers = [pool.submit(post, promscale.web, body) for body in data]
        refused = [answer.result() for answer in islice(as_completed(answers), 2 * MAX_EXPORTS)]
        assert {error(answer)[0] for answer in refused} == {429}
        for path in ("/healthz", "/metrics"):
            assert requests.get(url(promscale.web, path), timeout=120).status_code == 200
        holder.rollback()
        assert sorted(answer.result().status_code for answer in answers) == [200] * MAX_EXPORTS + [429] * len(refused)
    assert span_count(database) == MAX_EXPORTS


@pytest.fixture
def small(promscale, monkeypatch, slow_clients):
    """A web server of the store with memory for bodies of 1 MB together."""
    monkeypatch.setattr(web, "MAX_BODIES_BYTES", 1_000_000)
    server = Web(promscale.store, "127.0.0.1:0")
    yield server
    server.close()


def test_bodies_that_are_being_received_have_limited_memory(small, database):
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 600000\r\n\r\n".encode()
    message = request(span(tags={"fill": "x" * 600_000})).SerializeToString()
    with ExitStack() as senders:

        def is_refused() -> bool:
            half = senders.enter_context(socket.create_connection(("127.0.0.1", small.port)))
            half.sendall(head + bytes(450_000))
            return post(small, message).status_code == 429

        wait_until(is_refused, "no memory beside halves of bodies")
        answer = post(small, message)
        assert error(answer)[:2] == (429, code_pb2.RESOURCE_EXHAUSTED)
        assert int(answer.headers["Retry-After"]) > 0
        assert post(small, request(span("small")).SerializeToString()).status_code == 200
    wait_until(lambda: post(small, message).status_code == 200, "the memory of closed connections")


def test_a_promscale_that_is_starting_asks_to_retry_later(dsn, database):
    store = Store(dsn)
    server = Web(store, "127.0.0.1:0")
    data = request(span()).SerializeToString()
    try:
        answer = post(server, data)
        assert error(answer)[:2] == (503, code_pb2.UNAVAILABLE)
        assert int(answer.headers["Retry-After"]) > 0
        store.start()
        assert post(server, data).status_code == 200
        assert span_count(database) == 1
    finally:
        server.close()
        store.close()


def test_an_unexpected_error_is_logged_and_may_be_retried(promscale, monkeypatch, caplog):
    def fail(data: bytes) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(promscale.store, "write", fail)
    answer = post(promscale.web, request(span()).SerializeToString(), PROTOBUF)
    assert error(answer) == (503, code_pb2.UNAVAILABLE, "error in promscale: RuntimeError")
    assert "unforeseen" in caplog.text


def test_exports_are_counted_by_their_outcome(promscale):
    def counts() -> list[float]:
        names = ("OK", "INVALID_ARGUMENT")
        return [REGISTRY.get_sample_value("promscale_exports_total", {"code": name}) or 0 for name in names]

    before = counts()
    post(promscale.web, b"")
    post(promscale.web, b"{", JSON)
    post(promscale.web, b"", "text/plain")
    assert [after - count for after, count in zip(counts(), before, strict=True)] == [1, 2]
