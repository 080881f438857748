"""A promscale in this process."""

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from promscale import jaeger_pb2 as messages
from promscale.jaeger import DEPENDENCY_READER, TRACE_READER, Jaeger
from promscale.server import TRACE_SERVICE, Server
from promscale.store import Store


class Promscale:
    """Serves on a free port, and is a client of itself."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.store = Store(dsn)
        self.store.migrate()
        self.store.start()
        self.jaeger = Jaeger(dsn)
        self.server = Server(self.store, self.jaeger, "127.0.0.1:0")
        self.server.serve()
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{self.server.port}", options=[("grpc.max_send_message_length", -1)]
        )
        self._export = self.channel.unary_unary(
            f"/{TRACE_SERVICE}/Export", response_deserializer=ExportTraceServiceResponse.FromString
        )

    def export(self, request, **options) -> ExportTraceServiceResponse:
        """Send an ExportTraceServiceRequest, or any bytes in its place. Raises grpc.RpcError."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        return self._export(data, timeout=60, **options)

    def read(self, method: str, request, **options) -> list:
        """All answers of a method of Jaeger's protocol ("GetTraces") to its request, or to any bytes in its place.

        Raises grpc.RpcError.
        """
        return list(self.reading(method, request, **options))

    def reading(self, method: str, request, timeout: float = 60):
        """The same one by one, as a gRPC call that can be cancelled."""
        service = DEPENDENCY_READER if method == "GetDependencies" else TRACE_READER
        answer = TracesData if method in ("GetTraces", "FindTraces") else getattr(messages, f"{method}Response")
        data = request if isinstance(request, bytes) else request.SerializeToString()
        # To a client, one answer is a stream of one.
        call = self.channel.unary_stream(f"/{service}/{method}", response_deserializer=answer.FromString)
        return call(data, timeout=timeout)

    def close(self) -> None:
        self.channel.close()
        self.server.close(grace_seconds=5)
        self.jaeger.close()
        self.store.close()
