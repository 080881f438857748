"""Reads traces as Jaeger does: by its remote storage protocol (package jaeger.storage.v2) from promscale."""

import os
from collections.abc import Iterable
from itertools import groupby

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from werkzeug.exceptions import BadRequest, GatewayTimeout, HTTPException, ServiceUnavailable

from explorer.query import Query
from promscale import jaeger_pb2 as messages

ADDRESS = os.environ.get("EXPLORER_STORE") or "localhost:9202"
CONNECT_SECONDS = 3
ANSWER_SECONDS = 15
SECOND = 10**9


class Store:
    """A client of the store at `address`, host and port. Every method raises an HTTPException: BadRequest for what the
    store says cannot be, ServiceUnavailable while it is away, GatewayTimeout when it takes too long.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        options = [
            ("grpc.max_receive_message_length", -1),  # a message holds at least one span, and a span can be large
            # So long a connection may take: https://grpc.github.io/grpc/core/md_doc_connection-backoff.html
            ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1000),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        self._channel = grpc.insecure_channel(address, options=options)

    def services(self) -> list[str]:
        return list(self._call("GetServices", messages.GetServicesRequest())[0].services)

    def operations(self, service: str, span_kind: str = "") -> list[tuple[str, str]]:
        """Names and span kinds of the service's operations, those of one kind if it is given."""
        request = messages.GetOperationsRequest(service=service.encode(), span_kind=span_kind.encode())
        return [(each.name, each.span_kind) for each in self._call("GetOperations", request)[0].operations]

    def summaries(self, query: Query) -> list[Message]:
        """A TraceSummary of each trace that is found, the newest first."""
        request = messages.FindTraceSummariesRequest(query=_parameters(query))
        return [each for part in self._call("FindTraceSummaries", request) for each in part.summaries]

    def find(self, query: Query) -> dict[bytes, list[TracesData]]:
        """The traces that are found, by id, the newest first."""
        return _by_trace(self._call("FindTraces", messages.FindTracesRequest(query=_parameters(query))))

    def traces(self, trace_ids: Iterable[bytes]) -> dict[bytes, list[TracesData]]:
        """Those of the traces that there are, by id."""
        query = [messages.GetTraceParams(trace_id=trace_id) for trace_id in trace_ids]
        return _by_trace(self._call("GetTraces", messages.GetTracesRequest(query=query)))

    def dependencies(self, start: int, end: int) -> list[Message]:
        """Calls between services from `start` to `end`, nanoseconds since 1970, as messages Dependency."""
        request = messages.GetDependenciesRequest(start_time=_timestamp(start), end_time=_timestamp(end))
        return list(self._call("GetDependencies", request)[0].dependencies)

    def _call(self, method: str, request: Message) -> list[Message]:
        """All answers; to a client, one answer is a stream of one."""
        service = "DependencyReader" if method == "GetDependencies" else "TraceReader"
        answer = TracesData if method in ("GetTraces", "FindTraces") else getattr(messages, f"{method}Response")
        call = self._channel.unary_stream(
            f"/{messages.DESCRIPTOR.package}.{service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
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
            away = f"promscale at {address} is away: {error.details()}. ./run.sh status shows what runs."
            return ServiceUnavailable(away)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ServiceUnavailable(f"promscale at {address} is busy: {error.details()}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return GatewayTimeout(
                f"promscale at {address} did not answer within {ANSWER_SECONDS} s. ./run.sh status shows whether it"
                " runs; if it does, ask for a shorter range."
            )
        case _:
            raise error


def _by_trace(chunks: Iterable[TracesData]) -> dict[bytes, list[TracesData]]:
    # A chunk holds spans of one trace, and chunks of a trace follow each other.
    return {trace_id: list(group) for trace_id, group in groupby(chunks, _trace_id)}


def _trace_id(chunk: TracesData) -> bytes:
    return chunk.resource_spans[0].scope_spans[0].spans[0].trace_id


def _parameters(query: Query) -> Message:
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


def _timestamp(nanos: int) -> Message:
    seconds, rest = divmod(nanos, SECOND)
    return messages.Timestamp(seconds=seconds, nanos=rest)


def _duration(nanos: int | None) -> Message | None:
    if nanos is None:
        return None
    seconds, rest = divmod(nanos, SECOND)
    return messages.Duration(seconds=seconds, nanos=rest)
