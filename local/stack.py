"""The local stack: which processes it has, how the health of each is checked, and how they start and stop together.

supervisord (PyPI: supervisor) starts the processes, restarts those that die, stops them in order and rotates their
logs. Its XML-RPC interface is not used. What there is to know is read from the process table, which is right also when
supervisord itself was killed: a process belongs to this stack if its environment has the variable TRACING_DEMO with
the path of this checkout, which the children of a process inherit.
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from faults.flags import TOKEN_FILE, FlagError, FlagFile
from local import CHECKOUT, DATA, LOGS, CommandError, encoder, exclusive, hash_of_files, health, usage
from local.environment import PYTHON, package_folder
from local.health import QUEUE_ON_DISK, State
from local.postgres import Cluster, account
from telemetry.services import (
    BESIDE,
    COLLECTOR_HEALTH_PORT,
    FAULTS_PORT,
    OTLP_GRPC_PORT,
    OTLP_HTTP_PORT,
    PAGES,
    POSTGRES_PORT,
    PROMSCALE_GRPC_PORT,
    PROMSCALE_HTTP_PORT,
    SERVICES,
)

TITLE = "local stack"
UNIT = "processes"
DATABASE = Cluster(DATA / "postgres", POSTGRES_PORT)
FLAGS = FlagFile(DATA / "faults" / "flags.json")
ROTEL = "rotel-agent"
# Jaeger's ports that nothing else in this stack uses.
JAEGER_GRPC_PORT, JAEGER_HEALTH_PORT = 16685, 13134

MARK = "TRACING_DEMO"  # the environment variable by which this stack's processes are found
PLAN = DATA / "parts.json"  # what local/part.py executes, and the settings that the stack was started with
STOP_SECONDS = 30  # for a graceful shutdown of a part; then it gets SIGKILL
MAX_RESTARTS = 3  # during a start; after more, the start fails
# For a segment of the write-ahead log (16 MB) and what PostgreSQL writes during recovery.
MIN_FREE_BYTES = 100 * 10**6

# Which of the user's environment variables reach which parts. Everything else is withheld: a variable meant for another
# program of PostgreSQL's, Python's or OpenTelemetry's could stop a part from working.
TRACED = {*SERVICES, "load"}
SETTINGS = {
    "BIND_ADDRESS": set(SERVICES),
    "ALLOWED_HOSTS": {*SERVICES, *PAGES, "faults", "promscale"},
    "DEMO_FAULT_LABELS": TRACED,
    "DEMO_INSTRUMENTATION": TRACED,
    "DEMO_SEED": {*TRACED, "faults"},
    "DEMO_TOKEN": {"faults"},
    "LOAD_*": {"load", "faults"},
    "OTEL_RESOURCE_ATTRIBUTES": TRACED,
    "OTEL_TRACES_SAMPLER": TRACED,
    "OTEL_TRACES_SAMPLER_ARG": TRACED,
    "PROMSCALE_*": {"promscale"},
    "TRACE_SAMPLING_PERCENT": {"collector"},
}
SYSTEM = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")


@dataclass(frozen=True)
class Part:
    """One process under supervisord."""

    name: str
    command: list[str]
    listeners: list[tuple[str, int]]  # address and port
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    user: int = os.getuid()
    stop_signal: str = "TERM"
    memory_bytes: int | None = None  # a limit of each of its processes
    code: tuple[str, ...] = ()  # the folders of the checkout with whose files a start restarts it if they have changed


def parts(settings: Mapping[str, str] | None = None) -> list[Part]:
    """The parts in the order of their dependencies, which is the order of their start.

    They stop in the opposite order: first what creates spans, then what passes spans on, last what stores them. The
    settings, by default the current ones, determine which parts there are and where they listen.
    """
    settings = current_settings() if settings is None else settings
    bind = _bind_address(settings)
    host = health.reach_address(bind)
    jaeger = shutil.which("jaeger", path=settings.get("PATH"))
    explorer = PAGES | {"traces": BESIDE["traces"]} if jaeger else PAGES
    collector = _collector(bind, host, settings)
    links = {f"EXPLORER_{name.upper()}_PORT": str(port) for name, port in explorer.items()}
    return [
        Part(
            "postgres",
            DATABASE.server,
            [("127.0.0.1", DATABASE.port)],
            lambda: health.query(DATABASE.uri, "select true") == (True,),
            user=account().pw_uid,
            stop_signal="INT",  # fast shutdown; after TERM, PostgreSQL would wait until every session has ended
            memory_bytes=512 * 2**20,  # of each session, so that one statement cannot use the memory of all
        ),
        Part(
            "promscale",
            [sys.executable, "-m", "promscale"],
            [(bind, PROMSCALE_HTTP_PORT), (bind, PROMSCALE_GRPC_PORT)],
            partial(health.answers, f"http://{host}:{PROMSCALE_HTTP_PORT}/readyz"),
            environment={
                "PROMSCALE_DB_URI": DATABASE.uri,
                "PROMSCALE_ENCODER": settings.get("PROMSCALE_ENCODER") or ("rust" if encoder.is_built() else "python"),
                "PROMSCALE_WEB_LISTEN_ADDRESS": f"{bind}:{PROMSCALE_HTTP_PORT}",
                "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": f"{bind}:{PROMSCALE_GRPC_PORT}",
            },
        ),
        collector,
        Part(
            "faults",
            [sys.executable, "-m", "faults"],
            [(bind, FAULTS_PORT)],
            partial(health.answers, f"http://{host}:{FAULTS_PORT}/healthz"),
            environment={
                "BIND_ADDRESS": bind,
                "PORT": str(FAULTS_PORT),
                "FAULTS_FILE": str(FLAGS.path),
                "FAULTS_DB_URI": DATABASE.uri,
                "TAIL_SAMPLING": "off" if _is_rotel(collector) else "on",
                **links,
            },
        ),
        *(
            Part(
                name,
                [sys.executable, "-m", "telemetry", name],
                [(bind, port)],
                partial(health.answers, f"http://{host}:{port}/healthz"),
                environment={"BIND_ADDRESS": bind, "PORT": str(port), **links},
                code=(name, "telemetry"),
            )
            for name, port in reversed(SERVICES.items())  # the generator after those that it calls
        ),
        Part("load", [sys.executable, "-m", "load"], [], lambda: "load" in _running(), code=("load", "telemetry")),
        *(
            _page(name, bind, port, {"EXPLORER_STORE": f"{host}:{PROMSCALE_GRPC_PORT}", **links})
            for name, port in explorer.items()
        ),
        *([_jaeger(jaeger, bind, host)] if jaeger else []),
    ]


def _jaeger(program: str, bind: str, host: str) -> Part:
    port = PAGES["traces"]
    return Part(
        "jaeger",
        [program, "--config=jaeger/config.yaml"],
        [(bind, port), ("127.0.0.1", JAEGER_GRPC_PORT), (bind, JAEGER_HEALTH_PORT)],
        partial(health.answers, f"http://{host}:{port}/"),
        environment={"JAEGER_LISTEN_HOST": bind, "PROMSCALE_ENDPOINT": f"{host}:{PROMSCALE_GRPC_PORT}"},
    )


def _page(name: str, bind: str, port: int, environment: dict[str, str]) -> Part:
    """An app of explorer/."""
    return Part(
        name,
        [sys.executable, "-m", "explorer", name],
        [(bind, port)],
        partial(health.answers, f"http://{health.reach_address(bind)}:{port}/healthz"),
        environment={
            "BIND_ADDRESS": bind,
            "PORT": str(port),
            "EXPLORER_DB_URI": DATABASE.uri_of("explorer"),
            **environment,
        },
    )


def _collector(bind: str, host: str, settings: Mapping[str, str]) -> Part:
    """OpenTelemetry's Collector if one is on the PATH; otherwise rotel."""
    listeners = [(bind, OTLP_GRPC_PORT), (bind, OTLP_HTTP_PORT)]
    promscale = f"{host}:{PROMSCALE_GRPC_PORT}"
    path = settings.get("PATH")
    otelcol = shutil.which("otelcol-contrib", path=path) or shutil.which("otelcol", path=path)
    if otelcol:
        sampler = ", probabilistic_sampler" if settings.get("TRACE_SAMPLING_PERCENT") else ""
        return Part(
            "collector",
            [otelcol, "--config=collector/config.yaml"],
            [*listeners, (bind, COLLECTOR_HEALTH_PORT)],
            partial(health.answers, f"http://{host}:{COLLECTOR_HEALTH_PORT}/"),
            environment={
                "COLLECTOR_HOST": bind,
                "COLLECTOR_PROCESSORS": f"[memory_limiter{sampler}]",
                "COLLECTOR_STORAGE": str(DATA / "collector"),
                "PROMSCALE_ENDPOINT": promscale,
            },
        )
    return Part(
        "collector",
        [
            *(str(package_folder("rotel") / ROTEL), "start"),
            *(f"--otlp-grpc-endpoint={bind}:{OTLP_GRPC_PORT}", f"--otlp-http-endpoint={bind}:{OTLP_HTTP_PORT}"),
            # docs/durability.md describes rotel's limits, which these options work around.
            *("--otlp-receiver-metrics-disabled", "--otlp-receiver-logs-disabled"),
            "--otlp-grpc-max-recv-msg-size-mib=4",
            *(f"--otlp-exporter-endpoint=http://{promscale}", "--otlp-exporter-request-timeout=30s"),
            # rotel loses a message of more spans than a batch may have, together with the batch. 500,000 is more than
            # the largest message that it accepts can hold, with at least 42 bytes for a span.
            *("--otlp-exporter-batch-timeout=20ms", "--otlp-exporter-batch-max-size=500000"),
            *("--otlp-exporter-retry-initial-backoff=100ms", "--otlp-exporter-retry-max-backoff=1s"),
            "--otlp-exporter-retry-max-elapsed-time=3600s",
        ],
        listeners,
        partial(health.accepts, host, OTLP_GRPC_PORT),
        memory_bytes=400 * 10**6,
    )


def _is_rotel(collector: Part) -> bool:
    return Path(collector.command[0]).name == ROTEL


def collector_report(settings: Mapping[str, str] | None = None) -> str:
    """What the Collector's acknowledgement guarantees, and what rotel has lost according to its logs."""
    collector = next(part for part in parts(settings) if part.name == "collector")
    if not _is_rotel(collector):
        return QUEUE_ON_DISK
    log = "".join(file.read_text(errors="replace") for file in LOGS.glob("collector.log*"))
    return (
        "rotel keeps a span that it acknowledged in memory, and loses it when it is killed. Since its oldest log:"
        f" batches dropped: {log.count('Exporting failed, dropping data')},"
        f" crashes for lack of memory: {log.count('memory allocation of')}"
    )


@functools.cache
def current_settings() -> Mapping[str, str]:
    """The user's variables that the running stack was started with, including later changes; without a running stack,
    those that it would be started with."""
    started_with = _plan().get("settings") if running() else None
    return started_with or _select(os.environ, *SYSTEM, *SETTINGS)


def _select(variables: Mapping[str, str], *patterns: str) -> dict[str, str]:
    """The variables whose names match one of the patterns."""
    return {name: value for name, value in variables.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}


def _bind_address(settings: Mapping[str, str]) -> str:
    return settings.get("BIND_ADDRESS") or "127.0.0.1"


def reach_address() -> str:
    """The address by which the parts, and this process, connect to the parts."""
    return health.reach_address(_bind_address(current_settings()))


def running() -> bool:
    return bool(_processes())


def check_ports(settings: Mapping[str, str] | None = None) -> None:
    """Check that all ports are free. Raises CommandError, which names the owner of each port in use."""
    health.check_ports((part.name, address, port) for part in parts(settings) for address, port in part.listeners)


def start() -> tuple[float, bool]:
    """Start the parts that do not run, restart those with changed settings or code, and wait until all parts are
    healthy and the first trace is in the database.

    Returns the seconds that this took, and whether passwords are traced. Raises CommandError, OSError.
    """
    began = time.monotonic()
    encoder.start_to_build()
    with exclusive():
        before = _plan() if running() else {}
        settings = {**before.get("settings", _select(os.environ, *SYSTEM)), **_select(os.environ, *SETTINGS)}
        if before and _supervisord() and before["parts"].keys() == {part.name for part in parts(settings)}:
            _restart_changed(before, settings)
        else:
            _stop()  # the orphan processes of a supervisord that was killed
            check_ports(settings)
            LOGS.mkdir(parents=True, exist_ok=True)
            check_disk()
            DATABASE.prepare()
            _prepare_flags()
            _write_plan(settings)
            _start_supervisord(settings)
        _wait_until_healthy()
    traced = health.wait_for_a_trace(reach_address(), DATABASE.uri)
    return time.monotonic() - began, traced


def _plan() -> dict[str, Any]:
    """{"settings": the user's variables, "parts": {name: what local/part.py executes}} of the last start; or {}."""
    plan: dict[str, Any] = json.loads(PLAN.read_text()) if PLAN.exists() else {}
    return plan


def _write_plan(settings: Mapping[str, str]) -> None:
    host = health.reach_address(_bind_address(settings))
    traced = {
        **{f"{name.upper()}_URL": f"http://{host}:{port}" for name, port in SERVICES.items()},
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{OTLP_GRPC_PORT}",
        "FAULTS_FILE": str(FLAGS.path),
    }
    shared = {
        **_select(settings, *SYSTEM),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        MARK: str(CHECKOUT),
    }
    plan = {}
    for part in parts(settings):
        variables = _select(settings, *(pattern for pattern, names in SETTINGS.items() if part.name in names))
        if part.name in TRACED:
            # OTEL_SERVICE_NAME takes precedence over a service.name in OTEL_RESOURCE_ATTRIBUTES.
            variables |= {**traced, "OTEL_SERVICE_NAME": part.name}
        plan[part.name] = {
            "command": part.command,
            "environment": {**shared, **variables, **part.environment},
            "user": part.user,
            "memory_bytes": part.memory_bytes,
            "code": _hash_of_code(part.code),
        }
    unfinished = PLAN.with_suffix(".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps({"settings": dict(settings), "parts": plan}, indent=1))
    unfinished.replace(PLAN)
    current_settings.cache_clear()


def _hash_of_code(folders: Iterable[str]) -> str:
    files = (file for folder in folders for file in (CHECKOUT / folder).rglob("*"))
    return hash_of_files(CHECKOUT, (file for file in files if file.is_file() and file.parent.name != "__pycache__"))


def _restart_changed(before: dict[str, Any], settings: Mapping[str, str]) -> None:
    """Restart the running parts whose plan differs from the one `before`: stop them, and supervisord starts them."""
    addresses = {address for part in parts(settings) for address, _ in part.listeners}
    health.check_ports(("BIND_ADDRESS", address, 0) for address in addresses)
    _write_plan(settings)
    after = _plan()["parts"]
    changed = [part for part in parts() if after[part.name] != before["parts"][part.name]]
    if not changed:
        print("The local stack is already running with these settings and this code.", flush=True)
        return
    print(f"Restarting the parts with changed settings or code: {', '.join(part.name for part in changed)}", flush=True)
    processes = _running()
    stopping = [processes[part.name] for part in changed if part.name in processes]
    for part in reversed(changed):
        if process := processes.get(part.name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.Signals[f"SIG{part.stop_signal}"])
    _, remaining = psutil.wait_procs(stopping, STOP_SECONDS)
    for process in remaining:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(remaining)


def check_disk() -> None:
    """Raises CommandError if the disk is so full that PostgreSQL would not start, or would crash soon."""
    free = shutil.disk_usage(DATA).free
    if free < MIN_FREE_BYTES:
        raise CommandError(
            f"the disk of {DATA} has {free / 10**6:,.0f} MB free, and PostgreSQL needs"
            f" {MIN_FREE_BYTES / 10**6:,.0f} MB to start: free some space elsewhere, the traces are kept; a smaller"
            " PROMSCALE_DISK_BUDGET then prevents this"
        )


def _prepare_flags() -> None:
    """Before any part starts, because the services read the file at their start. Raises CommandError."""
    FLAGS.path.parent.mkdir(exist_ok=True)
    try:
        FLAGS.prepare()
    except FlagError as error:
        raise CommandError(f"{error}; delete it, and it is created again") from None


def stop() -> int:
    """Stop everything; returns how many processes there were. Raises CommandError if one does not end."""
    with exclusive():
        return _stop()


def delete() -> None:
    """Stop everything and delete all data. Raises CommandError, OSError."""
    with exclusive():
        _stop()
        DATABASE.delete()
        if DATA.exists():
            shutil.rmtree(DATA)


def states() -> list[State]:
    """The states of supervisord and of each part."""
    processes = _running()
    supervisord = _state("supervisord", _supervisord(), lambda: True)
    return [supervisord, *(_state(part.name, processes.get(part.name), part.healthy) for part in parts())]


def _state(name: str, process: psutil.Process | None, healthy: Callable[[], bool]) -> State:
    if not process:
        return State(name, None, None, False)
    since = datetime.fromtimestamp(process.create_time(), UTC).astimezone()
    return State(name, process.pid, since, healthy())


def store_status() -> str:
    """promscale's own status."""
    return health.store_status(reach_address())


def encoder_report() -> str:
    """The encoder that promscale uses, and whether a restart would make it use another one."""
    used = health.encoder(reach_address())
    planned = next(part for part in parts() if part.name == "promscale").environment["PROMSCALE_ENCODER"]
    return used if planned == used else f"{used}; ./run.sh makes promscale use {planned}, which is built now"


def token() -> str:
    """What changes of the faults need, "" if they need nothing."""
    file = FLAGS.path.with_name(TOKEN_FILE)
    return file.read_text() if file.exists() else ""


def usage_report() -> str:
    """The disk use of the stored traces."""
    return usage.report(DATABASE.uri)


def log_command(name: str | None) -> list[str]:
    """The command that follows the logs of all parts, or of one. Raises CommandError if there is no such log."""
    files = sorted(LOGS.glob(f"{name or '*'}.log"))
    if not files:
        names = ", ".join(sorted(file.stem for file in LOGS.glob("*.log")))
        raise CommandError(
            f"there is no log {name!r}; name one of {names}" if names else "there are no logs: nothing was started yet"
        )
    return ["tail", "-n", "20", "-F", *map(str, files)]


def _start_supervisord(settings: Mapping[str, str]) -> None:
    configuration = DATA / "supervisord.conf"
    configuration.write_text(_configuration(parts(settings)))
    supervisord = subprocess.run(
        [sys.executable, "-m", "local.supervisord", "-c", configuration.relative_to(CHECKOUT)],
        env={**_select(os.environ, *SYSTEM), "PYTHONPATH": str(CHECKOUT), MARK: str(CHECKOUT)},
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if supervisord.returncode:
        reason = supervisord.stderr.strip().splitlines()[-1]
        raise CommandError(f"supervisord did not start: {reason}; correct this and run it again")


def _configuration(parts: list[Part]) -> str:
    """supervisord's configuration file. All paths are relative to the checkout: a character such as % or ; in the path
    of the checkout would have a meaning in this file."""

    def section(title: str, options: dict[str, object]) -> str:
        return "\n".join([f"[{title}]", *(f"{name}={value}" for name, value in options.items()), "", ""])

    logs = LOGS.relative_to(CHECKOUT)
    text = section(
        "supervisord",
        {
            "user": os.getuid(),
            "pidfile": DATA.relative_to(CHECKOUT) / "supervisord.pid",
            "logfile": logs / "supervisord.log",
            "logfile_maxbytes": "1MB",
            "logfile_backups": 1,
        },
    )
    for priority, part in enumerate(parts):
        text += section(
            f"program:{part.name}",
            {
                "command": f"{PYTHON.relative_to(CHECKOUT)} -I local/part.py {part.name}",
                "priority": priority,
                "autorestart": "true",
                "startretries": 1_000_000,  # never give up; supervisord waits a second longer before each try
                "stopsignal": part.stop_signal,
                "stopwaitsecs": STOP_SECONDS,
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": logs / f"{part.name}.log",
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 1,
            },
        )
    # supervisord stops one program or group after another; the services may stop at the same time.
    priority = [part.name in SERVICES for part in parts].index(True)
    return text + section("group:services", {"programs": ",".join(SERVICES), "priority": priority})


def _stop() -> int:
    """Stop everything; returns how many processes there were. Raises CommandError if one does not end."""
    count = len(_processes())
    supervisord = _supervisord()
    if supervisord:
        supervisord.terminate()
        health.wait(lambda: not _supervisord())
    # Orphan processes, of a supervisord that was killed.
    for kill in (False, True):
        for process in _processes():
            graceful = signal.SIGINT if process.info["name"] == "postgres" else signal.SIGTERM
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if kill else graceful)
        health.wait(lambda: not _processes(), seconds=10)
    remaining = _processes()
    if remaining:
        pids = ", ".join(str(process.pid) for process in remaining)
        raise CommandError(f"some processes do not end: PID {pids}; end them with kill -9 and run this again")
    return count


def _processes() -> list[psutil.Process]:
    """All processes of this checkout's stack, with `environ`, `ppid`, `cmdline` and `name` in their `info`."""
    # PostgreSQL overwrites the environment of its processes with their titles.
    servers = {process.pid for process in DATABASE.processes()}
    return [
        process
        for process in psutil.process_iter(["environ", "ppid", "cmdline", "name"])
        if process.pid in servers or (process.info["environ"] or {}).get(MARK) == str(CHECKOUT)
    ]


def _supervisord() -> psutil.Process | None:
    return next((process for process in _processes() if "local.supervisord" in (process.info["cmdline"] or [])), None)


def _running() -> dict[str, psutil.Process]:
    """The process of each running part by the part's name, also of orphan processes."""
    processes = _processes()
    names = {process.pid: (process.info["environ"] or {}).get("SUPERVISOR_PROCESS_NAME", "") for process in processes}
    # Children of a part's process inherit the variable, and so the name.
    return {
        name: process
        for process in processes
        if (name := names[process.pid]) and name != names.get(process.info["ppid"])
    }


def _wait_until_healthy() -> None:
    log = LOGS / "supervisord.log"
    size_before = log.stat().st_size if log.exists() else 0

    def crash_loops(name: str) -> bool:
        written_since = log.read_text()[size_before:] if log.exists() else ""
        return written_since.count(f"exited: {name} ") > MAX_RESTARTS

    health.wait_until_healthy(
        lambda: next((part.name for part in parts() if not part.healthy()), None),
        crash_loops,
        _last_log_line,
        store_status,
    )


def _last_log_line(name: str) -> str:
    log = LOGS / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""
