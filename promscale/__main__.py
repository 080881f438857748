"""promscale: a trace store on PostgreSQL. `python -m promscale --help` lists the settings."""

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable

from promscale import memory
from promscale.jaeger import Jaeger
from promscale.server import Server
from promscale.store import SchemaMismatch, Store, StoreUnavailable
from promscale.upkeep import Upkeep
from promscale.web import Web

log = logging.getLogger("promscale")

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MAX_BUDGET = 2**63 - 1  # PostgreSQL's bigint

RETRY_SECONDS = 1
UPKEEP_SECONDS = 1
GRACE_SECONDS = 10


def settings(argv: list[str], environ: dict[str, str]) -> argparse.Namespace:
    """The settings, by the names that Promscale gave them: a flag, else the variable PROMSCALE_<FLAG>, else a default."""
    parser = argparse.ArgumentParser(prog="promscale", description="A trace store on PostgreSQL.")

    def add(flag: str, default: str | None, help: str, *older: str) -> None:
        names = [flag, *older]
        variables = ["PROMSCALE_" + name.upper().replace(".", "_").replace("-", "_") for name in names]
        value = next((environ[variable] for variable in variables if environ.get(variable)), default)
        parser.add_argument(
            *(f"--{name}" for name in names),
            dest=flag,
            default=value,
            metavar="VALUE",
            help=f"{help} ({', '.join(variables)}; default: {default})",
        )

    add("db.uri", "postgresql://postgres@localhost:5432/postgres", "the database")
    add("db.connect-retries", None, "how often to try again before giving up at start; without it: for ever")
    add("disk-budget", "2GB", "bytes that the database may take, with kB, MB, GB or TB; 0: no limit")
    add("tracing.grpc.server-address", "127.0.0.1:9202", "where to listen for gRPC", "tracing.otlp.server-address")
    add("web.listen-address", "127.0.0.1:9201", "where to listen for HTTP")
    found = vars(parser.parse_args(argv))
    for name in ("tracing.grpc.server-address", "web.listen-address"):
        host, _, port = found[name].rpartition(":")
        if not port.isdecimal() or not 0 < int(port) < 65536:
            parser.error(f"{name}: {found[name]!r} is not host:port")
        found[name] = f"{host or '0.0.0.0'}:{port}"  # as Go reads ":9202"
    retries = found["db.connect-retries"]
    if retries is not None and not retries.isdecimal():
        parser.error(f"db.connect-retries: {retries!r} is not a number")
    budget = re.fullmatch(r"(\d+) ?([kMGT]?B)?", found["disk-budget"])
    if not budget:
        parser.error(f"disk-budget: {found['disk-budget']!r} is not a number of bytes, as 500MB or 2GB")
    disk_budget = int(budget[1]) * _UNITS[budget[2] or "B"]
    if disk_budget > _MAX_BUDGET:
        parser.error(f"disk-budget: {found['disk-budget']!r} is more than a database can take; 0 is no limit")
    return argparse.Namespace(
        disk_budget=disk_budget,
        db_uri=found["db.uri"],
        db_connect_retries=int(retries) if retries else None,
        grpc_address=found["tracing.grpc.server-address"],
        web_address=found["web.listen-address"],
    )


def migrate(store: Store, retries: int | None, stopping: threading.Event, report: Callable[[str], None]) -> None:
    """Migrate, and again while the database is away. Raises StoreUnavailable after the last of `retries`."""
    tries = 0
    while not stopping.is_set():
        try:
            store.migrate()
            for copied, spans in store.upgrade():
                report(f"upgrading: {copied:,} of {spans:,} spans copied")
                if stopping.is_set():
                    break
            return
        except StoreUnavailable as error:
            if tries == retries:
                raise
            tries += 1
            log.warning("Waiting for the database: %s", error)
            stopping.wait(RETRY_SECONDS)


def main() -> None:
    memory.return_what_is_freed()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    options = settings(sys.argv[1:], dict(os.environ))
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store, jaeger = Store(options.db_uri, options.disk_budget), Jaeger(options.db_uri)
    try:
        server = Server(store, jaeger, options.grpc_address)
        web = Web(store, options.web_address)
    except (RuntimeError, OSError) as error:
        sys.exit(f"promscale: cannot listen: {error}")
    except ValueError as error:  # ALLOWED_HOSTS
        sys.exit(f"promscale: {error}")
    log.info("gRPC on %s, HTTP on %s, database %s", options.grpc_address, options.web_address, store.address)
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
            log.warning("Not done, to be tried again: %s", error)
        memory.trim()
    log.info("Stopping")
    web.refuse()
    server.close(GRACE_SECONDS)
    jaeger.close()
    upkeep.close()
    store.close()
    web.close()


if __name__ == "__main__":
    main()
