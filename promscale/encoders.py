"""Encodes exports in bounded memory, by the Rust extension `promscale_encoder` where it is installed, else in Python.

Both give the same rows and the same refusals; otlp.py is the reference. promscale/encoder/ has the extension.
"""

import gc
import importlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Protocol

from promscale import memory, metrics, otlp

RUST_MODULE = "promscale_encoder"
# Requests that are encoded at the same time.
CONCURRENCY = 2
# Requests from this size on are encoded one at a time, so that their rows do not take memory together.
HUGE_REQUEST_BYTES = 4 * 2**20
# Python encodes requests from this size on in worker processes, because it uses one core per process.
LARGE_REQUEST_BYTES = 256 * 2**10
# What a worker may allocate. A request of 16 MiB takes 110 to 140 MiB as a rule, and more if its spans are very small.
PROCESS_BYTES = 192 * 2**20
TRIM_SECONDS = 1


class Encoder(Protocol):
    """Encodes exports, from any thread. Call `close` when no `encode` is running."""

    name: str

    def use_tag_sets(self, tag_sets: otlp.TagSets) -> None:
        """Use these tag sets from now on."""

    def encode(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        """The same as otlp.encode. Raises otlp.MalformedRequest, also for a request that takes too much memory."""

    def close(self) -> None: ...


def chosen_encoder(name: str | None = None) -> Encoder:
    """The encoder `python` or `rust`, or else the fastest one that is installed. Raises ModuleNotFoundError."""
    if name != PythonEncoder.name:
        try:
            return RustEncoder()
        except ModuleNotFoundError:
            if name == RustEncoder.name:
                raise
    return PythonEncoder()


class RustEncoder:
    """Raises ModuleNotFoundError if the extension is not installed. A defect of it is the exception
    `promscale_encoder.Panic`, which is counted."""

    name = "rust"

    def __init__(self) -> None:
        self._extension = importlib.import_module(RUST_MODULE)
        self._slots, self._huge = threading.BoundedSemaphore(CONCURRENCY), threading.Lock()
        self.use_tag_sets(otlp.NO_TAG_SETS)

    def use_tag_sets(self, tag_sets: otlp.TagSets) -> None:
        sets = [(origin_id, each.id, each.tags) for origin_id, each in tag_sets.by_origin.items()]
        self._tag_sets = tag_sets.version_in_use, self._extension.TagSets(sets)

    def encode(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        version, tag_sets = self._tag_sets
        with self._huge if len(request) >= HUGE_REQUEST_BYTES else nullcontext(), self._slots:
            try:
                encoded = self._extension.encode(request, tag_sets)
            except self._extension.Malformed:
                raise otlp.MalformedRequest from None
            except self._extension.TooLarge:
                raise otlp.TooLarge from None
            except self._extension.Panic:
                metrics.encoder_panics.inc()
                raise
        count, spans, traces_data, origins, minutes, trace_ids, refused, reasons = encoded
        rows = otlp.Rows(
            count,
            [memoryview(data) for data in spans],
            [memoryview(data) for data in traces_data],
            {origin[0]: otlp.Origin._make(origin) for origin in origins},
            minutes,
            trace_ids,
            version,
        )
        return rows, otlp.Refusals(
            refused, [reason if raw is None else otlp.refusal(raw, reason) for reason, raw in reasons]
        )

    def close(self) -> None: ...


class PythonEncoder:
    """Encodes small requests in this process, large ones in worker processes with a memory limit."""

    name = "python"

    def __init__(self) -> None:
        self._tag_sets = otlp.NO_TAG_SETS
        self._here, self._huge = threading.Lock(), threading.Lock()
        # Idle workers; None stands for one that is not started yet. Each worker is a pool of one process with one
        # request at a time, so that if the process dies, the request that it died of is known.
        self._idle: queue.SimpleQueue[ProcessPoolExecutor | None] = queue.SimpleQueue()
        for _ in range(CONCURRENCY):
            self._idle.put(None)

    def use_tag_sets(self, tag_sets: otlp.TagSets) -> None:
        self._tag_sets = tag_sets

    def encode(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        if len(request) < LARGE_REQUEST_BYTES:
            with self._here:
                return otlp.encode(request, self._tag_sets)
        with self._huge if len(request) >= HUGE_REQUEST_BYTES else nullcontext():
            return self._encode_in_worker(request)

    def _encode_in_worker(self, request: bytes) -> tuple[otlp.Rows, otlp.Refusals]:
        worker = self._idle.get()
        try:
            # The second attempt is for a worker that was killed for a reason other than this request.
            for _ in range(2):
                worker = worker or _start()
                try:
                    return worker.submit(otlp.encode, request, self._tag_sets).result()
                except BrokenProcessPool:
                    worker = None
                except MemoryError:
                    worker.shutdown()
                    worker = None
                    break
        finally:
            self._idle.put(worker)
        raise _takes_too_much_memory(request)

    def close(self) -> None:
        for _ in range(CONCURRENCY):
            if worker := self._idle.get():
                worker.shutdown()


ENCODERS = (PythonEncoder.name, RustEncoder.name)


# Large requests are read one at a time, so that their workers do not take memory together.
_reading_large = threading.Lock()


def read_exports(request: bytes) -> Generator[otlp.Export, None, None]:
    """The same as otlp.read_exports, but a large request is read in a worker process with a memory limit, which ends
    when the generator is closed.

    Raises otlp.MalformedRequest, also for a request that takes too much memory, and EOFError if the worker is killed.
    """
    if len(request) < LARGE_REQUEST_BYTES:
        yield from otlp.read_exports(request)
        return
    context = multiprocessing.get_context("spawn")
    with _reading_large:
        exports, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_send_exports, args=(sender, request), daemon=True)
        worker.start()
        sender.close()
        try:
            while received := exports.recv():
                if isinstance(received, MemoryError):
                    raise _takes_too_much_memory(request)
                yield received
        finally:
            exports.close()
            worker.kill()
            worker.join()


def _send_exports(exports: Connection, request: bytes) -> None:
    _prepare_worker()
    try:
        for export in otlp.read_exports(request):
            exports.send(export)
    except MemoryError as error:
        exports.send(error)
    else:
        exports.send(None)


def _takes_too_much_memory(request: bytes) -> otlp.MalformedRequest:
    return otlp.MalformedRequest(
        f"encoding its {len(request):,} bytes takes more than {PROCESS_BYTES // 2**20} MiB of memory: "
        "send fewer spans at once"
    )


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
