"""waitress, as a server in which idle or slow clients do not block other clients.

One thread does all socket I/O. A request reaches a worker thread when it is complete, and a response waits in a buffer
until the client has read it.
"""

import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import FixedStreamReceiver
from waitress.server import TcpWSGIServer

from serving.bodies import Body, BodyLimits, Chunks
from serving.hosts import WSGIApp, allow_only, trusted_names

THREADS = 16
MAX_CONNECTIONS = 900  # below 1,024, the usual limit of open files of a process
IDLE_SECONDS = 10  # how long nothing may move on a connection, between requests and within one
REQUEST_SECONDS = 30  # how long it may take to receive a request
GRACE_SECONDS = 5  # how long requests may still take at a graceful shutdown; Docker sends SIGKILL after 10
MAX_HEADER_BYTES = 32 * 1024
# Bodies are kept in memory: with a temporary file for each, the limit of open files would be reached.
MAX_BODY_BYTES = 128 * 1024  # unless the server has BodyLimits


class Server:
    """A WSGI app at an address and a port (0: a free one), for the host names that serving.hosts trusts.

    `body_limits`: for an app that reads bodies above MAX_BODY_BYTES. Raises OSError when it cannot listen there,
    ValueError for a bad ALLOWED_HOSTS.
    """

    def __init__(self, app: WSGIApp, host: str, port: int, body_limits: BodyLimits | None = None) -> None:
        app = allow_only(trusted_names(host), app)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self.port: int = listener.getsockname()[1]
        self._stopping = False
        # `close` wakes the serving thread through a pipe, which that thread must not have closed yet. Reentrant, for a
        # signal handler may interrupt the thread that holds it.
        self._closing = threading.RLock()
        self._connections: dict[int, Any] = {}
        self._waitress = _Waitress(
            app,
            self._connections,
            _sock=listener,
            bind_socket=False,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            adj=_Adjustments(
                body_limits,
                sockets=[listener],
                threads=THREADS,
                connection_limit=MAX_CONNECTIONS,
                channel_timeout=IDLE_SECONDS,
                cleanup_interval=1,
                max_request_header_size=MAX_HEADER_BYTES,
                max_request_body_size=sys.maxsize if body_limits else MAX_BODY_BYTES,
                inbuf_overflow=MAX_BODY_BYTES,
                log_socket_errors=False,
                ident=None,
            ),
        )

    def run(self) -> None:
        """Serve until `close`; then finish the requests that were received, within GRACE_SECONDS."""
        while not self._stopping:
            self._poll()
        # Accept no more connections. waitress's own `close` would also stop its worker threads.
        wasyncore.dispatcher.close(self._waitress)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._waitress.busy() and time.monotonic() < deadline:
            self._poll()
        self._waitress.task_dispatcher.shutdown(timeout=1)
        with self._closing:
            wasyncore.close_all(self._connections)

    def close(self) -> None:
        """Make `run` return. May be called from any thread and from a signal handler."""
        with self._closing:
            if not self._stopping:
                self._stopping = True
                self._waitress.pull_trigger()

    def _poll(self) -> None:
        wasyncore.loop(timeout=1, map=self._connections, use_poll=True, count=1)


class _Adjustments(Adjustments):
    def __init__(self, body_limits: BodyLimits | None, **options: Any) -> None:
        super().__init__(**options)
        self.body_limits = body_limits


class _Request(HTTPRequestParser):
    adj: _Adjustments

    def __init__(self, adj: _Adjustments) -> None:
        super().__init__(adj)
        self.began = time.time()

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        if self.body_rcv is not None and self.adj.body_limits:
            body = Body(self.adj.body_limits)
            # waitress's receivers use no more of their buffers than this body has.
            self.body_rcv = Chunks(body) if self.chunked else FixedStreamReceiver(self.content_length, body)  # type: ignore[arg-type]


class _Channel(HTTPChannel):
    parser_class = _Request
    request: _Request | None

    def handle_close(self) -> None:
        super().handle_close()
        if self.request:
            self.request.close()  # which frees the body of a request that was not received completely


class _Waitress(TcpWSGIServer):
    channel_class = _Channel

    def maintenance(self, now: float) -> None:
        """Close idle connections, as waitress does, and also two kinds that waitress would keep for ever: those whose
        request arrives too slowly, and those whose client does not read a response that is still being produced."""
        for channel in self._channels():
            with channel.outbuf_lock:
                waits_for_client = not channel.requests or channel.total_outbufs_len
                is_idle = channel.last_activity < now - self.adj.channel_timeout
            if (waits_for_client and is_idle) or (channel.request and channel.request.began < now - REQUEST_SECONDS):
                channel.will_close = True
                # waitress closes a channel when its socket is writable, which never happens without a reader.
                if channel.socket:
                    with suppress(OSError):  # the client has disconnected
                        channel.socket.shutdown(socket.SHUT_RDWR)

    def busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self._channels())

    def _channels(self) -> list[_Channel]:
        return list(self.active_channels.values())  # type: ignore[attr-defined]  # a dict, which its stubs get wrong
