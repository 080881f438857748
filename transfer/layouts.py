"""Folders of traces that tools for root cause analysis read as they are."""

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow

from transfer.errors import TransferError
from transfer.snapshot import Snapshot
from transfer.tables import Progress, write_table

# The name that rcabench-platform expects of the service that the load comes from.
LOAD_GENERATOR = "loadgenerator"
_RCABENCH_TYPES = {
    "duration": pyarrow.uint64(),
    "attr.http.response.status_code": pyarrow.uint16(),
    "attr.http.request.content_length": pyarrow.uint64(),
    "attr.http.response.content_length": pyarrow.uint64(),
}


class Injection(NamedTuple):
    """When faults began, and which: rows of injected_faults. None where the ground truth stays out of the export."""

    time: datetime
    faults: list[Any] | None

    @classmethod
    def of(cls, snapshot: Snapshot, time: datetime | str | None, labels: bool) -> "Injection":
        """The injection at `time`, or else when the first fault of the time range began. Raises TransferError."""
        [(recorded,)] = snapshot.rows("has_faults")
        faults = snapshot.rows("injected_faults") if recorded else []
        if time is None and not faults:
            raise TransferError(
                f"no fault began between {snapshot.time_from} and {snapshot.time_to}: name the time of the injection"
                " by --inject-time"
            )
        began: datetime = faults[0][0] if time is None else snapshot.time(time, "--inject-time")
        if not snapshot.time_from + timedelta(seconds=1) <= began < snapshot.time_to:
            raise TransferError(
                f"the injection, at {began}, must be at least a second after --from ({snapshot.time_from}) and before"
                f" --to ({snapshot.time_to})"
            )
        return cls(began, faults if labels else None)


def write_rcabench(
    snapshot: Snapshot, folder: Path, injection: Injection, root_service: str, progress: Progress
) -> int:
    """A data pack of rcabench-platform; returns the number of spans.

    Traces whose first span starts before the injection are the normal ones. `root_service` is called LOAD_GENERATOR.
    Source: "Data Specification" in docs/specifications.md of https://github.com/OperationsPAI/rcabench-platform
    """
    names = {"root_service": root_service, "load_generator": LOAD_GENERATOR}
    spans = 0
    for part, times in (("normal", {"first_to": injection.time}), ("abnormal", {"first_from": injection.time})):
        statement = snapshot.statement("rcabench_spans", **times, **names)
        spans += write_table(snapshot, statement, folder / f"{part}_traces.parquet", progress, _RCABENCH_TYPES)
    seconds = {
        "NORMAL_START": snapshot.time_from.timestamp(),
        "NORMAL_END": injection.time.timestamp(),
        "ABNORMAL_START": injection.time.timestamp(),
        "ABNORMAL_END": math.ceil(snapshot.time_to.timestamp()),
    }
    _write_json(folder / "env.json", {"TIMEZONE": "UTC"} | {name: str(int(time)) for name, time in seconds.items()})
    if injection.faults is not None:
        services = [LOAD_GENERATOR if fault.service == root_service else fault.service for fault in injection.faults]
        truth = {
            "injection_name": ", ".join(fault.flag for fault in injection.faults),
            "start_time": injection.time,
            "end_time": snapshot.time_to,
            "ground_truth": [{"service": [service]} for service in dict.fromkeys(services)],
            "engine_config": [
                {"app": service, "chaos_type": fault.flag, "variant": fault.variant}
                for service, fault in zip(services, injection.faults, strict=True)
            ],
        }
        _write_json(folder / "injection.json", truth)
    return spans


def write_rcaeval(snapshot: Snapshot, folder: Path, injection: Injection, progress: Progress) -> int:
    """A case of RCAEval's data sets RE2 and RE3; returns the number of spans.

    Source: https://github.com/phamquiluan/RCAEval
    """
    (folder / "inject_time.txt").write_text(f"{int(injection.time.timestamp())}\n")
    return write_table(snapshot, snapshot.statement("rcaeval_spans"), folder / "traces.csv", progress)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
