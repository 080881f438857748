"""A promscale in this process."""

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from promscale.server import TRACE_SERVICE, Server
from promscale.store import Store


class Promscale:
    """Serves on a free port, and is a client of itself."""

    def __init__(self, dsn: str) -> None:
        self.store = Store(dsn)
        self.store.migrate()
        self.store.start()
        self.server = Server(self.store, "127.0.0.1:0")
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

    def close(self) -> None:
        self.channel.close()
        self.server.close(grace_seconds=5)
        self.store.close()
