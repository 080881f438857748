"""The processes of the local stack: what they are, what healthy means for each, how they start and stop together.

supervisord (PyPI: supervisor) starts them, restarts what dies, stops them in order and rotates their logs. It gets no
control socket: whatever else there is to know is read from the process table, and so is right even when supervisord
itself was killed. A process is ours if it has inherited an environment variable that holds this checkout's path.
"""

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

import psutil

from local import CHECKOUT, DATA, LOGS, Trouble, exclusive, health, usage
from local.environment import PYTHON
from local.health import ON_DISK, State
from local.postgres import Cluster, account

SERVICES = {"digit": 5051, "special": 5052, "lower": 5053, "upper": 5054, "generator": 5050}
DATABASE = Cluster(DATA / "postgres", 5999)
MARK = "TRACING_DEMO"
TITLE = "local stack"
# For a segment of the write-ahead log, and what PostgreSQL writes while it recovers.
MIN_FREE_BYTES = 100 * 10**6
UNIT = "processes"
STOP_SECONDS = 30
PAGES = {"dashboards": 3000, "traces": 16686}
PLAN = DATA / "parts.json"
ROTEL = "rotel-agent"

# Which parts get which of the user's environment variables. They get no other but these and SYSTEM: one that is meant
# for another program of PostgreSQL's, Python's or OpenTelemetry's would stop them from working.
TRACED = {*SERVICES, "load"}
SETTINGS = {
    "BIND_ADDRESS": set(SERVICES),
    "ALLOWED_HOSTS": {*SERVICES, *PAGES, "promscale"},
    "JAEGER_URL": {"generator"},
    "LOAD_*": {"load"},
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
    listens: list[tuple[str, int]]
    healthy: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    user: int = os.getuid()
    stop_signal: str = "TERM"
    memory_bytes: int | None = None  # it ends when it needs more


def parts(variables: Mapping[str, str] | None = None) -> list[Part]:
    """In the order in which they need each other. They are stopped in the opposite one: first what makes spans, then
    what passes them on, last what keeps them. `variables` say which there are and where they listen."""
    variables = _variables() if variables is None else variables
    bind = _bind_address(variables)
    host = health.reach_address(bind)
    return [
        Part(
            "postgres",
            DATABASE.server,
            [("127.0.0.1", DATABASE.port)],
            lambda: health.query(DATABASE.uri, "select true") == (True,),
            user=account().pw_uid,
            stop_signal="INT",  # at once, and losing nothing; TERM would wait until every psql has ended
            memory_bytes=512 * 2**20,  # of each session, so that one statement cannot take the memory of all
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
        _collector(bind, host, variables),
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
        _traces(bind, host, variables),
    ]


def _traces(bind: str, host: str, variables: Mapping[str, str]) -> Part:
    """Jaeger as in the full stack, where there is one; else the explorer's pages under its paths."""
    jaeger = shutil.which("jaeger", path=variables.get("PATH"))
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


def _collector(bind: str, host: str, variables: Mapping[str, str]) -> Part:
    """OpenTelemetry's Collector as in the full stack, where there is one; else rotel."""
    listens = [(bind, 4317), (bind, 4318)]
    path = variables.get("PATH")
    otelcol = shutil.which("otelcol-contrib", path=path) or shutil.which("otelcol", path=path)
    if otelcol:
        sampler = ", probabilistic_sampler" if variables.get("TRACE_SAMPLING_PERCENT") else ""
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
        # docs/faults.md says what these are for.
        [str(Path(importlib.util.find_spec("rotel").origin).with_name(ROTEL)), "start"]
        + [f"--otlp-grpc-endpoint={bind}:4317", f"--otlp-http-endpoint={bind}:4318"]
        + ["--otlp-receiver-metrics-disabled", "--otlp-receiver-logs-disabled", "--otlp-grpc-max-recv-msg-size-mib=4"]
        + [f"--otlp-exporter-endpoint=http://{host}:9202", "--otlp-exporter-request-timeout=30s"]
        # A message of more spans than a batch may have is lost, and what is in the batch with it. No message that it
        # takes holds more spans, of 42 bytes at least, than this.
        + ["--otlp-exporter-batch-timeout=20ms", "--otlp-exporter-batch-max-size=500000"]
        + ["--otlp-exporter-retry-initial-backoff=100ms", "--otlp-exporter-retry-max-backoff=1s"]
        + ["--otlp-exporter-retry-max-elapsed-time=3600s"],
        listens,
        lambda: health.accepts(host, 4317),
        memory_bytes=400 * 10**6,
    )


def collector_report() -> str:
    """What an acknowledgement of the Collector is worth, and what it has lost."""
    collector = next(part for part in parts() if part.name == "collector")
    if Path(collector.command[0]).name != ROTEL:
        return ON_DISK
    log = "".join(file.read_text(errors="replace") for file in LOGS.glob("collector.log*"))
    return (
        "a span that it acknowledged is in its memory (rotel), and lost when it is killed. As far as its logs go back,"
        f" batches given up: {log.count('Exporting failed, dropping data')},"
        f" ends for want of memory: {log.count('memory allocation of')}"
    )


@functools.cache
def _variables() -> Mapping[str, str]:
    """What the running stack was started with, and what was changed since; if none runs, what one would be."""
    started_with = _plan().get("variables") if running() else None
    return started_with or _chosen(os.environ, *SYSTEM, *SETTINGS)


def _chosen(variables: Mapping[str, str], *patterns: str) -> dict[str, str]:
    """Those whose names match."""
    return {name: value for name, value in variables.items() if any(fnmatchcase(name, each) for each in patterns)}


def _bind_address(variables: Mapping[str, str]) -> str:
    return variables.get("BIND_ADDRESS") or "127.0.0.1"


def reach_address() -> str:
    """Where the parts find each other, and we them."""
    return health.reach_address(_bind_address(_variables()))


def running() -> bool:
    return bool(_ours())


def check_ports(variables: Mapping[str, str] | None = None) -> None:
    """Raises Trouble that names every port that is taken, and by whom."""
    health.check_ports([(part.name, address, port) for part in parts(variables) for address, port in part.listens])


def start() -> float:
    """Start what does not run, and anew what other settings are named for than it runs with; wait until every part is
    healthy and the first trace can be read from the database.

    Returns how many seconds that took. Raises Trouble, OSError.
    """
    began = time.monotonic()
    with exclusive():
        before = _plan() if running() else {}
        variables = {**before.get("variables", _chosen(os.environ, *SYSTEM)), **_chosen(os.environ, *SETTINGS)}
        if before and _supervisord() and before["parts"].keys() == {part.name for part in parts(variables)}:
            _change(before, variables)
        else:
            _stop()  # what a supervisord that was killed has left behind
            check_ports(variables)
            LOGS.mkdir(parents=True, exist_ok=True)
            _check_disk()
            DATABASE.prepare()
            _write_plan(variables)
            _launch(variables)
        _wait_until_healthy()
    health.wait_for_a_trace(reach_address(), DATABASE.uri)
    return time.monotonic() - began


def _plan() -> dict:
    """{"variables": of the user's, "parts": {name: what local/part.py makes of itself}}, as last written; or {}."""
    return json.loads(PLAN.read_text()) if PLAN.exists() else {}


def _write_plan(variables: Mapping[str, str]) -> None:
    host = health.reach_address(_bind_address(variables))
    traced = {
        **{f"{name.upper()}_URL": f"http://{host}:{port}" for name, port in SERVICES.items()},
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:4317",
    }
    shared = {
        **_chosen(variables, *SYSTEM),
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        MARK: str(CHECKOUT),
    }
    plan = {}
    for part in parts(variables):
        settings = _chosen(variables, *(pattern for pattern, names in SETTINGS.items() if part.name in names))
        if part.name in TRACED:
            settings |= {**traced, "OTEL_SERVICE_NAME": part.name}  # which outdoes OTEL_RESOURCE_ATTRIBUTES
        plan[part.name] = {
            "command": part.command,
            "environment": {**shared, **settings, **part.environment},
            "user": part.user,
            "memory_bytes": part.memory_bytes,
        }
    unfinished = PLAN.with_suffix(".unfinished")
    unfinished.touch(mode=0o600)
    unfinished.write_text(json.dumps({"variables": dict(variables), "parts": plan}, indent=1))
    unfinished.replace(PLAN)
    _variables.cache_clear()


def _change(before: dict, variables: Mapping[str, str]) -> None:
    """Restart the parts of the running stack that these variables make others than they were `before`."""
    new_addresses = {address for part in parts(variables) for address, _ in part.listens}
    health.check_ports([("BIND_ADDRESS", address, 0) for address in new_addresses])
    _write_plan(variables)
    after = _plan()["parts"]
    changed = [part for part in parts() if after[part.name] != before["parts"][part.name]]
    if not changed:
        print("The local stack is running already, with these settings.", flush=True)
        return
    print(f"Restarting what has other settings now: {', '.join(part.name for part in changed)}", flush=True)
    processes = _running()
    ending = [processes[part.name] for part in changed if part.name in processes]
    for part in reversed(changed):
        if process := processes.get(part.name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.Signals[f"SIG{part.stop_signal}"])
    _, left = psutil.wait_procs(ending, STOP_SECONDS)
    for process in left:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(left)


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


def _launch(variables: Mapping[str, str]) -> None:
    configuration = DATA / "supervisord.conf"
    configuration.write_text(_configuration(parts(variables)))
    started = subprocess.run(
        [sys.executable, "-m", "local.supervisord", "-c", configuration.relative_to(CHECKOUT)],
        env={**_chosen(os.environ, *SYSTEM), "PYTHONPATH": str(CHECKOUT), MARK: str(CHECKOUT)},
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if started.returncode:
        raise Trouble(f"supervisord did not start: {started.stderr.strip().splitlines()[-1]}")


def _configuration(parts: list[Part]) -> str:
    """supervisord's. All paths are relative to the checkout, in whose own there may be what has a meaning here."""

    def section(title: str, settings: dict[str, object]) -> str:
        return "\n".join([f"[{title}]", *(f"{name}={value}" for name, value in settings.items()), "", ""])

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
                "startretries": 1_000_000,  # never given up; the pause between two tries grows by a second each time
                "stopsignal": part.stop_signal,
                "stopwaitsecs": STOP_SECONDS,
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": logs / f"{part.name}.log",
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 1,
            },
        )
    # One after the other is the order of stopping; as a group, the services are stopped together.
    first = [part.name in SERVICES for part in parts].index(True)
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
