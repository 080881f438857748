"""What the services share: their table (services), the set-up of OpenTelemetry (instrumentation, tracing, sampling,
clock), HTTP responses (service), calls of other services (call), faults (flags), random numbers (randomness) and
simulated work (work)."""
