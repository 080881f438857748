"""Exports, by whichever protocol they come: how one is stored, counted and logged, and how it can fail."""

import logging
from collections.abc import Callable

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from promscale import metrics
from promscale.otlp import MalformedRequest, Refusals
from promscale.store import Store, StoreFull, StoreUnavailable

log = logging.getLogger(__name__)

# When a sender should retry after backpressure.
RETRY_AFTER_SECONDS = 1


class Failed(Exception):
    """An export was not acknowledged. `code` is gRPC's status for it; `__cause__` is what happened."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def receive_and_store(store: Store, receive: Callable[[], bytes]) -> Refusals:
    """Store the serialized request that `receive` returns, which is called when there is memory for a request.

    Raises what Store.room, Store.write and `receive` raise.
    """
    with store.room() as hold:
        request = receive()
        hold(len(request))
        return store.write(request)


def answer(export: Callable[[], Refusals]) -> ExportTraceServiceResponse:
    """Run an export, which may raise what `receive_and_store` raises; count it and log refusals. Raises Failed."""
    try:
        with metrics.export_seconds.time():
            refusals = export()
    except Exception as error:
        code, message = _status(error)
        metrics.exports.labels(code.name).inc()
        raise Failed(code, message) from error
    metrics.exports.labels(grpc.StatusCode.OK.name).inc()
    response = ExportTraceServiceResponse()
    if refusals.count:
        metrics.refused_spans.inc(refusals.count)
        log.warning("%s", refusals)
        response.partial_success.CopyFrom(
            ExportTracePartialSuccess(rejected_spans=refusals.count, error_message=str(refusals))
        )
    return response


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    match error:
        case MalformedRequest():
            return grpc.StatusCode.INVALID_ARGUMENT, str(error)
        case StoreFull():
            return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        case StoreUnavailable():
            return grpc.StatusCode.UNAVAILABLE, str(error)
        case grpc.RpcError():
            return grpc.StatusCode.CANCELLED, "the sender disconnected, or took too long to send its request"
        case _:
            # After another status, such as gRPC's UNKNOWN, senders drop the export instead of retrying.
            log.error("An export failed", exc_info=error)
            return grpc.StatusCode.UNAVAILABLE, f"error in promscale: {type(error).__name__}"
