"""The dashboards. Their uids and slugs are those of public links: they must never change."""

from dataclasses import replace

from queries import Dashboard, Headline, Kind, Link, Panel

_OPERATION = (("service", "lower"), ("operation", "GET /"))

# Jaeger searches one service at a time. Every password takes a span of the generator, and nearly every one is
# requested by load, whose root span lasts as long as the request.
_PASSWORDS = Link(title="Traces in this time", service="generator", operation="GET /")
REQUESTS = Link(title="Traces of requests", service="load", operation="load.request")
_REQUESTS = replace(
    REQUESTS,
    title="Traces of about this duration",
    min_duration="{duration_from_ms}ms",
    max_duration="{duration_to_ms}ms",
)
_SERVICE = Link(title="Traces with this service", service="{service_name}")
_FAILED_SERVICE = Link(title="Traces with an error in this service", service="{service_name}", failed=True)
_SPANS = Link(title="Traces with this operation", service="{service_name}", operation="{span_name}")
_FAILED_SPANS = replace(_SPANS, title="Traces with an error in this operation", failed=True)
_TRACE = Link(title="This trace", trace_id="{trace_id}", column="trace_id")
_OPERATIONS_TABLE = (
    replace(_SPANS, column="calls"),
    replace(_FAILED_SPANS, column="errors"),
    *(
        replace(
            _SPANS,
            title="Traces in which this operation took at least as long",
            min_duration=f"{{{column}}}ms",
            column=column,
        )
        for column in ("p50_ms", "p95_ms", "p99_ms")
    ),
)

_GRAPH_LEGEND = "Numbers: calls and mean duration. Red: the share of calls that failed."

DASHBOARDS = (
    Dashboard(
        uid="QoZDH91nk",
        slug="01-request-rate",
        title="01 Request rate",
        description="How many passwords are requested? A request is a root span: a span without a parent.",
        headline=Headline(
            statement="request_rate_by_minute",
            column="requests_per_second",
            aggregate="last",
            caption="in the last complete minute",
        ),
        panels=(
            Panel(
                title="Requests per second, by minute",
                description="Root spans that started in each complete minute, divided by 60 s. Long time ranges have"
                " longer steps.",
                kind=Kind.SERIES,
                statements=("request_rate_by_minute",),
                height=10,
                links=(_PASSWORDS,),
            ),
            Panel(
                title="Requests per second, by second",
                description="Root spans that started in each second: shows bursts that the average of a minute hides.",
                kind=Kind.SERIES,
                statements=("request_rate_by_second",),
                height=10,
                links=(_PASSWORDS,),
            ),
        ),
    ),
    Dashboard(
        uid="CiE9l917z",
        slug="02-error-rates",
        title="02 Error rates",
        description="Which services and operations fail, and when? A span has failed if its status is error. Errors"
        " propagate: a failed span usually makes its callers fail as well.",
        headline=Headline(
            statement="errors_by_service", column="errors", aggregate="sum", caption="spans with an error"
        ),
        panels=(
            Panel(
                title="Where errors begin",
                description="Failed spans without a failed child, in each service: the errors that no other span passed"
                " on to it.",
                kind=Kind.PIE,
                statements=("error_origins_by_service",),
                links=(_FAILED_SERVICE,),
                compared="failed",
            ),
            Panel(
                title="Where errors begin, by operation",
                description="The operations of these spans, each with its most recent error: the message, and a link to"
                " the trace.",
                kind=Kind.TABLE,
                statements=("error_origins",),
                links=(replace(_FAILED_SPANS, column="errors"), _TRACE),
            ),
            Panel(
                title="Error rate by operation",
                description="The percentage of each operation's spans that have status error.",
                kind=Kind.TABLE,
                statements=("error_rate_by_operation",),
                thresholds=(1, 5),
                links=(replace(_SPANS, column="calls"), replace(_FAILED_SPANS, column="errors")),
                compared="failed",
            ),
            Panel(
                title="Error rate over time",
                description="The percentage of each service's spans that have status error, by minute. Long time ranges"
                " have longer steps.",
                kind=Kind.SERIES,
                statements=("error_rate_over_time",),
                thresholds=(1, 5),
                links=(_FAILED_SERVICE, _SERVICE),
                compared="failed",
            ),
            Panel(
                title="Failed traces",
                description="The most recent requests that failed, with links to their traces.",
                kind=Kind.TABLE,
                statements=("failed_traces",),
                links=(_TRACE,),
                compared="failed",
            ),
            Panel(
                title="One failed trace",
                description="All spans of one of these requests. Choose the request at the top of the page.",
                kind=Kind.TRACE,
                statements=("failed_traces",),
                height=16,
            ),
        ),
    ),
    Dashboard(
        uid="GkrS6rJ7z",
        slug="03-request-durations",
        title="03 Request durations",
        description="How long do requests take? An average would hide the few slow requests, so these panels show the"
        " distribution.",
        headline=Headline(
            statement="duration_percentiles",
            column="p95_ms",
            aggregate="last",
            caption="95th percentile of the last minute's requests",
        ),
        panels=(
            Panel(
                title="Requests by duration, over time",
                description="The stronger a cell's colour, the more requests of that time had about that duration.",
                kind=Kind.HEATMAP,
                statements=("duration_heatmap",),
                width=14,
                height=10,
                links=(_REQUESTS,),
                compared="slow",
            ),
            Panel(
                title="Requests by duration",
                description="The number of requests with about each duration, in the whole time range.",
                kind=Kind.HISTOGRAM,
                statements=("duration_histogram",),
                width=10,
                height=10,
                links=(_REQUESTS,),
                compared="slow",
            ),
            Panel(
                title="Duration percentiles",
                description="Half of the requests are faster than p50, and one in a hundred is slower than p99.",
                kind=Kind.SERIES,
                statements=("duration_percentiles",),
                links=(_PASSWORDS,),
                compared="slow",
            ),
            Panel(
                title="Slowest traces",
                description="The slowest requests of the time range, with links to their traces.",
                kind=Kind.TABLE,
                statements=("slowest_traces",),
                links=(_TRACE,),
                compared="slow",
            ),
            Panel(
                title="One slow trace",
                description="All spans of one of these requests. Choose the request at the top of the page.",
                kind=Kind.TRACE,
                statements=("slowest_traces",),
                height=16,
            ),
        ),
    ),
    Dashboard(
        uid="scyq99J7k",
        slug="04-service-dependencies",
        title="04 Service dependencies",
        description="Which service calls which, how often, and how long does a call take?",
        headline=Headline(statement="service_calls", column="calls", aggregate="sum", caption="calls between services"),
        panels=(
            Panel(
                title="Service calls",
                description=f"Arrows lead from the caller to the callee. {_GRAPH_LEGEND}",
                kind=Kind.NODE_GRAPH,
                statements=("service_nodes", "service_edges"),
                height=14,
                links=(_SERVICE, _FAILED_SERVICE),
            ),
            Panel(
                title="Service calls, in numbers",
                description="The calls of the graph as a table, with their total duration.",
                kind=Kind.TABLE,
                statements=("service_calls",),
                links=(
                    replace(_SERVICE, service="{callee}", column="calls"),
                    replace(_FAILED_SERVICE, service="{callee}", column="errors"),
                ),
            ),
        ),
    ),
    Dashboard(
        uid="lyIow61nz",
        slug="05-upstream-spans",
        title="05 Upstream spans",
        description="What leads to an operation of a service? All ancestors of its spans, up to the root span.",
        headline=Headline(
            statement="upstream_operations",
            column="calls",
            aggregate="count",
            caption="operations lead to GET / of lower, itself included",
        ),
        panels=(
            Panel(
                title="Operations upstream",
                description="The operations that lead to the chosen operation, and the chosen operation itself."
                f" {_GRAPH_LEGEND}",
                kind=Kind.NODE_GRAPH,
                statements=("upstream_nodes", "upstream_edges"),
                height=14,
                links=(_SPANS, _FAILED_SPANS),
            ),
            Panel(
                title="Operations upstream, in numbers",
                description="The operations of the graph as a table, with percentiles of their durations.",
                kind=Kind.TABLE,
                statements=("upstream_operations",),
                links=_OPERATIONS_TABLE,
            ),
        ),
        variables=_OPERATION,
    ),
    Dashboard(
        uid="SdzI3eJnk",
        slug="06-downstream-spans",
        title="06 Downstream spans",
        description="Where does an operation of a service spend its time? All descendants of its spans, down to the"
        " leaves.",
        headline=Headline(
            statement="downstream_operations",
            column="calls",
            aggregate="count",
            caption="operations in GET / of lower, itself included",
        ),
        panels=(
            Panel(
                title="Operations downstream",
                description="The operations that the chosen operation leads to, and the chosen operation itself."
                f" {_GRAPH_LEGEND}",
                kind=Kind.NODE_GRAPH,
                statements=("downstream_nodes", "downstream_edges"),
                height=14,
                links=(_SPANS, _FAILED_SPANS),
            ),
            Panel(
                title="Share of execution time",
                description="The self time of each operation: its duration without that of its children.",
                kind=Kind.PIE,
                statements=("downstream_shares",),
                width=10,
                height=11,
                links=(_SPANS,),
            ),
            Panel(
                title="Duration over time",
                description="The mean duration of each operation's spans.",
                kind=Kind.SERIES,
                statements=("downstream_time",),
                width=14,
                height=11,
                links=(_SPANS,),
                compared="slow",
            ),
            Panel(
                title="Operations downstream, in numbers",
                description="The operations of the graph as a table, with percentiles of their durations.",
                kind=Kind.TABLE,
                statements=("downstream_operations",),
                links=_OPERATIONS_TABLE,
            ),
        ),
        variables=_OPERATION,
    ),
)
