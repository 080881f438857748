"""The Prometheus metrics of /metrics."""

from prometheus_client import Counter, Gauge, Histogram, Info

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

exports = Counter("promscale_exports", "Export requests, by the gRPC status of their answers.", ["code"])
export_seconds = Histogram(
    "promscale_export_duration_seconds", "Time from an export's arrival to its acknowledgement.", buckets=_SECONDS
)
stored_spans = Counter("promscale_stored_spans", "Spans committed to the database.")
duplicate_spans = Counter("promscale_duplicate_spans", "Spans received again that were stored before (deduplication).")
refused_spans = Counter("promscale_refused_spans", "Spans refused; the log has the reasons.")
commit_seconds = Histogram(
    "promscale_commit_duration_seconds", "Duration of one transaction that stores spans.", buckets=_SECONDS
)
upkeep = Gauge("promscale_upkeep", "1 if this promscale does the upkeep of the database, which one of all does.")
encoder = Info("promscale_encoder", "The encoder in use: python or rust.")
encoder_panics = Counter("promscale_encoder_panics", "Exports that made the encoder panic; the log has the reasons.")
