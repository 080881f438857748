"""The processes of the local stack: what they are, what healthy means for each, how they start and stop together.

supervisord (PyPI: supervisor) starts them, restarts what dies, stops them in order and rotates their logs. It gets no
control socket: whatever else there is to know is read from the process table, and so is right even when supervisord
itself was killed. A process is ours if it has inherited an environment variable that holds this checkout's path.
"""

import functools
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil

from local import CHECKOUT, DATA, LOGS, Trouble, exclusive, health, usage
from local.health import State
from local.postgres import Cluster, account

SERVICES = {"digit": 5051, "special": 5052, "lower": 5053, "upper": 5054, "generator": 5050}
DATABASE = Cluster(DATA / "postgres", 5999)
MARK = "TRACING_DEMO"
TITLE = "local stack"
# For a segment of the write-ahead log, and what PostgreSQL writes while it recovers.
MIN_FREE_BYTES = 100 * 10**6
UNIT = "processes"
PAGES = {"dashboards": 3000, "traces": 16686}


@dataclass(frozen=True)
class Part:
    """One process under supervisord."""

    name: str
    command: list[str]
    listens: list[tuple[str, int]]
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    user: int = os.getuid()
    stop_signal: str = "TERM"


def parts() -> list[Part]:
    """In the order in which they need each other. They are stopped in the opposite one: first what makes spans, then
    what passes them on, last what keeps them."""
    bind, host = bind_address(), reach_address()
    return [
        Part(
            "postgres",
            DATABASE.server,
            [("127.0.0.1", DATABASE.port)],
            lambda: health.query(DATABASE.uri, "select true") == (True,),
            user=account().pw_uid,
            stop_signal="INT",  # at once, and losing nothing; TERM would wait until every psql has ended
        ),
        Part(
            "promscale",
            [sys.executable, "-m", "promscale"],
            [(bind, 9201), (bind, 9202)],
            lambda: health.answers(f"http://{host}:9201/readyz"),
            environment={
                "PROMSCALE_DB_URI": DATABASE.uri,
                "PROMSCALE_WEB_LISTEN_ADDRESS": f"{bind}:9201",
                "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": f"{bind}:9202",
            },
        ),
        _collector(bind, host),
        *(
            Part(
                name,
                [sys.executable, "-m", "telemetry", name],
                [(bind, port)],
                lambda port=port: health.answers(f"http://{host}:{port}/healthz"),
                environment={"BIND_ADDRESS": bind, "PORT": str(port)},
            )
            for name, port in SERVICES.items()
        ),
        Part("load", [sys.executable, "-m", "load"], [], lambda: "load" in _running()),
        _pages("dashboards", bind, host, {"EXPLORER_DB_URI": DATABASE.uri_of("explorer")}),
        _traces(bind, host),
    ]


def _traces(bind: str, host: str) -> Part:
    """Jaeger as in the full stack, where there is one; else the explorer's pages under its paths."""
    jaeger = _which("jaeger")
    if not jaeger:
        return _pages("traces", bind, host, {"EXPLORER_STORE": f"{host}:9202"})
    return Part(
        "jaeger",
        [jaeger, "--config=jaeger/config.yaml"],
        [(bind, PAGES["traces"]), ("127.0.0.1", 16685), (bind, 13134)],
        lambda: health.answers(f"http://{host}:{PAGES['traces']}/"),
        environment={"JAEGER_LISTEN_HOST": bind, "PROMSCALE_ENDPOINT": f"{host}:9202"},
    )


def _pages(name: str, bind: str, host: str, environment: dict[str, str]) -> Part:
    """An app of explorer/."""
    return Part(
        name,
        [sys.executable, "-m", "explorer", name],
        [(bind, PAGES[name])],
        lambda: health.answers(f"http://{host}:{PAGES[name]}/healthz"),
        environment={"BIND_ADDRESS": bind, "PORT": str(PAGES[name]), **environment},
    )


def _collector(bind: str, host: str) -> Part:
    """OpenTelemetry's Collector as in the full stack, where there is one; else rotel."""
    listens = [(bind, 4317), (bind, 4318)]
    otelcol = _which("otelcol-contrib") or _which("otelcol")
    if otelcol:
        sampler = ", probabilistic_sampler" if os.environ.get("TRACE_SAMPLING_PERCENT") else ""
        return Part(
            "collector",
            [otelcol, "--config=collector/config.yaml"],
            [*listens, (bind, 13133)],
            lambda: health.answers(f"http://{host}:13133/"),
            environment={
                "COLLECTOR_HOST": bind,
                "COLLECTOR_PROCESSORS": f"[memory_limiter{sampler}]",
                "COLLECTOR_STORAGE": str(DATA / "collector"),
                "PROMSCALE_ENDPOINT": f"{host}:9202",
            },
        )
    return Part(
        "collector",
        # While promscale is away it keeps what it has, for an hour, and passes it on within a second of its return.
        [str(Path(importlib.util.find_spec("rotel").origin).with_name("rotel-agent")), "start"]
        + [f"--otlp-grpc-endpoint={bind}:4317", f"--otlp-http-endpoint={bind}:4318"]
        + ["--otlp-grpc-max-recv-msg-size-mib=16", f"--otlp-exporter-endpoint=http://{host}:9202"]
        + ["--otlp-exporter-batch-timeout=100ms", "--otlp-exporter-batch-max-size=2048"]
        + ["--otlp-exporter-request-timeout=30s", "--otlp-exporter-retry-initial-backoff=100ms"]
        + ["--otlp-exporter-retry-max-backoff=1s", "--otlp-exporter-retry-max-elapsed-time=3600s"],
        listens,
        lambda: health.accepts(host, 4317),
    )


@functools.cache
def _environment() -> Mapping[str, str]:
    """What says which parts there are and where they listen: ours, or if the stack runs already, the one of its start."""
    supervisord = _supervisord()
    return supervisord.info["environ"] if supervisord else os.environ


def _which(program: str) -> str | None:
    return shutil.which(program, path=_environment().get("PATH"))


def bind_address() -> str:
    """Where the stack listens; if it runs already, where it was told to when it was started."""
    return _environment().get("BIND_ADDRESS") or "127.0.0.1"


def reach_address() -> str:
    """Where the parts find each other, and we them."""
    return health.reach_address(bind_address())


def running() -> bool:
    return bool(_ours())


def check_ports() -> None:
    """Raises Trouble that names every port that is taken, and by whom."""
    health.check_ports([(part.name, address, port) for part in parts() for address, port in part.listens])


def start() -> float:
    """Start what does not run; wait until every part is healthy and the first trace can be read from the database.

    Returns how many seconds that took. Raises Trouble, OSError.
    """
    began = time.monotonic()
    with exclusive():
        if _supervisord():
            print("The local stack is running already, with the settings that it was started with.", flush=True)
        else:
            _stop()  # what a supervisord that was killed has left behind
            check_ports()
            LOGS.mkdir(parents=True, exist_ok=True)
            _check_disk()
            DATABASE.prepare()
            _launch()
        _wait_until_healthy()
    health.wait_for_a_trace(reach_address(), DATABASE.uri)
    return time.monotonic() - began


def _check_disk() -> None:
    """Raises Trouble where PostgreSQL would not start, or would crash soon, for lack of space."""
    free = shutil.disk_usage(DATA).free
    if free < MIN_FREE_BYTES:
        raise Trouble(
            f"the disk of {DATA} has {free / 10**6:,.0f} MB free, and PostgreSQL needs {MIN_FREE_BYTES / 10**6:,.0f} MB to"
            " start: free some of it elsewhere, the traces are kept; a smaller PROMSCALE_DISK_BUDGET then keeps it free"
        )


def stop() -> int:
    """Stop everything; returns how many processes there were. Raises Trouble when one remains."""
    with exclusive():
        return _stop()


def delete() -> None:
    """Stop everything and delete all data. Raises Trouble, OSError."""
    with exclusive():
        _stop()
        DATABASE.delete()
        if DATA.exists():
            shutil.rmtree(DATA)


def states() -> list[State]:
    """How each part is now, and supervisord before them."""
    found = [_state("supervisord", _supervisord(), lambda: True)]
    running = _running()
    return found + [_state(part.name, running.get(part.name), part.healthy) for part in parts()]


def _state(name: str, process: psutil.Process | None, healthy: Callable[[], bool]) -> State:
    if not process:
        return State(name, None, None, False)
    return State(name, process.pid, datetime.fromtimestamp(process.create_time()), healthy())


def store_status() -> str:
    """What promscale says of itself."""
    return health.store_status(reach_address())


def usage_report() -> str:
    """What the stored traces take on the disk."""
    return usage.report(DATABASE.uri)


def log_command(name: str | None) -> list[str]:
    """The command that follows the logs, or this part's. Raises Trouble where there are none."""
    files = sorted(LOGS.glob(f"{name or '*'}.log"))
    if not files:
        names = ", ".join(sorted(file.stem for file in LOGS.glob("*.log")))
        raise Trouble(f"there is no log {name!r}; there are: {names}" if names else "no logs: nothing was started yet")
    return ["tail", "-n", "20", "-F", *map(str, files)]


def _launch() -> None:
    configuration = DATA / "supervisord.conf"
    configuration.write_text(_configuration())
    host = reach_address()
    inside = f"localhost,127.0.0.1,{host}"
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:4317",
        **os.environ,
        **{f"{name.upper()}_URL": f"http://{host}:{port}" for name, port in SERVICES.items()},
        # A proxy between the parts would be of no use.
        "no_proxy": f"{os.environ.get('no_proxy', '')},{inside}",
        "NO_PROXY": f"{os.environ.get('NO_PROXY', '')},{inside}",
        "PYTHONUNBUFFERED": "1",
        MARK: str(CHECKOUT),
    }
    started = subprocess.run(
        [sys.executable, "-m", "local.supervisord", "-c", configuration],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if started.returncode:
        raise Trouble(f"supervisord did not start: {started.stderr.strip().splitlines()[-1]}")


def _configuration() -> str:
    """supervisord's."""

    def section(title: str, settings: dict[str, object]) -> str:
        lines = [f"{name}={str(value).replace('%', '%%')}" for name, value in settings.items()]
        return "\n".join([f"[{title}]", *lines, "", ""])

    text = section(
        "supervisord",
        {
            "user": os.getuid(),
            "directory": CHECKOUT,
            "pidfile": DATA / "supervisord.pid",
            "logfile": LOGS / "supervisord.log",
            "logfile_maxbytes": "1MB",
            "logfile_backups": 1,
        },
    )
    for priority, part in enumerate(parts()):
        text += section(
            f"program:{part.name}",
            {
                "command": shlex.join(part.command),
                "environment": ",".join(f'{name}="{value}"' for name, value in part.environment.items()),
                "user": part.user,
                "priority": priority,
                "autorestart": "true",
                "startretries": 1_000_000,  # never given up; the pause between two tries grows by a second each time
                "stopsignal": part.stop_signal,
                "stopwaitsecs": 30,
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": LOGS / f"{part.name}.log",
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 1,
            },
        )
    # One after the other is the order of stopping; as a group, the services are stopped together.
    first = [part.name in SERVICES for part in parts()].index(True)
    return text + section("group:services", {"programs": ",".join(SERVICES), "priority": first})


def _stop() -> int:
    """Returns how many processes there were. Raises Trouble when one remains."""
    count = len(_ours())
    supervisord = _supervisord()
    if supervisord:
        supervisord.terminate()
        health.wait(lambda: not _supervisord())
    for kill in (False, True):
        for process in _ours():
            gentle = signal.SIGINT if process.info["name"] == "postgres" else signal.SIGTERM
            with suppress(psutil.NoSuchProcess):  # ended by itself since
                process.send_signal(signal.SIGKILL if kill else gentle)
        health.wait(lambda: not _ours(), seconds=10)
    left = _ours()
    if left:
        raise Trouble(f"these processes do not end: PID {', '.join(str(process.pid) for process in left)}")
    return count


def _ours() -> list[psutil.Process]:
    """All processes of this checkout's stack, each with what is asked for here in its `info`."""
    servers = {process.pid for process in DATABASE.processes()}  # PostgreSQL writes titles over its environment
    return [
        process
        for process in psutil.process_iter(["environ", "ppid", "cmdline", "name"])
        if process.pid in servers or (process.info["environ"] or {}).get(MARK) == str(CHECKOUT)
    ]


def _supervisord() -> psutil.Process | None:
    return next((process for process in _ours() if "local.supervisord" in (process.info["cmdline"] or [])), None)


def _running() -> dict[str, psutil.Process]:
    """The process of each part by its name, whether or not supervisord is there to restart it."""
    ours = _ours()
    names = {process.pid: (process.info["environ"] or {}).get("SUPERVISOR_PROCESS_NAME") for process in ours}
    # What a part's process has started itself has the same name.
    return {names[process.pid]: process for process in ours if names[process.pid] != names.get(process.info["ppid"])}


def _wait_until_healthy() -> None:
    log = LOGS / "supervisord.log"
    said = log.stat().st_size if log.exists() else 0

    def dies(name: str) -> bool:
        news = log.read_text()[said:] if log.exists() else ""
        return news.count(f"exited: {name} ") > 3

    health.wait_until_healthy(
        lambda: next((part.name for part in parts() if not part.healthy()), None), dies, _last_line, store_status
    )


def _last_line(name: str) -> str:
    log = LOGS / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""
