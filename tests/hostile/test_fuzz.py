"""Exports that are changed at random: none stops promscale, and none touches the spans that come between them."""

import random
import re
import urllib.request
from collections import Counter

import grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from promscale import wire_pb2 as wire
from tests.hostile import outcomes
from tests.store.otlp_messages import add_service, attributes, child, request, span

SEED = 11
EXPORTS = 3_000
CONTROL_EVERY = 25
# What a sender may be told: "yes", "never", and "later".
ALLOWED = {"OK", "partly", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def originals() -> list[bytes]:
    """Exports with something in every field, small and larger."""
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
    one = request(root, child(root), service="shop")
    many = request(*(child(root, f"step {number}") for number in range(50)), service="till")
    add_service(many, child(root), service="digit")
    return [message.SerializeToString() for message in (one, many)]


def changed(data: bytes, dice: random.Random) -> bytes:
    """One to four changes: bytes flipped, cut out, put in, moved, made a huge length, cut off."""
    data = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        if not data:
            break
        at = dice.randrange(len(data))
        to = min(at + dice.randint(1, 30), len(data))
        match dice.randrange(7):
            case 0:
                data[at] ^= 1 << dice.randrange(8)
            case 1:
                del data[at:to]
            case 2:
                data[at:at] = dice.randbytes(dice.randint(1, 20))
            case 3:
                data[at:at] = data[dice.randrange(len(data)) :][: dice.randint(1, 200)]
            case 4:
                data[at:to] = b"\xff" * (to - at)
            case 5:
                data[at:at] = b"\xff\xff\xff\xff\x0f"
            case 6:
                del data[dice.randrange(len(data)) :]
    return bytes(data)


def changed_within(data: bytes, dice: random.Random) -> bytes:
    """One part is changed, and the lengths around it are right: a span, a resource, a scope, or a URL of theirs."""
    message = wire.TracesData.FromString(data)
    resource_spans = dice.choice(message.resource_spans)
    scope_spans = dice.choice(resource_spans.scope_spans)
    match dice.randrange(6):
        case 0:
            resource_spans.resource = changed(resource_spans.resource, dice)
        case 1:
            resource_spans.schema_url = changed(resource_spans.schema_url or b"https://example", dice)
        case 2:
            scope_spans.scope = changed(scope_spans.scope or b"\n\7library", dice)
        case _:
            number = dice.randrange(len(scope_spans.spans))
            scope_spans.spans[number] = changed(scope_spans.spans[number], dice)
    return message.SerializeToString()


def stored_spans(target) -> int:
    with urllib.request.urlopen(f"http://{target.web}/metrics") as answer:
        return int(float(re.search(r"^promscale_stored_spans_total (\S+)$", answer.read().decode(), re.MULTILINE)[1]))


def test_changed_exports(target):
    dice = random.Random(SEED)
    samples = originals()
    answers = Counter()
    target.export_control()
    for number in range(EXPORTS):
        change = changed if dice.random() < 0.3 else changed_within
        answer = target.export(change(dice.choice(samples), dice))
        if isinstance(answer, grpc.StatusCode):
            answers[answer.name] += 1
        else:
            answers["partly" if answer.partial_success.rejected_spans else "OK"] += 1
        if number % CONTROL_EVERY == 0:
            target.export_control()
    counted = ", ".join(f"{count} {answer}" for answer, count in answers.most_common())
    outcomes.note(f"{EXPORTS:,} exports changed at random (seed {SEED})", counted)
    assert answers.keys() <= ALLOWED
    assert min(answers[what] for what in ("OK", "partly", "INVALID_ARGUMENT")) > EXPORTS / 100
    assert target.span_count() == stored_spans(target)
    target.check()
