"""Runs an experiment on a running stack, and writes its folder. docs/experiments.md describes the files."""

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import transfer
from experiments import control, results
from experiments.results import Experiment, ExperimentError, Ran
from experiments.scenario import Phase, Scenario
from experiments.store import Period, Store
from local.control import FaultsAPI
from transfer.exporting import new_folder

SETTLE_SECONDS = 2  # until all services have read the flags, and the requests that have begun before have ended
STABLE_SECONDS = 4  # without a new span: then all of them are stored
MAX_WAIT_SECONDS = 120

EXPORTED = ("parquet", "otlp")  # for programs, and for ./run.sh import


def run(
    scenario: Scenario,
    seed: int,
    out: Path,
    api: FaultsAPI,
    database: str,
    blind: bool,
    report: Callable[[str], None],
) -> None:
    """Run the scenario, and write the folder `out`, which must be empty or new. Its traces have no labels if `blind`.

    `report` is called with lines on the progress and the results. If anything fails, nothing of the folder remains, and
    the stack is as before. Raises CommandError, OSError, psycopg.Error.
    """
    with new_folder(out) as folder, Store(database) as store:
        with control.restoring(api):
            ran = [_run(phase, seed + number, api, report) for number, phase in enumerate(scenario.phases)]
        experiment = Experiment(uuid.uuid4().hex[:8], scenario, seed, ran)
        report("Waiting until all spans are stored")
        _wait_until_stored(store, Period(ran[0].period.start, ran[-1].period.end))
        report("Comparing the phases")
        injected = results.write(folder, experiment, store)
        report("Exporting the traces")
        _export(folder / "traces", experiment, database, labels=not blind)
    for line in results.table(injected):
        report(line)
    report(f"Experiment {experiment.id}: {out}")


def _run(phase: Phase, seed: int, api: FaultsAPI, report: Callable[[str], None]) -> Ran:
    report(f"Phase {phase.name!r}, {phase.seconds} s")
    control.enter(api, phase, seed)
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


def _export(folder: Path, experiment: Experiment, database: str, labels: bool) -> None:
    """The traces of all phases, and what is known of them without the answer: when the faults were on."""
    folder.mkdir()
    results.write_periods(folder / "periods.json", experiment)
    periods = [ran.period for ran in experiment.ran]
    in_a_phase = " or ".join(
        f"start_time >= '{period.start.isoformat()}' and end_time <= '{period.end.isoformat()}'" for period in periods
    )
    for file_format in EXPORTED:
        transfer.export(
            database,
            periods[0].start,
            periods[-1].end,
            folder / file_format,
            file_format=file_format,
            where=f"is_root_span and ({in_a_phase})",
            labels=labels,
        )
