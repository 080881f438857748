"""Imports spans from files: they are sent to promscale by OTLP/gRPC."""

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
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
    """Numbers of spans: in the files; of these, stored for the first time; and refused, with the first reasons.

    `skipped` are the files of an export that have no spans.
    """

    read: int
    new: int
    refusals: Refusals
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
            new, refusals = 0, Refusals()
            for request in otlp.requests(_spooled(spool), REQUEST_BYTES):
                spans, trace_ids = _contents(request)
                stored_before = _stored(database, trace_ids)
                refused = sender.send(request)
                new += _stored(database, trace_ids) - stored_before
                refusals.extend(refused)
                progress.update(spans)
    return Imported(read, new, refusals, skipped)


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


def _contents(request: bytes) -> tuple[int, set[UUID]]:
    """The number of spans of a request, and the ids of their traces, but for spans that promscale will refuse."""
    spans, trace_ids = 0, set()
    for scope_spans in scopes(wire.TracesData.FromString(request)):
        for raw in scope_spans.spans:
            spans += 1
            try:
                trace_id = wire.Span.FromString(raw).trace_id
            except DecodeError:
                continue
            if len(trace_id) == 16:
                trace_ids.add(UUID(bytes=trace_id))
    return spans, trace_ids


def _stored(database: psycopg.Connection, trace_ids: Iterable[UUID]) -> int:
    statement = sql.SQL(STATEMENTS.stored_spans.sql).format(trace_ids=list(trace_ids))
    [(spans,)] = database.execute(statement).fetchall()
    return int(spans)


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
