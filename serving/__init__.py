"""How every web app of the demo meets the network: one server, and one answer to who may ask it by which name."""

import logging
import os
import signal
import sys
from collections.abc import Callable

from serving.hosts import beside
from serving.server import Server

__all__ = ["Server", "beside", "serve"]


def serve(app: Callable) -> None:
    """Serve a WSGI app at `BIND_ADDRESS` (default 127.0.0.1) and `PORT` until SIGTERM or SIGINT; what was asked before
    is answered. Ends the process with one line where it cannot begin."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, port = os.environ.get("BIND_ADDRESS") or "127.0.0.1", os.environ.get("PORT", "")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        sys.exit(f"PORT={port!r} is no port: it must be a number from 1 to 65535")
    try:
        server = Server(app, host, int(port))
    except OSError as error:
        sys.exit(f"cannot listen on {host}, port {port}: {error}")
    except ValueError as error:
        sys.exit(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.close())
    logging.getLogger(__name__).info("Listening on %s, port %s", host, port)
    server.run()
