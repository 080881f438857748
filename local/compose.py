"""The stacks in containers, by Docker Compose: the full one, and the one of the original's images.

Compose files say what they are. Here is only how they are started and looked at; the same functions as in `stack`.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime

from local import CHECKOUT, Trouble, exclusive, health, usage
from local.health import ON_DISK, State

# The oldest whose `config` and `up` do all that is asked of them here.
OLDEST_COMPOSE = (2, 24)
DATABASE = "postgresql://postgres@127.0.0.1:5999/postgres"
# The images of these hold no shell, so that Docker cannot check their health. The port and path to ask from outside.
ASKED_FROM_OUTSIDE = {"collector": (13133, "/"), "jaeger": (16686, "/")}


@functools.cache
def trouble() -> str | None:
    """What is in the way of containers here; None where nothing is. Takes no time where there is no Docker."""
    if not shutil.which("docker"):
        return "there is no docker on the PATH"
    try:
        engine = _docker("version", "--format", "{{.Server.Version}}", timeout=5)
        if engine.returncode:
            return f"no Docker engine answers ({_last_line(engine)})"
        compose = _docker("compose", "version", "--short", timeout=5)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer within 5 s"
    except OSError as error:
        return f"docker does not run ({error})"
    version = re.match(r"v?(\d+)\.(\d+)", compose.stdout)
    if compose.returncode or not version:
        return "docker has no Compose v2 (on Debian and Ubuntu: apt install docker-compose-v2)"
    if tuple(map(int, version.groups())) < OLDEST_COMPOSE:
        oldest = ".".join(map(str, OLDEST_COMPOSE))
        return f"Docker Compose {version[0]} is too old: this needs {oldest} or later"
    return None


@dataclass(frozen=True)
class Compose:
    """The stack of a Compose file."""

    TITLE: str
    file: str
    suffix: str  # of the project's name, so that the data of each stack is its own
    UNIT = "containers"
    PAGES = {"traces": 16686, "dashboards": 3000}

    def running(self) -> bool:
        return bool(self._containers())

    def start(self) -> float:
        """Start what does not run; wait until every part is healthy and the first trace can be read from the database.

        Returns how many seconds that took, without the first time's fetching and building of images. Raises Trouble.
        """
        reason = trouble()
        if reason:
            raise Trouble(f"{reason}; put that right, or use ./run.sh local, which needs no Docker")
        with exclusive():
            config = self._config()
            self._fetch_images(config)
            began = time.monotonic()
            self._check_ports(config)
            try:
                self._compose("up", "--detach", "--remove-orphans", what="starting the containers")
            except Trouble as error:
                name = self._first_unhealthy()
                raise Trouble(
                    f"{error}; the last word of {name}: {self._last_word(name)!r}" if name else error
                ) from None
            health.wait_until_healthy(self._first_unhealthy, self._dies, self._last_word, self.store_status)
        health.wait_for_a_trace(self.reach_address(), DATABASE)
        return time.monotonic() - began

    def stop(self) -> int:
        """Stop everything and remove the containers; the volumes stay. Returns how many containers there were."""
        with exclusive():
            count = len(self._containers())
            if count:
                self._compose("down", "--remove-orphans", what="stopping the containers")
            return count

    def delete(self) -> None:
        """Stop everything and delete all data."""
        with exclusive():
            if self._containers() or self._labelled("volume", "ls", "--quiet"):
                self._compose("down", "--remove-orphans", "--volumes", what="deleting the containers and volumes")

    def states(self) -> list[State]:
        containers = self._containers()
        return [self._state(name, containers.get(name)) for name in self._config()["services"]]

    def store_status(self) -> str:
        return health.store_status(self.reach_address())

    def collector_report(self) -> str:
        return ON_DISK

    def usage_report(self) -> str:
        return usage.report(DATABASE)

    def log_command(self, name: str | None) -> list[str]:
        """The command that follows the logs, or this part's. Raises Trouble where there are none."""
        names = sorted(self._containers())
        if name and name not in names:
            raise Trouble(f"there is no log {name!r}; there are: {', '.join(names)}")
        return [*self._command, "logs", "--follow", "--tail", "20", *([name] if name else [])]

    def reach_address(self) -> str:
        """Where the parts are found from this machine."""
        return _address(self._containers()["generator"], health.GENERATOR_PORT)

    @property
    def _project(self) -> str:
        # Compose's own default, as far as it goes: the checkout's name.
        folder = re.sub("[^a-z0-9_-]", "", CHECKOUT.name.lower()).lstrip("_-") or "tracing-demo"
        return (os.environ.get("COMPOSE_PROJECT_NAME") or folder) + self.suffix

    @property
    def _command(self) -> list[str]:
        return ["docker", "compose", "--project-name", self._project, "--file", str(CHECKOUT / self.file)]

    def _compose(self, *arguments: str, what: str) -> str:
        """Returns what it prints. Raises Trouble: `what` failed, and the reason that Docker gives last."""
        done = _docker(*self._command[1:], *arguments)
        if done.returncode:
            raise Trouble(f"{what} failed: {_last_line(done)}")
        return done.stdout

    def _config(self) -> dict:
        """The Compose file, with all variables filled in."""
        return json.loads(self._compose("config", "--format", "json", what=f"reading {self.file}"))

    def _containers(self) -> dict[str, dict]:
        """What `docker inspect` says of each part's container, by the part's name."""
        ids = self._labelled("ps", "--all", "--quiet")
        if not ids:
            return {}
        # A container may be gone since: what is printed of the others counts.
        found = json.loads(_docker("inspect", *ids).stdout)
        return {container["Config"]["Labels"]["com.docker.compose.service"]: container for container in found}

    def _labelled(self, *listing: str) -> list[str]:
        """What docker lists of this project."""
        return _docker(*listing, "--filter", f"label=com.docker.compose.project={self._project}").stdout.split()

    def _state(self, name: str, container: dict | None) -> State:
        if not container or not container["State"]["Running"] or container["State"]["Restarting"]:
            return State(name, None, None, False)
        state = container["State"]
        if name in ASKED_FROM_OUTSIDE:
            port, path = ASKED_FROM_OUTSIDE[name]
            healthy = health.answers(f"http://{_address(container, port)}:{port}{path}")
        else:
            healthy = state.get("Health", {}).get("Status", "healthy") == "healthy"
        # Go's nanoseconds are more than Python's fromisoformat takes everywhere.
        since = datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").astimezone()
        return State(name, state["Pid"], since, healthy)

    def _first_unhealthy(self) -> str | None:
        return next((state.name for state in self.states() if not state.healthy), None)

    def _dies(self, name: str) -> bool:
        container = self._containers().get(name)
        return bool(container) and container["RestartCount"] > 3

    def _last_word(self, name: str) -> str:
        return _last_line(_docker(*self._command[1:], "logs", "--no-log-prefix", "--tail", "1", name))

    def _check_ports(self, config: dict) -> None:
        running = {name for name, container in self._containers().items() if container["State"]["Running"]}
        health.check_ports(
            (name, port.get("host_ip", "0.0.0.0"), int(port["published"]))
            for name, service in config["services"].items()
            if name not in running
            for port in service.get("ports", [])
        )

    def _fetch_images(self, config: dict) -> None:
        """See to it that all images are here. Ours is built each time, for our sources may have changed."""
        services = config["services"].values()
        needed = {service["image"] for service in services if "build" not in service}
        if any("build" in service for service in services):
            # Fetched by name, so that Docker goes on building when there is no network.
            needed |= set(re.findall(r"^FROM (\S+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE))
        for image in sorted(needed):
            if _docker("image", "inspect", image).returncode:
                print(f"Fetching the image {image} (once)", flush=True)
                fetched = _docker("pull", "--quiet", image)
                if fetched.returncode:
                    raise Trouble(
                        f"the image {image} is not on this machine and cannot be fetched: {_last_line(fetched)};"
                        " put that right, or use ./run.sh local, which needs no images"
                    )
        print("Building the image of our own parts, as far as something changed", flush=True)
        self._compose("build", "--quiet", what="building the image")


DOCKER = Compose("full stack", "docker-compose.yaml", "")
ORIGINAL = Compose("original's stack", "docker-compose.original.yaml", "-original")


def _docker(*arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess:
    """Call docker. Raises subprocess.TimeoutExpired."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
    )


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {done.returncode}, and no word"


def _address(container: dict, port: int) -> str:
    """Where a port of a container is found from this machine."""
    published = container["HostConfig"]["PortBindings"][f"{port}/tcp"][0]
    return health.reach_address(published["HostIp"] or "0.0.0.0")
