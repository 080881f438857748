"""What /metrics shows."""

from prometheus_client import Counter, Histogram

exports = Counter("promscale_exports", "Export requests, by the gRPC status they were answered with.", ["code"])
export_seconds = Histogram(
    "promscale_export_duration_seconds",
    "Time from an export's arrival to its acknowledgement.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
stored_spans = Counter("promscale_stored_spans", "Spans committed to the database.")
duplicate_spans = Counter("promscale_duplicate_spans", "Spans received that were stored already.")
refused_spans = Counter("promscale_refused_spans", "Spans refused; the log names the first of each export.")
commit_seconds = Histogram(
    "promscale_commit_duration_seconds",
    "Time of one transaction that stores spans.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
