"""./run.sh local where it cannot work: one line with the cause and the way out, and nothing is started."""

import os
import shutil
import socket

import pytest

from local import stack as local_stack
from tests.stack.checkout import Checkout, complaint


@pytest.fixture
def checkout(tmp_path):
    copy = Checkout(tmp_path / "checkout")
    yield copy
    copy.run("reset")
    assert copy.processes() == []


def test_a_port_in_use(checkout, free_ports):
    with socket.create_server(("127.0.0.1", local_stack.SERVICES["special"])):
        line = complaint(checkout.run("local"))
    assert f"port 5052 (special) is taken by PID {os.getpid()} (" in line
    assert "stop that" in line
    assert checkout.processes() == []


def test_an_address_of_another_machine(checkout):
    line = complaint(checkout.run("local", env=os.environ | {"BIND_ADDRESS": "192.0.2.1"}))
    assert "BIND_ADDRESS=192.0.2.1 is no IPv4 address of this machine" in line


def empty(data):
    shutil.rmtree(data)
    data.mkdir()


def of_another_version(data):
    (data / "PG_VERSION").write_text("17\n")


def cut_short(data):
    (data / "global" / "pg_control").unlink()


@pytest.mark.parametrize("breaking, cause", [
    (empty, "holds no PostgreSQL database"),
    (of_another_version, "is PostgreSQL 17's"),
    (cut_short, "holds no PostgreSQL database"),
    (lambda data: shutil.rmtree(data.parent), "is no folder"),
])  # fmt: skip
def test_a_broken_data_folder(checkout, free_ports, breaking, cause):
    home = local_stack.Cluster(checkout.folder / ".data" / "postgres", 5999)
    home.home.parent.mkdir()
    home.prepare()
    data = home.home.resolve() / "data"
    breaking(data)
    if not data.parent.exists() and not home.home.is_symlink():
        home.home.write_text("not a folder")
    line = complaint(checkout.run("local"))
    assert cause in line
    assert "./run.sh reset" in line
    assert checkout.processes() == []


def test_a_database_that_does_not_start(checkout, free_ports):
    """Sound to all appearance, but not."""
    home = local_stack.Cluster(checkout.folder / ".data" / "postgres", 5999)
    home.home.parent.mkdir()
    home.prepare()
    (home.home / "data" / "global" / "pg_control").write_bytes(bytes(8192))
    line = complaint(checkout.run("local"))
    assert "postgres dies again and again" in line
    assert "./run.sh reset" in line
