"""OpenTelemetry's Collector with collector/config.yaml, on free ports."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import CHECKOUT, health
from tests import built
from tests.waiting import free_port, wait_until


@contextmanager
def running_collector(folder: Path, **environment: str) -> Iterator[str]:
    """The address of OTLP/gRPC, "host:port", of a Collector with these environment variables. Its queue and its log are
    in `folder`."""
    program = built.otelcol()
    address, health_port = f"127.0.0.1:{free_port()}", free_port()
    changed = {
        "receivers::otlp::protocols::grpc::endpoint": address,
        "receivers::otlp::protocols::http::endpoint": f"127.0.0.1:{free_port()}",
        "extensions::health_check::endpoint": f"127.0.0.1:{health_port}",
        "processors::tail_sampling::decision_wait": "5s",
    }
    options = [f"--config=yaml:{key}: {value}" for key, value in changed.items()]
    variables = os.environ | {"COLLECTOR_STORAGE": str(folder / "queue")} | environment
    command = [str(program), "--config=collector/config.yaml", *options]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=CHECKOUT, env=variables, stdout=log, stderr=log)

    def healthy() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        return health.answers(f"http://127.0.0.1:{health_port}/")

    try:
        wait_until(healthy, "the Collector")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(60)
    assert ended == 0
