"""The full stack in containers, started for the tests in a copy of this checkout."""

import re
from collections.abc import Iterator

import pytest

from local import compose
from tests.compose import images
from tests.compose.images import docker
from tests.stack.checkout import Checkout
from tests.stack.stacks import GENERATOR_URL, OwnStack, skip_unless_ports_are_free

PROJECT = "tracing-demo-test"


class FullStack(OwnStack):
    def container(self, name: str) -> str:
        return f"{PROJECT}-{name}-1"

    def kill(self, name: str) -> None:
        """SIGKILL from outside of Docker, like a crash: after `docker kill`, Docker would not restart the container."""
        pid = self.healthy_pids()[name]
        docker("run", "--rm", "--pid=host", "--user=0", "tracing-demo", "bash", "-c", f"kill -9 {pid}")

    def restart_container(self, name: str) -> None:
        docker("restart", self.container(name))


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips the test without a Docker engine."""
    reason = compose.unavailable_reason()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="package")
def checkout(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A copy whose Compose file names only parts with an image, a real one or a stand-in."""
    skip_unless_ports_are_free()
    try:
        missing = images.obtain()
    except images.ImagesUnavailable as error:
        pytest.skip(str(error))
    copy = Checkout(tmp_path_factory.mktemp("compose") / "checkout")
    file = copy.folder / "docker-compose.yaml"
    for image in missing:
        # Removes the part: the line with its name, and the indented lines below it.
        file.write_text(re.sub(rf"\n  \w+:\n(    .*\n)*    image: {image}\n(    .*\n)*", "\n", file.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", PROJECT)
        yield copy


@pytest.fixture(scope="package")
def stack(checkout: Checkout) -> Iterator[FullStack]:
    try:
        started = checkout.run("docker")
        assert started.returncode == 0, started.stderr
        yield FullStack(GENERATOR_URL, compose.DATABASE, checkout)
    finally:
        checkout.run("reset")
    for kind in ("container", "volume", "network"):
        assert not docker(kind, "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout
