"""Head sampling by a flag."""

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


def test_a_span_follows_the_decision_of_the_span_that_called_it(switch, flag_file):
    set_percent(flag_file, 0)
    sampled = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    tracer = TracerProvider(sampler=FlagSampler(ALWAYS_OFF)).get_tracer("test")
    assert tracer.start_span("child", set_span_in_context(NonRecordingSpan(sampled))).is_recording()
