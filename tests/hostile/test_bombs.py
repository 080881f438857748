"""Decompression bombs and other small exports that are large in memory: promscale's memory use has a limit."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from benchmarks.processes import Meter
from benchmarks.recording import Replay
from tests.compose_file import services, size
from tests.hostile import outcomes
from tests.hostile.messages import BOMBS, EMPTY, HTTP_BOMBS, MIB, distinct_attributes, with_resource

pytestmark = pytest.mark.slow

MAX_BYTES = size(services()["promscale"]["mem_limit"])  # of promscale's processes in total


def is_error(response: object) -> bool:
    return isinstance(response, grpc.StatusCode)


def kind(response: object) -> str:
    """The status of a response, by gRPC or HTTP."""
    match response:
        case grpc.StatusCode():
            return response.name
        case int():
            return str(response)
        case _:
            return "OK"


def attack(target, name: str, messages: list, concurrency: int = 1, send: Callable | None = None, **options) -> list:
    """The responses to these exports, by gRPC unless `send` says otherwise.

    Control spans before and after them must be stored, with limited memory.
    """
    send = send or target.export
    target.export_control()
    meter = Meter({"target": target.process}, sample_seconds=0.02)
    with ThreadPoolExecutor(concurrency) as senders:
        responses = list(senders.map(lambda message: send(message, **options), messages))
    peak = meter.stop()["target"].peak_bytes
    target.export_control()
    target.check()
    kinds = sorted(set(map(kind, responses)))
    outcomes.note(f"{len(messages)} x {name}", f"{', '.join(kinds)}, {peak // MIB} MiB at most")
    assert peak < MAX_BYTES
    return responses


@pytest.mark.parametrize("name", BOMBS)
def test_a_message_that_is_larger_in_memory(target, name):
    [response] = attack(target, name, [BOMBS[name]()])
    assert response == grpc.StatusCode.INVALID_ARGUMENT or not is_error(response)


@pytest.mark.parametrize("name", ["empty events", "empty attributes", "empty links"])
def test_a_message_that_is_sent_again(target, name):
    """promscale looks for its spans in the database, for which it reads the message in another way."""
    responses = attack(target, f"{name}, twice", [BOMBS[name]()] * 2)
    assert {response for response in responses if is_error(response)} <= {grpc.StatusCode.INVALID_ARGUMENT}


def test_concurrent_bombs(target):
    attack(target, "concurrent bombs", [bomb() for bomb in BOMBS.values()], concurrency=3)


def test_large_resources_are_not_cached(target):
    responses = attack(target, "a resource of 1 MiB", [with_resource(MIB) for _ in range(200)])
    assert not any(map(is_error, responses))


def test_concurrent_messages_of_the_size_limit(target):
    """Backpressure: exports beyond the memory limit get RESOURCE_EXHAUSTED, and succeed when they are sent again."""
    passwords = Replay(54_000, seed=7)
    messages = [passwords.request(time.time_ns()) for _ in range(5)] + [with_resource(16 * MIB - 1000)]
    assert min(map(len, messages)) > 15 * MIB
    responses = attack(target, "16 MiB, concurrently", messages, concurrency=6)
    assert {response for response in responses if is_error(response)} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    for message, response in zip(messages, responses, strict=True):
        if is_error(response):
            assert not is_error(target.export(message))
    target.check()


def test_concurrent_messages_above_the_size_limit(target):
    responses = attack(target, "40 MiB, concurrently", [with_resource(40 * MIB) for _ in range(6)], concurrency=6)
    assert set(responses) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert attack(target, "20 MiB", [with_resource(20 * MIB)]) == [grpc.StatusCode.INVALID_ARGUMENT]


def test_compressed_messages(target):
    bomb = b"\x0a\0" * (100 * MIB)
    responses = attack(target, "200 MiB, compressed", [bomb], compression=grpc.Compression.Gzip)
    assert responses == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    [response] = attack(target, "15 MiB, compressed", [b"\x0a\0" * EMPTY], compression=grpc.Compression.Gzip)
    assert response == grpc.StatusCode.INVALID_ARGUMENT or not is_error(response)


@pytest.mark.parametrize("name", HTTP_BOMBS)
def test_bombs_by_http(target, name):
    body, content_type, encoding = HTTP_BOMBS[name]()
    options = {"send": target.post, "content_type": content_type, "encoding": encoding}
    responses = attack(target, f"{name}, by HTTP", [body] * 12, 12, **options)
    assert set(responses) <= {200, 413, 429}


def test_different_attributes(target):
    responses = attack(target, "50,000 different attributes", [distinct_attributes(50_000) for _ in range(10)])
    assert not any(map(is_error, responses))
