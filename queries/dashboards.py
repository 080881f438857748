"""The six dashboards, by the uids and slugs of their public links."""

from queries import Dashboard, Headline, Kind, Panel

_OPERATION = (("service", "lower"), ("operation", "GET /"))

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
            ),
            Panel(
                "Requests per second, by second",
                "The same, second by second: what the minutes smooth over.",
                Kind.SERIES,
                ("request_rate_by_second",),
                height=10,
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
            ),
            Panel(
                "Error rate by operation",
                "For each operation, how many of its spans have status error.",
                Kind.TABLE,
                ("error_rate_by_operation",),
                width=16,
                thresholds=(1, 5),
            ),
            Panel(
                "Error rate over time",
                "How many spans of each service, minute by minute or in longer steps, have status error.",
                Kind.SERIES,
                ("error_rate_over_time",),
                thresholds=(1, 5),
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
            ),
            Panel(
                "Requests by duration",
                "How many requests of the whole time took about how long.",
                Kind.HISTOGRAM,
                ("duration_histogram",),
                width=10,
                height=10,
            ),
            Panel(
                "Duration percentiles",
                "Half of the requests are faster than p50, and one in a hundred is slower than p99.",
                Kind.SERIES,
                ("duration_percentiles",),
                width=12,
            ),
            Panel(
                "Slowest traces",
                "The slowest requests of the whole time; each leads to its trace.",
                Kind.TABLE,
                ("slowest_traces",),
                width=12,
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
                "An arrow leads from caller to callee. Numbers: calls, and how many milliseconds one takes on average.",
                Kind.NODE_GRAPH,
                ("service_nodes", "service_edges"),
                height=14,
            ),
            Panel(
                "Service calls, in numbers",
                "The same as a table, with the time that all calls took together.",
                Kind.TABLE,
                ("service_calls",),
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
                " milliseconds one takes on average.",
                Kind.NODE_GRAPH,
                ("upstream_nodes", "upstream_edges"),
                height=14,
            ),
            Panel(
                "Operations above, in numbers",
                "The same as a table, with percentiles of the durations.",
                Kind.TABLE,
                ("upstream_operations",),
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
                " takes on average.",
                Kind.NODE_GRAPH,
                ("downstream_nodes", "downstream_edges"),
                height=14,
            ),
            Panel(
                "Share of execution time",
                "The time of each operation without that of its children.",
                Kind.PIE,
                ("downstream_shares",),
                width=8,
            ),
            Panel(
                "Time over time",
                "How long one span of each operation takes on average.",
                Kind.SERIES,
                ("downstream_time",),
                width=16,
            ),
            Panel(
                "Operations below, in numbers",
                "The same as a table, with percentiles of the durations.",
                Kind.TABLE,
                ("downstream_operations",),
            ),
        ),
        _OPERATION,
    ),
)
