"""What the services share: OpenTelemetry set-up (tracing), how they answer (service), simulated work (work)."""
