"""A name server (DNS, RFC 1035) that gives every name the same IPv4 addresses."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

_HEADER = struct.Struct(">6H")  # id, flags, and the numbers of questions, answers, authorities and additional records
_ANSWER = 0x8180  # a response, with recursion
_TYPE_A, _CLASS_INTERNET = 1, 1
_NAME_OF_QUESTION = 0xC000 | _HEADER.size  # a pointer
_SECONDS_TO_LIVE = 1


@contextlib.contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[str]:
    """The server's host:port (UDP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        stopping = threading.Event()

        def run() -> None:
            while not stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    query, client = server.recvfrom(512)
                    server.sendto(_answer(query, addresses), client)

        server.settimeout(0.1)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            stopping.set()
            thread.join()


def _answer(query: bytes, addresses: Sequence[str]) -> bytes:
    end = query.index(b"\0", _HEADER.size) + 5  # of the name, which ends with an empty label, its type and its class
    question = query[_HEADER.size : end]
    asked_for_addresses = question.endswith(struct.pack(">2H", _TYPE_A, _CLASS_INTERNET))
    records = [
        struct.pack(">3HIH", _NAME_OF_QUESTION, _TYPE_A, _CLASS_INTERNET, _SECONDS_TO_LIVE, 4) + socket.inet_aton(each)
        for each in addresses
        if asked_for_addresses
    ]
    number = int.from_bytes(query[:2])
    return _HEADER.pack(number, _ANSWER, 1, len(records), 0, 0) + question + b"".join(records)
