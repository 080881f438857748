"""Sampling by the flag `sampling`, so that it can be changed while the process runs."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState

from telemetry.flags import state

# The entry of the trace state by which collector/config.yaml recognizes the spans of such a trace. Its value is the
# latency.
TAIL_LATENCY_MS = "demo_tail_latency_ms"


class FlagSampler(Sampler):
    """Records the flag's `percent` of the traces. Without it, another sampler decides.

    As with OpenTelemetry's samplers, the process that begins a trace decides, and the others follow it. With the flag's
    `tail_latency_ms`, the traces that would not be recorded are recorded too, and their trace state leaves the decision
    to the Collector (tail sampling).
    """

    def __init__(self, otherwise: Sampler) -> None:
        self._otherwise = otherwise

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self._current().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        if result.decision == Decision.DROP and (left_to_collector := _tail_state(parent_context)):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, left_to_collector)
        return result

    def _current(self) -> Sampler:
        percent = state("sampling").parameters.get("percent")
        return self._otherwise if percent is None else _by_percentage(percent)

    def get_description(self) -> str:
        return f"FlagSampler{{{self._current().get_description()}}}"


def _tail_state(parent_context: Context | None) -> TraceState | None:
    """The trace state of a span whose trace the Collector may drop; None if this one may not be recorded."""
    parent = trace.get_current_span(parent_context).get_span_context()
    if parent.is_valid:
        return parent.trace_state if parent.trace_flags.sampled and TAIL_LATENCY_MS in parent.trace_state else None
    latency_ms = state("sampling").parameters.get("tail_latency_ms")
    return None if latency_ms is None else TraceState([(TAIL_LATENCY_MS, str(latency_ms))])


@lru_cache(maxsize=1)  # it decides for every span
def _by_percentage(percent: float) -> Sampler:
    return ParentBased(TraceIdRatioBased(percent / 100))
