"""The commands behind ./run.sh export and ./run.sh import."""

import argparse
import gc
import signal
import sys
from pathlib import Path

from local import exit_code
from local.arguments import Parser
from telemetry.services import POSTGRES_PORT
from transfer import FORMATS, LAYOUTS, TransferError, export, import_files
from transfer.exporting import DEFAULT_FROM, DEFAULT_TO, ROOT_SERVICE

DATABASE_URI = f"postgresql://explorer@localhost:{POSTGRES_PORT}/postgres"
ENDPOINT = "localhost:9202"
# JSON becomes many objects, without cycles. At Python's default of 700, the search for these takes a third of the time.
GC_OBJECTS = 100_000
# Their values may begin with a hyphen, which argparse takes for an option.
_TIMES = ("--from", "--to", "--inject-time")


def _export_parser() -> Parser:
    parser = Parser("export")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    parser.add_argument("--format", default="", help=f"{', '.join(FORMATS)}")
    parser.add_argument(
        "--from", dest="time_from", metavar="T", default=DEFAULT_FROM, help="2026-01-31T12:00:00Z, -1h (default), ..."
    )
    parser.add_argument("--to", dest="time_to", metavar="T", default=DEFAULT_TO, help="the default is now")
    parser.add_argument(
        "--where",
        metavar="SQL",
        default="",
        help="only traces with a span that fulfils this condition on the columns of ps_trace.span",
    )
    parser.add_argument(
        "--without-labels", action="store_true", help="leave out labels of faults, and the table of the faults"
    )
    parser.add_argument("--layout", default="", help=f"a folder for another tool: {', '.join(LAYOUTS)}")
    parser.add_argument(
        "--inject-time", metavar="T", help="of a layout: when the fault began (default: the first in demo.fault)"
    )
    parser.add_argument(
        "--root-service",
        metavar="NAME",
        default=ROOT_SERVICE,
        help="of the layout rcabench: the service that the load comes from, which is called loadgenerator there"
        f" (default: {ROOT_SERVICE})",
    )
    return parser


def _import_parser() -> Parser:
    parser = Parser("import")
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a file, or a folder of files")
    parser.add_argument("--endpoint", default=ENDPOINT, help=f"promscale's gRPC (default: {ENDPOINT})")
    return parser


def main(arguments: list[str]) -> int:
    gc.set_threshold(GC_OBJECTS)
    command, *rest = arguments
    parser, run = {"export": (_export_parser(), _export), "import": (_import_parser(), _import)}[command]
    parser.add_argument("--database", metavar="URI", default=DATABASE_URI, help=f"default: {DATABASE_URI}")
    return run(parser.parse_args(_joined(rest)))


def _export(options: argparse.Namespace) -> int:
    done = export(
        options.database,
        options.time_from,
        options.time_to,
        options.folder,
        file_format=options.format,
        where=options.where,
        labels=not options.without_labels,
        layout=options.layout,
        inject_time=options.inject_time,
        root_service=options.root_service,
    )
    print(f"Exported {done.spans:,} spans: {', '.join(map(str, done.files))}")
    return 0


def _import(options: argparse.Namespace) -> int:
    done = import_files(options.paths, options.endpoint, options.database)
    for path in done.skipped:
        print(f"Skipped {path}, which has no spans: it is the table of the faults of an export")
    old = done.read - done.new - done.refusals.count
    print(f"Imported {done.read:,} spans: {done.new:,} new, {old:,} stored already, {done.refusals.count:,} refused")
    if done.expired:
        print(
            f"{done.expired:,} of them are older than the retention period, and promscale drops them: to keep them,"
            " call ps_trace.set_trace_retention_period, and repeat the import"
        )
    if done.refusals.count:
        raise TransferError(f"promscale refused {done.refusals.count:,} spans: {done.refusals}")
    return 0


def _joined(arguments: list[str]) -> list[str]:
    """The arguments with "--from", "-1h" as "--from=-1h"."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _TIMES:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C: nothing half-done remains
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
