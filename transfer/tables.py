"""Tables in files: Parquet by way of Arrow, and CSV as PostgreSQL's COPY writes it."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pyarrow
from psycopg import sql
from pyarrow import parquet

from transfer.snapshot import Snapshot

CHUNK_ROWS = 1000  # of CSV

Progress = Callable[[int], object]  # is told numbers of rows


def write_table(
    snapshot: Snapshot,
    statement: sql.Composed,
    path: Path,
    progress: Progress = lambda rows: None,
    types: dict[str, pyarrow.DataType] | None = None,
) -> int:
    """Write the statement's result to a new file, in the format of the path's suffix; returns the number of rows.

    `types` are those columns' types in Parquet that PostgreSQL does not have. Raises TransferError, OSError.
    """
    if path.suffix == ".csv":
        return _write_csv(snapshot, statement, path, progress)
    return _write_parquet(snapshot, statement, path, progress, types or {})


def _write_csv(snapshot: Snapshot, statement: sql.Composed, path: Path, progress: Progress) -> int:
    written = 0
    with path.open("xb") as file:
        rows = snapshot.copy(statement, "format csv, header")
        file.write(next(rows))
        while chunk := list(islice(rows, CHUNK_ROWS)):
            file.writelines(chunk)
            written += len(chunk)
            progress(len(chunk))
    return written


def _write_parquet(
    snapshot: Snapshot,
    statement: sql.Composed,
    path: Path,
    progress: Progress,
    types: dict[str, pyarrow.DataType],
) -> int:
    rows = 0
    with snapshot.arrow(statement) as reader:
        # Without the driver's metadata.
        schema = pyarrow.schema([(field.name, types.get(field.name, field.type)) for field in reader.schema])
        with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_batch(batch.cast(schema))
                rows += batch.num_rows
                progress(batch.num_rows)
    return rows
