"""Reads the parameters of a search from a URL, with Jaeger's names: shared by the search page and the HTTP API."""

import json
import re
import shlex
import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest

DEFAULT_LIMIT, MAX_LIMIT = 20, 1500  # as in Jaeger's UI
DEFAULT_LOOKBACK = "1h"
LOOKBACKS = {
    "5m": "last 5 minutes",
    "15m": "last 15 minutes",
    "1h": "last hour",
    "6h": "last 6 hours",
    "24h": "last 24 hours",
    "custom": "custom range",
}
# The end of the year 9999: the last time of protobuf's Timestamp and of Python's datetime. Jaeger has no limit.
MAX_MICROS = 253_402_300_799_000_000

Parameters = MultiDict[str, str]

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_LONG_UNITS = {"d": 24 * 3600 * 10**9, "w": 7 * 24 * 3600 * 10**9}
# One number and its unit, as 1.5h: https://pkg.go.dev/time#ParseDuration
_NUMBER = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_DURATION_PART = re.compile(rf"({_NUMBER.pattern})([a-zµμ]+)")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_AGO = re.compile(r"now(?:-(\d{1,6})([smhd]))?")  # Grafana's relative times: now-15m
_AGO_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_DURATION = 100 * 365 * 24 * 3600 * 10**9
_QUOTED_LENGTH = 40  # of a value in an error message


class Query(NamedTuple):
    """A search. Times are nanoseconds since 1970, durations nanoseconds; "" is any service or any operation."""

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


def read_query(parameters: Parameters, default_unit: str = "ms") -> Query:
    """The search that the parameters describe. Raises BadRequest, which names the parameter.

    Parameters: `service`, `operation`, `tags` (JSON, or logfmt as in Jaeger's search box), `tag` (key:value),
    `minDuration`, `maxDuration`, `limit`. The time range ends at `end` (default: now) and begins at `start` or
    `lookback` before its end; `start` and `end` are microseconds since 1970. Durations without a unit have the default
    unit; without one ("", as in Jaeger), they are refused.
    """
    start, end = read_range(parameters)
    shortest, longest = (_optional_duration(parameters, name, default_unit) for name in ("minDuration", "maxDuration"))
    if shortest is not None and longest is not None and shortest > longest:
        raise bad_parameter("minDuration", "is longer than maxDuration")
    return Query(
        service=parameters.get("service", ""),
        operation=parameters.get("operation", ""),
        tags=read_tags(parameters),
        start=start,
        end=end,
        min_duration=shortest,
        max_duration=longest,
        limit=read_int(parameters, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
    )


def field_values(parameters: Parameters) -> dict[str, Any]:
    """What templates/search_fields.html shows of a search, besides the services and operations to choose from.

    Raises BadRequest, which names the parameter.
    """
    return {
        "parameters": parameters,
        "tags": logfmt(read_tags(parameters)),
        "lookback": "custom" if parameters.get("start") else parameters.get("lookback") or DEFAULT_LOOKBACK,
        "lookbacks": LOOKBACKS,
    }


def read_range(parameters: Parameters) -> tuple[int, int]:
    """Start and end in nanoseconds since 1970. Raises BadRequest."""
    end = read_int(parameters, "end", time.time_ns() // 1000, 0, MAX_MICROS) * 1000
    lookback = parameters.get("lookback") or DEFAULT_LOOKBACK
    if parameters.get("start"):
        start = read_int(parameters, "start", 0, 0, MAX_MICROS) * 1000
    elif lookback == "custom":
        raise bad_parameter("start", "is missing, and lookback=custom needs it")
    else:
        start = max(end - read_duration("lookback", lookback, _UNITS | _LONG_UNITS), 0)
    if start > end:
        raise bad_parameter("start", "is after end")
    return start, end


def read_tags(parameters: Parameters) -> dict[str, str]:
    """The tags of all `tag` and `tags` parameters. Raises BadRequest."""
    tags = {}
    for text in parameters.getlist("tag"):
        key, colon, value = text.partition(":")
        if not (key and colon):
            raise bad_parameter("tag", f"{text[:_QUOTED_LENGTH]!r} is not of the form key:value")
        tags[key] = value
    for text in parameters.getlist("tags"):
        tags |= _json_tags(text) if text.lstrip().startswith("{") else _logfmt_tags(text)
    return tags


def _json_tags(text: str) -> dict[str, str]:
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        raise bad_parameter("tags", "is not valid JSON") from None
    # The store matches a text with values of other types, too: "200" finds the number 200.
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in tags.items()}


def _logfmt_tags(text: str) -> dict[str, str]:
    tags = {}
    for word in read_words("tags", text):
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise bad_parameter("tags", f"{word[:_QUOTED_LENGTH]!r} is not of the form key=value")
        tags[key] = value
    return tags


def read_words(name: str, text: str) -> list[str]:
    """The words of a parameter, separated by spaces; quotation marks keep a word together. Raises BadRequest."""
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.quotes, words.commenters = True, '"', ""
    try:
        return list(words)
    except ValueError:
        raise bad_parameter(name, "a quotation mark is not closed") from None


def logfmt(tags: dict[str, str]) -> str:
    """The tags in the notation that `read_tags` reads."""
    return " ".join(f"{quoted_word(key)}={quoted_word(value)}" for key, value in tags.items())


def quoted_word(text: str) -> str:
    """A word as `read_words` reads it."""
    if re.fullmatch(r'[^\s"\\]+', text):  # needs no quotes
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def read_int(parameters: Parameters, name: str, default: int, smallest: int, largest: int) -> int:
    """Raises BadRequest."""
    text = parameters.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and smallest <= int(text) <= largest):
        raise bad_parameter(name, f"{text[:_QUOTED_LENGTH]!r} is not a whole number from {smallest} to {largest}")
    return int(text)


def read_time(name: str, text: str) -> datetime:
    """A time in Grafana's notation: now-15m, milliseconds since 1970, or ISO 8601 (without a zone: UTC). Raises
    BadRequest."""
    try:
        if ago := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_AGO_UNITS[ago[2]]: int(ago[1])} if ago[1] else {})
        if text.isascii() and text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        parsed = datetime.fromisoformat(text)
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        raise bad_parameter(
            name,
            f"{text[:_QUOTED_LENGTH]!r} is not a time: write now-15m, milliseconds since 1970, or 2026-01-31T12:00:00Z",
        ) from None


def read_zone(parameters: Parameters) -> ZoneInfo:
    """The time zone of the parameter `zone`, an IANA name; UTC without it. Raises BadRequest."""
    name = parameters.get("zone") or "UTC"
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, no name of a zone, or that of a folder of zones
        raise bad_parameter("zone", f"{name[:_QUOTED_LENGTH]!r} is not an IANA time zone, as Europe/Berlin") from None


def read_trace_id(text: str) -> bytes:
    """16 bytes from a trace id in hex, of which Jaeger omits leading zeros, or as a UUID. Raises BadRequest."""
    digits = text.replace("-", "") if _UUID.fullmatch(text) else text
    if not re.fullmatch("[0-9a-fA-F]{1,32}", digits) or not int(digits, 16):
        raise bad_parameter(
            "trace id",
            f"{text[:_QUOTED_LENGTH]!r} is not 1 to 32 hex digits or a UUID, or all digits are 0",
        )
    return bytes.fromhex(digits.zfill(32))


def read_span_id(parameters: Parameters) -> bytes:
    """8 bytes from the parameter `span`, in hex. Raises BadRequest."""
    text = parameters.get("span", "")
    if not re.fullmatch("[0-9a-fA-F]{16}", text):
        raise bad_parameter("span", f"{text[:_QUOTED_LENGTH]!r} is not 16 hex digits")
    return bytes.fromhex(text)


def _optional_duration(parameters: Parameters, name: str, default_unit: str) -> int | None:
    text = parameters.get(name, "").strip()
    if _NUMBER.fullmatch(text):
        text += default_unit
    return read_duration(name, text, _UNITS) if text else None


def read_duration(name: str, text: str, units: dict[str, int]) -> int:
    """Nanoseconds of a duration in Go's notation: 1h30m, 1.2s, 100ms, 50us. Raises BadRequest."""
    quoted = f"{text[:_QUOTED_LENGTH]!r}"
    compact = text.replace(" ", "")
    parts = _DURATION_PART.findall(compact)
    if "".join(number + unit for number, unit in parts) != compact or not parts:
        raise bad_parameter(name, f"{quoted} is not a duration such as 1.2s, 100ms or 50us")
    try:
        nanos = sum(round(float(number) * units[unit]) for number, unit in parts)
    except (KeyError, OverflowError):
        raise bad_parameter(name, f"{quoted} has a unit other than {', '.join(units)}") from None
    if nanos > _MAX_DURATION:
        raise bad_parameter(name, f"{quoted} is longer than 100 years")
    return nanos
