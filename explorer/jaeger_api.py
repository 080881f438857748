"""Jaeger's HTTP query API, as far as Grafana's Jaeger data source needs it, in the JSON that Jaeger's own UI reads."""

import base64
import json
import time
from collections.abc import Iterable

from flask import Blueprint, request
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from werkzeug.exceptions import HTTPException, NotFound

from explorer.query import bad_parameter, read_int, read_query, read_trace_id
from explorer.store import Store
from explorer.trace import Process, Span, Trace
from promscale.otlp import SPAN_KINDS, STATUS_CODES, plain

DAY_MILLIS = 24 * 3600 * 1000
_MAX_MILLIS = 253_402_300_799_000
_TYPES = {bool: "bool", int: "int64", float: "float64"}


def jaeger_api(store: Store) -> Blueprint:
    """Everything under /api. Every answer has Jaeger's form: data, total, limit, offset, errors."""
    api = Blueprint("api", __name__, url_prefix="/api")

    @api.get("/services")
    def services():
        return _answer(store.services())

    @api.get("/services/<path:service>/operations")
    def operation_names(service: str):
        return _answer(sorted({name for name, _ in store.operations(service)}))

    @api.get("/operations")
    def operations():
        service = request.args.get("service", "")
        if not service:
            raise bad_parameter("service", "is missing")
        found = store.operations(service, request.args.get("spanKind", ""))
        return _answer([{"name": name, "spanKind": kind} for name, kind in found])

    @api.get("/traces")
    def traces():
        if ids := request.args.getlist("traceID"):
            found = store.traces([read_trace_id(text) for text in ids])
        else:
            found = store.find(read_query(request.args))
        return _answer([trace_json(chunks) for chunks in found.values()])

    @api.get("/traces/<trace_id>")
    def one_trace(trace_id: str):
        found = store.traces([read_trace_id(trace_id)])
        if not found:
            raise NotFound("trace not found")
        return _answer([trace_json(chunks) for chunks in found.values()])

    @api.get("/dependencies")
    def dependencies():
        end = read_int(request.args, "endTs", time.time_ns() // 10**6, 0, _MAX_MILLIS)
        lookback = read_int(request.args, "lookback", DAY_MILLIS, 0, _MAX_MILLIS)
        found = store.dependencies(max(end - lookback, 0) * 10**6, end * 10**6)
        return _answer([{"parent": d.parent, "child": d.child, "callCount": d.call_count} for d in found])

    @api.get("/<path:path>")
    def unknown(path: str):
        raise NotFound(f"there is no /api/{path}")

    @api.errorhandler(HTTPException)
    def error(error: HTTPException):
        return _answer(None, [{"code": error.code, "msg": error.description}]), error.code

    return api


def _answer(data: list | None, errors: list[dict] | None = None) -> dict:
    return {"data": data, "total": len(data or []), "limit": 0, "offset": 0, "errors": errors}


def trace_json(chunks: Iterable[TracesData]) -> dict:
    """A trace in the form of Jaeger's HTTP API; times are microseconds."""
    trace = Trace(chunks)
    processes = {process: f"p{number}" for number, process in enumerate(trace.processes, 1)}
    return {
        "traceID": trace.spans[0].otlp.trace_id.hex(),
        "spans": [_span(span, processes[span.process]) for span in trace.spans],
        "processes": {name: _process(process) for process, name in processes.items()},
        "warnings": None,
    }


def _span(span: Span, process_id: str) -> dict:
    otlp = span.otlp
    trace_id = otlp.trace_id.hex()
    references = [("CHILD_OF", trace_id, otlp.parent_span_id.hex())] if otlp.parent_span_id else []
    references += [("FOLLOWS_FROM", link.trace_id.hex(), link.span_id.hex()) for link in otlp.links]
    return {
        "traceID": trace_id,
        "spanID": otlp.span_id.hex(),
        "operationName": otlp.name,
        "references": [{"refType": kind, "traceID": trace, "spanID": parent} for kind, trace, parent in references],
        "startTime": span.start // 1000,
        "duration": (span.end - span.start) // 1000,
        "tags": [*map(_tag, otlp.attributes), *_tags_of_fields(span)],
        "logs": [
            {
                "timestamp": event.time_unix_nano // 1000,
                "fields": [_text_tag("event", event.name), *map(_tag, event.attributes)],
            }
            for event in otlp.events
        ],
        "processID": process_id,
        "warnings": None,
    }


def _process(process: Process) -> dict:
    tags = [_tag(item) for item in process.resource.attributes if item.key != "service.name"]
    return {"serviceName": process.service, "tags": tags}


def _tags_of_fields(span: Span) -> list[dict]:
    """What OTLP has fields for and Jaeger's form has not."""
    otlp, scope = span.otlp, span.process.scope
    # Numbers that no version of OTLP has given a meaning to yet are left out.
    texts = {
        "span.kind": SPAN_KINDS[otlp.kind] if 0 < otlp.kind < len(SPAN_KINDS) else "",
        "otel.status_code": STATUS_CODES[otlp.status.code].upper() if 0 < otlp.status.code < len(STATUS_CODES) else "",
        "otel.status_description": otlp.status.message,
        "otel.scope.name": scope.name,
        "otel.scope.version": scope.version,
        "w3c.tracestate": otlp.trace_state,
    }
    tags = [_text_tag(key, value) for key, value in texts.items() if value]
    return tags + ([{"key": "error", "type": "bool", "value": True}] if span.failed else [])


def _text_tag(key: str, value: str) -> dict:
    return {"key": key, "type": "string", "value": value}


def _tag(item: KeyValue) -> dict:
    return {"key": item.key, **_typed(item.value)}


def _typed(value: AnyValue) -> dict:
    if value.WhichOneof("value") == "bytes_value":
        return {"type": "binary", "value": base64.b64encode(value.bytes_value).decode()}
    simple = plain(value)
    if kind := _TYPES.get(type(simple)):
        return {"type": kind, "value": simple}
    return {"type": "string", "value": simple if isinstance(simple, str) else json.dumps(simple, ensure_ascii=False)}
