"""Encodes exports in bounded memory: small ones here, one at a time, and large ones in processes that have a limit."""

import gc
import multiprocessing
import os
import queue
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from promscale import memory, otlp

# Requests from this size on are encoded beside the main process, by so many others: Python uses one core a process.
LARGE_REQUEST_BYTES = 256 * 2**10
PROCESSES = 2
# Of these there is one at a time, so that the processes do not need their limits together.
HUGE_REQUEST_BYTES = 4 * 2**20
# What a process may allocate. A request of 16 MiB takes 110 to 140 MiB as a rule, and more if its spans are very small.
PROCESS_BYTES = 192 * 2**20
TRIM_SECONDS = 1


class Encoders:
    """Calls otlp.encode. To be closed."""

    def __init__(self) -> None:
        self._here, self._huge = threading.Lock(), threading.Lock()
        # An idle process each, or None where it is yet to be started. One request at a time goes to each, so that it is
        # known which one a process has died of.
        self._idle: queue.SimpleQueue[ProcessPoolExecutor | None] = queue.SimpleQueue()
        for _ in range(PROCESSES):
            self._idle.put(None)

    def encode(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        """otlp.encode. Raises otlp.MalformedRequest, also where it takes too much memory."""
        if len(request) < LARGE_REQUEST_BYTES:
            with self._here:
                return otlp.encode(request)
        if len(request) < HUGE_REQUEST_BYTES:
            return self._encode_beside(request)
        with self._huge:
            return self._encode_beside(request)

    def _encode_beside(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        process = self._idle.get()
        try:
            for _ in range(2):  # once more, because the process may have been killed for a reason of its own
                process = process or _start()
                try:
                    return process.submit(otlp.encode, request).result()
                except BrokenProcessPool:
                    process = None
                except MemoryError:
                    process.shutdown()
                    process = None
                    break
        finally:
            self._idle.put(process)
        raise otlp.MalformedRequest(
            f"to read its {len(request):,} bytes takes more than {PROCESS_BYTES // 2**20} MiB of memory"
        )

    def close(self) -> None:
        """When nothing is encoded any more."""
        for _ in range(PROCESSES):
            if process := self._idle.get():
                process.shutdown()


def _start() -> ProcessPoolExecutor:
    # Not forked: gRPC's threads are running.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare)


def _prepare() -> None:
    """In an encoding process, first."""
    # An export makes a million small objects and no cycles; looking for some took a fifth of the time.
    gc.set_threshold(1_000_000)
    memory.return_what_is_freed()
    memory.limit(PROCESS_BYTES)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    """End with promscale: the pool would not notice that it was killed. And keep little memory meanwhile."""
    parent = multiprocessing.parent_process()
    while parent.is_alive():
        parent.join(TRIM_SECONDS)
        memory.trim()
    os._exit(1)
