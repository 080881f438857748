"""How much memory a process of promscale's keeps and may have."""

import ctypes
import resource
from contextlib import suppress

# mallopt's parameters, of malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_MMAP_BYTES = 128 * 2**10


def return_what_is_freed() -> None:
    """Have glibc give large blocks back to the system when they are freed, as it does at first, and not keep them for later.

    Otherwise what one large export has needed is kept by every thread that had one. Other C libraries have no mallopt.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_ARENA_MAX, 2)


def limit(size: int) -> None:
    """Allocations of the process above so many bytes fail. On Linux; macOS counts hardly anything for this limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
