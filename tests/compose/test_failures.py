"""./run.sh docker where it cannot work: one line with the cause and the way out."""

import os
import socket

import pytest

from tests.compose.images import docker
from tests.stack.checkout import ROOT, Checkout, complaint


@pytest.mark.parametrize("file", ["docker-compose.yaml", "docker-compose.original.yaml"])
def test_the_compose_file_is_sound(engine, file):
    docker("compose", "--file", str(ROOT / file), "config", "--quiet")


def test_a_port_in_use(checkout):
    with socket.create_server(("127.0.0.1", 5052)):
        line = complaint(checkout.run("docker"))
    assert f"port 5052 (special) is taken by PID {os.getpid()} (" in line


def test_an_image_that_is_nowhere(engine, tmp_path):
    copy = Checkout(tmp_path / "checkout")
    file = copy.folder / "docker-compose.yaml"
    image = "localhost:1/nowhere:1"
    file.write_text(file.read_text().replace("grafana/grafana:13.1.6", image))
    line = complaint(copy.run("docker", env=os.environ | {"COMPOSE_PROJECT_NAME": "tracing-demo-test"}))
    assert "image localhost:1/nowhere:1" in line and "./run.sh local" in line
