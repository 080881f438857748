"""waitress as a server that no number of idle or slow clients keeps from the others.

One thread moves all bytes: a request reaches the app when it is complete, an answer waits for its client in a buffer.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer

from serving.hosts import only_by, trusted_names

THREADS = 16
# Fewer than the 1,024 files that a process may have open by default.
MAX_CONNECTIONS = 900
SILENT_SECONDS = 10  # so long a connection may be idle, between requests and within one
REQUEST_SECONDS = 30  # so long a request may take to come in
GRACE_SECONDS = 5  # so long requests under way may take when it stops; Docker kills after 10
MAX_HEADER_BYTES = 32 * 1024
# Bodies are in memory, one for each connection: a temporary file each would be too many files.
MAX_BODY_BYTES = 128 * 1024


class Server:
    """A WSGI app at an address and a port (0: any that is free), for the names that serving.hosts trusts.

    Raises OSError when it cannot listen there, ValueError for a bad ALLOWED_HOSTS.
    """

    def __init__(self, app: Callable, host: str, port: int) -> None:
        app = only_by(trusted_names(host), app)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        self.port = listener.getsockname()[1]
        self._stopping = False
        self._closing = threading.RLock()  # not to wake the other thread by a pipe that it has closed
        self._connections: dict = {}
        self._waitress = _Waitress(
            app,
            self._connections,
            _sock=listener,
            bind_socket=False,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            adj=Adjustments(
                sockets=[listener],
                threads=THREADS,
                connection_limit=MAX_CONNECTIONS,
                channel_timeout=SILENT_SECONDS,
                cleanup_interval=1,
                max_request_header_size=MAX_HEADER_BYTES,
                max_request_body_size=MAX_BODY_BYTES,
                inbuf_overflow=MAX_BODY_BYTES,
                log_socket_errors=False,
                ident=None,
            ),
        )

    def run(self) -> None:
        """Serve until `close`, then answer what is being answered."""
        while not self._stopping:
            self._turn()
        wasyncore.dispatcher.close(self._waitress)  # no new connections; its own `close` would end the others' turns
        deadline = time.monotonic() + GRACE_SECONDS
        while self._waitress.busy() and time.monotonic() < deadline:
            self._turn()
        self._waitress.task_dispatcher.shutdown(timeout=1)
        with self._closing:
            wasyncore.close_all(self._connections)

    def close(self) -> None:
        """Have `run` end. Callable from any thread, and from a signal handler."""
        with self._closing:
            if not self._stopping:
                self._stopping = True
                self._waitress.pull_trigger()

    def _turn(self) -> None:
        wasyncore.loop(timeout=1, map=self._connections, use_poll=True, count=1)


class _Request(HTTPRequestParser):
    def __init__(self, adj: Adjustments) -> None:
        super().__init__(adj)
        self.began = time.time()


class _Channel(HTTPChannel):
    parser_class = _Request


class _Waitress(TcpWSGIServer):
    channel_class = _Channel

    def maintenance(self, now: float) -> None:
        """Close connections that are idle; and, which waitress alone would not, those whose request comes in too
        slowly, or whose answer is not read while it is still being made."""
        for channel in list(self.active_channels.values()):
            with channel.outbuf_lock:
                waits_for_client = not channel.requests or channel.total_outbufs_len
                is_silent = channel.last_activity < now - self.adj.channel_timeout
            if (waits_for_client and is_silent) or (channel.request and channel.request.began < now - REQUEST_SECONDS):
                channel.will_close = True
                with suppress(OSError):  # the client has gone
                    # waitress closes when it can write, which is never where nobody reads.
                    channel.socket.shutdown(socket.SHUT_RDWR)

    def busy(self) -> bool:
        return any(channel.requests or channel.total_outbufs_len for channel in self.active_channels.values())
