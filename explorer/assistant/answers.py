"""The answers of the tools: their structure, as the assistant reads it, and their limits. No I/O.

Texts of spans can have any length, and an assistant pays for each, so that all answers have limited sizes.
"""

from collections.abc import Callable, Iterable
from itertools import islice, zip_longest
from typing import Annotated, Any

from mcp_types import CallToolResult, TextContent
from pydantic import BaseModel, Field

from explorer.analysis.differences import Evidence, Finding
from explorer.analysis.questions import Differences
from explorer.analysis.sample import Sample
from explorer.assistant import outline
from explorer.results import QueryResult
from explorer.store import TraceSummary
from explorer.trace import Trace
from explorer.waterfall import cut
from explorer.web import iso_time
from telemetry.services import PAGES

MAX_CHARACTERS = 40_000  # of an answer's rows, spans or findings: about 10,000 tokens
MAX_CELL = 1_000  # characters of a value in a table
MAX_SERVICES = 50  # of a trace
MAX_NAMES = 5  # of operations in a finding

KINDS = ("attribute value", "numeric attribute", "operation")  # of findings, in the order of Findings

Cell = str | int | float | bool | None


class Table(BaseModel):
    """Rows of a result."""

    columns: list[str]
    rows: list[list[Cell]] = Field(description="The values in the order of the columns.")
    note: str = Field(description="What was left out; empty if nothing was.")


class OneTrace(BaseModel):
    """A trace as text."""

    trace_id: str
    url: str = Field(description="Where a person sees the trace.")
    start_time: str = Field(description="UTC")
    duration_ms: float
    spans: int
    failed_spans: int
    services: dict[str, int] = Field(
        description=f"The number of spans of each service; of the first {MAX_SERVICES} services."
    )
    resources: list[str] = Field(description="The attributes of the processes that made the spans.")
    tree: list[str] = Field(
        description="One line per span, depth first, indented by two spaces per level: service | span name | [kind] |"
        " +start since the trace's begin | duration | self time | share of the trace's duration in which the span"
        " itself is on the critical path | ERROR with its message, if the span has failed | {attributes} | events."
    )
    note: str = Field(description="What was left out; empty if nothing was.")


class Side(BaseModel):
    """The traces of one side of a comparison."""

    words: str
    traces: int = Field(description="All traces of this side.")
    analysed: int = Field(description="Those that were compared: a sample, the same one for the same question.")


class Difference(BaseModel):
    """Something that the selected traces have more often, or less often, than the baseline."""

    kind: str = Field(description="attribute value, numeric attribute, or operation")
    service: str
    name: str = Field(description="The attribute's key, or the operation's name.")
    value: str | None = Field(description="The attribute's value.")
    measure: str = Field(
        description="What is compared. occurs: traces with the value or operation. is slow: traces with a span that has"
        " the value and whose self time exceeds the baseline's 95th percentile of its operation. errors begin: traces"
        " in which an error begins in such a span. value: the mean number in a trace. self time: the operation's mean"
        " self time in a trace, in ms."
    )
    operations: list[str] = Field(description="In which operations spans are slow, or errors begin.")
    also: list[str] = Field(description="Other attributes that say the same: they are found in the same traces.")
    selected: str
    baseline: str
    score: float = Field(
        description="From -1 to 1: the part of the difference that chance does not explain, with a confidence of 95 %"
        " for all findings together. Positive if the selection has more of it."
    )
    sql: str = Field(description="A statement for run_sql that counts the finding in all traces of both sides.")


class Comparison(BaseModel):
    """How the selected traces differ from the baseline."""

    selected: Side
    baseline: Side
    differences: list[Difference]
    note: str = Field(description="What was left out, or why there are no differences; otherwise empty.")


# What a tool returns, with the structure of its content.
TableResult = Annotated[CallToolResult, Table]
TraceResult = Annotated[CallToolResult, OneTrace]
ComparisonResult = Annotated[CallToolResult, Comparison]


def answer(content: BaseModel) -> CallToolResult:
    """A tool's result with this structured content, and with the same as JSON text for assistants that need one."""
    text = content.model_dump_json()
    return CallToolResult(content=[TextContent(text=text)], structured_content=content.model_dump(mode="json"))


def table(result: QueryResult, most: int) -> Table:
    """The first rows of a result: at most `most`, and as many as the limit of characters allows."""
    rows: list[list[Cell]] = []
    characters = 0
    for row in result.rows[:most]:
        cells = [_cell(value) for value in row]
        characters += sum(len(str(cell)) for cell in cells)
        if characters > MAX_CHARACTERS:
            note = f"Only the first {len(rows)} rows: a result has at most {MAX_CHARACTERS:,} characters."
            return Table(columns=result.columns, rows=rows, note=note)
        rows.append(cells)
    note = f"Only the first {most} rows; there are more." if len(result.rows) > most else ""
    return Table(columns=result.columns, rows=rows, note=note)


def summaries(traces: Iterable[TraceSummary]) -> QueryResult:
    """The traces that a search has found, as rows."""
    columns = ["trace_id", "start_time", "duration_ms", "root_service", "root_operation", "spans", "errors", "services"]
    rows = [
        (
            trace.id,
            iso_time(trace.start),
            trace.duration / 1e6,
            trace.service,
            trace.operation,
            trace.spans,
            trace.errors,
            ", ".join(f"{service.name} {service.spans}" for service in trace.services),
        )
        for trace in traces
    ]
    return QueryResult(columns, rows)


def one_trace(trace_id: str, trace: Trace, max_spans: int) -> OneTrace:
    lines, omitted = outline.outline(trace, max_spans, MAX_CHARACTERS)
    return OneTrace(
        trace_id=trace_id,
        url=f"http://localhost:{PAGES['traces']}/trace/{trace_id}",
        start_time=iso_time(trace.start),
        duration_ms=(trace.end - trace.start) / 1e6,
        spans=len(trace.spans),
        failed_spans=sum(span.failed for span in trace.spans),
        services={cut(name, MAX_CELL): count for name, count in islice(trace.services.items(), MAX_SERVICES)},
        resources=outline.resources(trace),
        tree=lines,
        note=f"{omitted} of {len(trace.spans)} spans are left out. run_sql returns them." if omitted else "",
    )


def comparison(found: Differences, limit: int, sql: Callable[[Finding], str]) -> Comparison:
    """At most `limit` findings of each kind: the first of each, then the second of each, and so on.

    `sql` returns the statement that counts a finding.
    """
    differences: list[Difference] = []
    characters = 0
    for rank in zip_longest(*(findings[:limit] for findings in found.findings)):
        for kind, finding in zip(KINDS, rank, strict=True):
            if finding is not None:
                difference = _difference(kind, finding, sql(finding))
                characters += len(difference.model_dump_json())
                if characters <= MAX_CHARACTERS:
                    differences.append(difference)
    return Comparison(
        selected=_side(found.selected),
        baseline=_side(found.baseline),
        differences=differences,
        note=_note(found, len(differences)),
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value if value is None or isinstance(value, int) else cut(str(value), MAX_CELL)


def _side(sample: Sample) -> Side:
    return Side(words=sample.words, traces=sample.of, analysed=len(sample.traces))


def _difference(kind: str, finding: Finding, sql: str) -> Difference:
    return Difference(
        kind=kind,
        service=finding.service,
        name=finding.name,
        value=finding.value,
        measure=finding.measure,
        operations=list(finding.operations[:MAX_NAMES]),
        also=[f"{other.service} {other.name}={other.value}" for other in finding.also[:MAX_NAMES]],
        selected=_evidence(finding.selected),
        baseline=_evidence(finding.baseline),
        score=round(finding.score, 3),
        sql=sql,
    )


def _evidence(evidence: Evidence) -> str:
    traces = f"{evidence.traces} of {evidence.of} traces"
    return traces if evidence.median is None else f"median {evidence.median:.6g} in {traces}"


def _note(found: Differences, shown: int) -> str:
    for side in (found.selected, found.baseline):
        if not side.traces:
            return f"Nothing was compared, because there are no such traces: {side.words}."
    if not any(found.findings):
        return "There is no difference that chance does not explain."
    omitted = sum(map(len, found.findings)) - shown
    return f"{omitted} findings are left out." if omitted else ""
