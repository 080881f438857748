"""promscale: a trace store on PostgreSQL. `python -m promscale --help` lists the settings."""

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable

from promscale import memory, metrics
from promscale.encoders import ENCODERS, chosen_encoder
from promscale.jaeger import Jaeger
from promscale.server import Server
from promscale.store import SchemaMismatch, Store, StoreUnavailable
from promscale.upkeep import Upkeep
from promscale.web import Web

log = logging.getLogger("promscale")

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MAX_DISK_BUDGET = 2**63 - 1  # PostgreSQL's bigint

RETRY_SECONDS = 1
UPKEEP_SECONDS = 1
GRACE_SECONDS = 10


def settings(argv: list[str], environ: dict[str, str]) -> argparse.Namespace:
    """The settings: each is a flag, else the variable PROMSCALE_<FLAG>, else a default. The names are Promscale's.

    Exits with a message about the first invalid one.
    """
    parser = argparse.ArgumentParser(prog="promscale", description="A trace store on PostgreSQL.")

    def add(flag: str, default: str | None, description: str, *older_flags: str) -> None:
        names = [flag, *older_flags]
        variables = ["PROMSCALE_" + name.upper().replace(".", "_").replace("-", "_") for name in names]
        value = next((environ[variable] for variable in variables if environ.get(variable)), default)
        parser.add_argument(
            *(f"--{name}" for name in names),
            dest=flag,
            default=value,
            metavar="VALUE",
            help=f"{description} ({', '.join(variables)}; default: {default})",
        )

    add("db.uri", "postgresql://postgres@localhost:5432/postgres", "database to store traces in")
    add("db.connect-retries", None, "retries of the connection at start before promscale exits; None: no limit")
    add("disk-budget", "2GB", "bytes that the database may take, with kB, MB, GB or TB; 0: no limit")
    add("encoder", None, "python or rust; None: rust where it is built")
    add("tracing.grpc.server-address", "127.0.0.1:9202", "listen address for gRPC", "tracing.otlp.server-address")
    add("web.listen-address", "127.0.0.1:9201", "listen address for HTTP")
    values = vars(parser.parse_args(argv))
    for name in ("tracing.grpc.server-address", "web.listen-address"):
        host, _, port = values[name].rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            parser.error(f"{name}: {values[name]!r} is not host:port")
        values[name] = f"{host or '0.0.0.0'}:{port}"  # as Go reads ":9202"
    retries = values["db.connect-retries"]
    if retries is not None and not retries.isdecimal():
        parser.error(f"db.connect-retries: {retries!r} is not a number")
    # A number of bytes: digits and, optionally, a unit.
    budget = re.fullmatch(r"(\d+) ?([kMGT]?B)?", values["disk-budget"])
    if not budget:
        parser.error(f"disk-budget: {values['disk-budget']!r} is not a number of bytes, such as 500MB or 2GB")
    disk_budget = int(budget[1]) * _UNITS[budget[2] or "B"]
    if disk_budget > _MAX_DISK_BUDGET:
        parser.error(f"disk-budget: {values['disk-budget']!r} is more than a database can take; 0 means no limit")
    if values["encoder"] not in (None, *ENCODERS):
        parser.error(f"encoder: {values['encoder']!r} is not one of {', '.join(ENCODERS)}")
    return argparse.Namespace(
        disk_budget=disk_budget,
        encoder=values["encoder"],
        db_uri=values["db.uri"],
        db_connect_retries=int(retries) if retries else None,
        grpc_address=values["tracing.grpc.server-address"],
        web_address=values["web.listen-address"],
    )


def migrate(store: Store, retries: int | None, stopping: threading.Event, report: Callable[[str], None]) -> None:
    """Apply migrations and copy the spans of the first schema; retry while the database is unavailable.

    `retries`: None for no limit. Raises StoreUnavailable after the last retry, and SchemaMismatch.
    """
    failures = 0
    while not stopping.is_set():
        try:
            store.migrate()
            for copied, spans in store.upgrade():
                report(f"upgrading: {copied:,} of {spans:,} spans copied")
                if stopping.is_set():
                    break
            return
        except StoreUnavailable as error:
            if failures == retries:
                raise
            failures += 1
            log.warning("Waiting for the database: %s", error)
            stopping.wait(RETRY_SECONDS)


def main() -> None:
    memory.return_freed_blocks()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = settings(sys.argv[1:], dict(os.environ))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        encoder = chosen_encoder(options.encoder)
    except ModuleNotFoundError as error:
        sys.exit(
            f"promscale: the Rust encoder is not built ({error}): see promscale/encoder, or use the encoder python"
        )
    metrics.encoder.info({"name": encoder.name})
    store, jaeger = Store(options.db_uri, options.disk_budget, encoder), Jaeger(options.db_uri)
    try:
        server = Server(store, jaeger, options.grpc_address)
        web = Web(store, options.web_address)
    except (RuntimeError, OSError) as error:
        sys.exit(f"promscale: cannot listen: {error}")
    except ValueError as error:  # a malformed ALLOWED_HOSTS
        sys.exit(f"promscale: {error}")
    log.info(
        "gRPC on %s, HTTP on %s, database %s, encoder %s",
        options.grpc_address,
        options.web_address,
        store.address,
        encoder.name,
    )
    try:
        migrate(store, options.db_connect_retries, stopping, web.report)
    except (StoreUnavailable, SchemaMismatch) as error:
        sys.exit(f"promscale: {error}")
    store.start()
    server.serve()
    web.serve()
    log.info("Ready")
    upkeep = Upkeep(options.db_uri)
    while not stopping.wait(UPKEEP_SECONDS):
        try:
            upkeep.turn()
        except StoreUnavailable as error:
            log.warning("Upkeep failed, retrying: %s", error)
        memory.trim()
    log.info("Stopping")
    web.report_stopping()
    server.close(GRACE_SECONDS)
    web.close()
    jaeger.close()
    upkeep.close()
    store.close()


if __name__ == "__main__":
    main()
