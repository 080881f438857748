"""The demo's services in this process, over HTTP."""

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import telemetry.call
from telemetry.services import CHARACTER_SERVICES


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
