"""The flags, the load and the sampling of a running stack, by the API of the part `faults`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests

from faults.experiments.scenario import Phase
from faults.flags import OFF

TIMEOUT_SECONDS = 10


class ControlError(Exception):
    """The part `faults` does not answer, or refuses a change. The message says why in one line."""


class Control:
    """`url` is that of the part `faults`; `token` is the one that its changes need, if they need one."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = f"{url}/flags"
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """After the body, also if it fails, the flags, the load and the sampling are as before. Raises ControlError."""
        before = self._send("GET")
        try:
            yield
        finally:
            self._restore(before)

    def enter(self, phase: Phase, seed: int) -> None:
        """Set all that a phase says, also that all other faults are off. Raises ControlError."""
        flags = self._send("GET")["flags"]
        self._change(
            {
                "set": {**dict.fromkeys(flags, OFF), **phase.faults},
                "load": {"users": phase.load.users, "rate": phase.load.rate, "seed": seed},
                "sampling": {"percent": phase.sampling},
            }
        )

    def _restore(self, before: Mapping[str, Any]) -> None:
        variants = {name: flag["variant"] for name, flag in before["flags"].items()}
        controls = {name: before[name] for name in ("load", "sampling")}
        # None stands for what the environment says. Only what was otherwise is set.
        by_default = {name: dict.fromkeys(values) for name, values in controls.items()}
        now = self._change({"set": variants, **by_default})
        chosen = {
            name: {key: value for key, value in values.items() if value != now[name][key]}
            for name, values in controls.items()
        }
        if any(chosen.values()):
            self._change(chosen)

    def _change(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("POST", json=body)

    def _send(self, method: str, **content: Any) -> dict[str, Any]:
        try:
            answer = self._session.request(method, self._url, timeout=TIMEOUT_SECONDS, **content)
            body: dict[str, Any] = answer.json()
        except requests.RequestException as error:
            raise ControlError(
                f"the part faults does not answer at {self._url} ({type(error).__name__}); start the demo with ./run.sh"
            ) from None
        if not answer.ok:
            raise ControlError(f"the part faults refuses the change: {body.get('error', answer.status_code)}")
        return body
