"""What the evaluation of the flags costs a service: CPU time per request, with it and without.

    python -m benchmarks.flags        or ./run.sh bench flags

The services answer requests in this process, with all faults off and without simulated work, and export their spans to
nowhere. Rounds with and without evaluation alternate; without it, `fault` is a function that returns None.
"""

import importlib
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from faults.flags import OFF, FlagFile
from telemetry import flags
from telemetry.services import CHARACTER_SERVICES

ROUNDS, REQUESTS = 21, 100


class Nowhere(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS


def cpu_ms(service: str) -> float:
    """CPU time of this process per request, in milliseconds."""
    client = importlib.import_module(f"{service}.app").app.test_client()
    began = time.process_time()
    for _ in range(REQUESTS):
        client.get("/")
    return (time.process_time() - began) * 1000 / REQUESTS


def without_evaluation(service: str) -> ExitStack:
    stack = ExitStack()
    for module in (f"{service}.app", "telemetry.work", "telemetry.service"):
        stack.enter_context(patch(f"{module}.fault", lambda name: None))
    return stack


def main() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    trace.set_tracer_provider(provider)
    with tempfile.TemporaryDirectory() as folder, patch("telemetry.work.time.sleep"):
        file = FlagFile(Path(folder) / "flags.json")
        file.prepare()
        file.set({name: OFF for name, flag in file.flags().items() if flag.is_fault})
        os.environ["FAULTS_FILE"] = str(file.path)
        flags.start()
        print(f"{'service':<10}{'with':>10}{'without':>10}{'ratio':>10}    medians of {ROUNDS} rounds, ms of CPU")
        for service in CHARACTER_SERVICES:
            with_flags, without = [], []
            for _ in range(ROUNDS):
                with_flags.append(cpu_ms(service))
                with without_evaluation(service):
                    without.append(cpu_ms(service))
            ratio = statistics.median(one / other for one, other in zip(with_flags, without, strict=True))
            print(
                f"{service:<10}{statistics.median(with_flags):>10.2f}{statistics.median(without):>10.2f}{ratio:>10.3f}"
            )


if __name__ == "__main__":
    main()
