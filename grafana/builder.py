"""Builds Grafana's dashboards from the definitions in queries/ and the exercises of the workshop.

`python -m grafana.builder [URI]` writes grafana/dashboards/ and grafana/home/. URI is a database with promscale's
schema and that of faults/, from which the builder learns the statements' columns; by default that of the running stack.

The Grafana Foundation SDK knows the JSON of dashboards. This module decides how each kind of panel looks, and writes
the SQL in the form that Grafana needs: https://grafana.com/docs/grafana/latest/datasources/postgres/ and the sources
of its panels.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import indent

import aiosql
import psycopg
from grafana_foundation_sdk.builders import (
    common,
    heatmap,
    histogram,
    nodegraph,
    piechart,
    stat,
    table,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.piechart import PieChartLabels, PieChartLegendValues

import queries
from queries import (
    COLOURS,
    MILLISECONDS,
    NO_UNIT,
    PERCENT,
    SERVICES,
    Dashboard,
    Headline,
    Kind,
    Link,
    Panel,
    label,
    unit,
)
from queries.dashboards import DASHBOARDS
from telemetry.services import PAGES, POSTGRES_PORT
from workshop import Exercise, exercises

FOLDER = Path(__file__).parent
SQL = DataSourceRef("grafana-postgresql-datasource", "promscale-sql")
JAEGER = DataSourceRef("jaeger", "promscale-tracing")
TAG, WORKSHOP_TAG = "tracing-demo", "workshop"
GRID_WIDTH = 24  # columns of a dashboard
FIGURE_WIDTH = 4  # of the home page
QUESTION_WIDTH, QUESTION_HEIGHT = 9, 11  # of an exercise of the workshop
DATABASE = f"postgresql://grafana@localhost:{POSTGRES_PORT}/postgres"

# For each parameter of the statements, the macro or variable that Grafana replaces by a text literal. Grafana doubles
# the single quotes in a variable's value. The format `:sqlstring` would be wrong: it puts a backslash before double
# quotes, which PostgreSQL takes as part of the name.
PARAMETERS = {
    "time_from": "$__timeFrom()",
    "time_to": "$__timeTo()",
    "service": "'${service}'",
    "operation": "'${operation}'",
    "step": "'$__interval'",
}
# Widths of a table's columns in pixels, by their names or types. Other columns of texts share the remaining width.
WIDTHS = {"trace_id": 290, "service_name": 130, "status_code": 100, "time": 190, "number": 110}

# Points of a time series have the begin of a step only. Links also need its end, in milliseconds: it is a series of its
# own, which is hidden.
END = "until"
SERIES_SQL = """\
select
    time,
    cast(ceil(extract(epoch from time_end) * 1000) - 1 as double precision) as {end},
    {numbers}
from (
{sql}
) as points
order by time"""
NAMED_SERIES_SQL = """\
with points as (
{sql}
)
select time, {texts}, {number}
from points
union all
select distinct time, {ends}, cast(ceil(extract(epoch from time_end) * 1000) - 1 as double precision)
from points
order by time"""

# Each slice is a time series of one point: only a series has a name, a colour and labels (which the links need).
PIE_SQL = """\
select cast($__timeTo() as timestamptz) as time, {texts}, {number}
from (
{sql}
) as slices"""

# A heat map of counts needs one series per bucket, named with its upper bound, and cells that end at their time.
# Grafana sorts the series by their labels as texts, hence the leading zeros. It draws all series as adjacent rows,
# hence series for empty buckets, too.
HEATMAP_SQL = """\
with cells as (
{sql}
), numbered_cells as (
    select time, time_end - time as step, requests, cast(round(10 * log(duration_to_ms)) as int) as bucket
    from cells
), grid as (
    select time, ends.step, bucket
    from (
        select
            min(time) as first, max(time) as last, min(step) as step, min(bucket) as lowest, max(bucket) as highest
        from numbered_cells
    ) as ends
    cross join generate_series(first, last, ends.step) as time
    cross join generate_series(lowest, highest) as bucket
)
select
    time + grid.step as time,
    to_char(power(10, (bucket - 1) / double precision '10'), 'FM0000000000.000000') as duration_from_ms,
    to_char(power(10, bucket / double precision '10'), 'FM0000000000.000000') as duration_to_ms,
    coalesce(requests, 0) as requests
from grid
left join numbered_cells using (time, bucket)
order by time, duration_from_ms"""

# A histogram panel uses precomputed counts if the columns of the bounds have these names.
HISTOGRAM_SQL = """\
select
    duration_from_ms as "xMin",
    duration_to_ms as "xMax",
    requests
from (
{sql}
) as buckets
order by "xMin\""""

# A node graph panel recognises its fields by these names. It shows numbers with two decimals, because it ignores
# `decimals: 0` (https://github.com/grafana/grafana, public/app/plugins/panel/nodeGraph/utils.ts): calls are texts.
GRAPH_SQL = """\
select
    id,
    {own},
    to_char(calls, 'FM999,999,999,990 "calls"') as mainstat,
    mean_ms as secondarystat,
    to_char(errors, 'FM999,999,999,990') as "detail__errors",
    {names}
from (
{sql}
) as graph"""
NODE_COLUMNS = """\
{title} as title,
    {subtitle} as subtitle,
    errors / cast(nullif(calls, 0) as double precision) as arc__failed,
    1 - errors / cast(nullif(calls, 0) as double precision) as arc__good"""
EDGE_COLUMNS = """\
source,
    target"""

# Grafana recognises the fields of an annotation by these names. Tags are separated by commas.
CHANGES_SQL = """\
select
    time,
    string_agg(concat(flag, ' from ', from_variant, ' to ', to_variant), ', ' order by flag) as text,
    string_agg(distinct service_name, ',') as tags
from (
{sql}
) as changes
group by time
order by time"""

# Grafana reports an error for a variable whose query returns no rows: return the default then.
CHOICE_SQL = """\
with choices as (
{sql}
)
select {columns}
from choices
union all
select {default}
where not exists (select from choices)"""
TRACE_COLUMNS = """\
trace_id as "__value",
    concat_ws(' ', to_char(start_time, 'HH24:MI:SS'), service_name, span_name, round(duration_ms), 'ms') as "__text\""""


@dataclass(frozen=True)
class Statement:
    """A statement of queries/ with Grafana's macros, and the types of its columns: "time", "number" or "text"."""

    sql: str
    columns: dict[str, str]

    @property
    def numbers(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "number"]

    @property
    def texts(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "text"]

    def variable(self, column: str) -> str:
        """Grafana's variable for this column of a row; a number is without its unit."""
        return f"__data.fields.{column}" + (".numeric" if self.columns[column] == "number" else "")

    def within(self, template: str, **parts: str) -> str:
        """The SQL of a template that has this statement as a subquery."""
        return template.format(sql=indent(self.sql, "    "), **parts)


Statements = dict[str, Statement]
PanelBuilder = (
    build.Panel
    | heatmap.Panel
    | histogram.Panel
    | nodegraph.Panel
    | piechart.Panel
    | stat.Panel
    | table.Panel
    | text.Panel
    | timeseries.Panel
)


def describe(connection: psycopg.Connection) -> Statements:
    """All statements by their names, with the columns that PostgreSQL returns; it must have both schemas."""
    executable = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
    now = datetime.now(UTC)
    # An empty time range: only the columns are needed.
    parameters = {"time_from": now, "time_to": now, "service": "", "operation": "", "step": "1 second"}
    described = {}
    for name, (sql, _) in queries.statements().items():
        with getattr(executable, f"{name}_cursor")(connection, **parameters) as cursor:
            macros = queries.substitute(sql, PARAMETERS).rstrip().rstrip(";")
            described[name] = Statement(macros, {column.name: _column_type(column) for column in cursor.description})
    return described


def describe_answers(connection: psycopg.Connection) -> dict[Exercise, Statement]:
    """The reference of each exercise of the workshop, with its columns."""
    described = {}
    for exercise in exercises():
        sql = exercise.answer.rstrip().rstrip(";")
        cursor = connection.execute(f"select * from (\n{sql}\n) as answer limit 0".encode())
        described[exercise] = Statement(sql, {column.name: _column_type(column) for column in cursor.description or ()})
    return described


def _column_type(column: psycopg.Column) -> str:
    name = psycopg.adapters.types[column.type_code].name
    return {"timestamptz": "time", "float8": "number", "int8": "number"}.get(name, "text")


@dataclass(frozen=True)
class Query(Builder[Dataquery], Dataquery):
    """A query of the PostgreSQL data source, for which the SDK has no class."""

    sql: str
    format: str  # "table", or "time_series": rows in the order of `time`
    ref_id: str = "A"

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {
            "refId": self.ref_id,
            "datasource": SQL,
            "format": self.format,
            "rawSql": self.sql,
            "rawQuery": True,
            "editorMode": "code",
        }


@dataclass(frozen=True)
class TraceQuery(Builder[Dataquery], Dataquery):
    """A query of the Jaeger data source for one trace, for which the SDK has no class."""

    trace_id: str

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {"refId": "A", "datasource": JAEGER, "query": self.trace_id}


def thresholds(values: tuple[float, float]) -> build.ThresholdsConfig:
    warning, bad = values
    steps = [(None, "green"), (warning, "yellow"), (bad, "red")]
    return build.ThresholdsConfig().steps([model.Threshold(value, colour) for value, colour in steps])


def properties(**values: object) -> list[model.DynamicConfigValue]:
    """The properties of an override. `__` in a name stands for a dot: `custom__width`."""
    return [model.DynamicConfigValue(name.replace("__", "."), value) for name, value in values.items()]


def data_links(
    links: Iterable[Link], variable: Callable[[str], str], start: str = "${__from}000", end: str = "${__to}999"
) -> list[model.DynamicConfigValue]:
    """The property with these links.

    `variable` returns the name of Grafana's variable for a column's value. `start` and `end` are microseconds, by
    default of the dashboard's time range; Grafana's own variables are milliseconds.
    """

    def value(column: str) -> str:
        return f"${{{variable(column)}:percentencode}}"

    return properties(
        links=[
            {"title": link.title, "url": "${jaeger:raw}/" + link.path(value, start, end), "targetBlank": True}
            for link in links
        ]
    )


def rename_fields(pattern: str) -> model.DataTransformerConfig:
    """Fields that match the pattern get the name in its parentheses."""
    return model.DataTransformerConfig("renameByRegex", options={"regex": pattern, "renamePattern": "$1"})


def label_variable(column: str) -> str:
    return f"__field.labels.{column}"


def name_series(
    built: timeseries.Panel | piechart.Panel, texts: list[str], links: list[model.DynamicConfigValue]
) -> None:
    """Set names, colours and links of series that have the text columns as labels."""
    name = " ".join(f"${{__field.labels.{text}}}" for text in texts)
    # The names come first, because the overrides by name below match the display names.
    built.override_by_field_type("number", properties(displayName=name) + links)
    built.color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    for service, colour in zip(SERVICES, COLOURS, strict=False):
        if len(texts) == 1:
            built.override_by_name(service, properties(color={"mode": "fixed", "fixedColor": colour}))
        else:
            # The operations of a service have shades of its colour.
            built.override_by_regexp(f"/^{service} /", properties(color={"mode": "shades", "fixedColor": colour}))


# One function per kind of panel --------------------------------------------------------------------------------------


def series(panel: Panel, statement: Statement) -> timeseries.Panel:
    numbers, texts = statement.numbers, statement.texts
    if texts:
        [number] = numbers
        ends = ", ".join([f"'{END}'"] * len(texts))
        sql = statement.within(NAMED_SERIES_SQL, texts=", ".join(texts), number=number, ends=ends)
    else:
        sql = statement.within(SERIES_SQL, numbers=",\n    ".join(numbers), end=END)
    built = (
        timeseries.Panel()
        .with_target(Query(sql, "time_series"))
        .min(0)
        .line_width(2)
        .fill_opacity(10)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(legend(panel).calcs(["mean", "max", "lastNotNull"]))
    )
    if unit(numbers[0]) != NO_UNIT:
        built.unit(unit(numbers[0]).grafana)
    start, end = "${__value.time}000", f"${{__data.fields.{END}.numeric}}999"
    links = data_links(panel.links, label_variable, start, end)
    if texts:
        name_series(built, texts, links)
    else:
        built.color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        for column in numbers:
            built.override_by_name(column, properties(displayName=label(column)) + links)
    hidden = properties(displayName=END, custom__hideFrom={"viz": True, "legend": True, "tooltip": True})
    built.override_by_name(" ".join([END] * max(len(texts), 1)), hidden)
    if panel.thresholds:
        dashed = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        built.thresholds(thresholds(panel.thresholds)).thresholds_style(dashed)
    return built


def legend(panel: Panel) -> common.VizLegendOptions:
    """A table to the right of a full-width panel, otherwise a list below it, where a table would show few rows."""
    wide = panel.width == GRID_WIDTH
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE if wide else LegendDisplayMode.LIST)
        .placement(LegendPlacement.RIGHT if wide else LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def pie(panel: Panel, statement: Statement) -> piechart.Panel:
    [number], texts = statement.numbers, statement.texts
    built = (
        piechart.Panel()
        .with_target(Query(statement.within(PIE_SQL, texts=", ".join(texts), number=number), "time_series"))
        .reduce_options(common.ReduceDataOptions().values(False).calcs(["lastNotNull"]).fields(""))
        .display_labels([PieChartLabels.PERCENT])
        .legend(
            piechart.PieChartLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.RIGHT)
            .show_legend(True)
            .values([PieChartLegendValues.VALUE])
        )
    )
    if unit(number) != NO_UNIT:
        built.unit(unit(number).grafana)
    name_series(built, texts, data_links(panel.links, label_variable))
    return built


def heat_map(panel: Panel, statement: Statement) -> heatmap.Panel:
    built = (
        heatmap.Panel()
        .with_target(Query(statement.within(HEATMAP_SQL), "time_series"))
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE).value("requests"))
        .y_axis(heatmap.YAxisConfig().unit(MILLISECONDS.grafana))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_y_histogram()
        .show_color_scale(True)
    )
    # A link knows only the end of a cell: its search begins with the dashboard's time range.
    built.override_by_field_type("number", data_links(panel.links, label_variable, end="${__value.time}000"))
    # A heat map ignores display names, so its fields are renamed: the label of the upper bound, without leading zeros.
    return built.with_transformation(rename_fields('^.*duration_to_ms="0*([0-9.]+)".*$'))


def bars(panel: Panel, statement: Statement) -> histogram.Panel:
    built = (
        histogram.Panel()
        .with_target(Query(statement.within(HISTOGRAM_SQL), "table"))
        .fill_opacity(80)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(False))
    )
    for column in ("xMin", "xMax"):
        built.override_by_name(column, properties(unit=MILLISECONDS.grafana))
    bounds = {"duration_from_ms": "xMin", "duration_to_ms": "xMax"}
    links = data_links(panel.links, lambda column: f"__data.fields.{bounds[column]}.numeric")
    return built.override_by_name("requests", links)


def rows(panel: Panel, statement: Statement) -> table.Panel:
    built = table.Panel().with_target(Query(statement.sql, "table")).filterable(True)
    for column, column_type in statement.columns.items():
        values: dict[str, object] = {"displayName": label(column)}
        if unit(column) != NO_UNIT:
            values["unit"] = unit(column).grafana
        width = WIDTHS.get(column) or WIDTHS.get(column_type)
        if width:
            values["custom__width"] = width
        if unit(column) == PERCENT and panel.thresholds:
            values["thresholds"] = thresholds(panel.thresholds).build()
            values["custom__cellOptions"] = {"type": "color-background", "mode": "basic"}
        cell_links = [link for link in panel.links if link.column == column]
        links = data_links(cell_links, statement.variable) if cell_links else []
        built.override_by_name(column, properties(**values) + links)
    return built


def node_graph(panel: Panel, nodes: Statement, edges: Statement) -> nodegraph.Panel:
    *_, title = names = nodes.texts[1:]  # without the id
    subtitle = "null" if title == names[0] else names[0]
    own = NODE_COLUMNS.format(title=title, subtitle=subtitle)
    arcs = [("arc__failed", "red"), ("arc__good", "green")]
    built = (
        nodegraph.Panel()
        # With the refIds "nodes" and "edges", an empty result would be an error: Grafana would miss its field `id`.
        .with_target(Query(nodes.within(GRAPH_SQL, own=own, names=", ".join(names)), "table", "A"))
        .with_target(Query(edges.within(GRAPH_SQL, own=EDGE_COLUMNS, names=", ".join(names)), "table", "B"))
        .nodes(
            nodegraph.NodeOptions()
            .secondary_stat_unit(MILLISECONDS.grafana)
            .arcs([nodegraph.ArcOption().field(field).color(colour) for field, colour in arcs])
        )
        .edges(nodegraph.EdgeOptions().secondary_stat_unit(MILLISECONDS.grafana))
    )
    # A node or an edge shows the links of all its fields. "title" is a field of nodes only, "source" one of edges only.
    for field in ("title", "source"):
        built.override_by_name(field, data_links(panel.links, nodes.variable))
    # A node graph ignores display names, so its fields are renamed: without the prefixes by which it recognises them.
    return built.with_transformation(rename_fields("^(?:arc|detail)__(.*)$"))


def one_trace(panel: Panel, statement: Statement) -> build.Panel:
    return build.Panel().type("traces").with_target(TraceQuery("${trace}"))


PANELS: dict[Kind, Callable[..., PanelBuilder]] = {
    Kind.SERIES: series,
    Kind.PIE: pie,
    Kind.HEATMAP: heat_map,
    Kind.HISTOGRAM: bars,
    Kind.TABLE: rows,
    Kind.NODE_GRAPH: node_graph,
    Kind.TRACE: one_trace,
}


# Dashboards ----------------------------------------------------------------------------------------------------------


def choice(name: str, title: str, sql: str, default: str) -> build.QueryVariable:
    """A variable whose choices are the rows of the SQL."""
    return (
        build.QueryVariable(name)
        .label(title)
        .datasource(SQL)
        .query(sql)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .current(model.VariableOption(True, default, default))
    )


def jaeger() -> build.TextBoxVariable:
    """Jaeger's URL. A browser on another machine overrides it in the dashboard's URL: `?var-jaeger=http://host:16686`."""
    url = f"http://localhost:{PAGES['traces']}"
    return (
        build.TextBoxVariable("jaeger")
        .hide(model.VariableHide.HIDE_VARIABLE)
        .default_value(url)
        .current(model.VariableOption(True, url, url))
    )


def empty_dashboard(title: str, description: str) -> build.Dashboard:
    other_dashboards = build.DashboardLink("").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    return (
        build.Dashboard(title)
        .description(description)
        .link(other_dashboards.include_vars(True))
        .time("now-15m", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )


def build_panel(panel: Panel, statements: Statements, panel_id: int) -> PanelBuilder:
    built = PANELS[panel.kind](panel, *(statements[name] for name in panel.statements))
    return (
        built.id(panel_id)
        .title(panel.title)
        .description(panel.description)
        .datasource(JAEGER if panel.kind == Kind.TRACE else SQL)
        .span(panel.width)
        .height(panel.height)
    )


def dashboard(definition: Dashboard, statements: Statements) -> model.Dashboard:
    built = empty_dashboard(definition.title, definition.description).uid(definition.uid).tags([TAG])
    for name, default in definition.variables:
        sql = statements[f"{name}s"].within(CHOICE_SQL, columns="*", default=literal(default))
        built.with_variable(choice(name, name.capitalize(), sql, default))
    for panel in definition.panels:
        if panel.kind == Kind.TRACE:
            sql = statements[panel.statements[0]].within(CHOICE_SQL, columns=TRACE_COLUMNS, default="'', 'none'")
            built.with_variable(choice("trace", panel.title, sql, ""))
    built.with_variable(jaeger())
    built.annotation(changes(statements["fault_changes"]))
    for number, panel in enumerate(definition.panels, start=1):
        built.with_panel(build_panel(panel, statements, number))
    return built.build()


def changes(statement: Statement) -> build.AnnotationQuery:
    """Vertical marks on all charts with a time axis: when faults were switched."""
    return (
        build.AnnotationQuery()
        .name("Faults switched")
        .datasource(SQL)
        .enable(True)
        .icon_color("blue")
        # The SDK's type is that of Grafana's own data source.
        .target(Query(statement.within(CHANGES_SQL), "table", "Anno"))  # type: ignore[arg-type]
    )


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def home(statements: Statements) -> model.Dashboard:
    """Grafana's home page: the headline of each dashboard, and the graph of the services."""
    built = empty_dashboard("Tracing demo", "The traces of the password generator.").with_variable(jaeger())
    introduction = "The traces of the password generator. Each figure is a link to its dashboard."
    built.with_panel(text.Panel().id(1).title("").transparent(True).content(introduction).span(GRID_WIDTH).height(2))
    for number, definition in enumerate(DASHBOARDS):
        # The last figure fills its row, because the SDK starts a new row only when one is full.
        width = GRID_WIDTH - FIGURE_WIDTH * number % GRID_WIDTH if definition is DASHBOARDS[-1] else FIGURE_WIDTH
        built.with_panel(figure(definition, statements).id(number + 2).span(width).height(6))
    panels = [panel for definition in DASHBOARDS for panel in definition.panels]
    [services] = [panel for panel in panels if panel.statements[0] == "service_nodes"]
    return built.with_panel(build_panel(services, statements, len(DASHBOARDS) + 2)).build()


def figure(definition: Dashboard, statements: Statements) -> stat.Panel:
    headline = definition.headline
    sql = statements[headline.statement].sql
    for name, default in definition.variables:
        sql = sql.replace(PARAMETERS[name], literal(default))
    built = (
        stat.Panel()
        .title(definition.title)
        .description(definition.description)
        .datasource(SQL)
        .with_target(Query(sql, "table"))
        .reduce_options(reduced(headline))
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.NONE)
        .no_value("-" if headline.aggregate == "last" else "0")
    )
    url = f"/d/{definition.uid}/{definition.slug}?${{__url_time_range}}"
    links = [{"title": definition.title, "url": url}]
    built.override_by_name(headline.column, properties(displayName=headline.caption, links=links))
    if unit(headline.column) != NO_UNIT and headline.aggregate != "count":
        built.unit(unit(headline.column).grafana)
    return built


def reduced(headline: Headline) -> common.ReduceDataOptions:
    calculation = {"last": "lastNotNull"}.get(headline.aggregate, headline.aggregate)
    return common.ReduceDataOptions().values(False).calcs([calculation]).fields(f"/^{re.escape(headline.caption)}$/")


def workshop(uid: str, title: str, description: str, panels: Mapping[Exercise, PanelBuilder]) -> model.Dashboard:
    """Each exercise of the workshop beside a panel of its own."""
    built = empty_dashboard(title, description).uid(uid).tags([WORKSHOP_TAG])
    for exercise, panel in panels.items():
        question = f"{exercise.question}\n\n*Switch on:* {exercise.preparation}."
        heading = f"{exercise.number}. {exercise.title}"
        task = text.Panel().title(heading).content(question).transparent(True)
        built.with_panel(task.id(2 * exercise.number - 1).span(QUESTION_WIDTH).height(QUESTION_HEIGHT))
        built.with_panel(
            panel.id(2 * exercise.number).title("").span(GRID_WIDTH - QUESTION_WIDTH).height(QUESTION_HEIGHT)
        )
    return built.build()


def workshops(answers: Mapping[Exercise, Statement]) -> list[model.Dashboard]:
    """The dashboard to fill in, and the one with the answers."""
    to_keep = "To keep your work, save the dashboard as a copy."
    return [
        workshop(
            "workshop",
            "Workshop",
            f"The exercises of the workshop, to fill in: edit a panel, and write your statement. {to_keep}",
            {exercise: to_fill_in() for exercise in answers},
        ),
        workshop(
            "workshop-answers",
            "Workshop: answers",
            "The exercises of the workshop with their answers.",
            {exercise: answered(statement) for exercise, statement in answers.items()},
        ),
    ]


def to_fill_in() -> table.Panel:
    sql = "-- Write your statement in place of this one.\nselect 'Edit this panel: press e.' as answer"
    return table.Panel().datasource(SQL).with_target(Query(sql, "table"))


def answered(statement: Statement) -> PanelBuilder:
    """A chart if the statement's first column is a time, otherwise a table."""
    first, *_ = statement.columns
    if statement.columns[first] == "time":
        return timeseries.Panel().datasource(SQL).with_target(Query(statement.sql, "table")).min(0)
    return rows(Panel(title="", description="", kind=Kind.TABLE, statements=()), statement).datasource(SQL)


def files(statements: Statements, answers: Mapping[Exercise, Statement]) -> dict[Path, str]:
    """The text of each dashboard's file, by its path."""
    built = {
        FOLDER / "dashboards" / f"{definition.slug}.json": dashboard(definition, statements)
        for definition in DASHBOARDS
    }
    built |= {FOLDER / "dashboards" / f"{content.uid}.json": content for content in workshops(answers)}
    built[FOLDER / "home" / "home.json"] = home(statements)
    return {path: json.dumps(content, cls=JSONEncoder, indent=2) + "\n" for path, content in built.items()}


def main(uri: str = DATABASE) -> None:
    try:
        with psycopg.connect(uri) as connection:
            built = files(describe(connection), describe_answers(connection))
    except psycopg.Error as error:
        sys.exit(f"grafana.builder: {error}. It needs the database of the demo: ./run.sh starts it.")
    for path, content in built.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
