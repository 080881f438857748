"""Grafana's dashboards, made from the definition in queries/: `python -m grafana.builder` writes grafana/dashboards/.

Grafana's own library says what a dashboard's JSON is; here is how each kind of panel is to look, and what Grafana wants
of the SQL: https://grafana.com/docs/grafana/latest/datasources/postgres/ and the sources of its panels.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from grafana_foundation_sdk.builders import common, heatmap, histogram, nodegraph, piechart, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.common import (
    DataSourceRef,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.piechart import PieChartLabels, PieChartLegendValues

from queries import Dashboard, Kind, Panel, statements
from queries.dashboards import DASHBOARDS

FOLDER = Path(__file__).parent / "dashboards"
SQL = DataSourceRef("grafana-postgresql-datasource", "promscale-sql")
TAG = "tracing-demo"

# For each parameter of the statements, what makes Grafana put a text literal there. In a variable's value it doubles
# single quotes, and leaves the rest as it is: `:sqlstring` would put a backslash before each double quote, which is
# another name to PostgreSQL.
PARAMETERS = {
    "time_from": "$__timeFrom()",
    "time_to": "$__timeTo()",
    "service": "'${service}'",
    "operation": "'${operation}'",
}
# What a column's numbers are, by the end of its name.
UNITS = {
    "_ms": units.Milliseconds,
    "_percent": units.Percent,
    "_per_second": units.RequestsPerSecond,
}

# A heat map of counts takes a column for each bucket, named with its upper bound, and cells that end at their time.
# Grafana makes columns of the values of `metric` and sorts them as texts, hence the zeros in front. It takes all rows
# of cells for neighbours, hence rows also for the cells without requests.
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
    to_char(power(10, bucket / double precision '10'), 'FM0000000000.000000') as metric,
    coalesce(requests, 0) as requests
from grid
left join numbered_cells using (time, bucket)
order by time, metric"""

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


def grafana_sql(statement: str) -> str:
    """The SQL of a statement, with Grafana's macros and variables in the place of its parameters."""
    parameter = re.compile(rf"(?<!:):({'|'.join(PARAMETERS)})\b")
    return parameter.sub(lambda match: PARAMETERS[match[1]], SQL_OF[statement]).rstrip().rstrip(";")


def columns(statement: str) -> list[str]:
    """The names of a statement's columns; each ends a line of its own, after the last `select` of them all."""
    last_select = SQL_OF[statement].rpartition("\nselect\n")[2].partition("\nfrom ")[0]
    return re.findall(r"^    (?! ).*?(\w+),?$", last_select, re.MULTILINE)


def unit(column: str) -> str | None:
    return next((unit for suffix, unit in UNITS.items() if column.endswith(suffix)), None)


def label(column: str) -> str:
    return column.removesuffix("_ms").replace("_", " ")


def thresholds(panel: Panel) -> build.ThresholdsConfig:
    warning, bad = panel.thresholds
    steps = [(None, "green"), (warning, "yellow"), (bad, "red")]
    return build.ThresholdsConfig().steps([model.Threshold(value, colour) for value, colour in steps])


# One for each kind of panel ------------------------------------------------------------------------------------------


def series(panel: Panel) -> timeseries.Panel:
    [statement] = panel.statements
    numbers = [column for column in columns(statement) if unit(column)]
    texts = [column for column in columns(statement) if column != "time" and not unit(column)]
    shown = (
        timeseries.Panel()
        .with_target(Query(grafana_sql(statement), "time_series"))
        .unit(unit(numbers[0]))
        .min(0)
        .line_width(2)
        .fill_opacity(10)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM if panel.width < 24 else LegendPlacement.RIGHT)
            .show_legend(True)
            .calcs(["mean", "max", "lastNotNull"])
        )
    )
    for column in numbers:
        name = f"${{__field.labels.{texts[0]}}}" if texts else label(column)
        shown.override_by_name(column, [model.DynamicConfigValue("displayName", name)])
    if panel.thresholds:
        dashed = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        shown.thresholds(thresholds(panel)).thresholds_style(dashed)
    return shown


def pie(panel: Panel) -> piechart.Panel:
    [statement] = panel.statements
    shown = (
        piechart.Panel()
        .with_target(Query(grafana_sql(statement), "table"))
        .reduce_options(common.ReduceDataOptions().values(True).calcs(["lastNotNull"]).fields(""))
        .display_labels([PieChartLabels.PERCENT])
        .legend(
            piechart.PieChartLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
            .values([PieChartLegendValues.VALUE, PieChartLegendValues.PERCENT])
        )
    )
    for column in columns(statement):
        if unit(column):
            shown.unit(unit(column))
    return shown


def heat_map(panel: Panel) -> heatmap.Panel:
    [statement] = panel.statements
    sql = HEATMAP_SQL.format(sql=indent(grafana_sql(statement), "    "))
    return (
        heatmap.Panel()
        .with_target(Query(sql, "time_series"))
        .calculate(False)
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE).value("requests"))
        .y_axis(heatmap.YAxisConfig().unit(units.Milliseconds).decimals(0))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_y_histogram()
        .show_color_scale(True)
    )


def bars(panel: Panel) -> histogram.Panel:
    [statement] = panel.statements
    sql = HISTOGRAM_SQL.format(sql=indent(grafana_sql(statement), "    "))
    shown = (
        histogram.Panel()
        .with_target(Query(sql, "table"))
        .fill_opacity(80)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(False))
    )
    for column in ("xMin", "xMax"):
        shown.override_by_name(column, [model.DynamicConfigValue("unit", units.Milliseconds)])
    return shown


def rows(panel: Panel) -> table.Panel:
    [statement] = panel.statements
    shown = table.Panel().with_target(Query(grafana_sql(statement), "table")).filterable(True)
    for column in columns(statement):
        properties = {"displayName": label(column)}
        if unit(column):
            properties["unit"] = unit(column)
        if column.endswith("_percent") and panel.thresholds:
            properties["thresholds"] = thresholds(panel).build()
            properties["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
        if column == "trace_id":
            url = "${jaeger:raw}/trace/${__value.raw}"
            properties["links"] = [{"title": "Trace in Jaeger", "url": url, "targetBlank": True}]
        shown.override_by_name(column, [model.DynamicConfigValue(*item) for item in properties.items()])
    return shown


def node_graph(panel: Panel) -> nodegraph.Panel:
    nodes, edges = panel.statements
    return (
        nodegraph.Panel()
        .with_target(Query(grafana_sql(nodes), "table", "nodes"))
        .with_target(Query(grafana_sql(edges), "table", "edges"))
        .nodes(nodegraph.NodeOptions().main_stat_unit("calls").secondary_stat_unit(units.Milliseconds))
        .edges(nodegraph.EdgeOptions().main_stat_unit("calls").secondary_stat_unit(units.Milliseconds))
    )


PANELS = {
    Kind.SERIES: series,
    Kind.PIE: pie,
    Kind.HEATMAP: heat_map,
    Kind.HISTOGRAM: bars,
    Kind.TABLE: rows,
    Kind.NODE_GRAPH: node_graph,
}


# Dashboards ----------------------------------------------------------------------------------------------------------


def choice(name: str, first: str) -> build.QueryVariable:
    """A variable to choose from what the statement of its plural finds."""
    return (
        build.QueryVariable(name)
        .label(name.capitalize())
        .datasource(SQL)
        .query(grafana_sql(f"{name}s"))
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


def dashboard(definition: Dashboard) -> model.Dashboard:
    links = build.DashboardLink("").type(model.DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    made = (
        build.Dashboard(definition.title)
        .uid(definition.uid)
        .description(definition.description)
        .tags([TAG])
        .link(links.include_vars(True))
        .time("now-15m", "now")
        .refresh("10s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    for name, first in definition.variables:
        made.with_variable(choice(name, first))
    if any("trace_id" in columns(statement) for panel in definition.panels for statement in panel.statements):
        made.with_variable(jaeger())
    for number, panel in enumerate(definition.panels, start=1):
        shown = PANELS[panel.kind](panel).id(number).title(panel.title).description(panel.description)
        made.with_panel(shown.datasource(SQL).span(panel.width).height(panel.height))
    return made.build()


def files() -> dict[Path, str]:
    """The text of each dashboard's file, by its path."""
    return {
        FOLDER / f"{definition.slug}.json": json.dumps(dashboard(definition), cls=JSONEncoder, indent=2) + "\n"
        for definition in DASHBOARDS
    }


SQL_OF = statements()

if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
