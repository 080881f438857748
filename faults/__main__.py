"""The part `faults`, the page and the API by which faults are switched: `FAULTS_FILE=... PORT=5055 python -m faults`.

It is the only writer of the flag file, which it prepares before anything else, and of the table demo.fault.
"""

import os
import sys
from pathlib import Path

import serving
from faults.access import token
from faults.app import create_app
from faults.flags import TOKEN_FILE, FlagError, FlagFile, seed_of
from faults.recorder import Recorder
from telemetry.services import POSTGRES_PORT


def main() -> None:
    path = os.environ.get("FAULTS_FILE")
    if not path:
        sys.exit("faults: FAULTS_FILE is not set: set it to the path of the file that the services read")
    file = FlagFile(Path(path))
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        file.prepare()
        tail_sampling = os.environ.get("TAIL_SAMPLING") != "off"
        if not tail_sampling and "tail_latency_ms" in file.flags()["sampling"].parameters:  # of another Collector
            file.set(sampling={"tail_latency_ms": None})
        uri = os.environ.get("FAULTS_DB_URI") or f"postgresql://postgres@localhost:{POSTGRES_PORT}/postgres"
        recorder = Recorder(file, uri, seed_of(os.environ))
        recorder.start()
        app = create_app(file, recorder, token(os.environ, file.path.with_name(TOKEN_FILE)), tail_sampling)
    except (FlagError, ValueError, OSError) as error:
        sys.exit(f"faults: {error}")
    serving.serve(app)


if __name__ == "__main__":
    main()
