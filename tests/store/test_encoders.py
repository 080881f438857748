"""The Rust encoder gives the same as the Python encoder, which is the reference; and which of them promscale uses."""

import random
import time
from functools import partial
from itertools import chain

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from prometheus_client import REGISTRY

from benchmarks.recording import Replay
from promscale import encoders, otlp
from promscale import wire_pb2 as wire
from promscale.encoders import RustEncoder, chosen_encoder
from tests.hostile.mutations import mutate, mutate_part, mutate_tree, originals
from tests.store.any_otlp import assign_ids, requests
from tests.store.otlp_messages import request, span

MUTATIONS = 3_000


@pytest.fixture(scope="module")
def rust() -> RustEncoder:
    pytest.importorskip(encoders.RUST_MODULE, reason="the Rust encoder is not built, which needs cargo")
    return RustEncoder()


def outcome(encode, data: bytes) -> tuple:
    """All that encoding gives, in a form that can be compared."""
    try:
        rows, refusals = encode(data)
    except otlp.MalformedRequest as error:
        return type(error), str(error)
    copied = b"".join(rows.spans), b"".join(rows.traces_data), rows.size()
    return rows.count, *copied, rows.origins, rows.minutes, rows.trace_ids, rows.tag_sets_version, refusals


def some_tag_sets(data: bytes) -> otlp.TagSets:
    """The attributes of one of the spans, or of two together, as the tag set of all origins in this request."""
    try:
        exports = list(otlp.read_exports(data))
    except otlp.MalformedRequest:
        return otlp.NO_TAG_SETS
    spans = [wire.Span.FromString(each.raw) for export in exports for each in export.spans]
    with_attributes = [each for each in spans if each.attributes]
    if not with_attributes:
        return otlp.NO_TAG_SETS
    dice = random.Random(len(data))
    chosen = [dice.choice(with_attributes) for _ in range(dice.choice((1, 1, 2)))]
    tags: dict[str, object] = {}
    for serialized in chain.from_iterable(each.attributes for each in chosen):
        attribute = KeyValue.FromString(serialized)
        tags[attribute.key.replace("\0", "\ufffd")] = otlp.plain(attribute.value)
    tag_set = otlp.TagSet.of(-7, tags)
    return otlp.TagSets(3, {origin_id: tag_set for export in exports for origin_id in export.origins})


def assert_same(rust: RustEncoder, data: bytes) -> tuple:
    """With and without tag sets. Returns the outcome without them."""
    tag_sets = some_tag_sets(data)
    rust.use_tag_sets(tag_sets)
    assert outcome(rust.encode, data) == outcome(partial(otlp.encode, tag_sets=tag_sets), data), (data.hex(), tag_sets)
    rust.use_tag_sets(otlp.NO_TAG_SETS)
    expected, actual = outcome(otlp.encode, data), outcome(rust.encode, data)
    assert actual == expected, data.hex()
    return actual


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(requests, st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3))
def test_any_otlp(rust, message, trace_ids):
    assign_ids(trace_ids, message)
    assert_same(rust, message.SerializeToString())


@pytest.mark.parametrize("mutation", [mutate, mutate_part, mutate_tree])
def test_mutated_exports(rust, mutation):
    dice = random.Random(5)
    samples = [*originals(), Replay(20, seed=1).request(time.time_ns())]
    kinds = set()
    for _ in range(MUTATIONS):
        data = dice.choice(samples)
        for _ in range(dice.choice((1, 1, 2, 4)) if mutation is mutate_tree else 1):
            data = mutation(data, dice)
        first, *_, last = assert_same(rust, data)
        kinds.add("malformed" if first is otlp.MalformedRequest else "refusals" if last.count else "all stored")
    assert {"refusals", "all stored"} <= kinds


def test_a_recording_of_the_demo(rust):
    # More spans than one batch has.
    assert_same(rust, Replay(20_000, seed=2).request(time.time_ns()))


@pytest.mark.parametrize("number", [0.0, -0.0, 1e-4, 9e-5, 1.5e-5, 1e-7, 5e-324, 1e15, 1e16, 1.5e300, 0.1, -2.5])
def test_numbers_in_small_and_large_values(rust, number):
    """For a value of a MiB, the reference uses another library, which writes some numbers differently."""
    for size in (1, 2**20):
        assert_same(rust, request(span(tags={"list": [number, "x" * size]})).SerializeToString())


def test_a_request_whose_rows_would_be_too_large(rust):
    large = request(*(span() for _ in range(300)))
    large.resource_spans[0].resource.attributes.add(key="fill").value.string_value = (
        random.Random(1).randbytes(2**19).hex()
    )
    assert assert_same(rust, large.SerializeToString())[0] is otlp.TooLarge


def test_a_panic_costs_only_its_export(rust, promscale, monkeypatch):
    class Panicking:
        Malformed, TooLarge, Panic = (getattr(rust._extension, name) for name in ("Malformed", "TooLarge", "Panic"))

        def encode(self, request: bytes, tag_sets: object) -> None:
            raise self.Panic("index out of bounds")

    encoder = RustEncoder()
    monkeypatch.setattr(promscale.store, "encoder", encoder)
    panics = REGISTRY.get_sample_value("promscale_encoder_panics_total")
    with monkeypatch.context() as defect:
        defect.setattr(encoder, "_extension", Panicking())
        with pytest.raises(grpc.RpcError) as caught:
            promscale.export(request(span()))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert REGISTRY.get_sample_value("promscale_encoder_panics_total") == panics + 1
    assert not promscale.export(request(span())).HasField("partial_success")


def test_the_rust_encoder_is_used_where_it_is_installed(rust, monkeypatch):
    assert chosen_encoder().name == "rust"
    assert chosen_encoder("python").name == "python"
    monkeypatch.setattr(encoders, "RUST_MODULE", "promscale_encoder_that_is_not_installed")
    assert chosen_encoder().name == "python"
    with pytest.raises(ModuleNotFoundError):
        chosen_encoder("rust")
