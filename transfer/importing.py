"""Imports spans from files: they are sent to promscale by OTLP/gRPC."""

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple
from uuid import UUID

import grpc
import psycopg
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from psycopg import sql

from promscale import otlp
from promscale import wire_pb2 as wire
from promscale.otlp import Refusals
from promscale.server import TRACE_SERVICE
from transfer.errors import TransferError
from transfer.exporting import FAULTS_FILES
from transfer.otlp_files import LENGTH, scopes
from transfer.progress import progress_bar
from transfer.reading import read_file
from transfer.snapshot import STATEMENTS, connect

REQUEST_BYTES = 2 * 2**20
CONNECT_SECONDS = 5
REQUEST_SECONDS = 60
# How long the sender tries to send one request.
RETRY_SECONDS = 120
# The pause before a retry where the server names none.
PAUSE_SECONDS = 1.0

_RETRIED = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)


class Imported(NamedTuple):
    """Numbers of spans: in the files; of these, stored for the first time; refused, with the first reasons; and older
    than the retention period, so that promscale stores and then drops them.

    `skipped` are the files of an export that have no spans.
    """

    read: int
    new: int
    refusals: Refusals
    expired: int
    skipped: list[Path]


def import_files(paths: Sequence[Path], endpoint: str, database_uri: str) -> Imported:
    """Send the spans of these files to the promscale at `endpoint` ("host:port"), whose database is at `database_uri`.

    A folder stands for the files in it, but for hidden ones. Tables of faults that an export wrote are skipped.
    All files are read before the first span is sent, so that nothing is sent if one of them cannot be imported.
    promscale recognises a span that it has stored already, so that an interrupted import can be repeated.

    Raises OSError and TransferError.
    """
    files = [file for path in paths for file in _files(path)]
    skipped = [file for file in files if file.name in FAULTS_FILES.values()]
    if len(skipped) == len(files):
        raise TransferError(f"there is no file with spans in {', '.join(map(str, paths))}")
    with tempfile.TemporaryFile() as spool:
        read = sum(_spool(file, spool) for file in files if file not in skipped)
        with (
            connect(database_uri) as database,
            grpc.insecure_channel(endpoint, options=[("grpc.max_send_message_length", -1)]) as channel,
            progress_bar(read, f"import to {endpoint}") as progress,
        ):
            sender = _Sender(channel, endpoint)
            [(kept_from,)] = database.execute(STATEMENTS.kept_from.sql).fetchall()
            new, refusals, expired = 0, Refusals(), 0
            for request in otlp.requests(_spooled(spool), REQUEST_BYTES):
                spans = _spans(request)
                identities = _Identities.of(spans)
                stored_before = identities.stored(database)
                refusals.extend(sender.send(request))
                new += identities.stored(database) - stored_before
                expired += sum(start < kept_from for start in identities.starts)
                progress.update(len(spans))
    return Imported(read, new, refusals, expired, skipped)


def _files(path: Path) -> Iterator[Path]:
    """The file, or those in the folder that the shell's pattern * matches."""
    if path.is_dir():
        for inner in sorted(path.glob("[!.]*")):
            yield from _files(inner)
    else:
        yield path


def _spool(path: Path, spool: IO[bytes]) -> int:
    """Copy the spans of a file to the spool; returns their number."""
    total = 0
    for message, spans in read_file(path):
        spool.write(LENGTH.pack(len(message)) + message)
        total += spans
    return total


def _spooled(spool: IO[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    while head := spool.read(LENGTH.size):
        yield spool.read(*LENGTH.unpack(head))


def _spans(request: bytes) -> list[bytes]:
    return [span for scope_spans in scopes(wire.TracesData.FromString(request)) for span in scope_spans.spans]


class _Identities(NamedTuple):
    """What finds the spans of a request in the store: the ids of their traces, and the times between which they start.
    Spans that promscale will refuse are left out."""

    trace_ids: set[UUID]
    starts: list[int]  # in nanoseconds since 1970

    @classmethod
    def of(cls, spans: Iterable[bytes]) -> "_Identities":
        found = cls(set(), [])
        for raw in spans:
            try:
                span = wire.Span.FromString(raw)
            except DecodeError:
                continue
            if len(span.trace_id) == 16:
                found.trace_ids.add(UUID(bytes=span.trace_id))
                found.starts.append(span.start_time_unix_nano)
        return found

    def stored(self, database: psycopg.Connection) -> int:
        """The number of spans in the store, of these traces and in this time: it makes PostgreSQL read few
        partitions."""
        if not self.starts:
            return 0
        statement = sql.SQL(STATEMENTS.stored_spans.sql).format(
            trace_ids=list(self.trace_ids), first=_time(min(self.starts)), last=_time(max(self.starts) + 1000)
        )
        [(spans,)] = database.execute(statement).fetchall()
        return int(spans)


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=nanoseconds // 1000)


class _Sender:
    """Sends requests to a promscale. Raises TransferError if none answers."""

    def __init__(self, channel: grpc.Channel, endpoint: str) -> None:
        self._endpoint = endpoint
        self._export: grpc.UnaryUnaryMultiCallable = channel.unary_unary(
            f"/{TRACE_SERVICE}/Export", response_deserializer=ExportTraceServiceResponse.FromString
        )
        try:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise TransferError(f"no promscale answers at {endpoint}; start the demo with ./run.sh") from None

    def send(self, request: bytes) -> Refusals:
        """Send a request until it is stored; returns its refused spans. Raises TransferError."""
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                answer = self._export(request, timeout=REQUEST_SECONDS).partial_success
            except grpc.RpcError as error:
                if error.code() not in _RETRIED or time.monotonic() > deadline:
                    raise TransferError(
                        f"promscale at {self._endpoint} does not store the spans ({error.code().name}:"
                        f" {error.details()}); repeat the import later: what is stored stays, and is not doubled"
                    ) from None
                time.sleep(_pause(error))
            else:
                return Refusals(answer.rejected_spans, [answer.error_message] if answer.rejected_spans else [])


def _pause(error: grpc.RpcError) -> float:
    """Seconds until the retry: what the server's RetryInfo says."""
    for item in error.trailing_metadata() or ():
        if item.key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(item.value).details:
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(retry):
                    return retry.retry_delay.ToNanoseconds() / 1e9
    return PAUSE_SECONDS
