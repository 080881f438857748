"""The tracing demo.

    ./run.sh                start it; return when every part is healthy and the first trace is in the database
    ./run.sh docker | local | original
                            the same, with the stack chosen by hand
    ./run.sh status         each part: running, healthy, since when; spans stored, disk use and budget
    ./run.sh logs [NAME]    follow the logs, or one of them
    ./run.sh psql [ARGS]    psql on the trace database
    ./run.sh down           stop it; keep the data
    ./run.sh reset          stop it and delete the data
    ./run.sh test [ARGS]    run the tests (ARGS: pytest's)
    ./run.sh check [ARGS]   check style, types, SQL, shell scripts and spelling (ARGS: of `pre-commit run`)
    ./run.sh bench [ingest|query [ARGS]]
                            run the benchmarks, or one of them (ARGS: --help lists them)
    ./run.sh help           this

Settings are environment variables. BIND_ADDRESS (127.0.0.1) is where it listens. As soon as the generator is healthy,
LOAD_USERS (3) ask it for passwords, LOAD_RATE (1) times a second in all. PROMSCALE_DISK_BUDGET (2GB) is what the
database may take. OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG are OpenTelemetry's; its other
variables, and those of PostgreSQL's clients and Python, reach no part.

Where it runs already, LOAD_USERS=6 ./run.sh restarts the parts that this setting is for. The local stack keeps the
settings that are not named then, and LOAD_USERS= ./run.sh names the default; in containers what is not named has its
default.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable

from local import CHECKOUT, Trouble, compose, environment, health, postgres, report, stack

BENCHMARKS = ("ingest", "query")
CONNECT = ["-h", "localhost", "-p", str(stack.DATABASE.port), "-d", "postgres", "-U", "postgres"]


def stacks() -> list:
    """Those that can be had here."""
    return [stack] if compose.trouble() else [stack, compose.DOCKER, compose.ORIGINAL]


def running() -> list:
    return [each for each in stacks() if each.running()]


def default() -> int:
    for found in running():
        return start(found)
    reason = compose.trouble()
    if reason:
        print(f"Starting the local stack, for {reason}.", flush=True)
        return local()
    print("Starting the full stack, for Docker is here. The local stack: ./run.sh local", flush=True)
    return docker()


def local() -> int:
    return start(stack)


def docker() -> int:
    return start(compose.DOCKER)


def original() -> int:
    return start(compose.ORIGINAL)


def start(chosen) -> int:
    for other in running():
        if other is not chosen:
            raise Trouble(f"the {other.TITLE} runs here, on the same ports; ./run.sh down stops it")
    bind = os.environ.get("BIND_ADDRESS") or "127.0.0.1"
    if not bind.startswith(("127.", "localhost")):
        print(
            f"Warning: BIND_ADDRESS={bind} lets everyone use this who can reach this machine; all but"
            " the database, which has no password and listens on this machine only.",
            flush=True,
        )
    seconds = chosen.start()
    host = chosen.reach_address().replace("127.0.0.1", "localhost")
    print(
        f"Healthy. Set-up took {os.environ.get('SETUP_SECONDS', 0)} s,"
        f" from the start to the first trace in the database {seconds:.1f} s.\n"
        f"\n"
        f"  a password     http://{host}:{health.GENERATOR_PORT}/\n"
        + "".join(f"  {what:<15}http://{host}:{port}/\n" for what, port in chosen.PAGES.items())
        + f"  SQL on traces  psql {' '.join(CONNECT)}       (or ./run.sh psql)\n"
        f"  the examples   ./run.sh psql -f queries/01-request-rates.sql ... 06-downstream-spans.sql\n"
        f"  more           ./run.sh status, ./run.sh logs, ./run.sh down, ./run.sh help"
    )
    return 0


def status() -> int:
    chosen = (running() or [stack])[0]
    states = chosen.states()
    print(f"{'part':<12}{'state':<22}{'since':<22}PID")
    for state in states:
        words = "healthy" if state.healthy else "running, not healthy" if state.pid else "not running"
        since = f"{state.since:%Y-%m-%d %H:%M:%S}" if state.since else "-"
        print(f"{state.name:<12}{words:<22}{since:<22}{state.pid or '-'}")
    for state in states:
        if state.name == "promscale" and not state.healthy:
            print(f"\npromscale: {chosen.store_status()}")
    print(f"\ncollector: {chosen.collector_report()}")
    print(f"\n{chosen.usage_report()}")
    return 0 if all(state.healthy for state in states) else 1


def logs(name: str | None = None) -> int:
    command = (running() or [stack])[0].log_command(name)
    os.execvp(command[0], command)


def psql(*arguments: str) -> int:
    program = postgres.psql()
    os.execv(program, [program, *CONNECT, *arguments])


def down() -> int:
    counts = {each: each.stop() for each in stacks()}
    for each, count in counts.items():
        if count:
            print(f"Stopped: {count} {each.UNIT} ended, none is left.")
    if not any(counts.values()):
        print("Nothing was running.")
    return 0


def reset() -> int:
    for each in stacks():
        each.delete()
    print("Stopped, and the data deleted.")
    return 0


def test(*arguments: str) -> int:
    environment.install("test")
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "--numprocesses=auto", "--maxprocesses=4", *arguments])


def check(*arguments: str) -> int:
    environment.install("check")
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "pre_commit", "run", *(arguments or ["--all-files"])])


def bench(name: str = "", *arguments: str) -> int:
    names = [name] if name else list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        raise Trouble(f"there is no benchmark {unknown.pop()!r}; there are: {', '.join(BENCHMARKS)}")
    environment.install("test")
    os.chdir(CHECKOUT)
    for each in names:
        print(f"\n{each}\n", flush=True)
        ended = subprocess.run([sys.executable, "-m", f"benchmarks.{each}", *arguments])
        if ended.returncode:
            return ended.returncode
    return 0


def help() -> int:
    print(__doc__.strip())
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    command.__name__: command
    for command in (local, docker, original, status, logs, psql, down, reset, test, check, bench, help)
}


def main(arguments: list[str]) -> int:
    if not arguments:
        return default()
    name, *rest = arguments
    if name in ("-h", "--help"):
        name = "help"
    if name not in COMMANDS:
        raise Trouble(f"there is no command {name!r}; ./run.sh help lists them")
    try:
        inspect.signature(COMMANDS[name]).bind(*rest)
    except TypeError:
        raise Trouble(f"{name} does not take {' '.join(rest)!r}; ./run.sh help says what it takes") from None
    return COMMANDS[name](*rest)


if __name__ == "__main__":
    sys.exit(report(lambda: main(sys.argv[1:])))
