"""The tracing demo.

    ./run.sh                start it; return when every part is healthy and the first trace is in the database
    ./run.sh docker | local | citus | original
                            the same, with a stack of your choice
    ./run.sh kubernetes [CONTEXT]
                            the same in a Kubernetes cluster: that of kubectl's current context, if it is on this
                            machine, or of another one that you name
    ./run.sh status         each part: running, healthy, since when; spans stored, disk use and budget
    ./run.sh logs [NAME]    follow the logs of all parts, or of one
    ./run.sh psql [ARGS]    psql on the trace database
    ./run.sh faults         list the faults, and which variant of each is on
    ./run.sh faults set FLAG VARIANT [FLAG VARIANT ...]
                            switch faults
    ./run.sh faults off     switch all faults off
    ./run.sh faults reset   switch everything to its default, also the traffic and the sampling
    ./run.sh load [--users N] [--rate R] [--seed S]
                            print or change the traffic
    ./run.sh sampling [--percent P] [--tail-latency-ms N]
                            print or change the percentage of traces that are recorded, and of the others those with
                            an error and those that last N ms
    ./run.sh case [--seed N | --give-up]
                            start a case: one hidden fault, which is to be found in the traces; or end it and show the
                            fault; or print whether one is open
    ./run.sh solve SERVICE FAULT
                            whether that is the fault of the open case; the right answer ends it
    ./run.sh export --format parquet|otlp|otlp-json|csv DIR
                            write the traces of the last hour to files (--from, --to, --where SQL, --layout; --help)
    ./run.sh import PATH... store the spans of files and folders: OTLP protobuf, OTLP/JSON lines, Jaeger's JSON
    ./run.sh experiment SCENARIO --seed N --out DIR [--blind]
                            run faults by a scenario, verify their effects, write the traces and the truth
    ./run.sh score ANSWERS TRUTH | --baseline NAME TRUTH
                            how high rankings of suspects have the causes
    ./run.sh mcp            a server of the Model Context Protocol on stdin and stdout: an assistant reads the traces
    ./run.sh down           stop it; keep the data
    ./run.sh reset          stop it and delete the data
    ./run.sh test [ARGS]    run the tests (ARGS: pytest's)
    ./run.sh check [ARGS]   check style, types, SQL, shell scripts and spelling (ARGS: of `pre-commit run`)
    ./run.sh bench [ingest | query | start | flags | transfer | scale [ARGS]]
                            run the benchmarks, or one of them (ARGS: --help lists them)
    ./run.sh help           print this text

Settings are environment variables. BIND_ADDRESS (127.0.0.1) is the address to listen on. LOAD_USERS (3) is the number
of simulated users, LOAD_RATE (1) the number of passwords per second that they request together. PROMSCALE_DISK_BUDGET
(2GB) limits the size of the database. DEMO_SEED, a whole number, makes the same requests and faults each time.
DEMO_FAULT_LABELS=off hides in the traces what faults did. DEMO_INSTRUMENTATION=off makes no traces, and auto those of
opentelemetry-instrument. DEMO_TOKEN is the token that changes of the faults need.
OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG are OpenTelemetry's. No other variables of
OpenTelemetry, PostgreSQL or Python reach any part.

With a running stack, LOAD_USERS=6 ./run.sh restarts the parts that use the setting, and ./run.sh the services whose
code was changed. The local stack then keeps the settings that you do not name, and LOAD_USERS= ./run.sh restores the
default; containers get the default for each setting that you do not name.
"""

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from faults import cases
from faults.flags import CONTROLS, OFF
from local import CHECKOUT, CommandError, compose, control, encoder, environment, exit_code, health, postgres, stack
from local import kubernetes as kubernetes_stack
from local.arguments import Parser
from telemetry.services import FAULTS_PORT, POSTGRES_PORT, SERVICES

BENCHMARKS = ("ingest", "query", "start", "flags", "transfer", "scale")
CONNECTION = ["-h", "localhost", "-p", str(POSTGRES_PORT), "-d", "postgres", "-U", "postgres"]


class Stack(Protocol):
    """What the commands need of a stack: the modules `stack` and `kubernetes`, or an object of `compose`."""

    @property
    def TITLE(self) -> str: ...
    @property
    def PAGES(self) -> Mapping[str, int]: ...
    @property
    def UNIT(self) -> str: ...
    def running(self) -> bool: ...
    def start(self) -> tuple[float, bool]: ...
    def stop(self) -> int: ...
    def delete(self) -> None: ...
    def states(self) -> list[health.State]: ...
    def store_status(self) -> str: ...
    def encoder_report(self) -> str: ...
    def collector_report(self) -> str: ...
    def usage_report(self) -> str: ...
    def log_command(self, name: str | None) -> list[str]: ...
    def reach_address(self) -> str: ...
    def token(self) -> str: ...


def available_stacks() -> list[Stack]:
    """The Kubernetes stack first, because the local one's data, which a reset deletes, has its context."""
    clusters: list[Stack] = [kubernetes_stack] if kubernetes_stack.is_chosen() else []
    containers: list[Stack] = [] if compose.unavailable_reason() else [*compose.STACKS]
    return [*clusters, stack, *containers]


def running_stacks() -> list[Stack]:
    return [candidate for candidate in available_stacks() if candidate.running()]


def chosen_stack() -> Stack:
    """The running stack, or else the local one."""
    return next(iter(running_stacks()), stack)


def default() -> int:
    for running in running_stacks():
        return start(running)
    reason = compose.unavailable_reason()
    if reason:
        print(f"Starting the local stack, because {reason}.", flush=True)
        return local()
    print("Starting the full stack, because a Docker engine answers. For the local stack: ./run.sh local", flush=True)
    return docker()


def local() -> int:
    return start(stack)


def docker() -> int:
    return start(compose.DOCKER)


def citus() -> int:
    return start(compose.CITUS)


def original() -> int:
    return start(compose.ORIGINAL)


def kubernetes(context: str | None = None) -> int:
    kubernetes_stack.choose(context)
    return start(kubernetes_stack)


def start(chosen: Stack) -> int:
    for other in running_stacks():
        if other is not chosen:
            raise CommandError(f"the {other.TITLE} is running on the same ports; stop it with ./run.sh down")
    bind = os.environ.get("BIND_ADDRESS") or "127.0.0.1"
    if not bind.startswith(("127.", "localhost")):
        print(
            f"Warning: with BIND_ADDRESS={bind}, everyone who can reach this machine can use all parts except the"
            " database, which has no password and listens on loopback only.",
            flush=True,
        )
    seconds, traced = chosen.start()
    host, token = chosen.reach_address().replace("127.0.0.1", "localhost"), chosen.token()
    first = "the first trace in the database" if traced else "the first password"
    untraced = "" if traced else "There are no traces, because DEMO_INSTRUMENTATION is off.\n"
    print(
        f"Healthy. Set-up took {os.environ.get('SETUP_SECONDS', '0')} s,"
        f" from the start to {first} {seconds:.1f} s.\n"
        f"{untraced}"
        f"\n"
        f"  a password     http://{host}:{SERVICES['generator']}/\n"
        + "".join(f"  {page:<15}http://{host}:{port}/\n" for page, port in chosen.PAGES.items())
        + f"  faults         http://{host}:{FAULTS_PORT}/{f'   changes need the token {token}' if token else ''}\n"
        + f"  SQL on traces  psql {' '.join(CONNECTION)}       (or ./run.sh psql)\n"
        f"  the examples   ./run.sh psql -f queries/01-request-rates.sql ... 06-downstream-spans.sql\n"
        f"  more           ./run.sh status, ./run.sh logs, ./run.sh down, ./run.sh help"
    )
    return 0


def status() -> int:
    chosen = chosen_stack()
    states = chosen.states()
    print(f"{'part':<12}{'state':<22}{'since':<22}PID")
    for state in states:
        words = "healthy" if state.healthy else "running, not healthy" if state.since else "not running"
        since = f"{state.since:%Y-%m-%d %H:%M:%S}" if state.since else "-"
        print(f"{state.name:<12}{words:<22}{since:<22}{state.pid or '-'}")
    for state in states:
        if state.name == "promscale" and not state.healthy:
            print(f"\npromscale: {chosen.store_status()}")
    print(f"\nencoder: {chosen.encoder_report()}")
    print(f"\ncollector: {chosen.collector_report()}")
    print(f"\n{chosen.usage_report()}")
    return 0 if all(state.healthy for state in states) else 1


def logs(name: str | None = None) -> int:
    command = chosen_stack().log_command(name)
    os.execvp(command[0], command)


def psql(*arguments: str) -> int:
    program = postgres.psql()
    os.execv(program, [program, *CONNECTION, *arguments])


def faults(action: str = "list", *arguments: str) -> int:
    if action not in ("list", "set", "off", "reset") or (arguments and action != "set"):
        words = " ".join((action, *arguments))
        raise CommandError(f"faults does not take {words!r}; name set, off or reset, or nothing")
    chosen = control.set_body(arguments) if action == "set" else {}
    api = faults_api()
    if action == "off":
        chosen = {"set": dict.fromkeys(api.in_effect()["flags"], OFF)}
    if action != "list":
        api.change(chosen or {"reset": True})
    print(control.faults_table(api.in_effect()))
    return 0


def load(*arguments: str) -> int:
    return numbers("load", arguments)


def sampling(*arguments: str) -> int:
    return numbers("sampling", arguments)


def numbers(name: str, arguments: tuple[str, ...]) -> int:
    """Change and print numbers of the running stack."""
    values = control.options(name, arguments, list(CONTROLS[name]))
    api = faults_api()
    if values:
        api.change({name: values})
    print(control.REPORTS[name](api.in_effect()))
    return 0


def case(*arguments: str) -> int:
    parser = Parser("case")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--seed", metavar="N", help="start the case of this whole number")
    action.add_argument("--give-up", action="store_true", help="end the open case, and show its fault")
    options = parser.parse_args(arguments)
    api = faults_api()
    if options.seed is not None:
        print(cases.report(api.start_case(options.seed)))
        print(
            "Find the fault that is on in the traces; ./run.sh solve SERVICE FAULT says whether it is.\n"
            "As in every case, lower calls digit for no good reason (needless_calls); that is not the answer."
        )
    else:
        print(cases.report(api.give_up() if options.give_up else api.case()))
    return 0


def solve(service: str, fault: str) -> int:
    state = faults_api().solve(service, fault)
    print(cases.report(state))
    return 0 if state["solved"] else 1


def faults_api() -> control.FaultsAPI:
    for running in running_stacks():
        return control.FaultsAPI(running.reach_address(), running.token())
    raise CommandError("nothing is running whose faults could be switched; start it with ./run.sh")


def experiment(*arguments: str) -> int:
    environment.install("transfer")
    for running in running_stacks():
        os.environ |= {"FAULTS_ADDRESS": running.reach_address(), "DEMO_TOKEN": running.token()}
    os.execv(sys.executable, [sys.executable, "-P", "-m", "experiments", *arguments])


def score(*arguments: str) -> int:
    os.execv(sys.executable, [sys.executable, "-P", "-m", "experiments.score", *arguments])


def mcp() -> int:
    environment.install("mcp")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "explorer.assistant"])


def export(*arguments: str) -> int:
    return _transfer("export", arguments)


def import_files(*arguments: str) -> int:
    return _transfer("import", arguments)


def _transfer(command: str, arguments: tuple[str, ...]) -> int:
    environment.install("transfer")
    os.execv(sys.executable, [sys.executable, "-P", "-m", "transfer", command, *arguments])


def down() -> int:
    stopped = [(candidate, candidate.stop()) for candidate in available_stacks()]
    for candidate, count in stopped:
        if count:
            print(f"Stopped: {count} {candidate.UNIT} ended, none is left.")
    if not any(count for _, count in stopped):
        print("Nothing was running.")
    return 0


def reset() -> int:
    for candidate in available_stacks():
        candidate.delete()
    print("Stopped, and deleted the data.")
    return 0


def test(*arguments: str) -> int:
    environment.install("test")
    encoder.build_where_possible()
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", "--numprocesses=auto", "--maxprocesses=4", *arguments])


def check(*arguments: str) -> int:
    environment.install("check")
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "pre_commit", "run", *(arguments or ["--all-files"])])


def bench(name: str = "", *arguments: str) -> int:
    names = [name] if name else list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        raise CommandError(f"there is no benchmark {unknown.pop()!r}; name one of {', '.join(BENCHMARKS)}")
    environment.install("test")
    encoder.build_where_possible()
    os.chdir(CHECKOUT)
    for benchmark in names:
        print(f"\n{benchmark}\n", flush=True)
        finished = subprocess.run([sys.executable, "-m", f"benchmarks.{benchmark}", *arguments])
        if finished.returncode:
            return finished.returncode
    return 0


def print_help() -> int:
    print(inspect.cleandoc(__doc__ or ""))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "local": local,
    "docker": docker,
    "citus": citus,
    "original": original,
    "kubernetes": kubernetes,
    "status": status,
    "logs": logs,
    "psql": psql,
    "faults": faults,
    "load": load,
    "sampling": sampling,
    "case": case,
    "solve": solve,
    "export": export,
    "import": import_files,
    "experiment": experiment,
    "score": score,
    "mcp": mcp,
    "down": down,
    "reset": reset,
    "test": test,
    "check": check,
    "bench": bench,
    "help": print_help,
}


def main(arguments: list[str]) -> int:
    if not arguments:
        return default()
    name, *rest = arguments
    if name in ("-h", "--help"):
        name = "help"
    if name not in COMMANDS:
        raise CommandError(f"there is no command {name!r}; ./run.sh help lists the commands")
    try:
        inspect.signature(COMMANDS[name]).bind(*rest)
    except TypeError:
        raise CommandError(f"{name} does not take {' '.join(rest)!r}; ./run.sh help lists its arguments") from None
    return COMMANDS[name](*rest)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: main(sys.argv[1:])))
