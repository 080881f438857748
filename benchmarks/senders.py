"""Senders of OTLP, by gRPC or HTTP, that repeat an export until it is acknowledged."""

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from benchmarks.recording import Replay

GRPC_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
SENDERS = 4
EXPORT_SECONDS = 60
RETRY_SECONDS = 0.1  # the pause after backpressure, unless an HTTP response says how long to wait
BUSY_STATUSES = 429, 503

# Sends a serialized ExportTraceServiceRequest. Raises Busy, and other exceptions for other failures.
Exporter = Callable[[bytes], ExportTraceServiceResponse]


class Busy(Exception):
    """Backpressure: the export has to be repeated after a number of seconds."""

    def __init__(self, seconds: float = RETRY_SECONDS) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class Sent:
    """What was sent and acknowledged, and the response time of each export in seconds."""

    traces: dict[bytes, int] = field(default_factory=dict)  # the number of spans of each trace id
    spans: int = 0
    bytes: int = 0
    retries: int = 0
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0
    cpu_seconds: float = 0  # of this process


def send(endpoint: str, spans: int, times: Iterator[int]) -> Sent:
    """Send an export of about `spans` spans that end at each of the `times`, from several threads.

    The endpoint is "host:port" of gRPC, several "IPv4 address:port" with commas between them, each of which gets every
    n-th export, or the URL of OTLP/HTTP. Raises grpc.RpcError, OSError and
    http.client.HTTPException when an export fails, RuntimeError when the store refuses spans.
    """
    replays = [Replay(spans) for _ in range(SENDERS)]
    sent = Sent()
    lock, times_lock = threading.Lock(), threading.Lock()
    began, cpu_before = time.monotonic(), time.process_time()

    def sender(replay: Replay) -> None:
        with exporter(endpoint) as export:
            while True:
                with times_lock:
                    end = next(times, None)
                if end is None:
                    return
                request = replay.request(end)
                started = time.monotonic()
                retries = export_until_stored(export, request)
                latency = time.monotonic() - started
                with lock:
                    sent.traces.update(replay.traces(request))
                    sent.spans += replay.spans
                    sent.bytes += len(request)
                    sent.retries += retries
                    sent.latencies.append(latency)

    with ThreadPoolExecutor(SENDERS) as threads:
        list(threads.map(sender, replays))  # raises what a sender raises
    sent.seconds, sent.cpu_seconds = time.monotonic() - began, time.process_time() - cpu_before
    return sent


def export_until_stored(export: Exporter, request: bytes) -> int:
    """The number of retries because of backpressure. Raises RuntimeError if the store refuses spans."""
    retries = 0
    while True:
        try:
            response = export(request)
        except Busy as busy:
            retries += 1
            time.sleep(busy.seconds)
        else:
            if response.partial_success.rejected_spans:
                raise RuntimeError(f"the store refuses spans: {response.partial_success.error_message}")
            return retries


def exporter(endpoint: str) -> contextlib.AbstractContextManager[Exporter]:
    return _http(endpoint) if endpoint.startswith("http://") else _grpc(endpoint)


@contextlib.contextmanager
def _grpc(endpoint: str) -> Iterator[Exporter]:
    options = [("grpc.max_send_message_length", -1), ("grpc.lb_policy_name", "round_robin")]
    with grpc.insecure_channel(f"ipv4:{endpoint}" if "," in endpoint else endpoint, options=options) as channel:
        method: grpc.UnaryUnaryMultiCallable = channel.unary_unary(
            GRPC_METHOD, response_deserializer=ExportTraceServiceResponse.FromString
        )

        def export(request: bytes) -> ExportTraceServiceResponse:
            try:
                return method(request, timeout=EXPORT_SECONDS)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise Busy from error
                raise

        yield export


@contextlib.contextmanager
def _http(url: str) -> Iterator[Exporter]:
    """https://opentelemetry.io/docs/specs/otlp/#otlphttp"""
    address = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=EXPORT_SECONDS)) as connection:

        def export(request: bytes) -> ExportTraceServiceResponse:
            connection.request("POST", address.path, request, {"Content-Type": "application/x-protobuf"})
            with connection.getresponse() as response:
                body = response.read()
            if response.status in BUSY_STATUSES:
                seconds = response.headers.get("Retry-After", "")
                raise Busy(float(seconds)) if seconds.isdecimal() else Busy
            if response.status != http.HTTPStatus.OK:
                raise RuntimeError(f"{url} answers {response.status} {response.reason}: {body[:500]!r}")
            return ExportTraceServiceResponse.FromString(body)

        yield export
