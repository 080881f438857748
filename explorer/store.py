"""A client of Jaeger's remote storage protocol (package jaeger.storage.v2): reads traces from promscale."""

import os
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from werkzeug.exceptions import BadRequest, GatewayTimeout, HTTPException, ServiceUnavailable

from explorer.query import Query
from promscale import jaeger_pb2 as messages
from telemetry.services import PROMSCALE_GRPC_PORT

ADDRESS = os.environ.get("EXPLORER_STORE") or f"localhost:{PROMSCALE_GRPC_PORT}"
CONNECT_SECONDS = 3
ANSWER_SECONDS = 15
SECOND = 10**9  # in nanoseconds


class ServiceSummary(NamedTuple):
    """The spans of one service in one trace."""

    name: str
    spans: int
    errors: int


class TraceSummary(NamedTuple):
    """A trace in a list of search results. Times are nanoseconds since 1970, durations nanoseconds."""

    id: str  # hex
    service: str  # of the root span; "" as long as none is stored
    operation: str
    start: int
    duration: int
    spans: int
    errors: int
    orphans: int
    services: list[ServiceSummary]


class Dependency(NamedTuple):
    """Calls from one service to another."""

    caller: str
    callee: str
    calls: int


class Store:
    """A client of the store at `address` ("host:port").

    Every method raises an HTTPException if it fails: BadRequest for arguments that the store refuses,
    ServiceUnavailable if the store cannot be reached or is overloaded, GatewayTimeout if it does not answer in time.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        options = [
            ("grpc.max_receive_message_length", -1),  # one span can be larger than any limit
            # The minimum backoff is also the timeout of a connection attempt:
            # https://grpc.github.io/grpc/core/md_doc_connection-backoff.html
            ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel = grpc.insecure_channel(address, options=options)

    def services(self) -> list[str]:
        return list(self._call("GetServices", messages.GetServicesRequest())[0].services)

    def operations(self, service: str, span_kind: str = "") -> list[tuple[str, str]]:
        """Names and span kinds of the service's operations; only those of `span_kind` if it is given."""
        request = messages.GetOperationsRequest(service=service.encode(), span_kind=span_kind.encode())
        [response] = self._call("GetOperations", request)
        return [(operation.name, operation.span_kind) for operation in response.operations]

    def summaries(self, query: Query) -> list[TraceSummary]:
        """A summary of each trace that matches, the newest first."""
        request = messages.FindTraceSummariesRequest(query=_parameters(query))
        responses = self._call("FindTraceSummaries", request)
        summaries = [trace_summary(message) for response in responses for message in response.summaries]
        return sorted(summaries, key=lambda summary: summary.start, reverse=True)

    def find(self, query: Query) -> dict[bytes, list[TracesData]]:
        """The traces that match by their ids, the newest first."""
        return _by_trace(self._call("FindTraces", messages.FindTracesRequest(query=_parameters(query))))

    def traces(self, trace_ids: Iterable[bytes]) -> dict[bytes, list[TracesData]]:
        """Those of the traces that are stored, by their ids."""
        query = [messages.GetTraceParams(trace_id=trace_id) for trace_id in trace_ids]
        return _by_trace(self._call("GetTraces", messages.GetTracesRequest(query=query)))

    def dependencies(self, start: int, end: int) -> list[Dependency]:
        """Calls between services from `start` to `end`, nanoseconds since 1970."""
        request = messages.GetDependenciesRequest(start_time=_timestamp(start), end_time=_timestamp(end))
        [response] = self._call("GetDependencies", request)
        return [Dependency(message.parent, message.child, message.call_count) for message in response.dependencies]

    def _call(self, method: str, request: Message) -> list[Any]:
        """The response messages: a unary response is read as a stream of one message."""
        service = "DependencyReader" if method == "GetDependencies" else "TraceReader"
        response = TracesData if method in ("GetTraces", "FindTraces") else getattr(messages, f"{method}Response")
        call = self._channel.unary_stream(
            f"/{messages.DESCRIPTOR.package}.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return list(call(request, timeout=ANSWER_SECONDS))
        except grpc.RpcError as error:
            raise _http_error(error, self._address) from error


def _http_error(error: grpc.RpcError, address: str) -> HTTPException:
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return BadRequest(error.details())
        case grpc.StatusCode.UNAVAILABLE:
            return ServiceUnavailable(
                f"promscale at {address} cannot be reached: {error.details()}. ./run.sh status shows what is running."
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ServiceUnavailable(f"promscale at {address} is overloaded: {error.details()}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return GatewayTimeout(
                f"promscale at {address} did not answer within {ANSWER_SECONDS} s. ./run.sh status shows whether it is"
                " running; if it is, choose a shorter time range."
            )
        case _:
            raise error


def trace_summary(message: messages.TraceSummary) -> TraceSummary:
    start = message.min_start_time_unix_nano
    return TraceSummary(
        id=message.trace_id.hex(),
        service=message.root_service_name,
        operation=message.root_operation_name,
        start=start,
        duration=max(message.max_end_time_unix_nano - start, 0),
        spans=message.span_count,
        errors=message.error_span_count,
        orphans=message.orphan_span_count,
        services=[
            ServiceSummary(service.name, service.span_count, service.error_span_count) for service in message.services
        ],
    )


def _by_trace(chunks: Iterable[TracesData]) -> dict[bytes, list[TracesData]]:
    """The protocol guarantees that a chunk has spans of one trace only, and that a trace's chunks are consecutive."""
    return {trace_id: list(group) for trace_id, group in groupby(chunks, _trace_id)}


def _trace_id(chunk: TracesData) -> bytes:
    return chunk.resource_spans[0].scope_spans[0].spans[0].trace_id


def _parameters(query: Query) -> messages.TraceQueryParameters:
    attributes = (KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in query.tags.items())
    return messages.TraceQueryParameters(
        service_name=query.service.encode(),
        operation_name=query.operation.encode(),
        attributes=[attribute.SerializeToString() for attribute in attributes],
        start_time_min=_timestamp(query.start),
        start_time_max=_timestamp(query.end),
        duration_min=_duration(query.min_duration),
        duration_max=_duration(query.max_duration),
        search_depth=query.limit,
    )


def _timestamp(nanos: int) -> messages.Timestamp:
    seconds, rest = divmod(nanos, SECOND)
    return messages.Timestamp(seconds=seconds, nanos=rest)


def _duration(nanos: int | None) -> messages.Duration | None:
    if nanos is None:
        return None
    seconds, rest = divmod(nanos, SECOND)
    return messages.Duration(seconds=seconds, nanos=rest)
