"""How much memory a process of promscale's keeps and may have."""

import ctypes
import resource
from contextlib import suppress

_libc = ctypes.CDLL(None)
# mallopt's parameters, of malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_BYTES = 128 * 2**10


def return_what_is_freed() -> None:
    """Have glibc give large blocks back to the system when they are freed, as it does at first, and not keep them for
    later. Otherwise what one large export has needed is kept by every thread that had one.
    """
    with suppress(AttributeError):  # other C libraries have none
        _libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        _libc.mallopt(_M_ARENA_MAX, 2)


def trim() -> None:
    """Give the system back what glibc keeps of the small blocks that were freed: gRPC receives in such."""
    with suppress(AttributeError):
        _libc.malloc_trim(0)


def limit(size: int) -> None:
    """Allocations of the process above so many bytes fail. On Linux; macOS counts hardly anything for this limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
