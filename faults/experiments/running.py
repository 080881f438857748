"""Runs an experiment on a running stack, and writes its folder. docs/experiments.md describes the files."""

import json
import platform
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from faults.experiments.control import Control
from faults.experiments.indicators import CHANGED, INDICATORS, SIGNIFICANCE, Change, change
from faults.experiments.scenario import Phase, Scenario
from faults.experiments.scoring import BASELINES_FOLDER, TRUTH_FILE
from faults.experiments.store import BASELINES, Counts, Period, Store
from faults.experiments.truth import affected_spans
from telemetry.tracing import VERSION

SETTLE_SECONDS = 2  # until all services have read the flags, and the requests that have begun before have ended
STABLE_SECONDS = 4  # without a new span: then all of them are stored
MAX_WAIT_SECONDS = 120
MAX_OPERATIONS = 20  # of a fault's causes

Report = Callable[[str], None]


class ExperimentError(Exception):
    """An experiment that cannot be run or completed. The message names the cause and the fix in one line."""


@dataclass(frozen=True)
class Ran:
    """A phase that has run: its traces are those whose root span starts and ends in the period."""

    phase: Phase
    period: Period
    seed: int


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


def run(
    scenario: Scenario,
    seed: int,
    out: Path,
    control: Control,
    database: str,
    export: Callable[[Path, Sequence[Period]], None],
    report: Report,
) -> None:
    """Run the scenario and write the folder `out`, which must not exist yet. `export` writes the traces of periods.

    If anything fails, there is no folder, and the stack is as before. Raises ExperimentError, ControlError, OSError,
    psycopg.Error, and what `export` raises.
    """
    with new_folder(out) as folder, Store(database) as store:
        experiment = uuid.uuid4().hex[:8]
        with control.restoring():
            ran = [_run(phase, seed + number, control, report) for number, phase in enumerate(scenario.phases)]
        report("Waiting until all spans are stored")
        whole = Period(ran[0].period.start, ran[-1].period.end)
        _wait_until_stored(store, whole)
        counts = [store.counts(phase.period) for phase in ran]
        _check_traces(ran, counts)
        report("Comparing the phases")
        injected = _changes(scenario, ran, store)
        _write_affected_spans(folder / "affected_spans.jsonl", scenario, ran, store, injected)
        _check_labels(injected)
        faulty = [phase.period for phase in ran if scenario.injected(phase.phase)]
        before, during = ran[0].period, Period(faulty[0].start, faulty[-1].end)
        (folder / BASELINES_FOLDER).mkdir()
        for name in BASELINES:
            ranking = store.baseline(name, before, during)
            _write(folder / BASELINES_FOLDER / f"{name}.json", {experiment: ranking})
        _write(folder / TRUTH_FILE, _truth(experiment, scenario, injected, store.operations(before)))
        _write(folder / "manifest.json", _manifest(experiment, scenario, seed, ran, counts, injected, store))
        traces = folder / "traces"
        export(traces, [phase.period for phase in ran])
        periods = {"before": _times(before), "during": _times(during)}
        _write(traces / "periods.json", {"experiment": experiment, **periods})
    for line in table(injected):
        report(line)
    report(f"Experiment {experiment}, {sum(count.spans for count in counts):,} spans: {out}")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `path` after the body. If the body fails, it is deleted.

    Raises ExperimentError if there is something by this name already, OSError.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExperimentError(f"{path} exists already; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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


def _run(phase: Phase, seed: int, control: Control, report: Report) -> Ran:
    report(f"Phase {phase.name!r}, {phase.seconds} s")
    control.enter(phase, seed)
    time.sleep(SETTLE_SECONDS)
    start = datetime.now(UTC)
    time.sleep(phase.seconds)
    return Ran(phase, Period(start, datetime.now(UTC)), seed)


def _wait_until_stored(store: Store, period: Period) -> None:
    deadline = time.monotonic() + MAX_WAIT_SECONDS
    spans, since = store.counts(period).spans, time.monotonic()
    while time.monotonic() < since + STABLE_SECONDS:
        if time.monotonic() > deadline:
            raise ExperimentError(
                f"spans still arrive {MAX_WAIT_SECONDS} s after the last phase; lower the rates of the scenario"
            )
        time.sleep(0.5)
        if (now := store.counts(period).spans) != spans:
            spans, since = now, time.monotonic()


def _check_traces(ran: Sequence[Ran], counts: Sequence[Counts]) -> None:
    for phase, count in zip(ran, counts, strict=True):
        if not count.traces:
            raise ExperimentError(
                f"no trace of the phase {phase.phase.name!r} is stored; ./run.sh status may say why, or the phase is"
                " shorter than its requests"
            )


def _changes(scenario: Scenario, ran: Sequence[Ran], store: Store) -> list[Injected]:
    faults = [(phase, fault, variant) for phase in ran for fault, variant in scenario.injected(phase.phase).items()]
    injected = []
    for phase, fault, variant in faults:
        indicator = INDICATORS[fault]
        before, during = (store.measurements(period, indicator) for period in (ran[0].period, phase.period))
        found = change(indicator, before, during, tests=len(faults))
        injected.append(Injected(phase.phase.name, fault, variant, found))
    return injected


def _write_affected_spans(
    file: Path, scenario: Scenario, ran: Sequence[Ran], store: Store, injected: Sequence[Injected]
) -> None:
    by_name = {(fault.phase, fault.fault): fault for fault in injected}
    with file.open("w", encoding="utf-8") as lines:
        for phase in ran:
            name, faults = phase.phase.name, scenario.injected(phase.phase)
            for span in affected_spans(store.affected(phase.period), name, faults):
                lines.write(json.dumps(span._asdict()) + "\n")
                if span.injected:
                    fault = by_name[name, span.fault]
                    fault.operations[span.cause] += 1
                    fault.traces.add(span.trace_id)


def _check_labels(injected: Sequence[Injected]) -> None:
    for fault in injected:
        if fault.change.verdict == CHANGED and not fault.operations:
            raise ExperimentError(
                f"{fault.fault} had an effect, but no span says so; start the demo with DEMO_FAULT_LABELS=on"
            )


def _truth(
    experiment: str, scenario: Scenario, injected: Sequence[Injected], operations: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """`operations` are those of the normal phase: what an answer can name."""
    return {
        "experiment": experiment,
        "scenario": scenario.name,
        "faults": [fault.answer() for fault in injected],
        "services": sorted({service for service, _ in operations} | {fault.service for fault in injected}),
        "operations": [f"{service}/{operation}" for service, operation in operations],
    }


def _manifest(
    experiment: str,
    scenario: Scenario,
    seed: int,
    ran: Sequence[Ran],
    counts: Sequence[Counts],
    injected: Sequence[Injected],
    store: Store,
) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "scenario": scenario.name,
        "description": scenario.description,
        "seed": seed,
        "phases": [
            {
                **asdict(phase.phase),
                **_times(phase.period),
                "seed": phase.seed,
                "injected": scenario.injected(phase.phase),
                **count._asdict(),
            }
            for phase, count in zip(ran, counts, strict=True)
        ],
        "test": "Mann-Whitney U, one number per trace, two-sided",
        "significance": SIGNIFICANCE / max(len(injected), 1),
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
