"""Exports that are made to cost memory or time: OTLP messages as bytes, because no library would make them."""

import os
from collections.abc import Callable

from tests.store.otlp_messages import request, span

MIB = 2**20
EMPTY = 15 * MIB // 2  # as many empty fields, of two bytes each, fit in a message


def field(number: int, value: bytes) -> bytes:
    """A field of protobuf's wire format that has a length."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def span_with(content: bytes) -> bytes:
    """An export of one span that has valid ids and this besides."""
    return field(1, field(2, field(2, _minimal_span() + content)))


def with_resource(size: int) -> bytes:
    """An export of one span of a resource of that size, which no other has."""
    message = request(span())
    message.resource_spans[0].resource.attributes.add(key="fill").value.string_value = os.urandom(size // 2).hex()
    return message.SerializeToString()


def spans_of_one_resource(size: int, spans: int) -> bytes:
    """A resource of that size, and spans that are each a trace of its own, so that each trace has the resource again."""
    return field(1, _resource(size) + field(2, b"".join(field(2, _minimal_span()) for _ in range(spans))))


def scopes_of_one_resource(size: int, scopes: int) -> bytes:
    """A resource of that size, and as many scopes, each with a span, so that the resource is looked at for each."""
    return field(1, _resource(size) + b"".join(field(2, field(2, _minimal_span())) for _ in range(scopes)))


def _resource(size: int) -> bytes:
    text = os.urandom(size // 2).hex().encode()
    return field(1, field(1, field(1, b"fill") + field(2, field(1, text))))


def _minimal_span() -> bytes:
    return field(1, os.urandom(16)) + field(2, os.urandom(8))


def distinct_attributes(count: int) -> bytes:
    """Spans with so many attributes altogether, no two the same."""
    return request(
        *(span(tags={os.urandom(16).hex(): os.urandom(16).hex() for _ in range(100)}) for _ in range(count // 100))
    ).SerializeToString()


# By what they are: each is larger in memory than as bytes, many times.
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
