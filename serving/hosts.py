"""The check of the Host header, a defence against DNS rebinding.

A web site can let its own name resolve to this machine, and then read what is served here through the browser of its
visitor. It cannot choose the Host header of those requests, which holds the site's name: such names are refused.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from flask import request
from werkzeug.sansio.utils import host_is_trusted

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PORT = re.compile(r":\d*$")  # at the end of a Host header
_NAME = re.compile(r"\.?[\w-]+(\.[\w-]+)*")  # a host name; with a dot before it, also all its subdomains


def trusted_names(bind_address: str) -> list[str]:
    """`localhost`, the names in `ALLOWED_HOSTS`, and, unless the address is a loopback one, this machine's own name.

    A name that begins with a dot stands for the name and all its subdomains. Raises ValueError for anything else.
    """
    names = ["localhost"]
    for name in filter(None, map(str.strip, os.environ.get("ALLOWED_HOSTS", "").split(","))):
        try:
            if not _NAME.fullmatch(name):
                raise ValueError(name)
            names.append(_as_browsers_send(name))
        except ValueError:
            raise ValueError(
                f"ALLOWED_HOSTS: {name!r} is not a host name; write names without a port, separated by commas"
            ) from None
    if not is_loopback(bind_address):
        own = socket.gethostname()
        with suppress(UnicodeError):  # a machine's name may be one that no URL can have
            names += {_as_browsers_send(own), _as_browsers_send(own.partition(".")[0])}
    return names


def allow_only(names: Iterable[str], app: WSGIApp) -> WSGIApp:
    """The WSGI app, for requests whose Host is one of these names or any IP address; others get status 400.

    No DNS answer can turn an IP address into another one. A request without a Host header is allowed too, because every
    browser sends one.
    """
    names = list(names)

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
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
    """The URL of another port of this machine, with the host that the current Flask request names."""
    return f"http://{_PORT.sub('', request.host)}:{port}"


def _as_browsers_send(name: str) -> str:
    """A name in lower case and IDNA encoding, as browsers send it. Raises UnicodeError."""
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


def is_loopback(bind_address: str) -> bool:
    """Whether only this machine reaches a server that listens on the address."""
    try:
        return ipaddress.ip_address(bind_address).is_loopback
    except ValueError:
        return bind_address == "localhost"
