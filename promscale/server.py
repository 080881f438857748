"""The gRPC server: OTLP's TraceService, Jaeger's remote storage protocol, and gRPC's standard health service."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from promscale.exports import RETRY_AFTER_SECONDS, Failed, answer, receive_and_store
from promscale.jaeger import MAX_CALLS, Jaeger
from promscale.otlp import MalformedRequest
from promscale.store import MAX_REQUEST_BYTES, Store

TRACE_SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
# gRPC answers a larger message with RESOURCE_EXHAUSTED, which some senders retry although no retry can succeed. So gRPC
# admits as much as rotel forwards, and promscale answers what is above its own limit with INVALID_ARGUMENT.
MAX_RECEIVED_BYTES = MAX_REQUEST_BYTES + 8 * 2**20
# How long a sender may take to transmit its request, for which memory is reserved meanwhile.
RECEIVE_SECONDS = 10
# A client that resolves a name to several promscales learns of new ones when it connects again
# (https://github.com/grpc/grpc/issues/12295), and one behind a balancer of connections gets to another promscale only
# then. Running calls end on the old connection.
CONNECTION_SECONDS = 60
# Threads: 32 for exports, besides those for Jaeger's calls.
HANDLERS = 32 + MAX_CALLS
# Concurrent calls, most of which wait for a thread; gRPC buffers the first 64 KiB of each.
MAX_WAITING_CALLS = 512


class Server:
    """Serves `store` and `jaeger` at `address` ("host:port"; port 0: any free port, which is then in `port`).

    The health service answers NOT_SERVING until `serve`. Raises RuntimeError if it cannot listen.
    """

    def __init__(self, store: Store, jaeger: Jaeger, address: str) -> None:
        self._store = store
        self._health = health.HealthServicer()
        self._grpc = grpc.server(
            ThreadPoolExecutor(HANDLERS, thread_name_prefix="grpc"),
            options=[
                ("grpc.max_receive_message_length", MAX_RECEIVED_BYTES),
                ("grpc.so_reuseport", 0),
                ("grpc.max_connection_age_ms", 1000 * CONNECTION_SECONDS),
                ("grpc.http2.bdp_probe", 0),  # the probe makes gRPC buffer more of a request before it is read
            ],
            maximum_concurrent_rpcs=MAX_WAITING_CALLS,
        )
        # Backpressure: unlike a unary request, a stream (here of one request) is not read before its handler does so.
        # Without a deserializer the request stays bytes, so that the store reports what is wrong with it.
        export: grpc.RpcMethodHandler[bytes, ExportTraceServiceResponse] = grpc.stream_unary_rpc_method_handler(
            self._export, response_serializer=ExportTraceServiceResponse.SerializeToString
        )
        services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]
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
        """Graceful shutdown: refuse new calls, and give running ones time to end."""
        self._health.enter_graceful_shutdown()
        self._grpc.stop(grace_seconds).wait()

    def _set_health(self, status: int) -> None:
        for service in self._services:
            self._health.set(service, status)

    def _export(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> ExportTraceServiceResponse:
        try:
            return answer(lambda: receive_and_store(self._store, lambda: _receive(requests, context)))
        except Failed as failure:
            if failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
                # OTLP specification: senders retry after RESOURCE_EXHAUSTED only if it comes with RetryInfo.
                retry = status_pb2.Status(code=failure.code.value[0], message=str(failure))
                retry.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_SECONDS)))
                context.set_trailing_metadata((("grpc-status-details-bin", retry.SerializeToString()),))
            context.abort(failure.code, str(failure))


def _receive(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    """The call's request. Raises MalformedRequest, and grpc.RpcError if the sender disconnects or takes too long."""
    timeout = threading.Timer(RECEIVE_SECONDS, context.cancel)
    timeout.daemon = True
    timeout.start()
    try:
        request = next(requests, None)
    finally:
        timeout.cancel()
    if request is None:
        raise MalformedRequest("the call has no request")
    if len(request) > MAX_REQUEST_BYTES:
        raise MalformedRequest(f"the request has {len(request):,} bytes; the limit is {MAX_REQUEST_BYTES:,}")
    return request
