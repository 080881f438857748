"""The progress of an export or import, on a terminal only."""

from tqdm import tqdm


def progress_bar(spans: int, what: str) -> "tqdm[None]":
    """A bar on stderr for so many spans; nothing where stderr is no terminal. Use it as a context manager."""
    return tqdm(total=spans, desc=what, unit=" spans", unit_scale=True, disable=None, leave=False)
