"""Exports that cost memory or time, as bytes: protobuf libraries would not write such OTLP messages."""

import gzip
import random
from collections.abc import Callable

from promscale.otlp_http import JSON, MAX_JSON_VALUES, PROTOBUF
from tests.store.otlp_messages import request, span

MIB = 2**20
_random = random.Random(3)
EMPTY = 15 * MIB // 2  # the number of empty fields, of two bytes each, that fit in a message


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field: https://protobuf.dev/programming-guides/encoding/#length-types"""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(number: int) -> bytes:
    """A number in protobuf's encoding of variable length."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def span_with(content: bytes) -> bytes:
    """An export of one span with valid ids and this content."""
    return field(1, field(2, field(2, _minimal_span() + content)))


def with_resource(size: int) -> bytes:
    """An export of one span with a unique resource of this size."""
    message = request(span())
    message.resource_spans[0].resource.attributes.add(key="fill").value.string_value = _random.randbytes(
        size // 2
    ).hex()
    return message.SerializeToString()


def spans_of_one_resource(size: int, spans: int) -> bytes:
    """A resource of this size and spans of different traces, so that each trace has a copy of the resource."""
    return field(1, _resource(size) + field(2, b"".join(field(2, _minimal_span()) for _ in range(spans))))


def scopes_of_one_resource(size: int, scopes: int) -> bytes:
    """A resource of this size and scopes with one span each, so that the resource is read for each scope."""
    return field(1, _resource(size) + b"".join(field(2, field(2, _minimal_span())) for _ in range(scopes)))


def _resource(size: int) -> bytes:
    text = _random.randbytes(size // 2).hex().encode()
    return field(1, field(1, field(1, b"fill") + field(2, field(1, text))))


def _minimal_span() -> bytes:
    return field(1, _random.randbytes(16)) + field(2, _random.randbytes(8))


def distinct_attributes(count: int) -> bytes:
    """Spans with this total number of attributes, all of them different."""
    return request(
        *(
            span(tags={_random.randbytes(16).hex(): _random.randbytes(16).hex() for _ in range(100)})
            for _ in range(count // 100)
        )
    ).SerializeToString()


# By their names: messages that take many times more memory than bytes.
BOMBS: dict[str, Callable[[], bytes]] = {
    "empty resource_spans": lambda: b"\x0a\0" * EMPTY,
    "empty scope_spans": lambda: field(1, b"\x12\0" * EMPTY),
    "empty spans": lambda: field(1, field(2, b"\x12\0" * EMPTY)),
    "empty instrumentation_library_spans": lambda: field(1, b"\xc2\x3e\0" * (EMPTY * 2 // 3)),
    "empty events": lambda: span_with(b"\x5a\0" * EMPTY),
    "empty attributes": lambda: span_with(b"\x4a\0" * EMPTY),
    "empty links": lambda: span_with(b"\x6a\0" * EMPTY),
    "empty values in an attribute": lambda: span_with(
        field(9, field(1, b"key") + field(2, field(5, b"\x0a\0" * EMPTY)))
    ),
    "empty attributes of a resource": lambda: field(1, field(1, b"\x0a\0" * EMPTY) + field(2, b"")),
    "unknown fields": lambda: field(1, b"\xaa\x06\0" * (EMPTY * 2 // 3)),
    "a resource for each of 300,000 traces": lambda: spans_of_one_resource(MIB, 300_000),
    "a resource for each of 250,000 scopes": lambda: scopes_of_one_resource(MIB, 250_000),
    "minimal spans": lambda: spans_of_one_resource(2, 380_000),
}


def json_spans(span: str) -> bytes:
    """An export in JSON of spans like this one, as many as fit in 15 MiB."""
    return (
        f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{",".join([span] * (15 * MIB // len(span)))}]}}]}}]}}'.encode()
    )


# Characters beyond the Basic Multilingual Plane make Python take four bytes for each character of the text.
_WIDE = "x" * 30_000 + "\U0001f600"
_LINKS = ",".join(['{"traceId":""}'] * (MAX_JSON_VALUES // 1_100))
# By their names: bodies of HTTP, each with its content type and encoding.
HTTP_BOMBS: dict[str, Callable[[], tuple[bytes, str, str]]] = {
    "1 GiB, compressed": lambda: (gzip.compress(bytes(1024 * MIB), 1), PROTOBUF, "gzip"),
    "16 MiB": lambda: (with_resource(16 * MIB - 1000), PROTOBUF, "identity"),
    "millions of empty spans in JSON": lambda: (json_spans("{}"), JSON, "identity"),
    "large texts in JSON": lambda: (json_spans(f'{{"name":"{_WIDE}"}}'), JSON, "identity"),
    "large texts and many links in JSON": lambda: (
        json_spans(f'{{"links":[{_LINKS}],"name":"{_WIDE}"}}'),
        JSON,
        "identity",
    ),
}
