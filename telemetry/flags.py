"""The flags of the demo, and what a fault that is on does to a span.

OpenFeature evaluates them from a file in flagd's format (faults/flags.json), which is read again within half a second
of a change: https://openfeature.dev/specification/
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.event import EventDetails, ProviderEvent
from openfeature.exception import OpenFeatureError
from opentelemetry.sdk.trace import ReadableSpan

from telemetry.instrumentation import current_span
from telemetry.randomness import random_source

DEFINITIONS = Path(__file__).parents[1] / "faults" / "flags.json"
POLL_MILLISECONDS = 250
PROVIDER_NAME = "flagd"
# Attributes of a span on which faults took effect. docs/faults.md describes them.
FAULT_NAME, FAULT_ADDED_MS, FAULT_ERROR = "demo.fault.name", "demo.fault.added_ms", "demo.fault.error"


class State(NamedTuple):
    """The variant of a flag that is on, and its parameters; `{}` where it does nothing."""

    variant: str
    parameters: Mapping[str, Any]


class _Content:
    """What is known about the file's present content.

    An evaluation takes 50 µs, and its result depends on nothing but the file, so that each flag is evaluated once for
    each content. An evaluation that overlaps a change puts its result among those of the old content. An error in the
    file is found again each time that the file is read, and logged once.
    """

    states: ClassVar[dict[str, State]] = {}
    error: ClassVar[str | None] = None

    @classmethod
    def changed(cls, details: EventDetails | None = None) -> None:
        cls.states, cls.error = {}, None

    @classmethod
    def failed(cls, details: EventDetails) -> None:
        if cls.error != details.message:
            cls.error = details.message
            logging.getLogger(__name__).error("The flags stay as they were: %s", details.message)


def start() -> None:
    """Read the flags from the file that `FAULTS_FILE` names, by default from their definitions.

    Ends the process with one line if there is no such file, or if `DEMO_FAULT_LABELS` is neither on nor off.
    """
    path = Path(os.environ.get("FAULTS_FILE") or DEFINITIONS)
    if not path.is_file():
        sys.exit(f"FAULTS_FILE={str(path)!r} is not a file; name a file of flags, or unset it")
    if (labels := os.environ.get("DEMO_FAULT_LABELS") or "on") not in ("on", "off"):
        sys.exit(f"DEMO_FAULT_LABELS={labels!r} is neither on nor off")
    # The file watcher's interval is the option `deadline_ms`:
    # https://github.com/open-feature/python-sdk-contrib/blob/main/providers/openfeature-provider-flagd
    provider = FlagdProvider(
        resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=POLL_MILLISECONDS
    )
    logging.getLogger("openfeature.contrib").setLevel(logging.CRITICAL)
    try:
        api.set_provider_and_wait(provider)
    except OpenFeatureError as error:
        sys.exit(f"FAULTS_FILE={str(path)!r} is not a file of flags in flagd's format: {error.__cause__}")
    _Content.changed()


def state(name: str) -> State:
    """The state of a flag. Before `start`, and without such a flag in the file, it does nothing."""
    states = _Content.states
    if name not in states:
        details = api.get_client().get_object_details(name, {})
        parameters = details.value if isinstance(details.value, Mapping) else {}
        states[name] = State(details.variant or "", parameters)
    return states[name]


def fault(name: str) -> "Fault | None":
    """The fault if a variant is on that does something."""
    variant, parameters = state(name)
    return Fault(name, variant, parameters) if parameters else None


@dataclass(frozen=True)
class Fault:
    """A fault that is on. `fault["probability"]` is a parameter of its variant.

    `delay`, `error` and `record` make it take effect, and record that in the current span if labels are on: in
    attributes, and in an event by OpenTelemetry's conventions for feature flags
    (https://opentelemetry.io/docs/specs/semconv/feature-flags/).
    """

    name: str
    variant: str
    parameters: Mapping[str, Any]

    def __getitem__(self, parameter: str) -> Any:
        return self.parameters[parameter]

    def happens(self, source: Random | None = None) -> bool:
        """Whether it takes effect this time, by its `probability` and the request's random generator, or another."""
        return (source or random_source()).random() < float(self["probability"])

    def delay(self, milliseconds: float, holding: AbstractContextManager[Any] | None = None) -> None:
        """Sleep so long, with a lock if there is one; the time until the lock is free counts as well."""
        began = time.monotonic()
        with holding or nullcontext():
            time.sleep(milliseconds / 1000)
        self.record(added_ms=(time.monotonic() - began) * 1000)

    def error(self, error: Exception) -> Exception:
        """The error, for the caller to raise."""
        self.record(error=str(error))
        return error

    def record(self, added_ms: float = 0, error: str = "") -> None:
        """Record that the fault took effect, added this time to the current span, or made it fail with this message."""
        span = current_span()
        if not labels_are_on() or not isinstance(span, ReadableSpan):
            return
        span.set_attributes(self.labels(span.attributes or {}, added_ms, error))
        span.add_event("feature_flag.evaluation", self.event(added_ms, error))

    def labels(self, attributes: Mapping[str, Any], added_ms: float = 0, error: str = "") -> dict[str, Any]:
        """The attributes that record the fault in a span which has these attributes."""
        names = attributes.get(FAULT_NAME, ())
        labels: dict[str, Any] = {} if self.name in names else {FAULT_NAME: (*names, self.name)}
        if added_ms:
            labels[FAULT_ADDED_MS] = attributes.get(FAULT_ADDED_MS, 0.0) + added_ms
        if error:
            labels[FAULT_ERROR] = error
        return labels

    def event(self, added_ms: float = 0, error: str = "") -> dict[str, Any]:
        """The attributes of the event that records the fault."""
        effect = {FAULT_ADDED_MS: added_ms, FAULT_ERROR: error}
        return {
            "feature_flag.key": self.name,
            "feature_flag.result.variant": self.variant,
            "feature_flag.provider.name": PROVIDER_NAME,
            **{name: value for name, value in effect.items() if value},
        }


def labels_are_on() -> bool:
    """Whether spans name the faults that took effect on them: unless DEMO_FAULT_LABELS is off, or a case is open."""
    return os.environ.get("DEMO_FAULT_LABELS") != "off" and not state("case").parameters


api.add_handler(ProviderEvent.PROVIDER_CONFIGURATION_CHANGED, _Content.changed)
api.add_handler(ProviderEvent.PROVIDER_ERROR, _Content.failed)
