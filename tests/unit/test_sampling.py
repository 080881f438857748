"""Head sampling by a flag."""

import json

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from faults.flags import FlagFile
from telemetry import flags
from telemetry.sampling import FlagSampler


def recorded(count: int = 400, otherwise=ALWAYS_ON) -> int:
    provider = TracerProvider(sampler=FlagSampler(otherwise))
    tracer = provider.get_tracer("test")
    return sum(tracer.start_span("root").is_recording() for _ in range(count))


def set_percent(tmp_path, percent: float) -> None:
    FlagFile(tmp_path / "flags.json").set(sampling={"percent": percent})
    flags.start()


def test_the_flag_sets_the_percentage_of_traces(switch, tmp_path):
    assert recorded() == 400
    assert recorded(otherwise=ALWAYS_OFF) == 0
    set_percent(tmp_path, 0)
    assert recorded() == 0
    set_percent(tmp_path, 100)
    assert recorded(otherwise=ALWAYS_OFF) == 400
    set_percent(tmp_path, 25)
    assert 40 < recorded() < 160  # 13 standard deviations
    assert json.loads((tmp_path / "flags.json").read_text())["flags"]["sampling"]["defaultVariant"] == "percent=25"


def test_a_span_follows_the_decision_of_the_span_that_called_it(switch, tmp_path):
    set_percent(tmp_path, 0)
    sampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_OFF)).get_tracer("test")
    assert tracer.start_span("child", set_span_in_context(NonRecordingSpan(sampled))).is_recording()
