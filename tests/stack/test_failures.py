"""./run.sh local where it cannot work: one line with the cause and the way out, and nothing is left running."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from local.postgres import Cluster
from tests.stack.checkout import Checkout, complaint


@pytest.fixture
def checkout(tmp_path, free_ports):
    copy = Checkout(tmp_path / "checkout")
    yield copy
    copy.run("reset")
    assert copy.processes() == []


@pytest.fixture
def home(checkout):
    """A sound data folder."""
    cluster = Cluster(checkout.folder / ".data" / "postgres", 5999)
    cluster.home.parent.mkdir()
    cluster.prepare()
    return cluster.home


def test_a_port_in_use(checkout):
    with socket.create_server(("127.0.0.1", 5052)):
        line = complaint(checkout.run("local"))
    assert f"port 5052 (special) is taken by PID {os.getpid()} (" in line
    assert "stop that" in line
    assert checkout.processes() == []


def test_without_docker_it_is_the_local_stack_that_would_start(checkout, tmp_path):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    with socket.create_server(("127.0.0.1", 5052)):
        run = checkout.run(env={"PATH": str(tmp_path)})
    assert "Starting the local stack, for there is no docker on the PATH." in run.stdout
    assert "port 5052 (special) is taken" in complaint(run)


def test_an_address_of_another_machine(checkout):
    line = complaint(checkout.run("local", env=os.environ | {"BIND_ADDRESS": "203.0.113.1"}))
    assert "cannot listen on 203.0.113.1:" in line
    assert "BIND_ADDRESS must be" in line


def emptied(home: Path) -> None:
    shutil.rmtree(home / "data")
    (home / "data").mkdir()


def of_another_version(home: Path) -> None:
    (home / "data" / "PG_VERSION").write_text("17\n")


def without_its_heart(home: Path) -> None:
    (home / "data" / "global" / "pg_control").unlink()


def no_folder(home: Path) -> None:
    shutil.rmtree(home.resolve())
    home.unlink(missing_ok=True)  # root's is a link
    home.write_text("")


@pytest.mark.parametrize(
    ("broken", "cause"),
    [
        (emptied, "holds no PostgreSQL database"),
        (of_another_version, "is PostgreSQL 17's"),
        (without_its_heart, "holds no PostgreSQL database"),
        (no_folder, "is no folder"),
    ],
)
def test_a_broken_data_folder(checkout, home, broken, cause):
    broken(home)
    line = complaint(checkout.run("local"))
    assert cause in line
    assert "./run.sh reset" in line
    assert checkout.processes() == []


def test_a_database_that_only_looks_sound(checkout, home):
    (home / "data" / "global" / "pg_control").write_bytes(bytes(8192))
    line = complaint(checkout.run("local"))
    assert "postgres dies again and again" in line
    assert "./run.sh reset" in line
    assert checkout.run("reset").returncode == 0
    assert not (checkout.folder / ".data").exists()
    assert not home.resolve().exists()
