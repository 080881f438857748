"""The stack in a Kubernetes cluster, by kubectl: kubernetes/base, with the user's settings.

`choose` records the context of the cluster. All commands use that one from then on, whatever kubectl's current context
is, so that none of them ever reaches another cluster. The other functions are those of `stack`.
"""

import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psutil

from faults.flags import TOKEN_FILE
from local import CHECKOUT, DATA, CommandError, compose, exclusive, health, usage
from local.health import QUEUE_ON_DISK, State
from telemetry.services import (
    BESIDE,
    FAULTS_PORT,
    OTLP_GRPC_PORT,
    OTLP_HTTP_PORT,
    POSTGRES_PORT,
    PROMSCALE_GRPC_PORT,
    PROMSCALE_HTTP_PORT,
    SERVICES,
)
from telemetry.services import PAGES as LINKS

TITLE = "Kubernetes stack"
PAGES = LINKS | {"explorer": BESIDE["dashboards"]}
UNIT = "Pods"
DATABASE = compose.DATABASE
NAMESPACE = "tracing-demo"
IMAGE = "tracing-demo"
OVERLAY = DATA / "kubernetes"  # what is applied: kubernetes/base with the user's settings
CONTEXT = OVERLAY / "context"  # the name of the chosen context
# Kustomize 5, which is in kubectl since 1.27.
OLDEST_KUSTOMIZE, OLDEST_KUBECTL = 5, "1.27"
MAX_RESTARTS = 3
ANSWER_SECONDS = 10
LISTEN_SECONDS = 60
# The user's environment variables that reach the parts.
SETTINGS = (
    *("DEMO_FAULT_LABELS", "DEMO_INSTRUMENTATION", "DEMO_SEED", "LOAD_RATE", "LOAD_USERS"),
    *("PROMSCALE_DISK_BUDGET", "TRACE_SAMPLING_PERCENT"),
    *("OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"),
)
SECRETS = ("DEMO_TOKEN", "GF_SECURITY_ADMIN_PASSWORD")
# Service, port of this machine, port of the Service.
FORWARDED = (
    *((name, port, port) for name, port in SERVICES.items()),
    ("faults", FAULTS_PORT, FAULTS_PORT),
    *(("collector", port, port) for port in (OTLP_GRPC_PORT, OTLP_HTTP_PORT)),
    *(("promscale", port, port) for port in (PROMSCALE_HTTP_PORT, PROMSCALE_GRPC_PORT)),
    ("postgres", POSTGRES_PORT, 5432),
    *((name, port, port) for name, port in BESIDE.items()),
    ("grafana", LINKS["dashboards"], LINKS["dashboards"]),
    ("jaeger", LINKS["traces"], LINKS["traces"]),
)
FORWARD_MARK = "TRACING_DEMO_FORWARD"  # the environment variable by which the processes that forward ports are found

Object = dict[str, Any]  # as `kubectl get --output json` describes it


def choose(name: str | None) -> None:
    """Record the context of the cluster to use: the recorded one, `name`, or the current one if it is on this machine.

    Raises CommandError if kubectl or the cluster is missing, or if the current context is elsewhere.
    """
    _check_kubectl()
    if os.environ.get("BIND_ADDRESS", "127.0.0.1") not in ("", "127.0.0.1", "localhost"):
        raise CommandError("the ports of the cluster are forwarded to 127.0.0.1 only; unset BIND_ADDRESS")
    recorded = _context()
    if recorded and name not in (None, recorded):
        raise CommandError(f"the demo is in the context {recorded}; ./run.sh reset deletes it there")
    context = name or recorded or _run("kubectl", "config", "current-context").stdout.strip()
    if not context:
        raise CommandError(
            "kubectl has no current context; start a cluster (kind create cluster, minikube start, or k3s), or use"
            " ./run.sh local, which needs none"
        )
    server = _server(context)
    if server is None:
        known = ", ".join(_run("kubectl", "config", "get-contexts", "--output", "name").stdout.split()) or "none"
        raise CommandError(f"there is no context {context!r} in kubectl's configuration, which has: {known}")
    if not (name or recorded or _is_here(context, server)):
        raise CommandError(
            f"kubectl's current context {context} is a cluster at {server}, which is not on this machine; to use it all"
            f" the same: ./run.sh kubernetes {context}"
        )
    _check_answer(context, "use ./run.sh local, which needs none")
    print(f"Using the cluster of kubectl's context {context}, at {server}", flush=True)
    OVERLAY.mkdir(mode=0o700, parents=True, exist_ok=True)
    CONTEXT.write_text(context)


def is_chosen() -> bool:
    """Whether there is a recorded context, and kubectl."""
    return bool(_context()) and bool(shutil.which("kubectl"))


def running() -> bool:
    return bool(_get("deployments"))


def start() -> tuple[float, bool]:
    """Apply the objects; wait until every part is healthy, the ports are forwarded and the first trace is in the
    database.

    Returns the seconds that this took, and whether passwords are traced. Raises CommandError.
    """
    began = time.monotonic()
    with exclusive():
        forwarded = _forwards()
        health.check_ports((name, "127.0.0.1", port) for name, port, _ in FORWARDED if name not in forwarded)
        _write_overlay()
        _kubectl("apply", "--kustomize", str(OVERLAY), action="applying kubernetes/base")
        for pod in _get("pods"):
            if _lacks_image(pod):  # it would be tried again after minutes only
                _kubectl("delete", "pod", pod["metadata"]["name"], action="replacing a Pod without its image")
        for name in {name for name, _, _ in FORWARDED} - forwarded.keys():
            _forward(name)
        health.wait_until_healthy(_first_unhealthy, _crash_loops, _last_log_line, store_status)
        _wait_for_ports()
    traced = health.wait_for_a_trace(reach_address(), DATABASE)
    return time.monotonic() - began, traced


def stop() -> int:
    """Delete the Pods and what creates them; the volumes stay. Returns how many Pods there were.

    Raises CommandError.
    """
    with exclusive():
        _stop_forwards()
        if not _is_there():
            return 0
        count = len(_get("pods"))
        controllers = "deployments,statefulsets,horizontalpodautoscalers"
        # Foreground: it returns when the Pods have ended.
        _kubectl("delete", controllers, "--all", "--cascade=foreground", action="deleting the Pods")
        return count


def delete() -> None:
    """Delete the namespace with everything in it, and forget the context. Raises CommandError."""
    with exclusive():
        _stop_forwards()
        if _is_there():
            _kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", action="deleting the namespace")
        shutil.rmtree(OVERLAY)


def states() -> list[State]:
    """The state of each part, of which there may be several Pods."""
    items = _get("deployments,statefulsets,pods")
    started: dict[str, datetime] = {}
    for pod in items:
        if pod["kind"] == "Pod" and (start_time := pod["status"].get("startTime")):
            since = datetime.fromisoformat(start_time).astimezone()
            started[_part(pod)] = max(since, started.get(_part(pod), since))
    return [
        State(part["metadata"]["name"], None, started.get(part["metadata"]["name"]), _is_rolled_out(part))
        for part in items
        if part["kind"] != "Pod"
    ]


def store_status() -> str:
    return health.store_status(reach_address())


def encoder_report() -> str:
    return health.encoder(reach_address())


def collector_report() -> str:
    return QUEUE_ON_DISK


def usage_report() -> str:
    return usage.report(DATABASE)


def token() -> str:
    """What changes of the faults need, "" if they need nothing."""
    shown = _run(*_command(), "exec", "deployment/faults", "--", "cat", f"{compose.FLAGS_FOLDER}/{TOKEN_FILE}")
    return shown.stdout if shown.returncode == 0 else ""


def log_command(name: str | None) -> list[str]:
    """The command that follows the logs of all parts, or of one. Raises CommandError if there is no such part."""
    names = [state.name for state in states()]
    if name and name not in names:
        raise CommandError(f"there is no log {name!r}; name one of {', '.join(names)}")
    label = f"app.kubernetes.io/name={name}" if name else "app.kubernetes.io/part-of=tracing-demo"
    return [*_command(), "logs", "--follow", "--tail=20", "--prefix", "--max-log-requests=50", f"--selector={label}"]


def reach_address() -> str:
    return "127.0.0.1"


# kubectl ------------------------------------------------------------------------------------------------------------


def _check_kubectl() -> None:
    if not shutil.which("kubectl"):
        raise CommandError(
            "there is no kubectl on the PATH; install it (https://kubernetes.io/docs/tasks/tools/), or use"
            " ./run.sh local, which needs none"
        )
    version = _run("kubectl", "version", "--client", "--output", "json")
    try:
        kustomize = json.loads(version.stdout).get("kustomizeVersion", "v0")
    except ValueError:
        raise CommandError(
            f"kubectl does not tell its version ({compose.last_line(version)}); install it again"
        ) from None
    if int(kustomize.lstrip("v").partition(".")[0]) < OLDEST_KUSTOMIZE:
        raise CommandError(
            f"kubectl is too old: this needs {OLDEST_KUBECTL} or later; install it, or use ./run.sh local"
        )


def _context() -> str:
    """The recorded context, "" if there is none."""
    return CONTEXT.read_text() if CONTEXT.exists() else ""


def _server(context: str) -> str | None:
    """The URL of a context's API server; None if there is no such context."""
    view = _run("kubectl", "config", "view", "--minify", "--context", context, "--output", "json")
    clusters = json.loads(view.stdout)["clusters"] if view.returncode == 0 else None
    return str(clusters[0]["cluster"]["server"]) if clusters else None


def _is_here(context: str, server: str) -> bool:
    """Whether a cluster is on this machine: its API server is at a loopback address, or it is minikube's."""
    if context == "minikube":
        return True
    try:
        addresses = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(urlsplit(server).hostname, None)}
    except OSError:
        return False
    return all(address.is_loopback for address in addresses)


def _is_there() -> bool:
    """Whether there is a cluster to delete something in: not if its context is gone. Raises CommandError if the cluster
    does not answer."""
    if not _context() or _server(_context()) is None:
        return False
    _check_answer(_context(), f"delete {OVERLAY} if it is gone")
    return True


def _check_answer(context: str, alternative: str) -> None:
    """Raises CommandError if the cluster does not answer."""
    answer = _run("kubectl", "--context", context, f"--request-timeout={ANSWER_SECONDS}s", "get", "--raw", "/version")
    if answer.returncode:
        raise CommandError(
            f"the cluster of kubectl's context {context} does not answer ({compose.last_line(answer)}); start it, or"
            f" {alternative}"
        )


def _command() -> list[str]:
    return ["kubectl", "--context", _context(), "--namespace", NAMESPACE]


def _kubectl(*arguments: str, action: str) -> None:
    """Raises CommandError: the action failed, with the last line of kubectl's output."""
    finished = _run(*_command(), *arguments)
    if finished.returncode:
        raise CommandError(f"{action} failed: {compose.last_line(finished)}")


def _get(kinds: str) -> list[Object]:
    """The objects of these kinds; none if the cluster does not answer."""
    listed = _run(*_command(), f"--request-timeout={ANSWER_SECONDS}s", "get", kinds, "--output", "json")
    items: list[Object] = json.loads(listed.stdout)["items"] if listed.returncode == 0 else []
    return items


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _write_overlay() -> None:
    """The kustomization that is applied. JSON is YAML, too."""
    settings = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    if "TRACE_SAMPLING_PERCENT" in settings:
        settings["COLLECTOR_PROCESSORS"] = "[memory_limiter, probabilistic_sampler]"
    secrets = {name: os.environ[name] for name in SECRETS if os.environ.get(name)}

    def generator(name: str, values: dict[str, str], **options: str) -> list[Object]:
        literals = [f"{key}={value}" for key, value in values.items()]
        return [{"name": name, "namespace": NAMESPACE, "literals": literals, **options}] if values else []

    kustomization = {
        "resources": [os.path.relpath(CHECKOUT / "kubernetes" / "base", OVERLAY)],
        "configMapGenerator": generator("demo", settings, behavior="merge"),
        "secretGenerator": generator("access", secrets),
    }
    file = OVERLAY / "kustomization.yaml"
    file.touch(mode=0o600)
    file.write_text(json.dumps(kustomization, indent=1))


# The health of the Pods ---------------------------------------------------------------------------------------------


def _part(pod: Object) -> str:
    return str(pod["metadata"]["labels"].get("app.kubernetes.io/name"))


def _is_rolled_out(part: Object) -> bool:
    """Whether all Pods of a Deployment or StatefulSet have its present template and are ready."""
    status, replicas = part["status"], part["spec"]["replicas"]
    return status.get("observedGeneration") == part["metadata"]["generation"] and all(
        status.get(name, 0) == replicas for name in ("replicas", "updatedReplicas", "readyReplicas")
    )


def _first_unhealthy() -> str | None:
    """Raises CommandError if the demo's own image is missing, which waiting does not change."""
    if any(_lacks_image(pod) for pod in _get("pods")):
        raise CommandError(
            f"the image {IMAGE} is not in the cluster: docker build --tag {IMAGE} . && {_load_command()}; then run this"
            " again"
        )
    return next((state.name for state in states() if not state.healthy), None)


def _statuses(pod: Object) -> Iterator[Object]:
    """Of all containers of a Pod."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        yield from pod["status"].get(kind, [])


def _waiting_reason(status: Object) -> str:
    return str(status["state"].get("waiting", {}).get("reason", ""))


def _lacks_image(pod: Object) -> bool:
    """Whether the node of a Pod does not have the demo's own image."""
    return any(
        _waiting_reason(status) in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull")
        and IMAGE in status["image"].split("/")[-1]
        for status in _statuses(pod)
    )


def _load_command() -> str:
    """What loads the image into the nodes of the cluster."""
    tool, _, cluster = _context().partition("-")
    if tool == "kind":
        return f"kind load docker-image {IMAGE} --name {cluster}"
    if tool == "k3d":
        return f"k3d image import {IMAGE} --cluster {cluster}"
    if tool == "minikube":
        return f"minikube image load {IMAGE}"
    return f"docker save {IMAGE} | sudo k3s ctr images import -"


def _crash_loops(name: str) -> bool:
    return any(
        _waiting_reason(status) == "CrashLoopBackOff" and status["restartCount"] > MAX_RESTARTS
        for pod in _get("pods")
        if _part(pod) == name
        for status in _statuses(pod)
    )


def _last_log_line(name: str) -> str:
    """The last line that a part has logged, or else the last event of its Pods."""
    logs = _run(*_command(), "logs", f"--selector=app.kubernetes.io/name={name}", "--tail=1")
    if logs.returncode == 0 and logs.stdout.strip():
        return compose.last_line(logs)
    events = [event for event in _get("events") if event["involvedObject"]["name"].startswith(f"{name}-")]
    if not events:
        return ""
    last = max(events, key=_event_time)
    message = str(last["message"]).strip()
    if last["reason"] == "Pulling":  # which is progress
        message += f", for {(datetime.now(UTC) - _event_time(last)).total_seconds():.0f} s"
    return message


def _event_time(event: Object) -> datetime:
    return datetime.fromisoformat(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])


# Forwarded ports ----------------------------------------------------------------------------------------------------


def _forward(name: str) -> None:
    """Start a process that forwards the ports of a Service until `_stop_forwards`. kubectl ends with the Pod to which
    it has connected, and is then started again."""
    ports = [f"{local}:{port}" for service, local, port in FORWARDED if service == name]
    command = [*_command(), "port-forward", "--address=127.0.0.1", f"service/{name}", *ports]
    subprocess.Popen(
        ["sh", "-c", 'while :; do "$@"; sleep 1; done', "sh", *command],
        env=os.environ | {FORWARD_MARK: f"{name}@{CHECKOUT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _forwards() -> dict[str, int]:
    """The process group that forwards the ports of each Service."""
    found = {}
    for process in psutil.process_iter(["environ"]):
        name, _, checkout = (process.info["environ"] or {}).get(FORWARD_MARK, "").partition("@")
        if checkout == str(CHECKOUT):
            with suppress(ProcessLookupError):
                found[name] = os.getpgid(process.pid)
    return found


def _stop_forwards() -> None:
    for group in _forwards().values():
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)


def _wait_for_ports() -> None:
    """Raises CommandError, which names the command that shows why a port is not forwarded."""
    for name, port, service_port in FORWARDED:
        health.wait(partial(health.accepts, "127.0.0.1", port), LISTEN_SECONDS)
        if not health.accepts("127.0.0.1", port):
            shown = " ".join([*_command(), "port-forward", f"service/{name}", f"{port}:{service_port}"])
            raise CommandError(f"port {port} is not forwarded within {LISTEN_SECONDS} s; {shown} shows why")
