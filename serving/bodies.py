"""Large request bodies, within a limit of memory for all of them.

waitress collects a body before it calls the app, and frees it after the answer. A body for which there is no memory is
received all the same, but not kept: the app gets an exception when it reads it, which becomes the answer. A server that
closed the connection instead would reset it, and most senders then do not see an answer.
"""

import threading
from io import BytesIO, RawIOBase

from waitress.buffers import OverflowableBuffer
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


class Body(OverflowableBuffer):
    """waitress's buffer of a body. Reading one that was too large raises RequestEntityTooLarge, and one for which there
    was no memory TooManyRequests."""

    def __init__(self, limits: BodyLimits) -> None:
        super().__init__(overflow=limits.max_bytes + 1)  # so that it uses no temporary file
        self._limits = limits
        self._received = self._held = 0
        self._refusal: HTTPException | None = None

    def __len__(self) -> int:
        return self._received

    def append(self, s: bytes) -> None:
        self._received += len(s)
        if self._refusal:
            return
        if self._received > self._limits.max_bytes:
            self._refuse(RequestEntityTooLarge(f"a body has more than {self._limits.max_bytes:,} bytes"))
        elif not self._limits.hold(len(s)):
            message = f"the bodies of all requests have more than {self._limits.max_held_bytes:,} bytes"
            self._refuse(TooManyRequests(message, retry_after=RETRY_AFTER_SECONDS))
        else:
            self._held += len(s)
            super().append(s)

    def _refuse(self, error: HTTPException) -> None:
        self.close()
        self._refusal = error

    def getfile(self) -> BytesIO:
        return _Refused(self._refusal) if self._refusal else super().getfile()  # type: ignore[return-value]

    def close(self) -> None:
        super().close()
        self._limits.free(self._held)
        self._held = 0


class _Refused(RawIOBase):
    def __init__(self, error: HTTPException) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        raise self._error


class Chunks(ChunkedReceiver):
    """waitress's receiver of a body in chunks, which would keep an endless line before a chunk."""

    def received(self, s: bytes) -> int:
        consumed = super().received(s)
        if len(self.control_line) + len(self.trailer) > MAX_BETWEEN_BYTES:
            self.error = BadRequest("Chunk header or trailer too long")
        return consumed
