"""Limits the memory that a process of promscale keeps and may allocate."""

import ctypes
import resource
from contextlib import suppress

_libc = ctypes.CDLL(None)
# Parameters of glibc's mallopt, from malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_BYTES = 128 * 2**10


def return_freed_blocks() -> None:
    """Make glibc return large blocks to the system when they are freed.

    glibc raises its threshold for that whenever a large block is freed; then every thread that handled a large export
    would keep that memory. mallopt fixes the threshold.
    """
    with suppress(AttributeError):  # mallopt is glibc's own
        _libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        _libc.mallopt(_M_ARENA_MAX, 2)


def trim() -> None:
    """Return freed small blocks, in which gRPC receives requests, from glibc to the system."""
    with suppress(AttributeError):  # malloc_trim is glibc's own
        _libc.malloc_trim(0)


def limit(size: int) -> None:
    """Make allocations of this process beyond `size` bytes fail. macOS, unlike Linux, hardly enforces RLIMIT_DATA."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
