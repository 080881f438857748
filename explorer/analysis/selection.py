"""A selection of traces: what is compared. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo

from explorer.query import Query, logfmt
from explorer.web import clock
from promscale.otlp import truncated_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The traces with a span that starts in the time range and fulfils all conditions, as in a search.

    The time range ends before `time_to`. "" is any service or any operation. Tags are attributes as in Jaeger's search
    box, with their values as texts.
    """

    time_from: datetime
    time_to: datetime
    service: str = ""
    operation: str = ""
    root: bool = False  # only root spans
    min_ms: float | None = None  # of the span
    max_ms: float | None = None
    failed: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_query(cls, query: Query) -> "Selection":
        """The traces that a search finds, without its limit. The tag error=true becomes `failed`."""
        return cls(
            time_from=_time(query.start),
            time_to=_time(query.end) + timedelta(microseconds=1),  # a search includes its end
            service=truncated_name(query.service),
            operation=truncated_name(query.operation),
            min_ms=None if query.min_duration is None else query.min_duration / 1e6,
            max_ms=None if query.max_duration is None else query.max_duration / 1e6,
            failed=query.tags.get("error") == "true",
            tags={key: value for key, value in query.tags.items() if (key, value) != ("error", "true")},
        )

    @property
    def narrows(self) -> bool:
        """The selection has conditions besides an operation, so that its rest is about the same operation."""
        return bool(self.failed or self.tags or self.by_duration)

    @property
    def is_all(self) -> bool:
        """The selection has all traces of the time range."""
        return not (self.narrows or self.service or self.operation or self.root)

    @property
    def by_duration(self) -> bool:
        return self.min_ms is not None or self.max_ms is not None

    def parameters(self) -> dict[str, object]:
        """The parameters of the statements in analysis.sql, but for the tags."""
        fields = ("time_from", "time_to", "service", "operation", "root", "min_ms", "max_ms", "failed")
        return {name: getattr(self, name) for name in fields} | {
            "base_service": self.service if self.narrows else "",
            "base_operation": self.operation if self.narrows else "",
            "base_root": self.root if self.narrows else False,
        }

    def words(self, zone: tzinfo = UTC) -> str:
        """The selection in words: "traces with a failed span of upper, 2026-01-01 12:00:00 to ... UTC".

        In another zone than UTC, the times have no name of it.
        """
        return f"traces{self._span_in_words(self.narrows)}, {self._time_range(zone)}"

    def rest_in_words(self, zone: tzinfo = UTC) -> str:
        """The traces that the selection is compared with where there is no other baseline."""
        return f"the other traces{self._span_in_words(False) if self.narrows else ''}, {self._time_range(zone)}"

    def _span_in_words(self, narrowed: bool) -> str:
        adjectives = (("failed ", narrowed and self.failed), ("root ", self.root))
        span = "".join(word for word, applies in adjectives if applies) + "span"
        conditions = (
            [" ".join(filter(None, ("of", self.service, self.operation)))] if self.service + self.operation else []
        )
        if narrowed:
            limits = (("at least", self.min_ms), ("at most", self.max_ms))
            durations = [f"{words} {limit:g} ms" for words, limit in limits if limit is not None]
            conditions += [f"that takes {' and '.join(durations)}"] if durations else []
            conditions += [f"with {logfmt(dict(self.tags))}"] if self.tags else []
        return f" with a {' '.join([span, *conditions])}" if conditions or span != "span" else ""

    def _time_range(self, zone: tzinfo) -> str:
        begin, end = (clock(time, zone) for time in (self.time_from, self.time_to))
        return f"{begin} to {end}{' UTC' if zone is UTC else ''}"


def _time(nanos: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanos // 1000)
