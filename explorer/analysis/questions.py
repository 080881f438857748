"""The questions of docs/analysis.md, answered from the database: for the pages, and for other programs.

Each function reads bounded samples of traces (sample.py) and hands them to functions without I/O. Each raises
psycopg.Error, also if a statement exceeds the database's timeout.
"""

from typing import NamedTuple

from explorer.analysis.differences import Finding, Findings, Measure, differences
from explorer.analysis.paths import ComparedPath, Frame, compare, flame_graph
from explorer.analysis.sample import Sample, counts_sql, read_sample, read_sides, read_trace
from explorer.analysis.selection import Selection
from explorer.database import Database


class Differences(NamedTuple):
    """How the selected traces differ from the baseline, as found in the two samples."""

    selected: Sample
    baseline: Sample
    findings: Findings


class Comparison(NamedTuple):
    """The call trees of two sets of traces, aligned by operation path: first those of the baseline."""

    baseline: Sample
    selected: Sample
    paths: list[ComparedPath]


class FlameGraph(NamedTuple):
    sample: Sample
    roots: list[Frame]


def what_differs(database: Database, selection: Selection, baseline: Selection | None = None) -> Differences:
    """What the selection has more or less of than the baseline; by default, than the rest of its time range."""
    selected, other = _read_both(database, selection, baseline)
    narrowed = (selection, baseline) if baseline else (selection,)
    findings = differences(
        selected.traces,
        other.traces,
        failed=any(side.failed for side in narrowed),
        by_duration=any(side.by_duration for side in narrowed),
        ignored={key for side in narrowed for key in side.tags},
    )
    return Differences(selected, other, findings)


def finding_statements(finding: Finding, selection: Selection, baseline: Selection | None = None) -> list[str]:
    """Statements for psql that count a finding in all traces of both sides, and not only in the samples."""
    if finding.value is not None:
        condition = "has_attribute"
    else:
        condition = "has_key" if finding.measure == Measure.VALUE else "is_operation"
    sides = (selection, baseline) if baseline else (selection,)
    return [counts_sql(side, condition, finding.service, finding.name, finding.value) for side in sides]


def compare_traces(
    database: Database, selection: Selection | str, baseline: Selection | str | None = None
) -> Comparison:
    """The call trees of a selection and of the baseline; by default, of the rest of the selection's time range.

    Both can be single traces, by their ids of 32 hex digits. Raises ValueError for one trace without a baseline.
    """
    selected, other = _read_both(database, selection, baseline)
    return Comparison(other, selected, compare(other.traces, selected.traces))


def aggregate_flame_graph(database: Database, chosen: Selection | str) -> FlameGraph:
    """Where the traces of a selection, or a single trace, spend their time."""
    sample = _read(database, chosen)
    return FlameGraph(sample, flame_graph(sample.traces))


def _read_both(
    database: Database, selection: Selection | str, baseline: Selection | str | None
) -> tuple[Sample, Sample]:
    if baseline is not None:
        return _read(database, selection), _read(database, baseline)
    if isinstance(selection, Selection):
        return read_sides(database, selection)
    raise ValueError("a trace has no rest of its time range that it could be compared with")


def _read(database: Database, chosen: Selection | str) -> Sample:
    return read_trace(database, chosen) if isinstance(chosen, str) else read_sample(database, chosen)
