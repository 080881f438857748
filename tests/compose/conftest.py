"""The full stack in real containers, started for the tests in a copy of this checkout."""

import re

import pytest

from local import compose
from tests.compose import images
from tests.compose.images import docker
from tests.stack.checkout import Checkout, wait_for
from tests.stack.conftest import Stack, skip_where_ports_are_taken

PROJECT = "tracing-demo-test"


class FullStack(Stack):
    def container(self, name: str) -> str:
        return f"{PROJECT}-{name}-1"

    def kill(self, name: str) -> None:
        """As a crash: by no command of Docker's, after which it would not start the container again."""
        pid = wait_for(self.pids, "health")[name]
        docker("run", "--rm", "--pid=host", "--user=0", "tracing-demo", "bash", "-c", f"kill -9 {pid}")

    def restart(self, name: str) -> None:
        docker("restart", self.container(name))


@pytest.fixture(scope="session")
def engine():
    """Docker works here."""
    reason = compose.trouble()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="package")
def checkout(engine, tmp_path_factory):
    """A copy that has, or can have, the images of all parts that its Compose file names."""
    skip_where_ports_are_taken()
    try:
        missing = images.obtain()
    except images.Missing as error:
        pytest.skip(str(error))
    copy = Checkout(tmp_path_factory.mktemp("compose") / "checkout")
    file = copy.folder / "docker-compose.yaml"
    for image in missing:
        # A service is all that is indented below its name.
        file.write_text(re.sub(rf"\n  \w+:\n(    .*\n)*    image: {image}\n(    .*\n)*", "\n", file.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_PROJECT_NAME", PROJECT)
        yield copy


@pytest.fixture(scope="package")
def stack(checkout):
    try:
        started = checkout.run("docker")
        assert started.returncode == 0, started.stderr
        yield FullStack("http://localhost:5050", compose.DATABASE, checkout)
    finally:
        checkout.run("reset")
    for what in ("container", "volume", "network"):
        assert not docker(what, "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}").stdout
