"""Runs an experiment on a running stack, and writes its folder. docs/experiments.md describes the files."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from experiments import control, results
from experiments.results import Experiment, ExperimentError, Ran
from experiments.scenario import Phase, Scenario
from experiments.store import Period, Store
from local.control import FaultsAPI

SETTLE_SECONDS = 2  # until all services have read the flags, and the requests that have begun before have ended
STABLE_SECONDS = 4  # without a new span: then all of them are stored
MAX_WAIT_SECONDS = 120

Report = Callable[[str], None]


def run(
    scenario: Scenario,
    seed: int,
    out: Path,
    api: FaultsAPI,
    database: str,
    export: Callable[[Path, Sequence[Period]], None],
    report: Report,
) -> None:
    """Run the scenario and write the folder `out`, which must not exist yet. `export` writes the traces of periods.

    If anything fails, there is no folder, and the stack is as before. Raises CommandError, OSError, psycopg.Error,
    and what `export` raises.
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
        export(folder / "traces", [phase.period for phase in ran])
        results.write_periods(folder / "traces" / "periods.json", experiment)
    for line in results.table(injected):
        report(line)
    report(f"Experiment {experiment.id}: {out}")


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


def _run(phase: Phase, seed: int, api: FaultsAPI, report: Report) -> Ran:
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
