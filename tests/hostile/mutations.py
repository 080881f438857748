"""Random mutations of serialized exports."""

import random
from typing import NamedTuple

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from promscale import wire_pb2 as wire
from tests.hostile.messages import varint
from tests.store.otlp_messages import add_service, attributes, child, request, span


def originals() -> list[bytes]:
    """Two exports, a small and a larger one, which use every field."""
    root = span(
        "GET /",
        {"text": "red", "bytes": b"\0\xff", "list": [1, [2.5, None]], "map": {"deep": {"deeper": True}}},
        kind=Span.SPAN_KIND_SERVER,
        trace_state="vendor=1",
        status=Status(code=Status.STATUS_CODE_ERROR, message="it failed"),
        events=[Span.Event(name="event", time_unix_nano=1, attributes=attributes({"key": "value"}))],
        links=[Span.Link(trace_id=b"1" * 16, span_id=b"2" * 8, attributes=attributes({"key": 1}))],
        dropped_attributes_count=1,
        dropped_events_count=2,
        dropped_links_count=3,
    )
    small = request(root, child(root), service="shop")
    large = request(*(child(root, f"step {number}") for number in range(50)), service="till")
    add_service(large, child(root), service="digit")
    return [message.SerializeToString() for message in (small, large)]


def mutate(original: bytes, dice: random.Random) -> bytes:
    """One to four mutations: a flipped bit, removed, inserted, copied or overwritten bytes, a huge length, no end."""
    data = bytearray(original)
    for _ in range(dice.randint(1, 4)):
        if not data:
            break
        begin = dice.randrange(len(data))
        end = min(begin + dice.randint(1, 30), len(data))
        match dice.randrange(7):
            case 0:
                data[begin] ^= 1 << dice.randrange(8)
            case 1:
                del data[begin:end]
            case 2:
                data[begin:begin] = dice.randbytes(dice.randint(1, 20))
            case 3:
                data[begin:begin] = data[dice.randrange(len(data)) :][: dice.randint(1, 200)]
            case 4:
                data[begin:end] = b"\xff" * (end - begin)
            case 5:
                data[begin:begin] = b"\xff\xff\xff\xff\x0f"
            case 6:
                del data[dice.randrange(len(data)) :]
    return bytes(data)


def mutate_part(data: bytes, dice: random.Random) -> bytes:
    """A mutation of one part (a span, a resource, a scope or a schema URL), with correct lengths around it."""
    message = wire.TracesData.FromString(data)
    resource_spans = dice.choice(message.resource_spans)
    scope_spans = dice.choice(resource_spans.scope_spans)
    match dice.randrange(6):
        case 0:
            resource_spans.resource = mutate(resource_spans.resource, dice)
        case 1:
            resource_spans.schema_url = mutate(resource_spans.schema_url or b"https://example", dice)
        case 2:
            scope_spans.scope = mutate(scope_spans.scope or b"\n\7library", dice)
        case _:
            number = dice.randrange(len(scope_spans.spans))
            scope_spans.spans[number] = mutate(scope_spans.spans[number], dice)
    return message.SerializeToString()


class Field(NamedTuple):
    """A field in protobuf's wire format: https://protobuf.dev/programming-guides/encoding/"""

    number: int
    wire_type: int
    value: bytes  # as it is written: a varint, 8 or 4 bytes, a length-delimited value without its length, or a group

    def serialized(self, dice: random.Random) -> bytes:
        """The field; one varint in 200 is longer than necessary, which protobuf allows within limits."""
        tag = _padded(varint(self.number << 3 | self.wire_type), dice)
        return tag + (_padded(varint(len(self.value)), dice) if self.wire_type == _BYTES else b"") + self.value


_VARINT, _FIXED64, _BYTES, _GROUP, _FIXED32 = 0, 1, 2, 3, 5
_NUMBERS = (*range(1, 17), 101, 1000, 2**29 - 1)
_NUMBER_VALUES = (0, 1, 2, 5, 127, 128, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
_TEXTS = (
    *(b"", b"a", b"a\0b", b"service.name", bytes(8), bytes(16), b"x" * 1001, "\u00e9".encode() * 501),
    # Not UTF-8: what cannot begin a character, what cannot continue one, what is cut off, and what Unicode excludes.
    *(
        b"\xff",
        b"\x80",
        b"\xc0\x80",
        b"\xc3",
        b"\xc3(",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf0\x9f\x98",
        b"\xf4\x90\x80\x80",
    ),
)


def mutate_tree(message: bytes, dice: random.Random) -> bytes:
    """One mutation of a field anywhere in a message, with correct lengths around it: removed, copied, moved, replaced,
    renumbered, or a new one. What looks like a message is taken for one."""
    fields = _parsed(message)
    nested = [index for index, field in enumerate(fields or ()) if field.wire_type == _BYTES and field.value]
    if fields is None:
        return dice.choice(_TEXTS)
    if nested and dice.random() < 0.8:
        index = dice.choice(nested)
        fields[index] = fields[index]._replace(value=mutate_tree(fields[index].value, dice))
    else:
        index = dice.randrange(len(fields) + 1)
        here = fields[index : index + 1]
        match dice.randrange(5):
            case 0:
                fields[index:index] = [_any_field(dice)]
            case 1:
                fields[index : index + 1] = [_any_field(dice)._replace(number=field.number) for field in here]
            case 2:
                fields[index : index + 1] = [field._replace(number=dice.choice(_NUMBERS)) for field in here]
            case 3:
                fields[index : index + 1] = here * dice.choice((0, 2))
            case 4:
                dice.shuffle(fields)
    return b"".join(field.serialized(dice) for field in fields)


def _any_field(dice: random.Random) -> Field:
    number = dice.choice(_NUMBERS)
    match dice.choice((_VARINT, _FIXED64, _FIXED32, _BYTES, _BYTES, _GROUP)):
        case 0:
            return Field(number, _VARINT, varint(dice.choice((*_NUMBER_VALUES, dice.getrandbits(64)))))
        case 1:
            return Field(number, _FIXED64, dice.randbytes(8))
        case 5:
            return Field(number, _FIXED32, dice.randbytes(4))
        case 3:
            depth = dice.choice((1, 1, 2, 95, 96, 97, 98, 99, 100, 101))
            begin, end = varint(number << 3 | 3), varint(number << 3 | 4)
            return Field(number, _GROUP, begin * (depth - 1) + dice.choice((b"", b"\x01" + bytes(8))) + end * depth)
    return Field(number, _BYTES, dice.choice((*_TEXTS, dice.randbytes(dice.choice((8, 16))), _nested_value(dice))))


def _nested_value(dice: random.Random) -> bytes:
    """An AnyValue of arrays and maps around each other, near the depth that protobuf limits or far from it."""
    value = dice.choice((b"", b"\x18\1", b"\x0a\1\xff"))
    for _ in range(dice.choice((1, 2, 3, 23, 24, 25, 32, 33, 47, 48, 49, 50, 51))):
        is_map = dice.random() < 0.5
        item = b"\x0a\1k\x12" + varint(len(value)) + value if is_map else value
        content = b"\x0a" + varint(len(item)) + item
        value = (b"\x32" if is_map else b"\x2a") + varint(len(content)) + content
    return value


def _padded(number: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.995:
        return number
    return number[:-1] + bytes([number[-1] | 0x80]) + b"\x80" * dice.choice((0, 1, 2, 8)) + b"\0"


def _parsed(message: bytes) -> list[Field] | None:
    """The fields of a message, or None if the bytes are none; groups are not recognised."""
    fields = []
    position = 0

    def number() -> int:
        nonlocal position
        total = shift = 0
        while True:
            byte = message[position]
            total |= (byte & 0x7F) << shift
            position, shift = position + 1, shift + 7
            if byte < 0x80:
                return total

    try:
        while position < len(message):
            tag = number()
            begin, size = position, {_FIXED64: 8, _FIXED32: 4}.get(tag & 7)
            if tag & 7 == _VARINT:
                number()
                size = position - begin
            elif tag & 7 == _BYTES:
                size = number()
                begin = position
            if size is None or begin + size > len(message) or not 0 < tag >> 3 <= _NUMBERS[-1]:
                return None
            position = begin + size
            fields.append(Field(tag >> 3, tag & 7, message[begin:position]))
    except IndexError:
        return None
    return fields
