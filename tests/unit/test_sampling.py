"""Sampling by a flag: head sampling, and what is left to the Collector."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from faults.flags import FlagFile
from telemetry import flags
from telemetry.sampling import TAIL_LATENCY_MS, FlagSampler


def recorded(count: int = 400, otherwise=ALWAYS_ON) -> int:
    provider = TracerProvider(sampler=FlagSampler(otherwise))
    tracer = provider.get_tracer("test")
    return sum(tracer.start_span("root").is_recording() for _ in range(count))


def set_percent(flag_file: FlagFile, percent: float) -> None:
    flag_file.set(sampling={"percent": percent})
    flags.start()


def test_the_flag_sets_the_percentage_of_traces(switch, flag_file):
    assert recorded() == 400
    assert recorded(otherwise=ALWAYS_OFF) == 0
    set_percent(flag_file, 0)
    assert recorded() == 0
    set_percent(flag_file, 100)
    assert recorded(otherwise=ALWAYS_OFF) == 400
    set_percent(flag_file, 25)
    assert 40 < recorded() < 160  # 13 standard deviations
    assert flag_file.flags()["sampling"].variant == "percent=25"


def test_traces_that_are_not_recorded_are_left_to_the_collector(switch, flag_file):
    flag_file.set(sampling={"percent": 25, "tail_latency_ms": 500})
    flags.start()
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_ON)).get_tracer("test")
    roots = [tracer.start_span("root") for _ in range(400)]
    assert all(root.is_recording() for root in roots)
    left = [root for root in roots if root.get_span_context().trace_state.get(TAIL_LATENCY_MS) == "500"]
    assert 240 < len(left) < 360
    follower = TracerProvider(sampler=FlagSampler(ParentBased(ALWAYS_OFF))).get_tracer("test")
    for root in roots:
        child = follower.start_span("child", set_span_in_context(root))
        assert child.is_recording()
        assert child.get_span_context().trace_state == root.get_span_context().trace_state


def test_a_sampler_without_a_parent_records_what_is_left_to_the_collector(switch, flag_file):
    flag_file.set(sampling={"tail_latency_ms": 500})
    flags.start()
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_OFF)).get_tracer("test")
    child = tracer.start_span("child", set_span_in_context(tracer.start_span("root")))
    assert child.get_span_context().trace_state.get(TAIL_LATENCY_MS) == "500"


def test_a_call_that_is_not_recorded_is_not_left_to_the_collector(switch, flag_file):
    flag_file.set(sampling={"percent": 0, "tail_latency_ms": 500})
    flags.start()
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_ON)).get_tracer("test")
    not_sampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.DEFAULT))
    assert not tracer.start_span("child", set_span_in_context(NonRecordingSpan(not_sampled))).is_recording()


def test_a_span_follows_the_decision_of_the_span_that_called_it(switch, flag_file):
    set_percent(flag_file, 0)
    sampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_OFF)).get_tracer("test")
    assert tracer.start_span("child", set_span_in_context(NonRecordingSpan(sampled))).is_recording()
