"""Fuzzing: exports with random mutations. promscale must neither stop nor lose the valid spans in between."""

import random
import re
import urllib.request
from collections import Counter

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from promscale import wire_pb2 as wire
from promscale.otlp_http import JSON
from tests.hostile import outcomes
from tests.store.otlp_messages import add_service, attributes, child, request, span
from transfer.otlp_files import to_json

SEED = 11
EXPORTS = 3_000
CONTROL_EVERY = 25
# The permitted responses: success, a permanent error, and errors after which the sender retries.
ALLOWED = {"OK", "partly", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


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


def stored_spans(target) -> int:
    with urllib.request.urlopen(f"http://{target.web}/metrics") as response:
        [value] = re.findall(r"^promscale_stored_spans_total (\S+)$", response.read().decode(), re.MULTILINE)
        return int(float(value))


@pytest.mark.slow
def test_mutated_json(target):
    dice = random.Random(SEED)
    samples = list(map(to_json, originals()))
    responses = Counter()
    for _ in range(EXPORTS):
        responses[target.post(mutate(dice.choice(samples), dice), JSON)] += 1
    target.export_control()
    counts = ", ".join(f"{count} {status}" for status, count in responses.most_common())
    outcomes.note(f"{EXPORTS:,} exports in JSON with random mutations (seed {SEED})", counts)
    assert responses.keys() <= {200, 400}
    assert min(responses.values()) > EXPORTS / 100
    target.check()


@pytest.mark.slow
def test_mutated_exports(target):
    dice = random.Random(SEED)
    samples = originals()
    responses = Counter()
    target.export_control()
    for number in range(EXPORTS):
        mutation = mutate if dice.random() < 0.3 else mutate_part
        response = target.export(mutation(dice.choice(samples), dice))
        if isinstance(response, grpc.StatusCode):
            responses[response.name] += 1
        else:
            responses["partly" if response.partial_success.rejected_spans else "OK"] += 1
        if number % CONTROL_EVERY == 0:
            target.export_control()
    counts = ", ".join(f"{count} {name}" for name, count in responses.most_common())
    outcomes.note(f"{EXPORTS:,} exports with random mutations (seed {SEED})", counts)
    assert responses.keys() <= ALLOWED
    assert min(responses[name] for name in ("OK", "partly", "INVALID_ARGUMENT")) > EXPORTS / 100
    assert target.span_count() == stored_spans(target)
    target.check()
