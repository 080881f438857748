"""Which names an app may be asked by, and which one it is asked by.

A page of another site can have its own name lead to this machine, and so read what is here with its visitor's browser
(DNS rebinding). It cannot choose the Host header, which then has that name.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress

from flask import request
from werkzeug.sansio.utils import host_is_trusted

_PORT = re.compile(r":\d*$")
_NAME = re.compile(r"\.?[\w-]+(\.[\w-]+)*")


def trusted_names(bind_address: str) -> list[str]:
    """`localhost`, the names in `ALLOWED_HOSTS`, and this machine's own where others reach it.

    A name that begins with a dot stands for all below it. Raises ValueError.
    """
    names = ["localhost"]
    for name in filter(None, map(str.strip, os.environ.get("ALLOWED_HOSTS", "").split(","))):
        try:
            if not _NAME.fullmatch(name):
                raise ValueError(name)
            names.append(_as_sent(name))
        except ValueError:
            raise ValueError(
                f"ALLOWED_HOSTS: {name!r} is no host name; write names without a port, separated by commas"
            ) from None
    if not _is_loopback(bind_address):
        own = socket.gethostname()
        with suppress(UnicodeError):  # a name that no URL can have
            names += {_as_sent(own), _as_sent(own.partition(".")[0])}
    return names


def only_by(names: Iterable[str], app: Callable) -> Callable:
    """The WSGI app, answering requests for these names only and for any IP address, which nobody's DNS can change.

    A request without a Host header is answered, too: no browser sends one.
    """
    names = list(names)

    def checked(environ: dict, start_response: Callable) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST")
        if host is None or _is_address(_PORT.sub("", host)) or host_is_trusted(host.lower(), names):
            return app(environ, start_response)
        message = (
            f"The host {host[:80]!a} is not known here: use localhost or an IP address, or start this with the"
            " name in ALLOWED_HOSTS.\n"
        )
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff")]
        start_response("400 Bad Request", [*headers, ("Content-Length", str(len(message)))])
        return [message.encode()]

    return checked


def beside(port: int) -> str:
    """The URL of another port of this machine, by the name or address in the current request of Flask's."""
    return f"http://{_PORT.sub('', request.host)}:{port}"


def _as_sent(name: str) -> str:
    """A name as browsers send it. Raises UnicodeError."""
    dot = "." if name.startswith(".") else ""
    return dot + name.removeprefix(".").lower().encode("idna").decode()


def _is_address(text: str) -> bool:
    try:
        if text.startswith("[") and text.endswith("]"):
            ipaddress.IPv6Address(text[1:-1])
        else:
            ipaddress.IPv4Address(text)
        return True
    except ValueError:
        return False


def _is_loopback(bind_address: str) -> bool:
    try:
        return ipaddress.ip_address(bind_address).is_loopback
    except ValueError:
        return bind_address == "localhost"
