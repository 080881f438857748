"""The flags in their file, which has flagd's format: https://flagd.dev/reference/flag-definitions/

flags.json beside this module defines the flags: their variants, and which of them is on by default. A running stack has
a copy in which other variants may be on; its services read that copy, and only the part `faults` writes it.
The standard library only, so that any part can import this.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFINITIONS = Path(__file__).with_name("flags.json")
# The variant of a fault that does nothing, and the variant of `load` and `sampling` that leaves them to the variables
# of the environment.
OFF, DEFAULT = "off", "default"
MAX_USERS, MAX_RATE, MAX_SEED = 1000, 1000, 2**63 - 1


class FlagError(ValueError):
    """Something that cannot be set. The message names it and the valid choices."""


@dataclass(frozen=True)
class Flag:
    """A flag. `variant` is the one that is on, `default` the one that is on after a reset.

    `variants` has the parameters of each variant; their meaning is the flag's own. A variant without any does nothing.
    """

    name: str
    description: str
    variant: str
    default: str
    variants: Mapping[str, Mapping[str, Any]]

    @property
    def service(self) -> str:
        """The service that the flag changes; for `load` and `sampling`, the flag itself."""
        return self.name.partition(".")[0]

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

        Raises OSError. A file that cannot be understood raises FlagError.
        """
        with self._lock:
            definitions = _read(DEFINITIONS)
            for name, flag in _read(self.path).items() if self.path.exists() else ():
                if name in definitions and (variant := flag["defaultVariant"]) != definitions[name]["defaultVariant"]:
                    if name in _CONTROLS:
                        definitions[name] = {**definitions[name], **_on(variant, flag["variants"])}
                    elif variant in definitions[name]["variants"]:
                        definitions[name]["defaultVariant"] = variant
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

    def set(self, variants: Mapping[str, str]) -> None:
        """Switch faults to these variants: all, or none if one of them is not valid. Raises FlagError, OSError."""
        with self._lock:
            flags = _read(self.path)
            for name, variant in variants.items():
                if name in _CONTROLS or name not in flags:
                    choices = ", ".join(flag for flag in flags if flag not in _CONTROLS)
                    raise FlagError(f"there is no fault {name!r}; name one of {choices}")
                if variant not in flags[name]["variants"]:
                    choices = ", ".join(flags[name]["variants"])
                    raise FlagError(f"{name} has no variant {variant!r}; name one of {choices}")
                flags[name]["defaultVariant"] = variant
            self._write(flags)

    def set_load(self, users: int, rate: float, seed: int | None = None) -> None:
        """Change the traffic: simulated users, and the requests per second of all together. Raises FlagError, OSError.

        With a seed, the users begin again with the seed's first request.
        """
        if not 1 <= users <= MAX_USERS:
            raise FlagError(f"users={users} is not a whole number from 1 to {MAX_USERS}")
        if not 0 < rate <= MAX_RATE:  # also excludes NaN
            raise FlagError(f"rate={rate:g} is not a number above 0 and up to {MAX_RATE}")
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise FlagError(f"seed={seed} is not a whole number from 0 to {MAX_SEED}")
        seeded = {} if seed is None else {"seed": seed}
        self._control("load", {"users": users, "rate": rate, **seeded})

    def set_sampling(self, percent: float) -> None:
        """Change the share of the traces that are recorded (head sampling). Raises FlagError, OSError."""
        if not 0 <= percent <= 100:
            raise FlagError(f"percent={percent:g} is not a number from 0 to 100")
        self._control("sampling", {"percent": percent})

    def reset(self) -> None:
        """Switch all flags to their defaults, also load and sampling. Raises OSError."""
        with self._lock:
            self._write(_read(DEFINITIONS))

    def _control(self, name: str, parameters: dict[str, float]) -> None:
        variant = ",".join(f"{key}={value}" for key, value in parameters.items())
        with self._lock:
            flags = _read(self.path)
            flags[name] |= _on(variant, {DEFAULT: {}, variant: parameters})
            self._write(flags)

    def _write(self, flags: Mapping[str, Any]) -> None:
        """Replace the file, so that no reader sees half of it."""
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"$schema": _SCHEMA, "flags": flags}, indent=2) + "\n")
        # The services' watchers compare times of modification, whose resolution is a few milliseconds.
        before = self.path.stat().st_mtime if self.path.exists() else 0
        os.utime(unfinished, times=(now := max(unfinished.stat().st_mtime, before + 0.001), now))
        unfinished.replace(self.path)


_SCHEMA = "https://flagd.dev/schema/v0/flags.json"
_CONTROLS = ("load", "sampling")


def _read(path: Path) -> dict[str, Any]:
    try:
        flags: dict[str, Any] = json.loads(path.read_text())["flags"]
        if all(flag["defaultVariant"] in flag["variants"] for flag in flags.values()):
            return flags
        raise ValueError("a default variant that is none of the variants")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlagError(f"{path} is not a file of flags in flagd's format: {error!r}") from error


def _on(variant: str, variants: Mapping[str, Any]) -> dict[str, Any]:
    return {"defaultVariant": variant, "variants": variants}
