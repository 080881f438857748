"""The flags in their file, which has flagd's format: https://flagd.dev/reference/flag-definitions/

flags.json beside this module defines the flags: their variants, and which of them is on by default. A running stack has
a copy in which other variants may be on; its services read that copy, and only the part `faults` writes it.
The standard library only, so that any part can import this.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFINITIONS = Path(__file__).with_name("flags.json")
TOKEN_FILE = "token"  # beside the file of a running stack, where changes need a token
# The variant of a fault that does nothing, and the variant of `load` and `sampling` that leaves them to the variables
# of the environment, and of `case` without an open case.
OFF, DEFAULT = "off", "default"
CASE = "case"
HIDDEN = "hidden"  # in place of the variant of a fault while a case is open
MAX_USERS, MAX_RATE, MAX_SEED = 1000, 1000, 2**63 - 1
MAX_TAIL_LATENCY_MS = 3_600_000
# The traffic without the flag `load` and without LOAD_USERS and LOAD_RATE.
DEFAULT_USERS, DEFAULT_RATE = 3, 1


class FlagError(ValueError):
    """Something that cannot be set. The message names it and the valid choices."""


@dataclass(frozen=True)
class Flag:
    """A flag. `variant` is the one that is on, `default` the one that is on after a reset.

    `variants` has the parameters of each variant; their meaning is the flag's own. A variant without any does nothing.
    `variant` is HIDDEN, and nothing else tells it, in what is shown of a fault while a case is open (faults/cases.py).
    """

    name: str
    description: str
    variant: str
    default: str
    variants: Mapping[str, Mapping[str, Any]]

    @property
    def service(self) -> str:
        """The service that the flag changes; for one that is no fault, the flag itself."""
        return self.name.partition(".")[0]

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Of the variant that is on; none if it is hidden."""
        return {} if self.variant == HIDDEN else self.variants[self.variant]

    @property
    def is_changed(self) -> bool:
        """Whether it is known that another variant than the default is on."""
        return self.variant not in (self.default, HIDDEN)

    @property
    def is_fault(self) -> bool:
        return "." in self.name


class FlagFile:
    """The flags of a running stack."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Create the file, or renew the definitions in it; the variants that are on stay so if they still exist.

        A file that needs no change keeps its time of modification. Raises OSError. A file that cannot be understood
        raises FlagError.
        """
        with self._lock:
            definitions = _read(DEFINITIONS)
            present = _read(self.path) if self.path.exists() else {}
            for name, flag in present.items():
                if name in definitions and (variant := flag["defaultVariant"]) != definitions[name]["defaultVariant"]:
                    if name in CONTROLS:
                        definitions[name] = {**definitions[name], **_on(variant, flag["variants"])}
                    elif variant in definitions[name]["variants"]:
                        definitions[name]["defaultVariant"] = variant
            if definitions != present:
                self._write(definitions)

    def flags(self) -> dict[str, Flag]:
        """All flags by name, in the order of their definitions. Raises OSError, FlagError."""
        defaults = {name: flag["defaultVariant"] for name, flag in _read(DEFINITIONS).items()}
        return {
            name: Flag(
                name,
                flag.get("metadata", {}).get("description", ""),
                flag["defaultVariant"],
                defaults.get(name, OFF),
                flag["variants"],
            )
            for name, flag in _read(self.path).items()
        }

    def set(
        self,
        variants: Mapping[str, object] | None = None,
        load: Mapping[str, object] | None = None,
        sampling: Mapping[str, object] | None = None,
        case: Mapping[str, object] | None = None,
    ) -> None:
        """Change everything that is given, or nothing if a part of it is not valid. Raises FlagError, OSError.

        `variants`: those of faults, by their flags. `load`: `users`, the number of simulated users, `rate`, the
        requests per second of all together, and `seed`: with a new one, the users begin again with the seed's first
        request. `sampling`: `percent`, the share of the traces that are recorded (head sampling), and
        `tail_latency_ms`: of the other traces, those with an error and those that last at least so long are recorded as
        well (tail sampling). `case`: `seed`, which only faults/cases.py sets. Numbers may be texts; None is the value
        that the environment variables give (of `case`: none), and what is not given stays as it is.
        """
        with self._lock:
            flags = _read(self.path)
            for name, variant in (variants or {}).items():
                if name in CONTROLS or name not in flags:
                    choices = ", ".join(flag for flag in flags if flag not in CONTROLS)
                    raise FlagError(f"there is no fault {name!r}; name one of {choices}")
                if variant not in (known := list(flags[name]["variants"])):
                    raise FlagError(f"{name} has no variant {variant!r}; name one of {', '.join(known)}")
                flags[name]["defaultVariant"] = variant
            for name, values in (("load", load), ("sampling", sampling), (CASE, case)):
                flags[name] |= _control(name, flags[name], values or {})
            self._write(flags)

    def reset(self) -> None:
        """Switch all flags to their defaults, also those that are no faults. Raises OSError."""
        with self._lock:
            self._write(_read(DEFINITIONS))

    def _write(self, flags: Mapping[str, Any]) -> None:
        """Replace the file, so that no reader sees half of it."""
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"$schema": _SCHEMA, "flags": flags}, indent=2) + "\n")
        # The services' watchers compare times of modification, whose resolution is a few milliseconds.
        before = self.path.stat().st_mtime if self.path.exists() else 0
        os.utime(unfinished, times=(now := max(unfinished.stat().st_mtime, before + 0.001), now))
        unfinished.replace(self.path)


def replace_content(path: Path, text: str) -> None:
    """Replace a file's content, so that no reader sees half of it. Raises OSError."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(path)


_SCHEMA = "https://flagd.dev/schema/v0/flags.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        flags: dict[str, Any] = json.loads(path.read_text())["flags"]
        flags.setdefault(CASE, _on(DEFAULT, {DEFAULT: {}}))  # a former version's file has none
        for name in (*CONTROLS, *flags):
            if not isinstance(flags[name]["variants"][flags[name]["defaultVariant"]], dict):
                raise ValueError(f"the variant of {name} that is on is no object of parameters")
        return flags
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlagError(f"{path} is not a file of flags in flagd's format: {error!r}") from error


def _on(variant: str, variants: Mapping[str, Any]) -> dict[str, Any]:
    return {"defaultVariant": variant, "variants": variants}


def _control(name: str, flag: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """The variant of a flag of CONTROLS with these values in place of the present ones. Raises FlagError."""
    known = CONTROLS[name]
    if unknown := values.keys() - known.keys():
        raise FlagError(f"{name} has no value {min(unknown)!r}; name one of {', '.join(known)}")
    present: Mapping[str, Any] = flag["variants"][flag["defaultVariant"]]
    given = {key: value if value is None else known[key](value) for key, value in values.items()}
    parameters = {key: value for key in known if (value := {**present, **given}.get(key)) is not None}
    variant = ",".join(f"{key}={value}" for key, value in parameters.items()) or DEFAULT
    return _on(variant, {DEFAULT: {}, variant: parameters})


def whole_number(value: object, least: int, most: int) -> int | None:
    """The whole number in these bounds that a value or a text is; None if it is none."""
    # str() of a bool or a float is no whole number. Digits only: int() also takes " 16", "+16" and "1_6".
    if (text := str(value)).isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
        return int(text)
    return None


def _whole(name: str, value: object, least: int, most: int) -> int:
    if (whole := whole_number(value, least, most)) is not None:
        return whole
    raise FlagError(f"{name}={value!r} is not a whole number from {least} to {most}")


def number(value: object) -> float:
    """The number that a value or a text is; NaN, which no range includes, if it is none."""
    try:
        result = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        return math.nan
    return int(result) if result.is_integer() else result


def _users(value: object) -> int:
    return _whole("users", value, 1, MAX_USERS)


def _rate(value: object) -> float:
    if 0 < (rate := number(value)) <= MAX_RATE:
        return rate
    raise FlagError(f"rate={value!r} is not a number above 0 and up to {MAX_RATE}")


def _seed(value: object) -> int:
    return _whole("seed", value, 0, MAX_SEED)


def seed_of(variables: Mapping[str, str]) -> int | None:
    """DEMO_SEED, if it is set. Raises FlagError if it is no seed."""
    text = variables.get("DEMO_SEED")
    return _whole("DEMO_SEED", text, 0, MAX_SEED) if text else None


def _percent(value: object) -> float:
    if 0 <= (percent := number(value)) <= 100:
        return percent
    raise FlagError(f"percent={value!r} is not a number from 0 to 100")


def _tail_latency_ms(value: object) -> int:
    return _whole("tail_latency_ms", value, 0, MAX_TAIL_LATENCY_MS)


# The flags that are no faults, and by the name of each of their values the function that checks it (raises FlagError).
CONTROLS: dict[str, dict[str, Callable[[object], float]]] = {
    "load": {"users": _users, "rate": _rate, "seed": _seed},
    "sampling": {"percent": _percent, "tail_latency_ms": _tail_latency_ms},
    CASE: {"seed": _seed},
}
