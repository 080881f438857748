"""The axes of charts: scales from values to pixels, and ticks at round values, with their texts. No I/O."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import NamedTuple

from explorer.links import micros
from explorer.web import duration
from queries import MILLISECONDS, Unit

# Ten buckets of durations per power of ten, as in queries/03-request-durations.sql.
BUCKETS_PER_DECADE = 10

# Distances of ticks in time.
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAYS = (1, 2, 5, 10)
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 2400, 6000, 12000)
_HOUR, _DAY, _MONTH = 3600, 86_400, 2_629_800  # in seconds; the mean month
# Python's times end with the year 9999, in UTC: local times and the tick after the last one need some room.
_FIRST, _LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC)
_DECADES = range(-6, 10)  # powers of ten, in milliseconds
# Digits of ticks on a logarithmic axis, and in every how many decades: the densest first.
_DENSITIES = (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3))
_FEW_BUCKETS = 5
_PREFIXES = ((10**9, " G"), (10**6, " M"), (1, ""))
_DURATIONS = ((1e3, " s"), (1, " ms"), (1e-3, " µs"), (1e-6, " ns"))


class Tick(NamedTuple):
    value: float
    text: str


class Scale(NamedTuple):
    """A linear scale from the values `low` to `high` to the pixels `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.per_unit

    @property
    def per_unit(self) -> float:
        """Pixels; negative on an axis that leads upwards."""
        return (self.end - self.start) / (self.high - self.low)


def number_ticks(high: float, count: int, unit: Unit, smallest_step: float = 0) -> list[Tick]:
    """About `count` ticks from 0 to a round number of at least `high`, at multiples of 1, 2 or 5 times a power of ten.

    All texts have the same unit and the same number of decimals.
    """
    high = high or 1
    rough = max(high / max(count, 1), smallest_step)
    power = math.floor(math.log10(rough))
    step = next(digit * 10.0**power for digit in (1, 2, 5, 10) if digit * 10.0**power >= rough * 0.999)
    ticks = max(math.ceil(high / step * 0.999), 1)
    size, prefix = _notation(ticks * step, unit)
    decimals = max(-math.floor(math.log10(step / size) + 1e-9), 0)
    texts = [f"{number * step / size:,.{decimals}f}{prefix}" for number in range(1, ticks + 1)]
    return [Tick(0, "0"), *(Tick(number * step, text) for number, text in enumerate(texts, 1))]


def _notation(top: float, unit: Unit) -> tuple[float, str]:
    """The size and the text of what the ticks of an axis up to `top` are counted in."""
    if unit == MILLISECONDS:
        return next((size, text) for size, text in _DURATIONS if top >= size or size == _DURATIONS[-1][0])
    return next((size, prefix + unit.text) for size, prefix in _PREFIXES if top >= size or size == 1)


def duration_ticks(low: int, high: int, length: float, gap: float) -> list[Tick]:
    """Ticks of a logarithmic axis of durations of `length` pixels, with at least `gap` pixels between them.

    The axis counts buckets, from `low` to `high`. Ticks are at powers of ten, if there is room also at three times, or
    at twice and five times them, and on an axis of few buckets at the bounds of these.
    """
    pixels = length / (high - low)
    if high - low <= _FEW_BUCKETS:
        every = math.ceil(gap / pixels)
        return [Tick(bucket, duration(round(milliseconds(bucket) * 10**6))) for bucket in range(low, high + 1, every)]
    digits, decades = next(
        (digits, decades)
        for digits, decades in _DENSITIES
        if _least_distance(digits, decades) * pixels >= gap or decades == _DENSITIES[-1][1]
    )
    values = [digit * 10.0**decade for decade in _DECADES if decade % decades == 0 for digit in digits]
    places = [(BUCKETS_PER_DECADE * math.log10(value), value) for value in values]
    return [Tick(place, duration(round(value * 10**6))) for place, value in places if low <= place <= high]


def _least_distance(digits: Sequence[int], decades: int) -> float:
    """The least distance of ticks, in buckets."""
    bounds = [*digits, 10**decades]
    return BUCKETS_PER_DECADE * min(math.log10(after / before) for before, after in pairwise(bounds))


def milliseconds(bucket: float) -> float:
    """The lower bound of a bucket of durations."""
    return 10 ** (bucket / BUCKETS_PER_DECADE)


def time_ticks(begin: int, end: int, count: int, zone: tzinfo) -> list[Tick]:
    """About `count` ticks at round times of the zone, in microseconds since 1970.

    When clocks are put forward, the hour that does not exist has no ticks; when they are put back, the repeated hour
    has ticks twice.
    """
    step = (end - begin) / 10**6 / max(count, 1)
    first, last = (_aware(time, zone) for time in (begin, end))
    # Where clocks are put back in between, local times before that of the begin occur again after it.
    earliest = min(first, first + ((last.utcoffset() or timedelta()) - (first.utcoffset() or timedelta())))
    folds = (0, 1) if step <= _HOUR else (0,)
    ticks = set()
    for local in _round_times(earliest.replace(tzinfo=None, fold=0), step):
        times = [local.replace(tzinfo=zone, fold=fold) for fold in folds]
        if micros(times[0]) > end:
            break
        text = _text(local, step)
        ticks |= {Tick(micros(time), text) for time in times if begin <= micros(time) <= end and _exists(time)}
    return sorted(ticks)


def _aware(time: int, zone: tzinfo) -> datetime:
    limited = min(max(time, micros(_FIRST)), micros(_LAST))
    return (_FIRST + timedelta(microseconds=limited - micros(_FIRST))).astimezone(zone)


def _exists(time: datetime) -> bool:
    return time.astimezone(UTC).astimezone(time.tzinfo).replace(tzinfo=None) == time.replace(tzinfo=None)


def _round_times(earliest: datetime, seconds: float) -> Iterator[datetime]:
    """Local times at a round distance of at least these seconds; the first is not after `earliest`."""
    midnight = earliest.replace(hour=0, minute=0, second=0, microsecond=0)
    if seconds <= _SECONDS[-1]:
        step = timedelta(seconds=_at_least(seconds, _SECONDS))
        time = midnight + (earliest - midnight) // step * step
    elif seconds <= _DAYS[-1] * _DAY:
        step = timedelta(days=_at_least(seconds / _DAY, _DAYS))
        time = midnight - timedelta(days=midnight.toordinal() % step.days)
    else:
        months = _at_least(seconds / _MONTH, _MONTHS)
        number = max((earliest.year * 12 + earliest.month - 1) // months, 1) * months
        yield from (datetime(month // 12, month % 12 + 1, 1) for month in range(number, _LAST.year * 12 + 1, months))  # noqa: DTZ001
        return
    while True:
        yield time
        time += step


def _at_least(amount: float, choices: Sequence[int]) -> int:
    return next((choice for choice in choices if choice >= amount * 0.99), choices[-1])


def _text(local: datetime, seconds: float) -> str:
    if seconds > _MONTHS[3] * _MONTH:
        return f"{local.year}"
    if seconds > _DAYS[-1] * _DAY:
        return f"{local:%b} {local.year}"
    if (local.hour, local.minute, local.second) == (0, 0, 0):
        return f"{local.day} {local:%b}"
    return f"{local:%H:%M}" if seconds > _SECONDS[5] else f"{local:%H:%M:%S}"
