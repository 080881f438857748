"""./run.sh local where it cannot work: one line with the cause and the fix, and no process is left."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from local.postgres import Cluster
from telemetry.services import POSTGRES_PORT, SERVICES
from tests.stack.checkout import Checkout, error_line


@pytest.fixture
def checkout(tmp_path, free_ports):
    copy = Checkout(tmp_path / "checkout")
    yield copy
    copy.run("reset")
    assert copy.processes() == []


@pytest.fixture
def home(checkout):
    """A data folder with an intact database."""
    cluster = Cluster(checkout.folder / ".data" / "postgres", POSTGRES_PORT)
    cluster.home.parent.mkdir()
    cluster.prepare()
    return cluster.home


def test_a_port_in_use(checkout):
    port = SERVICES["special"]
    with socket.create_server(("127.0.0.1", port)):
        line = error_line(checkout.run("local"))
    assert f"port {port} (special) is in use by PID {os.getpid()} (" in line
    assert "stop that process" in line
    assert checkout.processes() == []


def test_without_docker_run_sh_starts_the_local_stack(checkout, tmp_path):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    with socket.create_server(("127.0.0.1", SERVICES["special"])):
        run = checkout.run(env={"PATH": str(tmp_path)})
    assert "Starting the local stack, because there is no docker on the PATH." in run.stdout
    assert "(special) is in use" in error_line(run)


def test_an_address_of_another_machine(checkout):
    line = error_line(checkout.run("local", env=os.environ | {"BIND_ADDRESS": "203.0.113.1"}))
    assert "cannot listen on 203.0.113.1:" in line
    assert "set BIND_ADDRESS to an IPv4 address of this machine" in line


def empty(home: Path) -> None:
    shutil.rmtree(home / "data")
    (home / "data").mkdir()


def of_another_version(home: Path) -> None:
    (home / "data" / "PG_VERSION").write_text("17\n")


def without_control_file(home: Path) -> None:
    (home / "data" / "global" / "pg_control").unlink()


def not_a_folder(home: Path) -> None:
    shutil.rmtree(home.resolve())
    home.unlink(missing_ok=True)  # for root, it is a symbolic link
    home.write_text("")


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (empty, "contains no PostgreSQL database"),
        (of_another_version, "is of PostgreSQL 17,"),
        (without_control_file, "contains no PostgreSQL database"),
        (not_a_folder, "is not a folder"),
    ],
)
def test_a_damaged_data_folder(checkout, home, damage, cause):
    damage(home)
    line = error_line(checkout.run("local"))
    assert cause in line
    assert "./run.sh reset" in line
    assert checkout.processes() == []


def test_a_corrupt_database(checkout, home):
    (home / "data" / "global" / "pg_control").write_bytes(bytes(8192))
    line = error_line(checkout.run("local"))
    assert "postgres crashes repeatedly" in line
    assert "./run.sh reset" in line
    assert checkout.run("reset").returncode == 0
    assert not (checkout.folder / ".data").exists()
    assert not home.resolve().exists()
