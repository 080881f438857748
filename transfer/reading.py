"""Reads spans from files, whose format is recognised from their content."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import orjson
import zstandard
from google.protobuf.message import DecodeError

from promscale import otlp_json
from promscale import wire_pb2 as wire
from transfer.errors import TransferError
from transfer.jaeger_json import trace_to_otlp
from transfer.otlp_files import LENGTH, count_spans

READABLE = "OTLP protobuf, OTLP/JSON lines, and Jaeger's JSON, also compressed by gzip or zstd"
# A length of more than this is no length: the Collector sends less in a message.
MAX_MESSAGE_BYTES = 256 * 2**20

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# What a serialized ExportTraceServiceRequest begins with: the key of its only field.
_FIRST_KEY = b"\x0a"


def read_file(path: Path) -> Iterator[tuple[bytes, int]]:
    """The spans of a file as serialized TracesData, each with its number of spans.

    Raises OSError, and TransferError, which names the file, if it is not of a READABLE format, or ends early.
    """
    found = False
    try:
        with path.open("rb") as file:
            for message in _messages(_decompressed(file)):
                traces_data = wire.TracesData.FromString(message)
                if message and not traces_data.resource_spans:
                    raise ValueError("a message without spans")
                if spans := count_spans([traces_data]):
                    found = True
                    yield message, spans
        if not found:
            raise ValueError("it has no spans")
    except (ValueError, EOFError, DecodeError, gzip.BadGzipFile, zstandard.ZstdError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TransferError(f"{path} cannot be imported: {reason}; readable are {READABLE}") from None


def _decompressed(file: io.BufferedReader) -> io.BufferedReader:
    start = file.peek(4)[:4]
    if start.startswith(_GZIP):
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if start == _ZSTD:
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True), 2**20)
    return file


def _messages(stream: io.BufferedReader) -> Iterator[bytes]:
    start = stream.peek(1)[:1]
    if start == b"\0":  # of a length; no protobuf message and no text begins so
        for message in _delimited(stream):
            yield from _document(message)
    elif start == _FIRST_KEY and not _is_json(stream):
        yield stream.read()
    else:
        yield from _json_texts(stream)


def _is_json(stream: io.BufferedReader) -> bool:
    """Whether a stream that begins with a line feed continues as JSON."""
    return stream.peek(64)[:64].lstrip().startswith((b"{", b"["))


def _delimited(stream: IO[bytes]) -> Iterator[bytes]:
    position = 0
    while head := stream.read(LENGTH.size):
        length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else -1
        if not 0 <= length <= MAX_MESSAGE_BYTES:
            raise ValueError(f"no length of a message at byte {position:,}")
        message = stream.read(length)
        if len(message) < length:
            raise ValueError(f"the message at byte {position:,} is cut off")
        position += LENGTH.size + length
        yield message


def _document(message: bytes) -> Iterator[bytes]:
    """A message of a file with lengths, in which the Collector compresses each message for itself."""
    if message.startswith(_ZSTD):
        message = zstandard.ZstdDecompressor().decompressobj().decompress(message)
    if message.lstrip().startswith(b"{"):
        yield from _otlp(orjson.loads(message))
    else:
        yield message


def _json_texts(stream: IO[bytes]) -> Iterator[bytes]:
    """JSON: a text per line, or a single one of several lines, which is read into memory."""
    first = True
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            text = orjson.loads(line)
        except orjson.JSONDecodeError:
            if not first:
                raise ValueError(f"line {number:,} is not JSON") from None
            text = orjson.loads(line + stream.read())
        first = False
        try:
            yield from _otlp(text)
        except ValueError as error:
            raise ValueError(f"line {number:,}: {error}") from None


def _otlp(text: Any) -> Iterator[bytes]:
    if not isinstance(text, dict):
        raise ValueError("it is neither OTLP nor a trace")
    if "resourceSpans" in text:
        yield otlp_json.from_document(text)
    elif isinstance(text.get("data"), list):
        yield from map(trace_to_otlp, text["data"])
    else:
        raise ValueError("it has neither the field resourceSpans nor data")
