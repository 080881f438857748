"""HTTP for those who watch over promscale: /healthz, /readyz and /metrics."""

import logging
from threading import Thread

from flask import Flask
from prometheus_client import make_wsgi_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from promscale.store import Store, StoreUnavailable
from serving import Server

log = logging.getLogger(__name__)


class Web:
    """The HTTP server at `address` ("host:port"). /healthz: it runs; /readyz: it runs, and can store."""

    def __init__(self, store: Store, address: str) -> None:
        app = Flask(__name__)
        self._serving = False
        self._status = "starting"

        @app.get("/healthz")
        def healthz():
            return {"status": "ok"}

        @app.get("/readyz")
        def readyz():
            if not self._serving:
                return {"status": self._status}, 503
            try:
                store.check()
            except StoreUnavailable as error:
                return {"status": str(error)}, 503
            return {"status": "ok"}

        app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/metrics": make_wsgi_app()})
        host, _, port = address.rpartition(":")
        self._server = Server(app, host.strip("[]"), int(port))
        self._thread = Thread(target=self._server.run, name="web", daemon=True)
        self._thread.start()

    def report(self, status: str) -> None:
        """Log what is being done before `serve`, and have /readyz say it."""
        log.info("%s", status)
        self._status = status

    def serve(self) -> None:
        self._serving = True

    def refuse(self) -> None:
        """Have /readyz say that it stops, before it does."""
        self._status, self._serving = "stopping", False

    def close(self) -> None:
        self._server.close()
        self._thread.join()
