"""A TCP proxy between promscale and its database, to interrupt their connections; also a balancer of connections."""

import contextlib
import socket
import threading
from itertools import cycle


class Proxy:
    """Forwards a free loopback port to the targets, each connection to the next one, until `cut`, and again after
    `restore`.

    If `silencing_request` is set, a client that sends these bytes gets no more answers.
    """

    def __init__(self, *targets: tuple[str, int]) -> None:
        self._targets = cycle(targets)
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.silencing_request: bytes | None = None
        self.port = 0
        self.restore()

    def restore(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        _close(self._listener)
        for pair in self._pairs:
            _close(*pair)
        self._pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # after `cut`
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(next(self._targets))
                self._pairs.append((client, server))
                silenced = threading.Event()
                for forward in (self._forward_requests, self._forward_answers):
                    threading.Thread(target=forward, args=(client, server, silenced), daemon=True).start()

    def _forward_requests(self, client: socket.socket, server: socket.socket, silenced: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.silencing_request and self.silencing_request in data:
                    silenced.set()
                server.sendall(data)
        _close(client, server)

    def _forward_answers(self, client: socket.socket, server: socket.socket, silenced: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not silenced.is_set():
                    client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for connection in sockets:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
