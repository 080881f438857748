"""The web server of every app of the demo, and the check of the Host header in front of it."""

import logging
import os
import signal
import sys

from serving.bodies import BodyLimits
from serving.hosts import WSGIApp, beside, is_loopback
from serving.server import THREADS, Server

__all__ = ["THREADS", "BodyLimits", "Server", "beside", "is_loopback", "serve"]


def serve(app: WSGIApp) -> None:
    """Serve a WSGI app at `BIND_ADDRESS` (default 127.0.0.1) and `PORT` until SIGTERM or SIGINT.

    Requests that were received by then are answered (graceful shutdown). Ends the process with one line if it cannot
    listen there.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    host, port = os.environ.get("BIND_ADDRESS") or "127.0.0.1", os.environ.get("PORT", "")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        sys.exit(f"PORT={port!r} is not a port: set PORT to a number from 1 to 65535")
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
