"""A TCP proxy that can be cut, to stand between promscale and its database."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards a free port of loopback to `target`, until `cut`; again after `mend`.

    From when a client has said `last_words` on, if set, it gets no more answers.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.last_words: bytes | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
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
        with contextlib.suppress(OSError):  # cut
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._pairs.append((client, server))
                silenced = threading.Event()
                for forward in (self._ask, self._answer):
                    threading.Thread(target=forward, args=(client, server, silenced), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, silenced: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if self.last_words and self.last_words in data:
                    silenced.set()
                server.sendall(data)
        _close(client, server)

    def _answer(self, client: socket.socket, server: socket.socket, silenced: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if not silenced.is_set():
                    client.sendall(data)
        _close(client, server)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
