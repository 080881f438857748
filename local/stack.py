"""The processes of the local stack: what they are, what healthy means for each, how they start and stop together.

supervisord (PyPI: supervisor) starts them, restarts what dies, stops them in order and rotates their logs. It gets no
control socket: whatever else there is to know is read from the process table, and so is right even when supervisord
itself was killed. A process is ours if it has inherited an environment variable that holds this checkout's path.
"""

import errno
import functools
import http.client
import importlib.util
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psutil
import psycopg

from local import CHECKOUT, DATA, LOGS, Trouble, exclusive
from local.postgres import Cluster, account

SERVICES = {"digit": 5051, "special": 5052, "lower": 5053, "upper": 5054, "generator": 5050}
DATABASE = Cluster(DATA / "postgres", 5999)
MARK = "TRACING_DEMO"
PATIENCE_SECONDS = 120


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
            lambda: _query("select true") == (True,),
            user=account().pw_uid,
            stop_signal="INT",  # at once, and losing nothing; TERM would wait until every psql has ended
        ),
        Part(
            "promscale",
            [sys.executable, "-m", "promscale"],
            [(bind, 9201), (bind, 9202)],
            lambda: _answers(f"http://{host}:9201/readyz"),
            environment={
                "PROMSCALE_DB_URI": DATABASE.uri,
                "PROMSCALE_WEB_LISTEN_ADDRESS": f"{bind}:9201",
                "PROMSCALE_TRACING_GRPC_SERVER_ADDRESS": f"{bind}:9202",
            },
        ),
        Part(
            "collector",
            # While promscale is away it keeps what it has, for an hour, and passes it on within a second of its return.
            [str(Path(importlib.util.find_spec("rotel").origin).with_name("rotel-agent")), "start"]
            + [f"--otlp-grpc-endpoint={bind}:4317", f"--otlp-http-endpoint={bind}:4318"]
            + ["--otlp-grpc-max-recv-msg-size-mib=16", f"--otlp-exporter-endpoint=http://{host}:9202"]
            + ["--otlp-exporter-batch-timeout=100ms", "--otlp-exporter-batch-max-size=2048"]
            + ["--otlp-exporter-request-timeout=30s", "--otlp-exporter-retry-initial-backoff=100ms"]
            + ["--otlp-exporter-retry-max-backoff=1s", "--otlp-exporter-retry-max-elapsed-time=3600s"],
            [(bind, 4317), (bind, 4318)],
            lambda: _accepts(host, 4317),
        ),
        *(
            Part(
                name,
                [sys.executable, "-m", "gunicorn", "-c", "telemetry/gunicorn.py", f"{name}.app:app"],
                [(bind, port)],
                lambda port=port: _answers(f"http://{host}:{port}/healthz"),
                environment={"PORT": str(port)},
            )
            for name, port in SERVICES.items()
        ),
        Part("load", [sys.executable, "-m", "load"], [], lambda: "load" in _running()),
    ]


@functools.cache
def bind_address() -> str:
    """Where the stack listens; if it runs already, where it was told to when it was started."""
    supervisord = _supervisord()
    return (supervisord.info["environ"] if supervisord else os.environ).get("BIND_ADDRESS") or "127.0.0.1"


def reach_address() -> str:
    """Where the parts find each other, and we them."""
    return "127.0.0.1" if bind_address() in ("0.0.0.0", "localhost") else bind_address()


def check_ports() -> None:
    """Raises Trouble that names every port that is taken, and by whom."""
    taken = []
    for part in parts():
        for address, port in part.listens:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((address, port))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        raise Trouble(
                            f"cannot listen on {address}:{port}: {error}; BIND_ADDRESS must be an IPv4 address of this"
                            " machine, or 0.0.0.0 for all"
                        ) from None
                    taken.append(f"port {port} ({part.name}) is taken by {_owner(port)}")
    if taken:
        raise Trouble("; ".join(taken) + "; stop that and run this again")


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
            DATABASE.prepare()
            _launch()
        _wait_until_healthy()
    _wait_for_a_trace()
    return time.monotonic() - began


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


@dataclass(frozen=True)
class State:
    name: str
    pid: int | None  # None: does not run
    since: datetime | None
    healthy: bool


def states() -> list[State]:
    """How each part is now, and supervisord before them."""
    found = [_state("supervisord", _supervisord(), lambda: True)]
    running = _running()
    return found + [_state(part.name, running.get(part.name), part.healthy) for part in parts()]


def _state(name: str, process: psutil.Process | None, healthy: Callable[[], bool]) -> State:
    if not process:
        return State(name, None, None, False)
    return State(name, process.pid, datetime.fromtimestamp(process.create_time()), healthy())


def stored_spans() -> int | None:
    """How many spans the database holds; None if it cannot be asked."""
    row = _query("select count(*) from ps_trace.span")
    return row and row[0]


def _owner(port: int) -> str:
    with suppress(psutil.Error):  # macOS tells only root
        for connection in psutil.net_connections("tcp"):
            if connection.pid and connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                return f"PID {connection.pid} ({' '.join(psutil.Process(connection.pid).cmdline())[:80]})"
    return "a process of another user"


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
        _wait(lambda: not _supervisord())
    for kill in (False, True):
        for process in _ours():
            gentle = signal.SIGINT if process.info["name"] == "postgres" else signal.SIGTERM
            with suppress(psutil.NoSuchProcess):  # ended by itself since
                process.send_signal(signal.SIGKILL if kill else gentle)
        _wait(lambda: not _ours(), seconds=10)
    left = _ours()
    if left:
        raise Trouble(f"these processes do not end: PID {', '.join(str(process.pid) for process in left)}")
    return count


def _wait(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Until it holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


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
    deadline = time.monotonic() + PATIENCE_SECONDS
    waiting = parts()
    while waiting := [part for part in waiting if not part.healthy()]:
        name = waiting[0].name
        news = log.read_text()[said:] if log.exists() else ""
        dies = news.count(f"exited: {name} ") > 3
        if dies or time.monotonic() > deadline:
            trouble = "dies again and again" if dies else f"is not healthy after {PATIENCE_SECONDS} s"
            raise Trouble(
                f"{name} {trouble}; its last word: {_last_line(name)!r}; ./run.sh logs {name} shows all,"
                " ./run.sh down stops everything" + (", ./run.sh reset deletes the data" if name == "postgres" else "")
            )
        time.sleep(0.1)


def _last_line(name: str) -> str:
    log = LOGS / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def _wait_for_a_trace() -> None:
    """Ask for a password ourselves, and wait until its trace can be read from the database. Raises Trouble."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    stored = "select count(distinct service_name) > 1 and bool_or(is_root_span) from ps_trace.span where trace_id = %s"
    trace_id = None
    while not trace_id or _query(stored, trace_id) != (True,):
        trace_id = trace_id or _password_trace()
        if time.monotonic() > deadline:
            raise Trouble(
                f"all parts are healthy, but the trace {trace_id} did not reach the database in {PATIENCE_SECONDS} s;"
                " ./run.sh logs may say why, unless an OTEL_ variable of yours turns tracing off"
            )
        time.sleep(0.05)


def _password_trace() -> str | None:
    """The trace id of a password made now. One that failed, as some are to, has one too."""
    try:
        with _open(f"http://{reach_address()}:{SERVICES['generator']}/", 60) as answer:
            return json.load(answer)["trace_id"]
    except urllib.error.HTTPError as answer:
        return json.load(answer)["trace_id"]
    except OSError:  # the generator was just healthy, and is not any more
        return None


def _query(statement: str, *parameters: object) -> tuple | None:
    """The first row, or None if there is none or PostgreSQL does not answer, or not yet in full."""
    try:
        with psycopg.connect(DATABASE.uri, connect_timeout=2) as connection:
            return connection.execute(statement, parameters).fetchone()
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return None


def _answers(url: str) -> bool:
    try:
        with _open(url, 2):
            return True
    except (OSError, http.client.HTTPException):
        return False


def _open(url: str, timeout: float) -> http.client.HTTPResponse:
    """Without the proxy that the environment may name. Raises urllib.error.HTTPError for all but 2xx, OSError."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=timeout)


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
        return True
    except OSError:
        return False
