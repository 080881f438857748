"""The HTTP endpoints: OTLP/HTTP, and /healthz (liveness), /readyz (readiness) and /metrics (Prometheus)."""

import logging
from threading import Thread

from flask import Flask
from flask.typing import ResponseReturnValue
from prometheus_client import make_wsgi_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from promscale import otlp_http
from promscale.store import MAX_REQUEST_BYTES, Store, StoreUnavailable
from serving import BodyLimits, Server

log = logging.getLogger(__name__)

# Memory for bodies that are being received, or wait for Store.room.
MAX_BODIES_BYTES = MAX_REQUEST_BYTES + 8 * 2**20


class Web:
    """The HTTP server at `address` ("host:port"; port 0: any free port, which is then in `port`), which starts at once.

    /readyz answers 503 unless spans can be stored.

    Raises OSError if it cannot listen, and ValueError for a malformed variable ALLOWED_HOSTS.
    """

    def __init__(self, store: Store, address: str) -> None:
        app = Flask(__name__)
        self._serving = False
        self._status = "starting"

        @app.get("/healthz")
        def healthz() -> ResponseReturnValue:
            return {"status": "ok", "encoder": store.encoder.name}

        @app.get("/readyz")
        def readyz() -> ResponseReturnValue:
            if not self._serving:
                return {"status": self._status}, 503
            try:
                store.check()
            except StoreUnavailable as error:
                return {"status": str(error)}, 503
            return {"status": "ok"}

        app.add_url_rule(otlp_http.PATH, view_func=otlp_http.Traces(store).export, methods=["POST"])
        host, _, port = address.rpartition(":")
        application = DispatcherMiddleware(app, {"/metrics": make_wsgi_app()})
        limits = BodyLimits(MAX_REQUEST_BYTES, MAX_BODIES_BYTES)
        self._server = Server(application, host.strip("[]"), int(port), limits)
        self.port = self._server.port
        self._thread = Thread(target=self._server.run, name="web", daemon=True)
        self._thread.start()

    def report(self, status: str) -> None:
        """Log the progress of the start, and show it in /readyz."""
        log.info("%s", status)
        self._status = status

    def serve(self) -> None:
        self._serving = True

    def report_stopping(self) -> None:
        """Make /readyz answer 503, so that senders go elsewhere before promscale stops."""
        self._status, self._serving = "stopping", False

    def close(self) -> None:
        self._server.close()
        self._thread.join()
