"""The part of Jaeger's HTTP query API that Grafana's Jaeger data source uses, in the JSON that Jaeger's UI reads."""

import base64
import json
import time
from collections.abc import Iterable
from typing import Any

from flask import Blueprint, request
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from werkzeug.exceptions import HTTPException, NotFound

from explorer.query import bad_parameter, read_int, read_query, read_trace_id
from explorer.store import Store
from explorer.trace import Process, Span, Trace
from promscale.otlp import SPAN_KINDS, STATUS_CODES, plain

DAY_MILLIS = 24 * 3600 * 1000
_MAX_MILLIS = 253_402_300_799_000  # the end of the year 9999
_TYPES = {bool: "bool", int: "int64", float: "float64"}

Json = dict[str, Any]


def jaeger_api(store: Store) -> Blueprint:
    """Everything under /api. Every response has Jaeger's form: data, total, limit, offset, errors."""
    api = Blueprint("api", __name__, url_prefix="/api")

    @api.get("/services")
    def services() -> Json:
        return _response(store.services())

    @api.get("/services/<path:service>/operations")
    def operation_names(service: str) -> Json:
        return _response(sorted({name for name, _ in store.operations(service)}))

    @api.get("/operations")
    def operations() -> Json:
        service = request.args.get("service", "")
        if not service:
            raise bad_parameter("service", "is missing")
        operations = store.operations(service, request.args.get("spanKind", ""))
        return _response([{"name": name, "spanKind": kind} for name, kind in operations])

    @api.get("/traces")
    def traces() -> Json:
        if ids := request.args.getlist("traceID"):
            traces = store.traces([read_trace_id(text) for text in ids])
        else:
            traces = store.find(read_query(request.args, default_unit=""))
        return _response([trace_json(chunks) for chunks in traces.values()])

    @api.get("/traces/<trace_id>")
    def trace(trace_id: str) -> Json:
        traces = store.traces([read_trace_id(trace_id)])
        if not traces:
            raise NotFound("trace not found")
        return _response([trace_json(chunks) for chunks in traces.values()])

    @api.get("/dependencies")
    def dependencies() -> Json:
        end = read_int(request.args, "endTs", time.time_ns() // 10**6, 0, _MAX_MILLIS)
        lookback = read_int(request.args, "lookback", DAY_MILLIS, 0, _MAX_MILLIS)
        dependencies = store.dependencies(max(end - lookback, 0) * 10**6, end * 10**6)
        return _response([{"parent": d.caller, "child": d.callee, "callCount": d.calls} for d in dependencies])

    @api.get("/<path:path>")
    def unknown(path: str) -> Json:
        raise NotFound(f"there is no /api/{path}")

    @api.errorhandler(HTTPException)
    def error(error: HTTPException) -> tuple[Json, int]:
        return _response(None, [{"code": error.code, "msg": error.description}]), error.code or 500

    return api


def _response(data: list[Any] | None, errors: list[Json] | None = None) -> Json:
    return {"data": data, "total": len(data or []), "limit": 0, "offset": 0, "errors": errors}


def trace_json(chunks: Iterable[TracesData]) -> Json:
    """A trace in the form of Jaeger's HTTP API; times are microseconds."""
    trace = Trace(chunks)
    processes = {process: f"p{number}" for number, process in enumerate(trace.processes, 1)}
    return {
        "traceID": trace.spans[0].otlp.trace_id.hex(),
        "spans": [_span(span, processes[span.process]) for span in trace.spans],
        "processes": {name: _process(process) for process, name in processes.items()},
        "warnings": None,
    }


def _span(span: Span, process_id: str) -> Json:
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


def _process(process: Process) -> Json:
    tags = [_tag(item) for item in process.resource.attributes if item.key != "service.name"]
    return {"serviceName": process.service, "tags": tags}


def _tags_of_fields(span: Span) -> list[Json]:
    """Fields of OTLP that are tags in Jaeger: https://opentelemetry.io/docs/specs/otel/common/mapping-to-non-otlp/"""
    otlp, scope = span.otlp, span.process.scope
    # Numbers that OTLP does not define are left out.
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


def _text_tag(key: str, value: str) -> Json:
    return {"key": key, "type": "string", "value": value}


def _tag(item: KeyValue) -> Json:
    return {"key": item.key, **_typed(item.value)}


def _typed(value: AnyValue) -> Json:
    if value.WhichOneof("value") == "bytes_value":
        return {"type": "binary", "value": base64.b64encode(value.bytes_value).decode()}
    python_value = plain(value)
    if kind := _TYPES.get(type(python_value)):
        return {"type": kind, "value": python_value}
    text = python_value if isinstance(python_value, str) else json.dumps(python_value, ensure_ascii=False)
    return {"type": "string", "value": text}
