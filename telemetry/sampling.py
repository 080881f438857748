"""Head sampling by the flag `sampling`, so that the percentage can be changed while the process runs."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import TraceState

from telemetry.flags import state


class FlagSampler(Sampler):
    """Records the flag's `percent` of the traces. Without it, another sampler decides.

    As with OpenTelemetry's samplers, the process that begins a trace decides, and the others follow it.
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
        return self._current().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def _current(self) -> Sampler:
        percent = state("sampling").parameters.get("percent")
        return self._otherwise if percent is None else _by_percentage(percent)

    def get_description(self) -> str:
        return f"FlagSampler{{{self._current().get_description()}}}"


@lru_cache(maxsize=1)  # it decides for every span
def _by_percentage(percent: float) -> Sampler:
    return ParentBased(TraceIdRatioBased(percent / 100))
