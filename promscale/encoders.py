"""Encodes exports in bounded memory: small ones in this process, large ones in worker processes with a memory limit."""

import gc
import multiprocessing
import os
import queue
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from promscale import memory, otlp

# Requests from this size on are encoded by this many worker processes: Python uses one core per process.
LARGE_REQUEST_BYTES = 256 * 2**10
PROCESSES = 2
# Requests from this size on are encoded one at a time, so that the workers do not reach their limits together.
HUGE_REQUEST_BYTES = 4 * 2**20
# What a worker may allocate. A request of 16 MiB takes 110 to 140 MiB as a rule, and more if its spans are very small.
PROCESS_BYTES = 192 * 2**20
TRIM_SECONDS = 1


class Encoders:
    """Calls otlp.encode. Call `close` at the end."""

    def __init__(self) -> None:
        self._here, self._huge = threading.Lock(), threading.Lock()
        # Idle workers; None stands for one that is not started yet. Each worker is a pool of one process with one
        # request at a time, so that if the process dies, the request that it died of is known.
        self._idle: queue.SimpleQueue[ProcessPoolExecutor | None] = queue.SimpleQueue()
        for _ in range(PROCESSES):
            self._idle.put(None)

    def encode(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        """The same as otlp.encode. Raises otlp.MalformedRequest, also for a request that takes too much memory."""
        if len(request) < LARGE_REQUEST_BYTES:
            with self._here:
                return otlp.encode(request)
        if len(request) < HUGE_REQUEST_BYTES:
            return self._encode_in_worker(request)
        with self._huge:
            return self._encode_in_worker(request)

    def _encode_in_worker(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        worker = self._idle.get()
        try:
            # The second attempt is for a worker that was killed for a reason other than this request.
            for _ in range(2):
                worker = worker or _start()
                try:
                    return worker.submit(otlp.encode, request).result()
                except BrokenProcessPool:
                    worker = None
                except MemoryError:
                    worker.shutdown()
                    worker = None
                    break
        finally:
            self._idle.put(worker)
        raise otlp.MalformedRequest(
            f"encoding its {len(request):,} bytes takes more than {PROCESS_BYTES // 2**20} MiB of memory: "
            "send fewer spans at once"
        )

    def close(self) -> None:
        """Stop the workers. Call it when no `encode` is running."""
        for _ in range(PROCESSES):
            if worker := self._idle.get():
                worker.shutdown()


def _start() -> ProcessPoolExecutor:
    # Spawned, not forked: gRPC's threads are running.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_prepare_worker)


def _prepare_worker() -> None:
    # An export makes a million small objects and no reference cycles; the garbage collector took a fifth of the time.
    gc.set_threshold(1_000_000)
    memory.return_freed_blocks()
    memory.limit(PROCESS_BYTES)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    """Exit with promscale: if it gets SIGKILL, its workers would live on as orphan processes. Meanwhile trim memory."""
    parent = multiprocessing.parent_process()
    while parent and parent.is_alive():
        parent.join(TRIM_SECONDS)
        memory.trim()
    os._exit(1)
