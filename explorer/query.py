"""What is asked for in the URL of a search, by Jaeger's names: the same for its page and for the API."""

import json
import re
import shlex
import time
from typing import NamedTuple

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

DEFAULT_LIMIT, MAX_LIMIT = 20, 1500  # Jaeger's
DEFAULT_LOOKBACK = "1h"
# Jaeger has no limit. promscale and protobuf know the years 1 to 9999; this is enough for both.
MAX_MICROS = 253_402_300_799_000_000

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DAYS = {"d": 24 * 3600 * 10**9, "w": 7 * 24 * 3600 * 10**9}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([a-zµμ]+)")
_MAX_DURATION = 100 * 365 * 24 * 3600 * 10**9


class Query(NamedTuple):
    """Times are nanoseconds since 1970, durations nanoseconds. "" is any service, any operation."""

    service: str
    operation: str
    tags: dict[str, str]
    start: int
    end: int
    min_duration: int | None
    max_duration: int | None
    limit: int


def bad_parameter(name: str, problem: str) -> BadRequest:
    return BadRequest(f"Parameter {name}: {problem}")


def read_query(parameters: MultiDict) -> Query:
    """Raises BadRequest that names the parameter.

    `service`, `operation`, `tags` (JSON, or logfmt as Jaeger's search box has it), `tag` (key:value), `minDuration`,
    `maxDuration`, `limit`; the range is from `start`, or `lookback` before, to `end`, or now, in
    microseconds.
    """
    start, end = read_range(parameters)
    query = Query(
        parameters.get("service", ""),
        parameters.get("operation", ""),
        read_tags(parameters),
        start,
        end,
        _optional_duration(parameters, "minDuration"),
        _optional_duration(parameters, "maxDuration"),
        read_int(parameters, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
    )
    if None not in (query.min_duration, query.max_duration) and query.min_duration > query.max_duration:
        raise bad_parameter("minDuration", "is longer than maxDuration")
    return query


def read_range(parameters: MultiDict) -> tuple[int, int]:
    end = read_int(parameters, "end", time.time_ns() // 1000, 0, MAX_MICROS) * 1000
    lookback = parameters.get("lookback") or DEFAULT_LOOKBACK
    if parameters.get("start"):
        start = read_int(parameters, "start", 0, 0, MAX_MICROS) * 1000
    elif lookback == "custom":
        raise bad_parameter("start", "is missing: a range of one's own needs it")
    else:
        start = max(end - read_duration("lookback", lookback, _UNITS | _DAYS), 0)
    if start > end:
        raise bad_parameter("start", "is after end")
    return start, end


def read_tags(parameters: MultiDict) -> dict[str, str]:
    tags = {}
    for text in parameters.getlist("tag"):
        key, colon, value = text.partition(":")
        if not (key and colon):
            raise bad_parameter("tag", f"{text[:40]!r} is not of the form key:value")
        tags[key] = value
    for text in parameters.getlist("tags"):
        tags |= _json_tags(text) if text.lstrip().startswith("{") else _logfmt_tags(text)
    return tags


def _json_tags(text: str) -> dict[str, str]:
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_parameter("tags", "is not valid JSON") from None
    # As text, and the store finds what it would be as JSON, too.
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in tags.items()}


def _logfmt_tags(text: str) -> dict[str, str]:
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.quotes, words.commenters = True, '"', ""
    tags = {}
    try:
        for word in words:
            key, equals, value = word.partition("=")
            if not (key and equals):
                raise bad_parameter("tags", f"{word[:40]!r} is not of the form key=value")
            tags[key] = value
    except ValueError:
        raise bad_parameter("tags", "a quotation mark has no second one") from None
    return tags


def logfmt(tags: dict[str, str]) -> str:
    """The tags as `read_tags` takes them."""
    return " ".join(f"{_word(key)}={_word(value)}" for key, value in tags.items())


def _word(text: str) -> str:
    if re.fullmatch(r'[^\s"\\]+', text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_int(parameters: MultiDict, name: str, default: int, smallest: int, largest: int) -> int:
    text = parameters.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and smallest <= int(text) <= largest):
        raise bad_parameter(name, f"{text[:40]!r} is not a whole number from {smallest} to {largest}")
    return int(text)


def read_trace_id(text: str) -> bytes:
    """A trace id in hex; Jaeger leaves out leading zeros. Raises BadRequest."""
    if not re.fullmatch("[0-9a-fA-F]{1,32}", text) or not int(text, 16):
        raise bad_parameter("trace id", f"{text[:40]!r} is not 1 to 32 hex digits, of which one is not 0")
    return bytes.fromhex(text.zfill(32))


def _optional_duration(parameters: MultiDict, name: str) -> int | None:
    text = parameters.get(name, "").strip()
    return read_duration(name, text, _UNITS) if text else None


def read_duration(name: str, text: str, units: dict[str, int]) -> int:
    """Nanoseconds of a duration as Go writes it: 1h30m, 1.2s, 100ms, 50us. Raises BadRequest."""
    compact = text.replace(" ", "")
    parts = _DURATION_PART.findall(compact)
    if "".join(number + unit for number, unit in parts) != compact or not parts:
        raise bad_parameter(name, f"{text[:40]!r} is not a duration such as 1.2s, 100ms or 50us")
    try:
        nanos = sum(round(float(number) * units[unit]) for number, unit in parts)
    except (KeyError, OverflowError):
        raise bad_parameter(name, f"{text[:40]!r} has a unit other than {', '.join(units)}") from None
    if nanos > _MAX_DURATION:
        raise bad_parameter(name, f"{text[:40]!r} is longer than 100 years")
    return nanos
