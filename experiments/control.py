"""Changes the flags, the load and the sampling of a running stack for the phases of an experiment."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from experiments.scenario import Phase
from faults.flags import CONTROLS, OFF
from local.control import FaultsAPI


def enter(api: FaultsAPI, phase: Phase, seed: int) -> None:
    """Set all that a phase says, also that all other faults are off. Raises CommandError."""
    api.change(
        {
            "set": {**dict.fromkeys(api.in_effect()["flags"], OFF), **phase.faults},
            "load": {"users": phase.load.users, "rate": phase.load.rate, "seed": seed},
            "sampling": dict.fromkeys(CONTROLS["sampling"]) | {"percent": phase.sampling},
        }
    )


@contextmanager
def restoring(api: FaultsAPI) -> Iterator[None]:
    """After the body, also if it fails, everything is as before. Raises CommandError."""
    before = api.in_effect()
    try:
        yield
    finally:
        _restore(api, before)


def _restore(api: FaultsAPI, before: Mapping[str, Any]) -> None:
    variants = {name: flag["variant"] for name, flag in before["flags"].items()}
    controls = {name: before[name] for name in ("load", "sampling")}
    # None stands for what the environment says. Only what was otherwise is set.
    api.change({"set": variants, **{name: dict.fromkeys(values) for name, values in controls.items()}})
    now = api.in_effect()
    chosen = {
        name: {key: value for key, value in values.items() if value != now[name][key]}
        for name, values in controls.items()
    }
    if any(chosen.values()):
        api.change(chosen)
