"""What the services share: their table (services), the set-up of OpenTelemetry (tracing), HTTP responses (service),
calls of other services (call) and simulated work (work)."""
