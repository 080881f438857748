"""Exports stored traces to files in a new folder."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from transfer.errors import TransferError
from transfer.layouts import Injection, write_rcabench, write_rcaeval
from transfer.otlp_files import read_requests, to_json, to_proto
from transfer.progress import progress_bar
from transfer.snapshot import Snapshot
from transfer.tables import Progress, write_table

FORMATS = ("parquet", "otlp", "otlp-json", "csv")
# Each with the only format of its files.
LAYOUTS = {"rcabench": "parquet", "rcaeval": "csv"}
DEFAULT_FROM, DEFAULT_TO = "-1h", "now"
ROOT_SERVICE = "load"

# The table of the faults, by format. It has no spans.
FAULTS_FILES = {"parquet": "faults.parquet", "otlp": "faults.csv", "otlp-json": "faults.csv", "csv": "faults.csv"}
_OTLP_FILES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "otlp": ("traces.otlp", to_proto),
    "otlp-json": ("traces.jsonl", to_json),
}


class Exported(NamedTuple):
    """What an export has written: the number of spans, and the files."""

    spans: int
    files: list[Path]


def export(
    database_uri: str,
    time_from: datetime | str,
    time_to: datetime | str,
    folder: Path,
    *,
    file_format: str = "",
    where: str = "",
    labels: bool = True,
    layout: str = "",
    inject_time: datetime | str | None = None,
    root_service: str = ROOT_SERVICE,
) -> Exported:
    """Write the traces of a time range to files in `folder`, which must be empty, or new in an existing folder.

    Exported are whole traces: those with a span that starts from `time_from` on, before `time_to`, and fulfils `where`,
    a condition in SQL on the columns of ps_trace.span. Times without a time zone have the database's. `file_format` is
    one of FORMATS; with a `layout` of LAYOUTS it may be left out. Without `labels`, spans have no labels of faults, and
    the table of the faults is left out. Layouts need `inject_time`, or a fault that began in the time range;
    `root_service` is the service that the load comes from.

    Raises TransferError and OSError; then nothing of the folder remains.
    """
    if layout not in ("", *LAYOUTS):
        raise TransferError(f"there is no layout {layout!r}; name one of {', '.join(LAYOUTS)}")
    file_format = file_format or LAYOUTS.get(layout, "")
    if file_format not in FORMATS:
        raise TransferError(f"--format {file_format!r} is not one of {', '.join(FORMATS)}")
    if layout and file_format != LAYOUTS[layout]:
        raise TransferError(f"the layout {layout} has files of the format {LAYOUTS[layout]}, not {file_format}")
    with (
        new_folder(folder) as unfinished,
        Snapshot(database_uri, time_from, time_to, where, labels) as snapshot,
        progress_bar(snapshot.spans, f"export to {folder}") as progress,
    ):
        if layout:
            injection = Injection.of(snapshot, inject_time, labels)
            if layout == "rcabench":
                spans = write_rcabench(snapshot, unfinished, injection, root_service, progress.update)
            else:
                spans = write_rcaeval(snapshot, unfinished, injection, progress.update)
        else:
            spans = _write_spans(snapshot, unfinished, file_format, labels, progress.update)
            [(recorded,)] = snapshot.rows("has_faults")
            if labels and recorded:
                write_table(snapshot, snapshot.statement("faults"), unfinished / FAULTS_FILES[file_format])
        names = sorted(path.name for path in unfinished.iterdir())
    return Exported(spans, [folder / name for name in names])


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which takes its name at the end, and is deleted if there is an exception.

    Raises TransferError if `folder` is anything but an empty folder.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()) or (folder.is_dir() and any(folder.iterdir())):
        raise TransferError(f"{folder} is not an empty folder; name a new one")
    absolute = folder.absolute()
    unfinished = absolute.with_name(f".{absolute.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.rename(absolute)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _write_spans(snapshot: Snapshot, folder: Path, file_format: str, labels: bool, progress: Progress) -> int:
    if file_format not in _OTLP_FILES:
        return write_table(snapshot, snapshot.statement("spans"), folder / f"spans.{file_format}", progress)
    name, encode = _OTLP_FILES[file_format]
    written = 0
    with (folder / name).open("xb") as file:
        for request, spans in read_requests(snapshot, labels):
            file.write(encode(request))
            written += spans
            progress(spans)
    return written
