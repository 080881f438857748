"""The command behind ./run.sh experiment."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg

from experiments import running, scenario
from faults.flags import MAX_SEED, whole_number
from local import CommandError, exit_code
from local.arguments import Parser
from local.control import FaultsAPI
from telemetry.services import POSTGRES_PORT

DATABASE_URI = f"postgresql://explorer@localhost:{POSTGRES_PORT}/postgres"


def main(arguments: Sequence[str]) -> int:
    parser = Parser("experiment")
    parser.add_argument("scenario", metavar="SCENARIO", help="an included one, or a YAML file")
    parser.add_argument("--seed", required=True, help="of all random numbers, a whole number")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--blind", action="store_true", help="traces without labels of faults")
    options = parser.parse_args(arguments)
    chosen, seed = scenario.find(options.scenario), _seed(options.seed)
    api = FaultsAPI(os.environ.get("FAULTS_ADDRESS") or "localhost", os.environ.get("DEMO_TOKEN") or "")
    try:
        running.run(chosen, seed, options.out, api, DATABASE_URI, options.blind, lambda line: print(line, flush=True))
    except psycopg.Error as error:
        raise CommandError(f"the trace database reports: {str(error).splitlines()[0]}; ./run.sh status") from None
    except KeyboardInterrupt:
        print("run.sh: interrupted; the flags are as before, and nothing was written", file=sys.stderr)
        return 130
    return 0


def _seed(text: str) -> int:
    most = MAX_SEED - scenario.MAX_PHASES  # each phase has a seed of its own
    if (seed := whole_number(text, 0, most)) is not None:
        return seed
    raise CommandError(f"--seed {text!r} is not a whole number from 0 to {most}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: nothing half-done remains
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
