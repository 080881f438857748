"""A promscale under attack: it must still store valid spans, and must not restart."""

import grpc
import psutil
import psycopg
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from benchmarks import store as stores
from promscale.server import TRACE_SERVICE
from tests.store.otlp_messages import request, span


class Target:
    """A client of the promscale of `running`."""

    def __init__(self, running: stores.OwnPromscale) -> None:
        self.process = running.processes["store"]
        self.endpoint, self.web = running.endpoint, running.web
        self._database = psycopg.connect(running.dsn, autocommit=True)
        # Attacks send spans of any age: keep them all, so that they can be counted.
        self._database.execute("select ps_trace.set_trace_retention_period('1000 years')")
        self._channel = grpc.insecure_channel(running.endpoint, options=[("grpc.max_send_message_length", -1)])
        self._export: grpc.UnaryUnaryMultiCallable = self._channel.unary_unary(
            f"/{TRACE_SERVICE}/Export", response_deserializer=ExportTraceServiceResponse.FromString
        )
        self._controls: list[bytes] = []

    def __enter__(self) -> "Target":
        return self

    def __exit__(self, *_) -> None:
        self._channel.close()
        self._database.close()

    def export(self, data: bytes, **options) -> ExportTraceServiceResponse | grpc.StatusCode:
        """The response to an export of these bytes, or the status of its error."""
        try:
            return self._export(data, timeout=120, **options)
        except grpc.RpcError as error:
            return error.code()

    def post(self, data: bytes, content_type: str, encoding: str = "identity") -> int:
        """The status of the response to an export by HTTP."""
        headers = {"Content-Type": content_type, "Content-Encoding": encoding}
        return requests.post(f"http://{self.web}/v1/traces", data, headers=headers, timeout=120).status_code

    def export_control(self) -> None:
        """Export a valid span, which must be acknowledged."""
        control = span("control")
        response = self.export(request(control, service="control").SerializeToString())
        assert response == ExportTraceServiceResponse()
        self._controls.append(control.trace_id)

    def check(self) -> None:
        """promscale has not restarted, and each control span is stored once."""
        assert self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        stored = self._database.execute("select trace_id from ps_trace.span where service_name = 'control'")
        assert sorted(trace_id.bytes for (trace_id,) in stored) == sorted(self._controls)

    def span_count(self) -> int:
        [(count,)] = self._database.execute("select count(*) from ps_trace.span")
        return count
