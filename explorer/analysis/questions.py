"""The questions of docs/analysis.md, answered from the database: for the pages, and for other programs.

Each function reads bounded samples of traces (sample.py) and hands them to functions without I/O. Each raises
psycopg.Error, also if a statement exceeds the database's timeout.
"""

from typing import NamedTuple

from explorer.analysis.differences import Finding, Findings, Measure, differences
from explorer.analysis.sample import Sample, counts_sql, read_sample, read_sides
from explorer.analysis.selection import Selection
from explorer.database import Database


class Differences(NamedTuple):
    """How the selected traces differ from the baseline, as found in the two samples."""

    selected: Sample
    baseline: Sample
    findings: Findings


def what_differs(database: Database, selection: Selection, baseline: Selection | None = None) -> Differences:
    """What the selection has more or less of than the baseline; by default, than the rest of its time range."""
    selected, rest = read_sides(database, selection)
    other = read_sample(database, baseline) if baseline else rest
    narrowed = (selection, baseline) if baseline else (selection,)
    findings = differences(
        selected.traces,
        other.traces,
        failed=any(side.failed for side in narrowed),
        by_duration=any(side.by_duration for side in narrowed),
        ignored={key for side in narrowed for key in side.tags},
    )
    return Differences(selected, other, findings)


def finding_sql(finding: Finding, selection: Selection, baseline: Selection | None = None) -> str:
    """SQL for psql that counts a finding in all traces of both sides, and not only in the samples."""
    if finding.value is not None:
        condition = "has_attribute"
    else:
        condition = "has_number" if finding.measure == Measure.VALUE else "is_operation"
    names = {"service": finding.service, "name": finding.name, "value": finding.value}
    sides = (selection, baseline) if baseline else (selection,)
    return "\n\n".join(counts_sql(side, condition, names) for side in sides)
