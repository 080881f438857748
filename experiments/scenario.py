"""Scenarios: what an experiment does, phase by phase. They are YAML files, of which five are in faults/scenarios/."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from faults.flags import DEFINITIONS, MAX_RATE, MAX_USERS, OFF, Flag, FlagFile
from local import CommandError

FOLDER = DEFINITIONS.with_name("scenarios")
MAX_SECONDS = 3600  # of all phases together
MAX_REQUESTS = 5000  # of all phases together: each makes some 150 spans, and many more with some faults
MAX_PHASES = 20
_SECONDS = {"s": 1, "min": 60}


class ScenarioError(CommandError):
    """A scenario that cannot be run. The message names the cause and the valid choices in one line."""


@dataclass(frozen=True)
class Load:
    """So many simulated users send `rate` requests per second together."""

    users: int
    rate: float


@dataclass(frozen=True)
class Phase:
    """A part of an experiment. `faults` are the variants of the faults that are on; all others are off.

    `sampling` is the percentage of the traces that are recorded.
    """

    name: str
    seconds: int
    load: Load
    faults: Mapping[str, str]
    sampling: float


@dataclass(frozen=True)
class Scenario:
    """The first phase is the normal one, with which the others are compared."""

    name: str
    description: str
    phases: tuple[Phase, ...]

    def injected(self, phase: Phase) -> dict[str, str]:
        """The faults of a phase that the normal phase does not have, or not in this variant."""
        normal = self.phases[0].faults
        return {flag: variant for flag, variant in phase.faults.items() if normal.get(flag) != variant}


def find(name: str) -> Scenario:
    """The included scenario with this name, or the one in this YAML file. Raises ScenarioError, OSError."""
    included = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    path = included.get(name) or Path(name)
    if not path.is_file():
        raise ScenarioError(f"there is no scenario {name!r}; name one of {', '.join(included)}, or a YAML file")
    try:
        return parse(path.read_text(encoding="utf-8"), path.stem)
    except (ScenarioError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name}: {error}") from None


def parse(text: str, name: str) -> Scenario:
    """The scenario that is described by this YAML. Raises ScenarioError."""
    try:
        # All scalars as text, because YAML takes `off` for a truth value.
        content = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ScenarioError(f"no YAML: {' '.join(str(error).split())}") from None
    fields = _fields(content, "the scenario", required=("description", "phases"))
    phases = fields["phases"]
    if not isinstance(phases, list) or not 2 <= len(phases) <= MAX_PHASES:
        raise ScenarioError(f"phases: not a list of 2 to {MAX_PHASES} phases, of which the first is the normal one")
    flags = {name: flag for name, flag in FlagFile(DEFINITIONS).flags().items() if flag.is_fault}
    description = _text(fields["description"], "description")
    scenario = Scenario(name, description, tuple(_phase(phase, flags) for phase in phases))
    _check(scenario)
    return scenario


def _check(scenario: Scenario) -> None:
    names = [phase.name for phase in scenario.phases]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ScenarioError(f"phases: more than one is named {min(repeated)!r}; give each a name of its own")
    if not any(map(scenario.injected, scenario.phases)):
        raise ScenarioError("phases: none has a fault that the first one does not have; add `faults` to one of them")
    if (seconds := sum(phase.seconds for phase in scenario.phases)) > MAX_SECONDS:
        raise ScenarioError(f"phases: they take {seconds} s together; the limit is {MAX_SECONDS} s")
    requests = sum(phase.seconds * phase.load.rate for phase in scenario.phases)
    if requests > MAX_REQUESTS:
        raise ScenarioError(f"phases: they send {requests:.0f} requests together; the limit is {MAX_REQUESTS}")


def _phase(content: Any, flags: Mapping[str, Flag]) -> Phase:
    fields = _fields(content, "a phase", required=("name", "duration", "load"), optional=("faults", "sampling"))
    name = _text(fields["name"], "name of a phase")
    load = _fields(fields["load"], f"load of {name!r}", required=("users", "rate"))
    users = _number(load["users"], f"users of {name!r}", MAX_USERS)
    if users != int(users):
        raise ScenarioError(f"users of {name!r}: {users:g} is not a whole number from 1 to {MAX_USERS}")
    return Phase(
        name=name,
        seconds=_duration(fields["duration"], name),
        load=Load(int(users), _number(load["rate"], f"rate of {name!r}", MAX_RATE)),
        faults=_faults(fields.get("faults") or {}, name, flags),
        sampling=_number(fields.get("sampling", "100"), f"sampling of {name!r}", 100),
    )


def _faults(content: Any, phase: str, flags: Mapping[str, Flag]) -> dict[str, str]:
    for flag, variant in _fields(content, f"faults of {phase!r}", optional=flags).items():
        if variant not in flags[flag].variants:
            choices = ", ".join(flags[flag].variants)
            raise ScenarioError(f"faults of {phase!r}: {flag} has no variant {variant!r}; name one of {choices}")
    return {flag: variant for flag, variant in content.items() if variant != OFF}


def _duration(text: Any, phase: str) -> int:
    match = re.fullmatch(r"([0-9]{1,4})(s|min)", text) if isinstance(text, str) else None
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 1 <= seconds <= MAX_SECONDS:
        raise ScenarioError(
            f"duration of {phase!r}: {text!r} is none; write 90s or 2min, from 1s to {MAX_SECONDS // 60}min"
        )
    return seconds


def _number(text: Any, where: str, most: float) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value <= most:  # also excludes NaN
        raise ScenarioError(f"{where}: {text!r} is not a number above 0 and up to {most:g}")
    return value


def _text(content: Any, where: str) -> str:
    if not isinstance(content, str) or not content.strip():
        raise ScenarioError(f"{where}: not a text")
    return content.strip()


def _fields(content: Any, where: str, required: Iterable[str] = (), optional: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ScenarioError(f"{where}: not a mapping of names to values")
    known = [*required, *optional]
    if unknown := [name for name in content if name not in known]:
        raise ScenarioError(f"{where}: unknown key {unknown[0]!r}; name one of {', '.join(known)}")
    if missing := [name for name in required if name not in content]:
        raise ScenarioError(f"{where}: the key {missing[0]!r} is missing")
    return content


class _Loader(yaml.BaseLoader):
    """Refuses a key that is there twice, of which YAML libraries take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if repeated := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.constructor.ConstructorError(None, None, f"{repeated[0]!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)
