"""A promscale that runs in the test's process, with the encoder TEST_ENCODER or else its default."""

import os

import grpc
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from promscale import jaeger_pb2 as messages
from promscale.encoders import chosen_encoder
from promscale.jaeger import DEPENDENCY_READER, TRACE_READER, Jaeger
from promscale.server import TRACE_SERVICE, Server
from promscale.store import Store
from promscale.web import Web
from tests.waiting import wait_until


class Promscale:
    """A promscale on free ports of gRPC and HTTP, and a client of it. Call `close` at the end."""

    def __init__(self, dsn: str, encoder: str | None = os.environ.get("TEST_ENCODER")) -> None:
        self.dsn = dsn
        self.store = Store(dsn, encoder=chosen_encoder(encoder))
        self.store.migrate()
        self.store.start()
        self.jaeger = Jaeger(dsn)
        self.server = Server(self.store, self.jaeger, "127.0.0.1:0")
        self.server.serve()
        self.web = Web(self.store, "127.0.0.1:0")
        self.web.serve()
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.server.port}", options=[("grpc.max_send_message_length", -1)]
        )
        self._export: grpc.UnaryUnaryMultiCallable = self.channel.unary_unary(
            f"/{TRACE_SERVICE}/Export", response_deserializer=ExportTraceServiceResponse.FromString
        )

    def export(self, request, **options) -> ExportTraceServiceResponse:
        """Send an ExportTraceServiceRequest, or any bytes instead. Raises grpc.RpcError."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self._export(data, timeout=60, **options)

    def export_with_retries(self, request) -> None:
        """Send an ExportTraceServiceRequest until it is acknowledged, as senders do."""
        wait_until(lambda: not self.is_unavailable_for(request), "an acknowledgement")

    def is_unavailable_for(self, request) -> bool:
        """Send an ExportTraceServiceRequest; returns whether the answer is UNAVAILABLE, so that a sender retries."""
        try:
            self.export(request)
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.UNAVAILABLE
        return False

    def read(self, method: str, request, **options) -> list:
        """All answers of a method of Jaeger's protocol ("GetTraces") to its request, or to any bytes instead.

        Raises grpc.RpcError.
        """
        return list(self.reading(method, request, **options))

    def reading(self, method: str, request, timeout: float = 60):
        """The same answers one by one, as a gRPC call that can be cancelled."""
        service = DEPENDENCY_READER if method == "GetDependencies" else TRACE_READER
        answer = TracesData if method in ("GetTraces", "FindTraces") else getattr(messages, f"{method}Response")
        data = request if isinstance(request, bytes) else request.SerializeToString()
        # A client may read a unary answer as a stream of one.
        call: grpc.UnaryStreamMultiCallable = self.channel.unary_stream(
            f"/{service}/{method}", response_deserializer=answer.FromString
        )
        return call(data, timeout=timeout)

    def close(self) -> None:
        self.channel.close()
        self.server.close(grace_seconds=5)
        self.web.close()
        self.jaeger.close()
        self.store.close()


def value_of(connection: psycopg.Connection, statement: str, parameters: list | None = None):
    """The only column of the statement's only row."""
    [(value,)] = connection.execute(statement, parameters).fetchall()
    return value


def span_count(connection: psycopg.Connection) -> int:
    return value_of(connection, "select count(*) from ps_trace.span")
