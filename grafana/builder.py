"""Grafana's dashboards, made from the definition in queries/.

`python -m grafana.builder [URI]` writes grafana/dashboards/ and grafana/home/. URI is a database with promscale's
schema, which says what columns the statements have; by default that of the running stack.

Grafana's own library says what a dashboard's JSON is; here is how each kind of panel is to look, and what Grafana wants
of the SQL: https://grafana.com/docs/grafana/latest/datasources/postgres/ and the sources of its panels.
"""

import json
import re
import sys
from collections.abc import Callable
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
from grafana_foundation_sdk.models import units
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
from queries import COLOURS, SERVICES, Dashboard, Headline, Kind, Link, Panel
from queries.dashboards import DASHBOARDS

FOLDER = Path(__file__).parent
SQL = DataSourceRef("grafana-postgresql-datasource", "promscale-sql")
JAEGER = DataSourceRef("jaeger", "promscale-tracing")
TAG = "tracing-demo"
DATABASE = "postgresql://grafana@localhost:5999/postgres"

# For each parameter of the statements, what makes Grafana put a text literal there. In a variable's value it doubles
# single quotes, and leaves the rest as it is: `:sqlstring` would put a backslash before each double quote, which is
# another name to PostgreSQL.
PARAMETERS = {
    "time_from": "$__timeFrom()",
    "time_to": "$__timeTo()",
    "service": "'${service}'",
    "operation": "'${operation}'",
    "step": "'$__interval'",
}
# What a column's numbers are, by the end of its name.
UNITS = {
    "_ms": units.Milliseconds,
    "_percent": units.Percent,
    "_per_second": units.RequestsPerSecond,
}
# Of a table's columns, in pixels: by the name, or by what the column has. Those of other texts share what is left.
WIDTHS = {"trace_id": 290, "service_name": 130, "status_code": 100, "time": 190, "number": 110}

# A time series goes from the beginning of a step to the next. A link also needs the end of the step, in milliseconds:
# it is a series of its own, which is not shown.
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

# As a time series of one point, each slice is a series, with a name and a colour of its own, and labels for its links.
PIE_SQL = """\
select cast($__timeTo() as timestamptz) as time, {texts}, {number}
from (
{sql}
) as slices"""

# A heat map of counts takes a series for each bucket, named with its upper bound, and cells that end at their time.
# Grafana sorts the series by their labels as texts, hence the zeros in front. It takes all rows of cells for
# neighbours, hence rows also for the cells without requests.
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

# A histogram takes counts that are made already if the bounds have these names.
HISTOGRAM_SQL = """\
select
    duration_from_ms as "xMin",
    duration_to_ms as "xMax",
    requests
from (
{sql}
) as buckets
order by "xMin\""""

# A node graph knows its fields by these names. A number in it would have two decimals: none, where that is set, counts
# as not set (https://github.com/grafana/grafana, public/app/plugins/panel/nodeGraph/utils.ts). So calls are a text.
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

# Grafana refuses a variable of a result without rows.
CHOICE_SQL = """\
with found as (
{sql}
)
select {columns}
from found
union all
select {first}
where not exists (select from found)"""
TRACE_COLUMNS = """\
trace_id as "__value",
    concat_ws(' ', to_char(start_time, 'HH24:MI:SS'), service_name, span_name, round(duration_ms), 'ms') as "__text\""""


@dataclass(frozen=True)
class Statement:
    """A statement of queries/ as Grafana is to send it, and what its columns have: "time", "number" or "text"."""

    sql: str
    columns: dict[str, str]

    @property
    def numbers(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "number"]

    @property
    def texts(self) -> list[str]:
        return [name for name, kind in self.columns.items() if kind == "text"]

    def variable(self, column: str) -> str:
        """Grafana's variable for this column of a row; of a number without its unit."""
        return f"__data.fields.{column}" + (".numeric" if self.columns[column] == "number" else "")

    def within(self, template: str, **parts: str) -> str:
        return template.format(sql=indent(self.sql, "    "), **parts)


Statements = dict[str, Statement]


def described(connection: psycopg.Connection) -> Statements:
    """All statements by their names. The database, which has promscale's schema, says what columns they have."""
    runnable = aiosql.from_path(queries.FOLDER, "psycopg", kwargs_only=True)
    now = datetime.now(UTC)
    # No time passes, so that there are no rows.
    parameters = {"time_from": now, "time_to": now, "service": "", "operation": "", "step": "1 second"}
    found = {}
    for name, sql in queries.statements().items():
        with getattr(runnable, f"{name}_cursor")(connection, **parameters) as cursor:
            macros = queries.filled(sql, PARAMETERS).rstrip().rstrip(";")
            found[name] = Statement(macros, {each.name: _kind(each) for each in cursor.description})
    return found


def _kind(column: psycopg.Column) -> str:
    name = psycopg.adapters.types[column.type_code].name
    return {"timestamptz": "time", "float8": "number", "int8": "number"}.get(name, "text")


@dataclass(frozen=True)
class Query(Builder[Dataquery], Dataquery):
    """A query of the PostgreSQL data source, which the library has no class for."""

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
    """A query of the Jaeger data source for one trace, likewise."""

    trace_id: str

    def build(self) -> Dataquery:
        return self

    def to_json(self) -> dict[str, object]:
        return {"refId": "A", "datasource": JAEGER, "query": self.trace_id}


def unit(column: str) -> str | None:
    return next((unit for suffix, unit in UNITS.items() if column.endswith(suffix)), None)


def label(column: str) -> str:
    return next((column.removesuffix(suffix) for suffix in UNITS if column.endswith(suffix)), column).replace("_", " ")


def thresholds(panel: Panel) -> build.ThresholdsConfig:
    warning, bad = panel.thresholds
    steps = [(None, "green"), (warning, "yellow"), (bad, "red")]
    return build.ThresholdsConfig().steps([model.Threshold(value, colour) for value, colour in steps])


def properties(**values: object) -> list[model.DynamicConfigValue]:
    """What an override sets; the names of a panel's own properties have `__` for the dot."""
    return [model.DynamicConfigValue(name.replace("__", "."), value) for name, value in values.items()]


def links(
    found: tuple[Link, ...], variable: Callable[[str], str], start: str = "${__from}000", end: str = "${__to}999"
) -> list[model.DynamicConfigValue]:
    """`variable` says what variable of Grafana's has a column's value."""

    def value(column: str) -> str:
        return f"${{{variable(column)}:percentencode}}"

    return properties(
        links=[
            {"title": link.title, "url": "${jaeger:raw}/" + link.path(value, start, end), "targetBlank": True}
            for link in found
        ]
    )


def renamed(pattern: str) -> model.DataTransformerConfig:
    """Fields are shown by the name that is in parentheses in the pattern."""
    return model.DataTransformerConfig("renameByRegex", options={"regex": pattern, "renamePattern": "$1"})


def of_label(column: str) -> str:
    return f"__field.labels.{column}"


def name_series(shown: Builder, texts: list[str], found: list[model.DynamicConfigValue]) -> None:
    """Names and colours for series of which each has labels: the texts. `found` is what else is to be set for them."""
    name = " ".join(f"${{__field.labels.{text}}}" for text in texts)
    # First the names, because those below are matched with what they are then.
    shown.override_by_field_type("number", properties(displayName=name) + found)
    shown.color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    for service, colour in zip(SERVICES, COLOURS, strict=False):
        if len(texts) == 1:
            shown.override_by_name(service, properties(color={"mode": "fixed", "fixedColor": colour}))
        else:
            # Its operations have shades of its colour.
            shown.override_by_regexp(f"/^{service} /", properties(color={"mode": "shades", "fixedColor": colour}))


# One for each kind of panel ------------------------------------------------------------------------------------------


def series(panel: Panel, statement: Statement) -> timeseries.Panel:
    numbers, texts = statement.numbers, statement.texts
    if texts:
        [number] = numbers
        ends = ", ".join([f"'{END}'"] * len(texts))
        sql = statement.within(NAMED_SERIES_SQL, texts=", ".join(texts), number=number, ends=ends)
    else:
        sql = statement.within(SERIES_SQL, numbers=",\n    ".join(numbers), end=END)
    shown = (
        timeseries.Panel()
        .with_target(Query(sql, "time_series"))
        .min(0)
        .line_width(2)
        .fill_opacity(10)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(legend(panel).calcs(["mean", "max", "lastNotNull"]))
    )
    if unit(numbers[0]):
        shown.unit(unit(numbers[0]))
    start, end = "${__value.time}000", f"${{__data.fields.{END}.numeric}}999"
    found = links(panel.links, of_label, start, end)
    if texts:
        name_series(shown, texts, found)
    else:
        shown.color_scheme(build.FieldColor().mode(model.FieldColorModeId.PALETTE_CLASSIC))
        for column in numbers:
            shown.override_by_name(column, properties(displayName=label(column)) + found)
    hidden = properties(displayName=END, custom__hideFrom={"viz": True, "legend": True, "tooltip": True})
    shown.override_by_name(" ".join([END] * max(len(texts), 1)), hidden)
    if panel.thresholds:
        dashed = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        shown.thresholds(thresholds(panel)).thresholds_style(dashed)
    return shown


def legend(panel: Panel) -> common.VizLegendOptions:
    """A table at the right of a wide panel; below a narrow one a list, because few rows of a table have room there."""
    wide = panel.width == 24
    return (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.TABLE if wide else LegendDisplayMode.LIST)
        .placement(LegendPlacement.RIGHT if wide else LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def pie(panel: Panel, statement: Statement) -> piechart.Panel:
    [number], texts = statement.numbers, statement.texts
    shown = (
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
    if unit(number):
        shown.unit(unit(number))
    name_series(shown, texts, links(panel.links, of_label))
    return shown


def heat_map(panel: Panel, statement: Statement) -> heatmap.Panel:
    shown = (
        heatmap.Panel()
        .with_target(Query(statement.within(HEATMAP_SQL), "time_series"))
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE).value("requests"))
        .y_axis(heatmap.YAxisConfig().unit(units.Milliseconds))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_y_histogram()
        .show_color_scale(True)
    )
    # Of a cell, Grafana knows the end alone; a search finds the newest traces before it.
    found = links(panel.links, of_label, end="${__value.time}000")
    shown.override_by_field_type("number", found)
    # A heat map's fields have no display name to be set.
    return shown.with_transformation(renamed('^.*duration_to_ms="0*([0-9.]+)".*$'))


def bars(panel: Panel, statement: Statement) -> histogram.Panel:
    shown = (
        histogram.Panel()
        .with_target(Query(statement.within(HISTOGRAM_SQL), "table"))
        .fill_opacity(80)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(False))
    )
    for column in ("xMin", "xMax"):
        shown.override_by_name(column, properties(unit=units.Milliseconds))
    bounds = {"duration_from_ms": "xMin", "duration_to_ms": "xMax"}
    found = links(panel.links, lambda column: f"__data.fields.{bounds[column]}.numeric")
    return shown.override_by_name("requests", found)


def rows(panel: Panel, statement: Statement) -> table.Panel:
    shown = table.Panel().with_target(Query(statement.sql, "table")).filterable(True)
    for column, kind in statement.columns.items():
        values = {"displayName": label(column)}
        if unit(column):
            values["unit"] = unit(column)
        width = WIDTHS.get(column) or WIDTHS.get(kind)
        if width:
            values["custom__width"] = width
        if column.endswith("_percent") and panel.thresholds:
            values["thresholds"] = thresholds(panel).build()
            values["custom__cellOptions"] = {"type": "color-background", "mode": "basic"}
        there = tuple(link for link in panel.links if link.column == column)
        found = links(there, statement.variable) if there else []
        shown.override_by_name(column, properties(**values) + found)
    return shown


def node_graph(panel: Panel, nodes: Statement, edges: Statement) -> nodegraph.Panel:
    *_, title = names = nodes.texts[1:]  # all texts but the id
    subtitle = "null" if title == names[0] else names[0]
    own = NODE_COLUMNS.format(title=title, subtitle=subtitle)
    arcs = [("arc__failed", "red"), ("arc__good", "green")]
    shown = (
        nodegraph.Panel()
        # With refIds "nodes" and "edges" it would take results without rows for a graph and complain.
        .with_target(Query(nodes.within(GRAPH_SQL, own=own, names=", ".join(names)), "table", "A"))
        .with_target(Query(edges.within(GRAPH_SQL, own=EDGE_COLUMNS, names=", ".join(names)), "table", "B"))
        .nodes(
            nodegraph.NodeOptions()
            .secondary_stat_unit("ms")
            .arcs([nodegraph.ArcOption().field(field).color(colour) for field, colour in arcs])
        )
        .edges(nodegraph.EdgeOptions().secondary_stat_unit("ms"))
    )
    # A node and an edge have the links of all their fields: each kind has them at one that the other lacks.
    for field in ("title", "source"):
        shown.override_by_name(field, links(panel.links, nodes.variable))
    # A node graph's fields have no display name to be set either.
    return shown.with_transformation(renamed("^(?:arc|detail)__(.*)$"))


def one_trace(panel: Panel, statement: Statement) -> build.Panel:
    return build.Panel().type("traces").with_target(TraceQuery("${trace}"))


PANELS = {
    Kind.SERIES: series,
    Kind.PIE: pie,
    Kind.HEATMAP: heat_map,
    Kind.HISTOGRAM: bars,
    Kind.TABLE: rows,
    Kind.NODE_GRAPH: node_graph,
    Kind.TRACE: one_trace,
}


# Dashboards ----------------------------------------------------------------------------------------------------------


def choice(name: str, title: str, sql: str, first: str) -> build.QueryVariable:
    """A variable to choose from what the SQL finds."""
    return (
        build.QueryVariable(name)
        .label(title)
        .datasource(SQL)
        .query(sql)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .current(model.VariableOption(True, first, first))
    )


def jaeger() -> build.TextBoxVariable:
    """Where a browser finds Jaeger; who looks from elsewhere adds `?var-jaeger=http://host:16686` to the address."""
    url = "http://localhost:16686"
    return (
        build.TextBoxVariable("jaeger")
        .hide(model.VariableHide.HIDE_VARIABLE)
        .default_value(url)
        .current(model.VariableOption(True, url, url))
    )


def empty_dashboard(title: str, description: str) -> build.Dashboard:
    to_the_others = build.DashboardLink("").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    return (
        build.Dashboard(title)
        .description(description)
        .link(to_the_others.include_vars(True))
        .time("now-15m", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )


def shown_panel(panel: Panel, statements: Statements) -> Builder:
    shown = PANELS[panel.kind](panel, *(statements[name] for name in panel.statements))
    return (
        shown.title(panel.title)
        .description(panel.description)
        .datasource(JAEGER if panel.kind == Kind.TRACE else SQL)
        .span(panel.width)
        .height(panel.height)
    )


def dashboard(definition: Dashboard, statements: Statements) -> model.Dashboard:
    made = empty_dashboard(definition.title, definition.description).uid(definition.uid).tags([TAG])
    for name, first in definition.variables:
        sql = statements[f"{name}s"].within(CHOICE_SQL, columns="*", first=literal(first))
        made.with_variable(choice(name, name.capitalize(), sql, first))
    for panel in definition.panels:
        if panel.kind == Kind.TRACE:
            sql = statements[panel.statements[0]].within(CHOICE_SQL, columns=TRACE_COLUMNS, first="'', 'none'")
            made.with_variable(choice("trace", panel.title, sql, ""))
    made.with_variable(jaeger())
    for number, panel in enumerate(definition.panels, start=1):
        made.with_panel(shown_panel(panel, statements).id(number))
    return made.build()


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def home(statements: Statements) -> model.Dashboard:
    """What Grafana shows first: the figure that stands for each dashboard, and the map of the services."""
    made = empty_dashboard("Tracing demo", "The password generator, as its traces tell it.").with_variable(jaeger())
    introduction = (
        "The last 15 minutes of the password generator, as its traces tell them. Each figure leads to its dashboard."
    )
    made.with_panel(text.Panel().id(1).title("").transparent(True).content(introduction).span(24).height(2))
    for number, definition in enumerate(DASHBOARDS, start=2):
        made.with_panel(figure(definition, statements).id(number).span(4).height(6))
    [service_map] = [panel for each in DASHBOARDS for panel in each.panels if panel.statements[0] == "service_nodes"]
    made.with_panel(shown_panel(service_map, statements).id(number + 1))
    return made.build()


def figure(definition: Dashboard, statements: Statements) -> stat.Panel:
    headline = definition.headline
    sql = statements[headline.statement].sql
    for name, first in definition.variables:
        sql = sql.replace(PARAMETERS[name], literal(first))
    shown = (
        stat.Panel()
        .title(definition.title)
        .description(definition.description)
        .datasource(SQL)
        .with_target(Query(sql, "table"))
        .reduce_options(reduced(headline))
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.NONE)
        .no_value("-" if headline.of == "last" else "0")
    )
    url = f"/d/{definition.uid}/{definition.slug}?${{__url_time_range}}"
    there = [{"title": definition.title, "url": url}]
    shown.override_by_name(headline.column, properties(displayName=headline.words, links=there))
    if unit(headline.column) and headline.of != "count":
        shown.unit(unit(headline.column))
    return shown


def reduced(headline: Headline) -> common.ReduceDataOptions:
    calculation = {"last": "lastNotNull"}.get(headline.of, headline.of)
    return common.ReduceDataOptions().values(False).calcs([calculation]).fields(f"/^{re.escape(headline.words)}$/")


def files(statements: Statements) -> dict[Path, str]:
    """The text of each dashboard's file, by its path."""
    made = {FOLDER / "dashboards" / f"{each.slug}.json": dashboard(each, statements) for each in DASHBOARDS}
    made[FOLDER / "home" / "home.json"] = home(statements)
    return {path: json.dumps(found, cls=JSONEncoder, indent=2) + "\n" for path, found in made.items()}


def main(uri: str = DATABASE) -> None:
    try:
        with psycopg.connect(uri) as connection:
            statements = described(connection)
    except psycopg.Error as error:
        sys.exit(f"grafana.builder: {error}; it needs a database with promscale's schema: ./run.sh starts one")
    for path, content in files(statements).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


if __name__ == "__main__":
    main(*sys.argv[1:])
