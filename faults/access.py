"""Authorization of changes to the faults. On a loopback address, every client may make them. On any other address, a
client needs a bearer token."""

import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from serving import is_loopback

# What URLs, headers and cookies need not quote.
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{8,200}")


def token(variables: Mapping[str, str], file: Path) -> str:
    """The token that changes need, "" if they need none. The file has it, for this user alone.

    It is `DEMO_TOKEN`, or else one that is generated once if `PUBLISHED_ADDRESS` (by default `BIND_ADDRESS`) is not a
    loopback address. Raises ValueError for a DEMO_TOKEN that cannot be one, OSError.
    """
    chosen = variables.get("DEMO_TOKEN") or ""
    if chosen and not _TOKEN.fullmatch(chosen):
        raise ValueError("DEMO_TOKEN has a character other than letters, digits and -_.~, or not 8 to 200 of them")
    address = variables.get("PUBLISHED_ADDRESS") or variables.get("BIND_ADDRESS") or "127.0.0.1"
    if not chosen and is_loopback(address):
        file.unlink(missing_ok=True)
        return ""
    chosen = chosen or (file.read_text() if file.exists() else secrets.token_urlsafe(24))
    unfinished = file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(chosen)
    unfinished.replace(file)
    return chosen


def is_token(given: str, expected: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())
