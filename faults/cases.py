"""Cases: one hidden fault, chosen by a seed, which users are to find in the traces. For classes and self-study.

While a case is open, only its fault is on (and BACKGROUND), and nothing but the flag file and the files beside it tells
which one that is. The flag `case` in the flag file says that a case is open; case.json beside it has the rest.
The standard library only, so that any part can import this.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

from faults.flags import CASE, CONTROLS, HIDDEN, OFF, Flag, FlagError, FlagFile, replace_content

LATENCY, ERRORS_OR_STRUCTURE = "latency", "errors or structure"


class Case(NamedTuple):
    """A fault that a case can have, in a variant that shows within minutes at the default traffic."""

    flag: str
    variant: str
    kind: str  # LATENCY or ERRORS_OR_STRUCTURE
    evidence: str  # what the traces show of it


class CaseConflict(FlagError):
    """Something that cannot be done while a case is open, or only then."""


def _slow_calls(service: str) -> Case:
    text = f"In each operation of {service} that works, some spans take far longer, whatever their character."
    return Case(f"{service}.slow_calls", "strong", LATENCY, text)


def _slow_characters(service: str) -> Case:
    text = f"The slow spans of process_{service} have a few characters in common, and no fast span has them."
    return Case(f"{service}.slow_characters", "strong", LATENCY, text)


# On in every case, and the answer of none: without these calls, digit.slow_for_lower would not show.
BACKGROUND = {"lower.needless_calls": "mild"}

# Which of them a seed chooses depends on their number and order. Not among them, besides BACKGROUND:
# generator.retry_storm and generator.swallowed_errors, which show only when another fault makes calls fail, and
# upper.slowdown, which adds nothing at the full hour and takes most of an hour to be seen as a rise.
CASES = (
    Case(
        "generator.parallel_fetching",
        "strong",
        ERRORS_OR_STRUCTURE,
        "The spans below generator.generate overlap, and a password takes as long as the longest of them.",
    ),
    Case(
        "generator.stale_cache",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Most traces have no call of another service at all, and passwords repeat their characters.",
    ),
    Case(
        "upper.clock_skew",
        "strong",
        ERRORS_OR_STRUCTURE,
        "The spans of upper begin seconds after their parents have ended.",
    ),
    Case(
        "upper.errors",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Errors begin in process_upper, and all of these spans have one of a few characters.",
    ),
    _slow_calls("upper"),
    _slow_characters("upper"),
    Case(
        "lower.high_cardinality",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Each process_lower span has a name of its own, with an id, so that no two are the same operation.",
    ),
    Case(
        "lower.lost_context",
        "strong",
        ERRORS_OR_STRUCTURE,
        "The calls of lower end at the client span of the generator, and traces begin with the server span of lower.",
    ),
    _slow_calls("lower"),
    _slow_characters("lower"),
    Case(
        "digit.errors",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Errors begin in render_digit, in every minute and for every character.",
    ),
    Case(
        "digit.pool_of_one",
        "strong",
        LATENCY,
        "Every process_digit span takes longer, and those that overlap take longest; more traffic makes it worse.",
    ),
    _slow_calls("digit"),
    _slow_characters("digit"),
    Case(
        "digit.slow_for_lower",
        "strong",
        LATENCY,
        "The slow spans of process_digit are all below lower; those that the generator calls itself are fast.",
    ),
    Case(
        "digit.wave",
        "strong",
        LATENCY,
        "The duration of process_digit rises and falls within five minutes, whatever the character and the caller.",
    ),
    Case(
        "special.errors",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Errors begin in process_special, and all of these spans have one of a few characters.",
    ),
    Case(
        "special.n_plus_one",
        "strong",
        ERRORS_OR_STRUCTURE,
        "Each render_special span has ten calls of digit below it, one after the other.",
    ),
    _slow_calls("special"),
    _slow_characters("special"),
)


def chosen(seed: int) -> Case:
    """The case of a seed, a whole number from 0, on each machine the same.

    So many seeds as there are cases, from 0 or a multiple of their number on, have each case once.
    """
    number, place = divmod(seed, len(CASES))
    # Of all methods of Random, only this one is promised to return the same in each version of Python.
    random = Random(number).random
    return sorted(CASES, key=lambda _: random())[place]


def choices() -> dict[str, list[str]]:
    """The possible answers: faults without their service, by service."""
    services: dict[str, list[str]] = {}
    for case in CASES:
        service, _, fault = case.flag.partition(".")
        services.setdefault(service, []).append(fault)
    return services


def answer(service: object, fault: object) -> str:
    """The flag that an answer names. `fault` may begin with the service. Raises FlagError if it names none."""
    known = choices()
    if not (faults := known.get(str(service))):
        raise FlagError(f"there is no service {service!r}; name one of {', '.join(known)}")
    if (name := str(fault).removeprefix(f"{service}.")) not in faults:
        raise FlagError(f"no case has a fault {fault!r} of {service}; name one of {', '.join(faults)}")
    return f"{service}.{name}"


class OpenCase(NamedTuple):
    case: Case
    seed: int
    begin: datetime
    attempts: int
    before: dict[str, str]  # the variants of all faults

    def seconds(self) -> float:
        """Since its begin."""
        return (datetime.now(UTC) - self.begin).total_seconds()


class CaseFile:
    """The open case of a running stack, if there is one. Only the part `faults` changes it."""

    def __init__(self, flags: FlagFile) -> None:
        self._flags = flags
        self._path = flags.path.with_name("case.json")
        self._lock = threading.RLock()  # for both files

    def present(self) -> tuple[dict[str, Flag], OpenCase | None]:
        """The flags, and the open case; with one, the variants of all faults are hidden. Raises OSError, FlagError."""
        with self._lock:
            flags = self._flags.flags()
            if not flags[CASE].parameters:
                return flags, None
            return {
                name: replace(flag, variant=HIDDEN) if flag.is_fault else flag for name, flag in flags.items()
            }, self._read()

    def refuse_if_open(self) -> None:
        """Raises CaseConflict, OSError, FlagError."""
        if self.present()[1]:
            raise CaseConflict(
                "a case is open: solve it or give it up first (./run.sh solve SERVICE FAULT, ./run.sh case --give-up)"
            )

    def start(self, seed: object) -> OpenCase:
        """Open the case of a seed: a whole number, or a text. Raises FlagError, OSError."""
        number = int(CONTROLS[CASE]["seed"](seed))
        with self._lock:
            self.refuse_if_open()
            before = {name: flag.variant for name, flag in self._flags.flags().items() if flag.is_fault}
            opened = OpenCase(chosen(number), number, datetime.now(UTC), 0, before)
            # A process that is killed between the two leaves a file that nothing reads.
            self._write(opened)
            variants = {**dict.fromkeys(before, OFF), **BACKGROUND, opened.case.flag: opened.case.variant}
            self._flags.set(variants, case={"seed": number})
            return opened

    def solve(self, flag: str) -> tuple[bool, OpenCase]:
        """Whether this is the fault, which ends the case, and the case with this attempt. Raises FlagError, OSError."""
        with self._lock:
            opened = self._opened()
            opened = opened._replace(attempts=opened.attempts + 1)
            self._write(opened)
            solved = flag == opened.case.flag
            if solved:
                self._end(opened)
            return solved, opened

    def give_up(self) -> OpenCase:
        """End the case, and return it. Raises FlagError, OSError."""
        with self._lock:
            opened = self._opened()
            self._end(opened)
            return opened

    def reset(self) -> None:
        """Switch all flags to their defaults; an open case ends as given up. Raises OSError."""
        with self._lock:
            self._flags.reset()
            self._path.unlink(missing_ok=True)

    def _opened(self) -> OpenCase:
        _, opened = self.present()
        if not opened:
            raise CaseConflict("no case is open; ./run.sh case --seed N starts one")
        return opened

    def _end(self, opened: OpenCase) -> None:
        before = {
            name: variant if (variant := opened.before.get(name)) in flag.variants else flag.default
            for name, flag in self._flags.flags().items()
            if flag.is_fault
        }
        self._flags.set(before, case={"seed": None})
        self._path.unlink(missing_ok=True)

    def _read(self) -> OpenCase:
        try:
            content: dict[str, Any] = json.loads(self._path.read_text())
            content |= {"case": Case(**content["case"]), "begin": datetime.fromisoformat(content["begin"])}
            return OpenCase(**content)
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise FlagError(
                f"a case is open, and {self._path} does not describe it ({error!r}); ./run.sh faults reset ends it"
            ) from error

    def _write(self, opened: OpenCase) -> None:
        content = {**opened._asdict(), "case": opened.case._asdict(), "begin": opened.begin.isoformat()}
        replace_content(self._path, json.dumps(content, indent=2) + "\n")


def report(state: Mapping[str, Any]) -> str:
    """In words, what the API says of the case. It has `flag` at the end of a case, and `solved` after an attempt."""
    if not state["open"] and "flag" not in state:
        return "No case is open. ./run.sh case --seed N starts one."
    time = _duration(state["seconds"])
    attempts = f"attempts: {state['attempts']}"
    if "flag" in state:
        begin = f"Right: it was {state['flag']}" if state["solved"] else f"Given up: it was {state['flag']}"
        return (
            f"{begin}, {state['variant']}. Time: {time}; {attempts}. {state['description']} {state['evidence']}"
            " The faults are as they were before the case."
        )
    if "solved" in state:
        service = "the service is right" if state["service_is_right"] else "the service is another one"
        return f"Wrong: {service}. Time: {time}; {attempts}."
    return (
        f"A case is open: seed {state['seed']}, since {state['begin'][:19].replace('T', ' ')} UTC ({time}), {attempts}."
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours} h " if hours else "") + (f"{minutes} min " if hours or minutes else "") + f"{rest} s"
