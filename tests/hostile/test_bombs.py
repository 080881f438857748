"""Exports that are small to send and large to read: promscale's memory stays bounded, and it stores what comes between."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from benchmarks import store as stores
from benchmarks.recording import Replay
from tests.hostile import outcomes
from tests.hostile.messages import BOMBS, EMPTY, MIB, distinct_attributes, with_resource

MAX_BYTES = 400 * MIB  # of promscale's processes together


class Peak(threading.Thread):
    """The most memory of the target's processes while this is entered."""

    def __init__(self, target) -> None:
        super().__init__(daemon=True)
        self._process = target.process
        self._over = threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, stores.memory_bytes(self._process))

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self.join()


def attack(target, name: str, messages: list[bytes], at_once: int = 1, **options) -> list:
    """The answers to these exports; between them and afterwards, control spans are stored, in bounded memory."""
    target.export_control()
    with Peak(target) as peak, ThreadPoolExecutor(at_once) as senders:
        answers = list(senders.map(lambda message: target.export(message, **options), messages))
    target.export_control()
    target.check()
    kinds = sorted({answer.name if isinstance(answer, grpc.StatusCode) else "OK" for answer in answers})
    outcomes.note(f"{len(messages)} x {name}", f"{', '.join(kinds)}, {peak.bytes // MIB} MiB at most")
    assert peak.bytes < MAX_BYTES
    return answers


@pytest.mark.parametrize("name", BOMBS)
def test_a_message_that_is_larger_in_memory(target, name):
    [answer] = attack(target, name, [BOMBS[name]()])
    assert answer == grpc.StatusCode.INVALID_ARGUMENT or not isinstance(answer, grpc.StatusCode)


def test_several_at_once(target):
    attack(target, "all bombs at once", [make() for make in BOMBS.values()], at_once=3)


def test_large_resources_are_not_remembered(target):
    answers = attack(target, "a resource of 1 MiB", [with_resource(MIB) for _ in range(200)])
    assert not any(isinstance(answer, grpc.StatusCode) for answer in answers)


def test_messages_of_the_size_limit_at_once(target):
    """Those for which there is no room are to be sent again, and none is refused for ever."""
    passwords = Replay(54_000)
    messages = [passwords.request(time.time_ns()) for _ in range(5)] + [with_resource(16 * MIB - 1000)]
    assert min(map(len, messages)) > 15 * MIB
    answers = attack(target, "16 MiB at once", messages, at_once=6)
    assert not any(
        isinstance(answer, grpc.StatusCode) for answer in answers if answer != grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    for message, answer in zip(messages, answers, strict=True):
        if answer == grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert not isinstance(target.export(message), grpc.StatusCode)
    target.check()


def test_messages_above_the_size_limit_at_once(target):
    answers = attack(target, "40 MiB at once", [with_resource(40 * MIB) for _ in range(6)], at_once=6)
    assert set(answers) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert attack(target, "20 MiB", [with_resource(20 * MIB)]) == [grpc.StatusCode.INVALID_ARGUMENT]


def test_compressed_messages(target):
    bomb = b"\x0a\0" * (500 * MIB)
    answers = attack(target, "1,000 MiB, compressed", [bomb], compression=grpc.Compression.Gzip)
    assert answers == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    answers = attack(target, "15 MiB, compressed", [b"\x0a\0" * EMPTY], compression=grpc.Compression.Gzip)
    assert answers == [grpc.StatusCode.INVALID_ARGUMENT]


def test_attributes_that_are_all_different(target):
    answers = attack(target, "50,000 different attributes", [distinct_attributes(50_000) for _ in range(10)])
    assert not any(isinstance(answer, grpc.StatusCode) for answer in answers)
