"""The demo's services, over HTTP: in this process, or each in a process of its own."""

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import telemetry.call
from local import CHECKOUT, health
from telemetry.services import CHARACTER_SERVICES, SERVICES
from tests.waiting import free_port, wait_until


def app(name: str) -> Any:
    return importlib.import_module(f"{name}.app").app


def named(name: str, spans: Iterable[Any]) -> list[Any]:
    return [span for span in spans if span.name == name]


class Services:
    """All services, which call each other at free ports."""

    def __init__(self, serve: Callable[..., str], monkeypatch: Any) -> None:
        urls = {name: serve(app(name)) for name in CHARACTER_SERVICES}
        for caller in ("lower", "special"):
            monkeypatch.setattr(f"{caller}.app.DIGIT_URL", urls["digit"])
        monkeypatch.setattr("generator.fetching.URLS", {f"{name}s": url for name, url in urls.items()})
        monkeypatch.setattr(telemetry.call, "TIMEOUT", 60)
        monkeypatch.setattr(telemetry.call, "NESTED_TIMEOUT", 30)

    def call(self, name: str, seed: object = "seed", seconds: float | None = None) -> Any:
        """The response to GET / of a service, for a seed of all random numbers and a simulated Unix time."""
        time = "" if seconds is None else f",demo.time={seconds}"
        return app(name).test_client().get("/", headers={"baggage": f"demo.seed={seed}{time}"})

    def password(self, seed: object = "seed", seconds: float | None = None) -> Any:
        return self.call("generator", seed, seconds)

    @staticmethod
    def parents(spans: Iterable[Any]) -> Callable[[Any], Any]:
        """A function that returns a span's parent among these."""
        by_id = {span.context.span_id: span for span in spans}
        return lambda span: by_id[span.parent.span_id]


class Processes:
    """Services that are started as the stacks do, from a checkout, each at a free port of its own. They export their
    spans to an OTLP/gRPC receiver when they are stopped. Call `kill` at the end."""

    def __init__(self, logs: Path, receiver_port: int, checkout: Path = CHECKOUT) -> None:
        self.logs, self.checkout = logs, checkout
        self.urls = {name: f"http://127.0.0.1:{free_port()}" for name in SERVICES}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {f"{name.upper()}_URL": url for name, url in self.urls.items()} | {
            "PYTHONPATH": str(checkout),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "600000",
        }

    def start(self, *names: str, **environment: str) -> None:
        """Start services with these environment variables, and wait until they are healthy."""
        for name in names:
            port = self.urls[name].rpartition(":")[2]
            with (self.logs / f"{name}.log").open("w") as log:
                self.running[name] = subprocess.Popen(
                    [sys.executable, "-m", "telemetry", name],
                    cwd=self.checkout,
                    env=os.environ | self._environment | {"PORT": port} | environment,
                    stderr=log,
                )
        for name in names:
            wait_until(partial(self._is_healthy, name), f"{name}'s health")

    def _is_healthy(self, name: str) -> bool:
        assert self.running[name].poll() is None, (self.logs / f"{name}.log").read_text()
        return health.answers(f"{self.urls[name]}/healthz")

    def stop(self) -> None:
        """Stop all of them gracefully, which exports their spans."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        assert {process.wait(60) for process in self.running.values()} <= {0}

    def kill(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()
