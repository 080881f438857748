"""./run.sh local works in a folder with unusual characters in its path, and with a strict umask."""

import os

import pytest

from tests.stack.checkout import Checkout

ODD = "50% ;a #b 'c' (d) & é*"


@pytest.fixture
def checkout(tmp_path, free_ports):
    copy = Checkout(tmp_path / ODD)
    yield copy
    copy.run("reset")
    assert copy.processes() == []


def test_it_starts_in_a_folder_of_any_name(checkout):
    started = checkout.run("local")
    assert started.returncode == 0, started.stderr
    checkout.wait_until_healthy()
    assert "1 row" in checkout.run("psql", "-c", "select count(*) from ps_trace.span").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_strict_umask_of_root_does_not_stop_postgresql(checkout):
    started = checkout.run("local", umask=0o077)
    assert started.returncode == 0, started.stderr
