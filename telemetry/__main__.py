"""One of the five services, traced: `PORT=5051 python -m telemetry digit`."""

import importlib
import sys

import serving
from telemetry import tracing


def main() -> None:
    [name] = sys.argv[1:]
    app = importlib.import_module(f"{name}.app").app
    tracing.start(name)
    serving.serve(app)
    tracing.stop()


if __name__ == "__main__":
    main()
