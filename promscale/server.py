"""The gRPC server: OTLP's TraceService, what Jaeger reads, and the standard health service beside them."""

import logging
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from promscale import metrics
from promscale.jaeger import MAX_CALLS, Jaeger
from promscale.otlp import MalformedRequest
from promscale.store import Store, StoreFull, StoreUnavailable

log = logging.getLogger(__name__)

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
# A request above this is answered RESOURCE_EXHAUSTED by gRPC itself, with both sizes in the message.
MAX_REQUEST_BYTES = 64 * 2**20
# Threads: for exports, and for what Jaeger may take of them at most.
HANDLERS = 32 + MAX_CALLS
RETRY_AFTER_SECONDS = 1
# As many refusals as partial_success names; the log has them all.
MAX_NAMED_REFUSALS = 10


class Server:
    """Serves `store` and `jaeger` at `address` ("host:port", port 0 for any free one; `port` says which).

    By its health service it is not serving until `serve`. Raises RuntimeError where it cannot listen.
    """

    def __init__(self, store: Store, jaeger: Jaeger, address: str) -> None:
        self._store = store
        self._health = health.HealthServicer()
        self._grpc = grpc.server(
            ThreadPoolExecutor(HANDLERS, thread_name_prefix="grpc"),
            options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)],
        )
        # Requests are taken as bytes: what is wrong with them is for the store to say.
        export = grpc.unary_unary_rpc_method_handler(
            self._export, response_serializer=ExportTraceServiceResponse.SerializeToString
        )
        services = {TRACE_SERVICE: {"Export": export}, **jaeger.services()}
        for service, methods in services.items():
            self._grpc.add_registered_method_handlers(service, methods)
            self._grpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._services = ("", *services)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = self._grpc.add_insecure_port(address)
        self._grpc.start()

    def serve(self) -> None:
        self._set_health(health_pb2.HealthCheckResponse.SERVING)

    def close(self, grace_seconds: float) -> None:
        """Take no new exports, and let those under way end."""
        self._health.enter_graceful_shutdown()
        self._grpc.stop(grace_seconds).wait()

    def _set_health(self, status: int) -> None:
        for service in self._services:
            self._health.set(service, status)

    def _export(self, request: bytes, context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        try:
            with metrics.export_seconds.time():
                refused = self._store.write(request)
        except MalformedRequest as error:
            self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except StoreUnavailable as error:
            self._abort(context, grpc.StatusCode.UNAVAILABLE, str(error))
        except StoreFull as error:
            # Without RetryInfo a sender would take this for final: OTLP's rules for RESOURCE_EXHAUSTED.
            retry = status_pb2.Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message=str(error))
            retry.details.add().Pack(
                error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_SECONDS))
            )
            context.set_trailing_metadata([("grpc-status-details-bin", retry.SerializeToString())])
            self._abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        metrics.exports.labels(grpc.StatusCode.OK.name).inc()
        response = ExportTraceServiceResponse()
        if refused:
            metrics.refused_spans.inc(len(refused))
            for line in refused:
                log.warning("%s", line)
            named = refused[:MAX_NAMED_REFUSALS]
            if len(refused) > len(named):
                named.append(f"and {len(refused) - len(named)} more")
            response.partial_success.CopyFrom(
                ExportTracePartialSuccess(rejected_spans=len(refused), error_message="; ".join(named))
            )
        return response

    def _abort(self, context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> None:
        metrics.exports.labels(code.name).inc()
        context.abort(code, message)
