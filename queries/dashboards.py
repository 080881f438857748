"""The six dashboards, by the uids and slugs of their public links."""

from dataclasses import replace

from queries import Dashboard, Headline, Kind, Link, Panel

_OPERATION = (("service", "lower"), ("operation", "GET /"))

# Of Jaeger, one must say in which service it is to search. Every password takes the generator, and almost every one is
# asked for by load, whose span is the whole request.
_PASSWORDS = Link("Traces of this time", service="generator", operation="GET /")
_REQUESTS = Link(
    "Traces of about that duration",
    service="load",
    operation="load.request",
    min_duration="{duration_from_ms}ms",
    max_duration="{duration_to_ms}ms",
)
_SERVICE = Link("Traces with this service", service="{service_name}")
_FAILED_SERVICE = Link("Traces in which it failed", service="{service_name}", failed=True)
_SPANS = Link("Traces with this operation", service="{service_name}", operation="{span_name}")
_FAILED_SPANS = replace(_SPANS, title="Traces in which it failed", failed=True)
_TRACE = Link("This trace", trace_id="{trace_id}", column="trace_id")
_OPERATIONS_TABLE = (
    replace(_SPANS, column="calls"),
    replace(_FAILED_SPANS, column="errors"),
    *(
        replace(
            _SPANS, title="Traces in which it took as long or longer", min_duration=f"{{{column}}}ms", column=column
        )
        for column in ("p50_ms", "p95_ms", "p99_ms")
    ),
)

DASHBOARDS = (
    Dashboard(
        "QoZDH91nk",
        "01-request-rate",
        "01 Request rate",
        "How many passwords are asked for? A request is a root span: one that no other span has caused.",
        Headline("request_rate_by_minute", "requests_per_second", "last", "in the last whole minute"),
        (
            Panel(
                "Requests per second, by minute",
                "Whole minutes: the number of root spans that started in each, divided by 60. Of a long time, longer steps.",
                Kind.SERIES,
                ("request_rate_by_minute",),
                height=10,
                links=(_PASSWORDS,),
            ),
            Panel(
                "Requests per second, by second",
                "The same, second by second: what the minutes smooth over.",
                Kind.SERIES,
                ("request_rate_by_second",),
                height=10,
                links=(_PASSWORDS,),
            ),
        ),
    ),
    Dashboard(
        "CiE9l917z",
        "02-error-rates",
        "02 Error rates",
        "Which services and operations fail, and when? A span with status error is a failed one, and takes its callers"
        " along.",
        Headline("errors_by_service", "errors", "sum", "spans with an error"),
        (
            Panel(
                "Errors by service",
                "How many spans with status error each service has.",
                Kind.PIE,
                ("errors_by_service",),
                width=8,
                links=(_FAILED_SERVICE,),
            ),
            Panel(
                "Error rate by operation",
                "For each operation, how many of its spans have status error.",
                Kind.TABLE,
                ("error_rate_by_operation",),
                width=16,
                thresholds=(1, 5),
                links=(replace(_SPANS, column="calls"), replace(_FAILED_SPANS, column="errors")),
            ),
            Panel(
                "Error rate over time",
                "How many spans of each service, minute by minute or in longer steps, have status error.",
                Kind.SERIES,
                ("error_rate_over_time",),
                thresholds=(1, 5),
                links=(_FAILED_SERVICE, _SERVICE),
            ),
            Panel(
                "Failed traces",
                "The requests that failed last; each leads to its trace.",
                Kind.TABLE,
                ("failed_traces",),
                links=(_TRACE,),
            ),
            Panel(
                "One failed trace",
                "All spans of one of these requests. Which one is chosen above.",
                Kind.TRACE,
                ("failed_traces",),
                height=16,
            ),
        ),
    ),
    Dashboard(
        "GkrS6rJ7z",
        "03-request-durations",
        "03 Request durations",
        "How long do requests take? An average would hide the few slow ones, so these look at the whole distribution.",
        Headline("duration_percentiles", "p95_ms", "last", "and less for 95 of 100 requests of the last minute"),
        (
            Panel(
                "Requests by duration, over time",
                "The stronger the colour of a cell, the more requests of that time took about that long.",
                Kind.HEATMAP,
                ("duration_heatmap",),
                width=14,
                height=10,
                links=(_REQUESTS,),
            ),
            Panel(
                "Requests by duration",
                "How many requests of the whole time took about how long.",
                Kind.HISTOGRAM,
                ("duration_histogram",),
                width=10,
                height=10,
                links=(_REQUESTS,),
            ),
            Panel(
                "Duration percentiles",
                "Half of the requests are faster than p50, and one in a hundred is slower than p99.",
                Kind.SERIES,
                ("duration_percentiles",),
                links=(_PASSWORDS,),
            ),
            Panel(
                "Slowest traces",
                "The slowest requests of the whole time; each leads to its trace.",
                Kind.TABLE,
                ("slowest_traces",),
                links=(_TRACE,),
            ),
            Panel(
                "One slow trace",
                "All spans of one of these requests. Which one is chosen above.",
                Kind.TRACE,
                ("slowest_traces",),
                height=16,
            ),
        ),
    ),
    Dashboard(
        "scyq99J7k",
        "04-service-dependencies",
        "04 Service dependencies",
        "Who calls whom, how often, and how long does it take?",
        Headline("service_calls", "calls", "sum", "calls from service to service"),
        (
            Panel(
                "Service calls",
                "An arrow leads from caller to callee. Numbers: calls, and how many milliseconds one takes on average."
                " Red: the part of the calls that failed.",
                Kind.NODE_GRAPH,
                ("service_nodes", "service_edges"),
                height=14,
                links=(_SERVICE, _FAILED_SERVICE),
            ),
            Panel(
                "Service calls, in numbers",
                "The same as a table, with the time that all calls took together.",
                Kind.TABLE,
                ("service_calls",),
                links=(
                    replace(_SERVICE, service="{callee}", column="calls"),
                    replace(_FAILED_SERVICE, service="{callee}", column="errors"),
                ),
            ),
        ),
    ),
    Dashboard(
        "lyIow61nz",
        "05-upstream-spans",
        "05 Upstream spans",
        "What leads to an operation of a service? From each of its spans we climb to the root.",
        Headline("upstream_operations", "calls", "count", "operations lead to GET / of lower, itself included"),
        (
            Panel(
                "Operations above",
                "Everything that has led to the chosen operation, which is shown too. Numbers: calls, and how many"
                " milliseconds one takes on average. Red: the part of the calls that failed.",
                Kind.NODE_GRAPH,
                ("upstream_nodes", "upstream_edges"),
                height=14,
                links=(_SPANS, _FAILED_SPANS),
            ),
            Panel(
                "Operations above, in numbers",
                "The same as a table, with percentiles of the durations.",
                Kind.TABLE,
                ("upstream_operations",),
                links=_OPERATIONS_TABLE,
            ),
        ),
        _OPERATION,
    ),
    Dashboard(
        "SdzI3eJnk",
        "06-downstream-spans",
        "06 Downstream spans",
        "Where does an operation of a service spend its time? From each of its spans we descend to the leaves.",
        Headline("downstream_operations", "calls", "count", "operations in GET / of lower, itself included"),
        (
            Panel(
                "Operations below",
                "Everything that the chosen operation leads to, and itself. Numbers: calls, and how many milliseconds one"
                " takes on average. Red: the part of the calls that failed.",
                Kind.NODE_GRAPH,
                ("downstream_nodes", "downstream_edges"),
                height=14,
                links=(_SPANS, _FAILED_SPANS),
            ),
            Panel(
                "Share of execution time",
                "The time of each operation without that of its children.",
                Kind.PIE,
                ("downstream_shares",),
                width=10,
                height=11,
                links=(_SPANS,),
            ),
            Panel(
                "Time over time",
                "How long one span of each operation takes on average.",
                Kind.SERIES,
                ("downstream_time",),
                width=14,
                height=11,
                links=(_SPANS,),
            ),
            Panel(
                "Operations below, in numbers",
                "The same as a table, with percentiles of the durations.",
                Kind.TABLE,
                ("downstream_operations",),
                links=_OPERATIONS_TABLE,
            ),
        ),
        _OPERATION,
    ),
)
