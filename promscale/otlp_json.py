"""Reads OTLP/JSON: protobuf's JSON mapping, but ids in hex and enums as numbers.

https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

import base64
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Json = dict[str, Any]

_ID_FIELDS = ("traceId", "spanId", "parentSpanId")


def parse(text: bytes) -> bytes:
    """A serialized ExportTraceServiceRequest from one in OTLP/JSON. Raises ValueError."""
    document = orjson.loads(text)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return from_document(document)


def from_document(document: Json) -> bytes:
    """The same from parsed JSON, which it may change. Raises ValueError."""
    try:
        message = ExportTraceServiceRequest(**_arguments(ExportTraceServiceRequest.DESCRIPTOR, document))
        request = message.SerializeToString()
        ExportTraceServiceRequest.FromString(request)  # which refuses values that are nested too deeply
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, DecodeError):
        return _parsed(document)
    return request


def _parsed(document: Json) -> bytes:
    """The same by protobuf's library, which is several times slower. It accepts all of protobuf's JSON mapping, such as
    unknown fields and names of enums, and its errors say what is wrong. Raises ValueError."""
    try:
        _convert_ids(document, lambda text: base64.b64encode(bytes.fromhex(text)).decode())
        message = json_format.ParseDict(document, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (json_format.ParseError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None
    return message.SerializeToString()


def _convert_ids(message: Json, convert: Callable[[str], str]) -> None:
    """Protobuf's JSON mapping has bytes in base64."""
    for resource_spans in message.get("resourceSpans", ()):
        for scope_spans in resource_spans.get("scopeSpans", ()):
            for span in scope_spans.get("spans", ()):
                for item in (span, *span.get("links", ())):
                    for name in _ID_FIELDS:
                        if name in item:
                            item[name] = convert(item[name])


# Messages in JSON as arguments of protobuf's constructors. Whatever is unusual is an exception, and left to `_parsed`.


def _arguments(descriptor: Descriptor, message: Json) -> Json:
    fields = _fields(descriptor)
    if descriptor.oneofs and len(message) > 1:
        raise ValueError("more than one value")
    arguments = {}
    for json_name, value in message.items():
        name, convert = fields[json_name]
        if value is not None:
            arguments[name] = convert(value)
    return arguments


@cache
def _fields(descriptor: Descriptor) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """Protobuf's names of a message's fields, by their names in JSON, and what converts their values."""
    return {field.json_name: (field.name, _converter(field)) for field in descriptor.fields}


def _converter(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.message_type:
        convert = partial(_arguments, field.message_type)
        return (lambda items: [convert(item) for item in _list(items)]) if field.is_repeated else convert
    if field.is_repeated:  # texts, which the constructor checks
        return _list
    return bytes.fromhex if field.json_name in _ID_FIELDS else _SCALARS.get(field.type, _integer)


def _only(*types: type) -> Callable[[Any], Any]:
    """Protobuf's constructors accept some values of other types, which its JSON mapping refuses."""

    def checked(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{type(value)} is not one of {types}")
        return value

    return checked


_list, _int = _only(list), _only(int)


def _integer(value: Any) -> int:
    return int(value) if isinstance(value, str) and " " not in value else _int(value)


_SCALARS: dict[int, Callable[[Any], Any]] = {
    FieldDescriptor.TYPE_STRING: _only(str),
    FieldDescriptor.TYPE_BOOL: _only(bool),
    FieldDescriptor.TYPE_DOUBLE: _only(float, int),
    FieldDescriptor.TYPE_BYTES: partial(base64.b64decode, validate=True),
}
