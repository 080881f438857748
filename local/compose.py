"""The stacks in containers, by Docker Compose: the full stack, the same on Citus, and the one of the original images.

The Compose files define the parts. This module starts, checks and stops them, with the same functions as `stack`.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from faults.flags import TOKEN_FILE
from local import CHECKOUT, CommandError, exclusive, health, usage
from local.health import QUEUE_ON_DISK, State
from telemetry.services import BESIDE, COLLECTOR_HEALTH_PORT, PAGES, POSTGRES_PORT, SERVICES

# The oldest version of which `config --format json` and `up` are known to do what this module needs.
OLDEST_COMPOSE = (2, 24)
DATABASE = f"postgresql://postgres@127.0.0.1:{POSTGRES_PORT}/postgres"
FLAGS_FOLDER = "/var/lib/faults"  # in the containers
# The port and path of the health checks that run here, and not in the containers: these images have no shell.
CHECKED_FROM_OUTSIDE = {"collector": (COLLECTOR_HEALTH_PORT, "/"), "jaeger": (PAGES["traces"], "/")}
MAX_RESTARTS = 3
ANSWER_SECONDS = 20  # of a Docker engine on a busy machine

Container = dict[str, Any]  # as `docker inspect` describes it


@functools.cache
def unavailable_reason() -> str | None:
    """Why containers cannot run on this machine; None if they can. Fast on a machine without Docker."""
    if not shutil.which("docker"):
        return "there is no docker on the PATH"
    try:
        engine = _docker("version", "--format", "{{.Server.Version}}", timeout=ANSWER_SECONDS)
        if engine.returncode:
            return f"no Docker engine answers ({last_line(engine)})"
        compose = _docker("compose", "version", "--short", timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the Docker engine does not answer within {ANSWER_SECONDS} s"
    except OSError as error:
        return f"docker cannot be executed ({error})"
    version = re.match(r"v?(\d+)\.(\d+)", compose.stdout)
    if compose.returncode or not version:
        return "docker has no Compose v2 (on Debian and Ubuntu: apt install docker-compose-v2)"
    if tuple(map(int, version.groups())) < OLDEST_COMPOSE:
        oldest = ".".join(map(str, OLDEST_COMPOSE))
        return f"Docker Compose {version[0]} is too old: this needs {oldest} or later"
    return None


@dataclass(frozen=True)
class Compose:
    """The stack of a Compose file, or of several, of which each changes what the ones before it define."""

    TITLE: str
    PAGES: Mapping[str, int]  # name and port
    files: tuple[str, ...]
    suffix: str  # of the project's name, so that each stack has volumes of its own
    UNIT: ClassVar = "containers"

    def running(self) -> bool:
        return bool(self._containers())

    def start(self) -> tuple[float, bool]:
        """Start the parts that do not run; wait until all are healthy and the first trace is in the database.

        Returns the seconds that this took, without fetching and building images, and whether passwords are traced.
        Raises CommandError.
        """
        reason = unavailable_reason()
        if reason:
            raise CommandError(f"{reason}; correct this, or use ./run.sh local, which needs no Docker")
        with exclusive():
            config = self._config()
            self._fetch_images(config)
            began = time.monotonic()
            self._check_ports(config)
            try:
                self._compose("up", "--detach", "--remove-orphans", action="starting the containers")
            except CommandError as error:
                name = self._first_unhealthy()
                raise CommandError(
                    f"{error}; last log line of {name}: {self._last_log_line(name)!r}" if name else str(error)
                ) from None
            health.wait_until_healthy(self._first_unhealthy, self._crash_loops, self._last_log_line, self.store_status)
        traced = health.wait_for_a_trace(self.reach_address(), DATABASE)
        return time.monotonic() - began, traced

    def stop(self) -> int:
        """Stop and remove all containers; the volumes stay. Returns how many containers there were."""
        with exclusive():
            count = len(self._containers())
            if count:
                self._compose("down", "--remove-orphans", action="stopping the containers")
            return count

    def delete(self) -> None:
        """Stop and remove all containers, and delete the volumes."""
        with exclusive():
            if self._containers() or self._of_project("volume", "ls", "--quiet"):
                self._compose("down", "--remove-orphans", "--volumes", action="deleting the containers and volumes")

    def states(self) -> list[State]:
        containers = self._containers()
        return [self._state(name, containers.get(name)) for name in self._config()["services"]]

    def store_status(self) -> str:
        return health.store_status(self.reach_address())

    def encoder_report(self) -> str:
        return health.encoder(self.reach_address())

    def collector_report(self) -> str:
        return QUEUE_ON_DISK

    def usage_report(self) -> str:
        return usage.report(DATABASE)

    def token(self) -> str:
        """What changes of the faults need, "" if they need nothing."""
        shown = _docker(*self._command[1:], "exec", "-T", "faults", "cat", f"{FLAGS_FOLDER}/{TOKEN_FILE}")
        return shown.stdout if shown.returncode == 0 else ""

    def log_command(self, name: str | None) -> list[str]:
        """The command that follows the logs of all parts, or of one. Raises CommandError if there is no such part."""
        names = sorted(self._containers())
        if name and name not in names:
            raise CommandError(f"there is no log {name!r}; name one of {', '.join(names)}")
        return [*self._command, "logs", "--follow", "--tail", "20", *([name] if name else [])]

    def reach_address(self) -> str:
        """The address by which this machine reaches the published ports."""
        return _address(self._containers()["generator"], SERVICES["generator"])

    @property
    def _project(self) -> str:
        # Compose's own default for a folder's name, for the characters that are usual in one.
        folder = re.sub("[^a-z0-9_-]", "", CHECKOUT.name.lower()).lstrip("_-") or "tracing-demo"
        return (os.environ.get("COMPOSE_PROJECT_NAME") or folder) + self.suffix

    @property
    def _command(self) -> list[str]:
        files = (argument for file in self.files for argument in ("--file", str(CHECKOUT / file)))
        return ["docker", "compose", "--project-name", self._project, *files]

    def _compose(self, *arguments: str, action: str) -> str:
        """The output of a Compose command. Raises CommandError: the action failed, with the last line of the output."""
        finished = _docker(*self._command[1:], *arguments)
        if finished.returncode:
            raise CommandError(f"{action} failed: {last_line(finished)}")
        return finished.stdout

    def _config(self) -> dict[str, Any]:
        """The Compose file, with its variables substituted."""
        config: dict[str, Any] = json.loads(
            self._compose("config", "--format", "json", action=f"reading {self.files[-1]}")
        )
        return config

    def _containers(self) -> dict[str, Container]:
        """Each part's container, by the part's name."""
        ids = self._of_project("ps", "--all", "--quiet")
        if not ids:
            return {}
        # Ignore the exit code: a container may have been removed since, and the others are printed all the same.
        containers: list[Container] = json.loads(_docker("inspect", *ids).stdout)
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in containers}

    def _of_project(self, *listing: str) -> list[str]:
        """The ids that a listing command of docker prints for this project."""
        return _docker(*listing, "--filter", f"label=com.docker.compose.project={self._project}").stdout.split()

    def _state(self, name: str, container: Container | None) -> State:
        if not container or not container["State"]["Running"] or container["State"]["Restarting"]:
            return State(name, None, None, False)
        state = container["State"]
        if name in CHECKED_FROM_OUTSIDE:
            port, path = CHECKED_FROM_OUTSIDE[name]
            healthy = health.answers(f"http://{_address(container, port)}:{port}{path}")
        else:
            healthy = state.get("Health", {}).get("Status", "healthy") == "healthy"
        since = datetime.fromisoformat(state["StartedAt"]).astimezone()
        return State(name, state["Pid"], since, healthy)

    def _first_unhealthy(self) -> str | None:
        return next((state.name for state in self.states() if not state.healthy), None)

    def _crash_loops(self, name: str) -> bool:
        container = self._containers().get(name)
        return container is not None and container["RestartCount"] > MAX_RESTARTS

    def _last_log_line(self, name: str) -> str:
        return last_line(_docker(*self._command[1:], "logs", "--no-log-prefix", "--tail", "1", name))

    def _check_ports(self, config: dict[str, Any]) -> None:
        running = {name for name, container in self._containers().items() if container["State"]["Running"]}
        health.check_ports(
            (name, port.get("host_ip", "0.0.0.0"), int(port["published"]))
            for name, service in config["services"].items()
            if name not in running
            for port in service.get("ports", [])
        )

    def _fetch_images(self, config: dict[str, Any]) -> None:
        """Fetch the images that are not on this machine, and build our own, whose sources may have changed."""
        services = config["services"].values()
        required = {service["image"] for service in services if "build" not in service}
        if any("build" in service for service in services):
            # `docker build` would look for a newer base image in the registry; one that is here works without a
            # network.
            required |= set(re.findall(r"^FROM (\S+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE))
        for image in sorted(required):
            if _docker("image", "inspect", image).returncode:
                print(f"Fetching the image {image} (once)", flush=True)
                pull = _docker("pull", "--quiet", image)
                if pull.returncode:
                    raise CommandError(
                        f"the image {image} is not on this machine and cannot be fetched: {last_line(pull)};"
                        " correct this, or use ./run.sh local, which needs no images"
                    )
        print("Building the demo's own image from what has changed", flush=True)
        self._compose("build", "--quiet", action="building the image")


_PAGES = PAGES | {"explorer": BESIDE["dashboards"]}
DOCKER = Compose("full stack", _PAGES, ("docker-compose.yaml",), "")
CITUS = Compose("Citus stack", _PAGES, ("docker-compose.yaml", "docker-compose.citus.yaml"), "-citus")
ORIGINAL = Compose("original stack", PAGES, ("docker-compose.original.yaml",), "-original")
STACKS = (DOCKER, CITUS, ORIGINAL)


def _docker(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run docker. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def last_line(finished: subprocess.CompletedProcess[str]) -> str:
    """The last line that a program has printed."""
    lines = (finished.stdout + finished.stderr).strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {finished.returncode}, without any output"


def _address(container: Container, port: int) -> str:
    """The address by which this machine reaches a published port of a container."""
    published = container["HostConfig"]["PortBindings"][f"{port}/tcp"][0]
    return health.reach_address(published["HostIp"] or "0.0.0.0")
