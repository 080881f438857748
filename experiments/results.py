"""The results of an experiment: what its faults have changed, and the content of its files."""

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from experiments.indicators import CHANGED, INDICATORS, SIGNIFICANCE, Change, change
from experiments.scenario import Phase, Scenario
from experiments.scoring import BASELINES_FOLDER, TRUTH_FILE
from experiments.store import BASELINES, Counts, Period, Store
from experiments.truth import affected_spans
from local import CommandError
from telemetry.instrumentation import VERSION

MAX_OPERATIONS = 20  # of a fault's causes


class ExperimentError(CommandError):
    """An experiment that cannot be run or completed. The message names the cause and the fix in one line."""


class Ran(NamedTuple):
    """A phase that has run: its traces are those whose root span starts and ends in the period."""

    phase: Phase
    period: Period
    seed: int


class Experiment(NamedTuple):
    """A scenario that has run, with the normal phase first."""

    id: str
    scenario: Scenario
    seed: int
    ran: Sequence[Ran]

    @property
    def before(self) -> Period:
        return self.ran[0].period

    @property
    def during(self) -> Period:
        """From the first phase with an injected fault to the last one."""
        faulty = [ran.period for ran in self.ran if self.scenario.injected(ran.phase)]
        return Period(faulty[0].start, faulty[-1].end)


@dataclass
class Injected:
    """A fault of a phase that the normal phase does not have, what it has changed, and on what it took effect."""

    phase: str
    fault: str
    variant: str
    change: Change
    operations: Counter[str] = field(default_factory=Counter)  # spans by service/operation
    traces: set[str] = field(default_factory=set)

    @property
    def service(self) -> str:
        """The service that is the cause."""
        return self.fault.partition(".")[0]

    def answer(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "fault": self.fault,
            "variant": self.variant,
            "verdict": self.change.verdict,
            "service": self.service,
            "operations": [operation for operation, _ in self.operations.most_common(MAX_OPERATIONS)],
        }

    def statistics(self) -> dict[str, Any]:
        test = self.change.test
        return {
            **self.answer(),
            "indicator": self.change.indicator,
            "before": self.change.before,
            "during": self.change.during,
            "traces_before": self.change.traces_before,
            "traces_during": self.change.traces_during,
            "u": test.u,
            "p_value": test.p_value,
            "effect": test.effect,
            "affected_spans": self.operations.total(),
            "affected_traces": len(self.traces),
        }


def table(injected: Sequence[Injected]) -> list[str]:
    """Lines about the faults and what they have changed."""
    rows = [("fault", "variant", "indicator", "before", "during", "p", "verdict")]
    rows += [
        (
            fault.fault,
            fault.variant,
            fault.change.indicator,
            _short(fault.change.before),
            _short(fault.change.during),
            f"{fault.change.test.p_value:.1g}",
            fault.change.verdict,
        )
        for fault in injected
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def write(folder: Path, experiment: Experiment, store: Store) -> list[Injected]:
    """Write all files but the traces. Returns the faults with their effects. Raises ExperimentError, psycopg.Error."""
    counts = [store.counts(ran.period) for ran in experiment.ran]
    for ran, count in zip(experiment.ran, counts, strict=True):
        if not count.traces:
            raise ExperimentError(
                f"no trace of the phase {ran.phase.name!r} is stored; ./run.sh status may say why, or the phase is"
                " shorter than its requests"
            )
    injected = _changes(experiment, store)
    _write_affected_spans(folder / "affected_spans.jsonl", experiment, store, injected)
    for fault in injected:
        if fault.change.verdict == CHANGED and not fault.operations:
            raise ExperimentError(
                f"{fault.fault} had an effect, but no span says so; start the demo with DEMO_FAULT_LABELS=on and"
                " DEMO_INSTRUMENTATION=on"
            )
    (folder / BASELINES_FOLDER).mkdir()
    for name in BASELINES:
        ranking = store.baseline(name, experiment.before, experiment.during)
        _write(folder / BASELINES_FOLDER / f"{name}.json", {experiment.id: ranking})
    _write(folder / TRUTH_FILE, _truth(experiment, store, injected))
    _write(folder / "manifest.json", _manifest(experiment, store, counts, injected))
    return injected


def write_periods(file: Path, experiment: Experiment) -> None:
    """What is known of the traces without the answer: when the normal phase was, and when the faults were on."""
    periods = {"before": _times(experiment.before), "during": _times(experiment.during)}
    _write(file, {"experiment": experiment.id, **periods})


def _changes(experiment: Experiment, store: Store) -> list[Injected]:
    faults = [
        (ran, fault, variant)
        for ran in experiment.ran
        for fault, variant in experiment.scenario.injected(ran.phase).items()
    ]
    injected = []
    for ran, fault, variant in faults:
        indicator = INDICATORS[fault]
        before, during = (store.measurements(period, indicator) for period in (experiment.before, ran.period))
        found = change(indicator, before, during, tests=len(faults))
        injected.append(Injected(ran.phase.name, fault, variant, found))
    return injected


def _write_affected_spans(file: Path, experiment: Experiment, store: Store, injected: Sequence[Injected]) -> None:
    """Also counts them for each injected fault."""
    by_name = {(fault.phase, fault.fault): fault for fault in injected}
    with file.open("w", encoding="utf-8") as lines:
        for ran in experiment.ran:
            faults = experiment.scenario.injected(ran.phase)
            for span in affected_spans(store.affected(ran.period), ran.phase.name, faults):
                lines.write(json.dumps(span._asdict()) + "\n")
                if span.injected:
                    fault = by_name[span.phase, span.fault]
                    fault.operations[span.cause] += 1
                    fault.traces.add(span.trace_id)


def _truth(experiment: Experiment, store: Store, injected: Sequence[Injected]) -> dict[str, Any]:
    """What an answer can name are the services and operations of the normal phase."""
    operations = store.operations(experiment.before)
    return {
        "experiment": experiment.id,
        "scenario": experiment.scenario.name,
        "faults": [fault.answer() for fault in injected],
        "services": sorted({service for service, _ in operations} | {fault.service for fault in injected}),
        "operations": [f"{service}/{operation}" for service, operation in operations],
    }


def _manifest(
    experiment: Experiment, store: Store, counts: Sequence[Counts], injected: Sequence[Injected]
) -> dict[str, Any]:
    phases = [
        {
            **asdict(ran.phase),
            **_times(ran.period),
            "seed": ran.seed,
            "injected": experiment.scenario.injected(ran.phase),
            **count._asdict(),
        }
        for ran, count in zip(experiment.ran, counts, strict=True)
    ]
    return {
        "experiment": experiment.id,
        "scenario": experiment.scenario.name,
        "description": experiment.scenario.description,
        "seed": experiment.seed,
        "phases": phases,
        "test": "Mann-Whitney U, one number per trace, two-sided",
        "significance": SIGNIFICANCE / len(injected),
        "faults": [fault.statistics() for fault in injected],
        "versions": {
            "tracing-demo": VERSION,
            "opentelemetry-sdk": version("opentelemetry-sdk"),
            "postgresql": store.version(),
            "python": platform.python_version(),
        },
    }


def _times(period: Period) -> dict[str, str]:
    return {"start_time": period.start.isoformat(), "end_time": period.end.isoformat()}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
