"""./run.sh docker where it cannot work: one line with the cause and the fix."""

import os
import socket

import pytest

from local import CHECKOUT, compose
from telemetry.services import SERVICES
from tests.compose.images import docker
from tests.stack.checkout import Checkout, error_line


@pytest.mark.parametrize("stack", compose.STACKS, ids=lambda stack: stack.TITLE)
def test_the_compose_files_are_valid(engine, stack):
    files = (argument for file in stack.files for argument in ("--file", str(CHECKOUT / file)))
    docker("compose", *files, "config", "--quiet")


def test_a_port_in_use(checkout):
    port = SERVICES["special"]
    with socket.create_server(("127.0.0.1", port)):
        line = error_line(checkout.run("docker"))
    assert f"port {port} (special) is in use by PID {os.getpid()} (" in line


def test_an_image_that_cannot_be_fetched(engine, tmp_path):
    copy = Checkout(tmp_path / "checkout")
    file = copy.folder / "docker-compose.yaml"
    image = "localhost:1/nowhere:1"
    file.write_text(file.read_text().replace("grafana/grafana:13.1.6", image))
    line = error_line(copy.run("docker", env=os.environ | {"COMPOSE_PROJECT_NAME": "tracing-demo-test"}))
    assert "image localhost:1/nowhere:1" in line and "./run.sh local" in line
