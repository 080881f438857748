"""What ./run.sh says when it cannot do what it should: one line with the cause and the way out."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import Trouble, stack
from tests.stack.checkout import Checkout, complaint


@pytest.fixture
def bare(tmp_path):
    """A copy of this checkout without Python packages."""
    return Checkout(tmp_path / "checkout", packages=False)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "checkout")


@pytest.fixture
def only(tmp_path):
    """Makes an environment with no other programs than these: their shell scripts by their names."""

    def environment(scripts: dict[str, str]) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "bash").symlink_to(shutil.which("bash"))
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return {"PATH": str(folder)}

    return environment


def test_python_too_old(bare, only):
    line = complaint(bare.run("status", env=only({"python3": "echo 3.9"})))
    assert "needs Python 3.11 to 3.14; found: python3 is 3.9;" in line
    assert not (bare.folder / ".venv").exists()


def test_python_too_new_for_the_locked_packages(bare, only):
    line = complaint(bare.run("status", env=only({"python3": "echo 3.15"})))
    assert "needs Python 3.11 to 3.14; found: python3 is 3.15;" in line


def test_no_python(bare, only):
    assert "found: none;" in complaint(bare.run("status", env=only({})))


def test_python_without_its_venv_module(bare, only):
    line = complaint(bare.run("status", env=only({"python3": 'case "$2" in *ensurepip*) exit 1;; esac; echo 3.12'})))
    assert "apt install python3-venv" in line


def test_a_name_with_nothing_behind_it_is_passed_over(bare, only):
    """As pyenv leaves them on the PATH."""
    works = 'case "$*" in *local.environment*) echo this one; exit 7;; *sys.version*) echo 3.12;; esac'
    run = bare.run("status", env=only({"python3": "exit 127", "python3.13": "exit 127", "python3.12": works}))
    assert (run.returncode, run.stdout) == (7, "this one\n")


def test_no_right_to_write():
    """As a plain user; root may write everywhere, and becomes nobody for this."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        bare = Checkout(Path(folder) / "checkout", packages=False)
        bare.folder.chmod(0o555)
        user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
        run = bare.run("status", env={"PATH": "/usr/bin:/bin"}, **user)
        bare.folder.chmod(0o755)
    if "needs Python" in run.stderr:
        pytest.skip(f"nobody has no Python here: {run.stderr}")
    line = complaint(run)
    assert "no right to write" in line and str(bare.folder) in line


def test_no_room(bare):
    small = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs -o size=50m none "$0"; "$@"',
    ]
    place = bare.folder.parent / "small"
    place.mkdir()
    if not shutil.which("unshare") or subprocess.run([*small, place, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    copy_and_run = f'cp -r "{bare.folder}" "{place}"; "{place}/checkout/run.sh" status'
    line = complaint(subprocess.run([*small, place, "sh", "-c", copy_and_run], capture_output=True, text=True))
    assert "no room" in line and "make room" in line


@pytest.mark.parametrize("command", ["local", "down", "reset"])
def test_two_at_the_same_time(checkout, command):
    first = os.open(checkout.folder, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    line = complaint(checkout.run(command))
    os.close(first)
    assert "another ./run.sh is at work in this checkout" in line


def test_two_at_the_same_time_while_it_is_set_up(bare):
    first = os.open(bare.folder, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    line = complaint(bare.run("local"))
    os.close(first)
    assert "another ./run.sh is at work in this checkout" in line
    assert not (bare.folder / ".venv").exists()


@pytest.mark.parametrize("command", ["docker", "original"])
@pytest.mark.parametrize(
    ("scripts", "cause"),
    [
        ({}, "there is no docker on the PATH"),
        ({"docker": "echo cannot connect to it >&2; exit 1"}, "no Docker engine answers (cannot connect to it)"),
        ({"docker": "[ $1 = version ] || { echo no such command; exit 1; }"}, "docker has no Compose v2"),
        ({"docker": "echo v2.23.3"}, "Docker Compose v2.23 is too old: this needs 2.24 or later"),
    ],
)
def test_no_docker(checkout, only, command, scripts, cause):
    line = complaint(checkout.run(command, env=only(scripts)))
    assert cause in line
    assert "./run.sh local" in line


@pytest.mark.parametrize("arguments", [["strat"], ["local", "now"], ["down", "--force"], ["logs", "a", "b"]])
def test_what_it_does_not_know(checkout, arguments):
    assert "./run.sh help" in complaint(checkout.run(*arguments))


def test_a_benchmark_that_does_not_exist(checkout):
    assert "ingest, query" in complaint(checkout.run("bench", "all"))


def test_logs_before_the_first_start(checkout):
    assert "nothing was started yet" in complaint(checkout.run("logs"))


@pytest.mark.parametrize("arguments", [["help"], ["-h"], ["--help"]])
def test_help(checkout, arguments):
    run = checkout.run(*arguments)
    assert run.returncode == 0
    assert "./run.sh status" in run.stdout


def test_a_start_without_space_on_the_disk_says_how_to_go_on(monkeypatch, tmp_path):
    monkeypatch.setattr(stack.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**6))
    with pytest.raises(Trouble, match="5 MB free.* free some of it elsewhere, the traces are kept"):
        stack._check_disk()


@pytest.mark.parametrize(
    ("character", "named"), [(":", ":"), ('"', '\\"'), ("$", "\\$"), ("`", "\\`"), ("\\", "\\\\"), ("\n", "$'\\n'")]
)
def test_a_character_that_its_path_cannot_have_is_named(tmp_path, character, named):
    line = complaint(Checkout(tmp_path / f"a{character}b", packages=False).run("status"))
    assert f"has the character {named} in it" in line


def test_variables_of_other_pythons_and_databases_do_not_matter(checkout):
    foreign = {"PYTHONHOME": "/nowhere", "PGSSLMODE": "nonsense", "PGSERVICE": "none"}
    run = checkout.run("status", env=os.environ | foreign)
    assert run.stderr == ""
    assert "postgres    not running" in run.stdout


@pytest.fixture
def path(monkeypatch, tmp_path):
    """A folder, which is all that is on the PATH of a stack that would start."""
    monkeypatch.setenv("PATH", str(tmp_path))
    stack._variables.cache_clear()
    yield tmp_path
    stack._variables.cache_clear()


def test_status_says_what_rotel_guarantees_and_has_lost(monkeypatch, path):
    monkeypatch.setattr(stack, "LOGS", path)
    (path / "collector.log.1").write_text("ERROR Exporting failed, dropping data. error=RESOURCE_EXHAUSTED\n" * 2)
    (path / "collector.log").write_text("memory allocation of 654311424 bytes failed\nStarting Rotel.\n")
    report = stack.collector_report()
    assert "in its memory (rotel), and lost when it is killed" in report
    assert "batches given up: 2, ends for want of memory: 1" in report


def test_status_says_that_the_full_stacks_collector_keeps_its_queue_on_disk(path):
    (path / "otelcol").touch(mode=0o755)
    assert stack.collector_report().endswith("on disk")
