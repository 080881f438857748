"""OTLP/HTTP: POST /v1/traces, in protobuf or JSON. https://opentelemetry.io/docs/specs/otlp/#otlphttp"""

import gzip
import threading
import zlib

import grpc
from flask import Response, request
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import status_pb2
from werkzeug.exceptions import RequestEntityTooLarge, TooManyRequests

from promscale import otlp_json
from promscale.exports import RETRY_AFTER_SECONDS, Failed, answer, receive_and_store
from promscale.otlp import MalformedRequest, Refusals
from promscale.store import MAX_REQUEST_BYTES, Store, StoreFull
from serving import THREADS

PATH = "/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
# The web server's other threads are left to monitoring.
MAX_EXPORTS = THREADS - 4
# Objects, arrays and commas in a JSON body, each of which takes 170 bytes of memory as a rule and 220 at most while it
# is converted. 8,000 spans of the demo have so many, in 6 MiB.
MAX_JSON_VALUES = 400_000
# Of the reason why JSON cannot be read, which may quote all of it.
MAX_REASON_CHARS = 200


class _TooLarge(MalformedRequest):
    pass


class _Unsupported(MalformedRequest):
    pass


_STATUS_OF_CAUSE: dict[type, int] = {_TooLarge: 413, _Unsupported: 415}
_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class Traces:
    """Stores exports in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places = threading.BoundedSemaphore(MAX_EXPORTS)
        self._conversion = threading.Lock()

    def export(self) -> Response:
        """Answer the current request of Flask, whose body is a request of OTLP."""
        try:
            return _response(200, answer(self._store_request))
        except Failed as failure:
            status = _STATUS_OF_CAUSE.get(type(failure.__cause__)) or _STATUS[failure.code]
            response = _response(status, status_pb2.Status(code=failure.code.value[0], message=str(failure)))
        if status in (429, 503):
            response.retry_after = RETRY_AFTER_SECONDS
        return response

    def _store_request(self) -> Refusals:
        if request.mimetype not in (PROTOBUF, JSON):
            raise _Unsupported(f"the Content-Type is {request.mimetype!r}, and not {PROTOBUF} or {JSON}")
        if _encoding() not in ("gzip", "identity"):
            raise _Unsupported(f"the Content-Encoding is {_encoding()!r}, and not gzip or identity")
        if not self._places.acquire(blocking=False):
            raise StoreFull(f"{MAX_EXPORTS} exports by HTTP are being stored, which is the limit")
        try:
            return receive_and_store(self._store, self._receive)
        finally:
            self._places.release()

    def _receive(self) -> bytes:
        """The serialized request. Raises MalformedRequest and StoreFull."""
        body = _read_body()
        if request.mimetype == PROTOBUF:
            return body
        values = sum(map(body.count, (b"{", b"[", b",")))
        if values > MAX_JSON_VALUES:
            raise _TooLarge(
                f"the JSON has {values:,} objects, arrays and commas; the limit is {MAX_JSON_VALUES:,}: send fewer"
                " spans at once, or protobuf"
            )
        with self._conversion:
            try:
                return otlp_json.parse(body)
            except ValueError as error:
                reason = " ".join(str(error).split())[:MAX_REASON_CHARS]
                raise MalformedRequest(f"the request is not OTLP/JSON: {reason}") from None


def _encoding() -> str:
    return request.headers.get("Content-Encoding", "identity").lower()


def _read_body() -> bytes:
    """The body without its encoding, of which no more is decompressed than the limit.

    Raises MalformedRequest and StoreFull.
    """
    stream = gzip.GzipFile(fileobj=request.stream) if _encoding() == "gzip" else request.stream
    try:
        body = stream.read(MAX_REQUEST_BYTES + 1)
        if len(body) > MAX_REQUEST_BYTES:
            raise RequestEntityTooLarge
    except RequestEntityTooLarge:
        raise _TooLarge(f"the request has more than {MAX_REQUEST_BYTES:,} bytes, which is the limit") from None
    except TooManyRequests as error:
        raise StoreFull(error.description) from None
    except (OSError, EOFError, zlib.error) as error:
        raise MalformedRequest(f"the request is not compressed by gzip: {error}") from None
    return body


def _response(status: int, message: Message) -> Response:
    """The message in the request's format; JSON, which people read, if it has neither."""
    if request.mimetype == PROTOBUF:
        return Response(message.SerializeToString(), status, content_type=PROTOBUF)
    return Response(json_format.MessageToJson(message, indent=None), status, content_type=JSON)
