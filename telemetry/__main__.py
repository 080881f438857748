"""One of the services, traced: `PORT=5051 python -m telemetry digit`."""

import importlib
import sys

import serving
from telemetry import flags, instrumentation, tracing
from telemetry.services import SERVICES


def main() -> None:
    name = " ".join(sys.argv[1:])
    if name not in SERVICES:
        sys.exit(f"{name!r} is not a service; name one of {', '.join(SERVICES)}")
    instrumentation.prepare(name)
    flags.start()
    app = importlib.import_module(f"{name}.app").app
    tracing.start(name)
    serving.serve(app)
    tracing.stop()


if __name__ == "__main__":
    main()
