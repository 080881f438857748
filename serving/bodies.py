"""Large request bodies, within a limit of memory for all of them.

waitress collects a body before it calls the app. The memory is freed when the app has read the body, or has answered. A
body for which there is no memory is received all the same, but not kept: the app gets an exception when it reads it,
which becomes the answer. If the server closed the connection instead, most senders would see a reset and no answer.
"""

import threading
from io import BytesIO

from waitress.receiver import ChunkedReceiver
from waitress.utilities import BadRequest
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, TooManyRequests

# What is between the chunks of a body: their lengths and the trailer.
MAX_BETWEEN_BYTES = 32 * 1024
RETRY_AFTER_SECONDS = 1


class BodyLimits:
    """The limits of one server, in bytes: of a body, and of all bodies that it holds at a time."""

    def __init__(self, max_bytes: int, max_held_bytes: int) -> None:
        self.max_bytes, self.max_held_bytes = max_bytes, max_held_bytes
        self._held = 0
        self._lock = threading.Lock()

    def hold(self, size: int) -> bool:
        """Whether there was memory for so many bytes, which are then held until `free`."""
        with self._lock:
            fits = self._held + size <= self.max_held_bytes
            self._held += size * fits
            return fits

    def free(self, size: int) -> None:
        with self._lock:
            self._held -= size


class Body(BytesIO):
    """A body, as waitress's buffer that collects it and as the file that the app reads, once and by `read` only.

    Raises RequestEntityTooLarge when it is read if it was too large, and TooManyRequests if there was no memory for it.
    """

    def __init__(self, limits: BodyLimits) -> None:
        super().__init__()
        self._limits = limits
        self._received = self._held = 0
        self._refusal: HTTPException | None = None

    def __len__(self) -> int:
        return self._received

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._refusal:
            return
        if self._received > self._limits.max_bytes:
            self._refuse(RequestEntityTooLarge(f"the body has more than {self._limits.max_bytes:,} bytes"))
        elif not self._limits.hold(len(data)):
            message = f"the bodies of all requests have more than {self._limits.max_held_bytes:,} bytes"
            self._refuse(TooManyRequests(message, retry_after=RETRY_AFTER_SECONDS))
        else:
            self._held += len(data)
            self.write(data)

    def getfile(self) -> "Body":
        self.seek(0)
        return self

    def read(self, size: int | None = -1, /) -> bytes:
        if self._refusal:
            raise self._refusal
        if self.tell() == 0:
            self.getvalue()  # gives up spare memory, after which reading all of it copies nothing
        data = super().read(size)
        if self.tell() == self._held:
            self._free()
        return data

    def close(self) -> None:
        if not self.closed:
            self._free()
        super().close()

    def _refuse(self, error: HTTPException) -> None:
        self._free()
        self._refusal = error

    def _free(self) -> None:
        self.seek(0)
        self.truncate()
        self._limits.free(self._held)
        self._held = 0


class Chunks(ChunkedReceiver):
    """waitress's receiver of a body in chunks, which would keep an endless line before a chunk."""

    def received(self, s: bytes) -> int:
        consumed = super().received(s)
        if len(self.control_line) + len(self.trailer) > MAX_BETWEEN_BYTES:
            self.error = BadRequest("Chunk header or trailer too long")
        return consumed
