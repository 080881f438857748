"""A recording of the demo's own traffic, and its replay with new ids and times.

`python -m benchmarks.recording postgresql://postgres@localhost:5999/postgres` replaces it by one of the running demo.
"""

import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy
import psycopg
import zstandard

FILE = Path(__file__).with_name("recording.otlp.zz")
TRACES = 40

# Values that vary in reality, and so must in the replay: client ports and durations.
PORT_ATTRIBUTE = b"client.port"
PORTS = 32_768, 61_000
DURATION_FACTORS = 0.7, 1.3

# Field numbers of OTLP: from TracesData to a span, and in a span those of ids, times and attributes. Source:
# https://github.com/open-telemetry/opentelemetry-proto, opentelemetry/proto/trace/v1/trace.proto
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 1, 2, 2
_TRACE_ID, _SPAN_ID, _PARENT_SPAN_ID, _START, _END, _ATTRIBUTES, _EVENTS = 1, 2, 4, 7, 8, 9, 11
_KEY, _VALUE, _INT_VALUE = 1, 2, 3
_EVENT_TIME = 1


class Replay:
    """Export requests that repeat the recorded traces.

    A request has at least `spans` spans; the attribute `spans` is the exact number. Two replays without a `seed` never
    have the same ids. Not thread-safe.
    """

    def __init__(self, spans: int, seed: int | None = None) -> None:
        traces = _recorded()
        template = bytearray()
        places: dict[str, list[tuple[int, int]]] = {"trace_ids": [], "span_ids": [], "times": [], "ports": []}
        self.spans = self._traces = 0
        while self.spans < spans:
            data, in_trace = traces[self._traces % len(traces)]
            for kind, offset in in_trace:
                places[kind].append((len(template) + offset, self._traces))
            self.spans += sum(kind == "trace_ids" for kind, _ in in_trace)
            self._traces += 1
            template += data
        self._template = numpy.frombuffer(bytes(template), numpy.uint8)
        self._trace_ids = _Fields(places["trace_ids"], 16)
        _, firsts, self._trace_spans = numpy.unique(self._trace_ids.traces, return_index=True, return_counts=True)
        self._trace_id_starts = self._trace_ids.bytes[firsts, 0]
        self._span_ids = _Fields(places["span_ids"], 8)
        self._ports = _Fields(places["ports"], 3)
        self._times = _Fields(places["times"], 8)
        times = self._times.read(self._template).astype(numpy.int64)
        starts = numpy.full(self._traces, times.max())
        numpy.minimum.at(starts, self._times.traces, times)
        self._offsets = times - starts[self._times.traces]  # of each time from the start of its trace
        self._random = numpy.random.default_rng(seed)

    def request(self, end_unix_nano: int) -> bytes:
        """A serialized ExportTraceServiceRequest of new traces, the last of which ends at `end_unix_nano`."""
        data = self._template.copy()
        for ids in (self._trace_ids, self._span_ids):
            # Flipping the same bits in all ids of a trace makes new ids and keeps the parents.
            flips = self._random.integers(0, 256, (self._traces, ids.width), numpy.uint8)
            data[ids.bytes] ^= flips[ids.traces]
        factors = self._random.uniform(*DURATION_FACTORS, self._traces)[self._times.traces]
        offsets = (self._offsets * factors).astype(numpy.int64) + self._random.integers(0, 1000, len(self._offsets))
        times = offsets + (end_unix_nano - int(offsets.max()))
        data[self._times.bytes] = times.astype("<u8").view(numpy.uint8).reshape(-1, 8)
        ports = self._random.integers(*PORTS, len(self._ports.traces))
        # A varint of three bytes, which all of these ports need.
        data[self._ports.bytes] = numpy.stack([ports & 127 | 128, ports >> 7 & 127 | 128, ports >> 14], axis=1)
        return data.tobytes()

    def traces(self, request: bytes) -> Iterator[tuple[bytes, int]]:
        """The id and the number of spans of each trace in a request of this replay."""
        for start, spans in zip(self._trace_id_starts.tolist(), self._trace_spans.tolist(), strict=True):
            yield request[start : start + 16], spans


class _Fields:
    """The indexes of the bytes of fields with the same width, and the number of the trace of each field."""

    def __init__(self, places: list[tuple[int, int]], width: int) -> None:
        offsets, self.traces = numpy.array(places).T
        self.width = width
        self.bytes = offsets[:, None] + numpy.arange(width)

    def read(self, data: numpy.ndarray) -> numpy.ndarray:
        return numpy.ascontiguousarray(data[self.bytes]).view("<u8")[:, 0]


@cache
def _recorded() -> list[tuple[bytes, list[tuple[str, int]]]]:
    """Each trace, as serialized OTLP TracesData, and its `_places`."""
    recording = zlib.decompress(FILE.read_bytes())
    traces = [recording[start:end] for _, start, end in _fields(recording, 0, len(recording))]
    return [(trace, list(_places(trace))) for trace in traces]


def _places(data: bytes) -> Iterator[tuple[str, int]]:
    """Kind and offset of each id, time and client port in serialized TracesData."""
    for span_start, span_end in _inside(data, [_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS], 0, len(data)):
        for number, start, end in _fields(data, span_start, span_end):
            if number == _TRACE_ID:
                yield "trace_ids", start
            elif number in (_SPAN_ID, _PARENT_SPAN_ID) and end - start == 8:
                yield "span_ids", start
            elif number in (_START, _END):
                yield "times", start
            elif number == _ATTRIBUTES:
                yield from _ports(data, start, end)
            elif number == _EVENTS:
                yield from (("times", at) for field, at, _ in _fields(data, start, end) if field == _EVENT_TIME)


def _ports(data: bytes, start: int, end: int) -> Iterator[tuple[str, int]]:
    """The offset of the value, if this serialized attribute is a client port."""
    fields = {number: (field_start, field_end) for number, field_start, field_end in _fields(data, start, end)}
    if data[slice(*fields[_KEY])] == PORT_ATTRIBUTE:
        for number, value_start, value_end in _fields(data, *fields[_VALUE]):
            if number == _INT_VALUE and value_end - value_start == 3:
                yield "ports", value_start


def _inside(data: bytes, path: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each field that is reached by the field numbers of `path`."""
    if not path:
        yield start, end
        return
    for number, inner_start, inner_end in _fields(data, start, end):
        if number == path[0]:
            yield from _inside(data, path[1:], inner_start, inner_end)


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the content of each field in a serialized message.

    Wire types: https://protobuf.dev/programming-guides/encoding/#structure
    """
    while start < end:
        key, start = _varint(data, start)
        match key & 7:
            case 0:
                _, after = _varint(data, start)
            case 1:
                after = start + 8
            case 2:
                length, start = _varint(data, start)
                after = start + length
            case 5:
                after = start + 4
        yield key >> 3, start, after
        start = after


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7


def record(dsn: str) -> int:
    """Write the most recent complete traces of a running demo to FILE; returns its size in bytes."""
    statement = """
        select trace_id, data from _promscale.traces_data
        where trace_id in (
            select trace_id from ps_trace.span
            where service_name = 'load' and is_root_span and start_time < now() - interval '10 seconds'
            order by start_time desc limit %s
        )
        order by trace_id
    """
    traces: dict[object, bytes] = {}
    with psycopg.connect(dsn) as connection:
        for trace_id, data in connection.execute(statement, [TRACES]):
            traces[trace_id] = traces.get(trace_id, b"") + zstandard.decompress(data)
    # One message with a field per trace, whose number does not matter.
    recording = b"".join(bytes([_RESOURCE_SPANS << 3 | 2]) + _length(len(data)) + data for data in traces.values())
    FILE.write_bytes(zlib.compress(recording, 9))
    return FILE.stat().st_size


def _length(number: int) -> bytes:
    encoded = b""
    while number > 127:
        encoded, number = encoded + bytes([number & 127 | 128]), number >> 7
    return encoded + bytes([number])


if __name__ == "__main__":
    print(f"{FILE}: {record(sys.argv[1])} bytes")
