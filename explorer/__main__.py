"""Run one of the explorer's apps: `PORT=3000 python -m explorer dashboards`, `PORT=16686 python -m explorer traces`."""

import importlib
import sys

import serving


def main() -> None:
    [name] = sys.argv[1:]
    serving.serve(importlib.import_module(f"explorer.{name}").app)


if __name__ == "__main__":
    main()
