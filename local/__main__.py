"""The tracing demo.

    ./run.sh                start it; return when every part is healthy and the first trace is in the database
    ./run.sh docker | local | original
                            the same, with the stack chosen by hand
    ./run.sh status         each part: running, healthy, since when; spans stored so far
    ./run.sh logs [NAME]    follow the logs, or one of them
    ./run.sh psql [ARGS]    psql on the trace database
    ./run.sh down           stop it; keep the data
    ./run.sh reset          stop it and delete the data
    ./run.sh test [ARGS]    run the tests (ARGS: pytest's)
    ./run.sh bench [ingest|query [ARGS]]
                            run the benchmarks, or one of them (ARGS: --help lists them)
    ./run.sh help           this

BIND_ADDRESS (127.0.0.1) is where it listens, LOAD_USERS (3) call for passwords all the time, at most LOAD_RATE (no
limit) times a second. OTEL_ variables reach every part.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable

from local import CHECKOUT, LOGS, Trouble, environment, postgres, report, stack

BENCHMARKS = ("ingest", "query")
CONNECT = ["-h", "localhost", "-p", str(stack.DATABASE.port), "-d", "postgres", "-U", "postgres"]


def default() -> int:
    print("Starting the local stack, for this checkout has no Docker one yet.", flush=True)
    return local()


def local() -> int:
    host = stack.reach_address().replace("127.0.0.1", "localhost")
    if not stack.bind_address().startswith(("127.", "localhost")):
        print(
            f"Warning: BIND_ADDRESS={stack.bind_address()} lets everyone use this who can reach this machine; all but"
            " the database, which has no password and listens on this machine only.",
            flush=True,
        )
    seconds = stack.start()
    print(
        f"Healthy. Set-up took {os.environ.get('SETUP_SECONDS', 0)} s,"
        f" from the start to the first trace in the database {seconds:.1f} s.\n"
        f"\n"
        f"  a password     http://{host}:{stack.SERVICES['generator']}/\n"
        f"  SQL on traces  psql {' '.join(CONNECT)}       (or ./run.sh psql)\n"
        f"  the examples   ./run.sh psql -f queries/01-request-rates.sql ... 06-downstream-spans.sql\n"
        f"  more           ./run.sh status, ./run.sh logs, ./run.sh down, ./run.sh help"
    )
    return 0


def status() -> int:
    states = stack.states()
    print(f"{'part':<12}{'state':<22}{'since':<22}PID")
    for state in states:
        words = "healthy" if state.healthy else "running, not healthy" if state.pid else "not running"
        since = f"{state.since:%Y-%m-%d %H:%M:%S}" if state.since else "-"
        print(f"{state.name:<12}{words:<22}{since:<22}{state.pid or '-'}")
    spans = stack.stored_spans()
    print("\nspans stored so far: " + ("unknown, for the database does not answer" if spans is None else str(spans)))
    return 0 if all(state.healthy for state in states) else 1


def logs(name: str = "*") -> int:
    files = sorted(LOGS.glob(f"{name}.log"))
    if not files:
        names = ", ".join(sorted(file.stem for file in LOGS.glob("*.log")))
        raise Trouble(f"there is no log {name!r}; there are: {names}" if names else "no logs: nothing was started yet")
    os.execvp("tail", ["tail", "-n", "20", "-F", *map(str, files)])


def psql(*arguments: str) -> int:
    program = postgres.psql()
    os.execv(program, [program, *CONNECT, *arguments])


def down() -> int:
    count = stack.stop()
    print(f"Stopped: {count} processes ended, none is left." if count else "Nothing was running.")
    return 0


def reset() -> int:
    stack.delete()
    print("Stopped, and the data deleted.")
    return 0


def test(*arguments: str) -> int:
    environment.install("test")
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *arguments])


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
    command.__name__: command for command in (local, status, logs, psql, down, reset, test, bench, help)
}


def main(arguments: list[str]) -> int:
    if not arguments:
        return default()
    name, *rest = arguments
    if name in ("-h", "--help"):
        name = "help"
    if name in ("docker", "original"):
        raise Trouble(f"{name!r} does not exist yet; ./run.sh help lists what does")
    if name not in COMMANDS:
        raise Trouble(f"there is no command {name!r}; ./run.sh help lists them")
    try:
        inspect.signature(COMMANDS[name]).bind(*rest)
    except TypeError:
        raise Trouble(f"{name} does not take {' '.join(rest)!r}; ./run.sh help says what it takes") from None
    return COMMANDS[name](*rest)


if __name__ == "__main__":
    sys.exit(report(lambda: main(sys.argv[1:])))
