"""./run.sh where it cannot work: one line with the cause and the fix."""

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from local import CHECKOUT, CommandError, stack
from tests import built
from tests.stack.checkout import Checkout, error_line
from tests.waiting import free_port


@pytest.fixture
def bare(tmp_path):
    """A copy of this checkout without Python packages."""
    return Checkout(tmp_path / "checkout", packages=False)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path / "checkout")


@pytest.fixture
def only(tmp_path):
    """A function that returns an environment with only these programs on the PATH: shell scripts, by their names."""

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
    line = error_line(bare.run("status", env=only({"python3": "echo 3.9"})))
    assert "needs Python 3.11 to 3.14; found: python3 is 3.9;" in line
    assert not (bare.folder / ".venv").exists()


def test_python_too_new_for_the_locked_packages(bare, only):
    line = error_line(bare.run("status", env=only({"python3": "echo 3.15"})))
    assert "needs Python 3.11 to 3.14; found: python3 is 3.15;" in line


def test_no_python(bare, only):
    assert "found: none;" in error_line(bare.run("status", env=only({})))


def test_python_without_its_venv_module(bare, only):
    line = error_line(bare.run("status", env=only({"python3": 'case "$2" in *ensurepip*) exit 1;; esac; echo 3.12'})))
    assert "apt install python3-venv" in line


def test_a_shim_without_an_interpreter_is_passed_over(bare, only):
    """pyenv leaves such shims on the PATH."""
    works = 'case "$*" in *local.environment*) echo this one; exit 7;; *sys.version*) echo 3.12;; esac'
    run = bare.run("status", env=only({"python3": "exit 127", "python3.13": "exit 127", "python3.12": works}))
    assert (run.returncode, run.stdout) == (7, "this one\n")


def test_a_checkout_without_write_permission():
    """As an ordinary user: root, who may write everywhere, runs it as nobody."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        bare = Checkout(Path(folder) / "checkout", packages=False)
        bare.folder.chmod(0o555)
        user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}
        run = bare.run("status", env={"PATH": "/usr/bin:/bin"}, **user)
        bare.folder.chmod(0o755)
    if "needs Python" in run.stderr:
        pytest.skip(f"the user nobody can run no Python: {run.stderr.strip()}")
    line = error_line(run)
    assert "permission denied" in line and str(bare.folder) in line


def test_a_full_disk(bare):
    in_small_file_system = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs -o size=50m none "$0"; "$@"',
    ]
    mount = bare.folder.parent / "small"
    mount.mkdir()
    command = [*in_small_file_system, mount]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    copy_and_run = f'cp -r "{bare.folder}" "{mount}"; "{mount}/checkout/run.sh" status'
    line = error_line(subprocess.run([*command, "sh", "-c", copy_and_run], capture_output=True, text=True))
    assert "not enough disk space" in line and "free some" in line


@pytest.mark.parametrize("command", ["local", "down", "reset"])
def test_two_commands_at_the_same_time(checkout, command):
    lock = os.open(checkout.folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    line = error_line(checkout.run(command))
    os.close(lock)
    assert "another ./run.sh is at work in this checkout" in line


def test_two_commands_at_the_same_time_during_the_set_up(bare):
    lock = os.open(bare.folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    line = error_line(bare.run("local"))
    os.close(lock)
    assert "another ./run.sh is at work in this checkout" in line
    assert not (bare.folder / ".venv").exists()


@pytest.mark.parametrize("command", ["docker", "citus", "original"])
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
    line = error_line(checkout.run(command, env=only(scripts)))
    assert cause in line
    assert "./run.sh local" in line


@pytest.fixture
def kubectl(checkout, tmp_path):
    """A function that runs ./run.sh kubernetes with a real kubectl, whose configuration has these contexts: the URL of
    each one's API server, by its name. The first is the current one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in ("bash", "sh"):
        (folder / program).symlink_to(shutil.which(program))
    (folder / "kubectl").symlink_to(built.kubectl())

    def run(servers: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        config = {
            "clusters": [{"name": name, "cluster": {"server": server}} for name, server in servers.items()],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "nobody"}} for name in servers],
            "users": [{"name": "nobody", "user": {"token": "none"}}],
            "current-context": next(iter(servers), ""),
        }
        (tmp_path / "config").write_text(json.dumps(config))
        environment = {"PATH": str(folder), "KUBECONFIG": str(tmp_path / "config"), "HOME": str(tmp_path)}
        return checkout.run("kubernetes", *arguments, env=environment)

    return run


def test_no_kubectl(checkout, only):
    line = error_line(checkout.run("kubernetes", env=only({})))
    assert "there is no kubectl on the PATH; install it (https://" in line and "./run.sh local" in line


def test_a_kubectl_that_is_too_old(checkout, only):
    """As Debian 12 has it: without kustomizeVersion."""
    old = """echo '{"clientVersion": {"major": "1", "minor": "20", "gitVersion": "v1.20.2"}}'"""
    assert "kubectl is too old: this needs 1.27" in error_line(checkout.run("kubernetes", env=only({"kubectl": old})))


def test_kubectl_without_a_cluster(kubectl):
    line = error_line(kubectl({}))
    assert "kubectl has no current context; start a cluster (kind create cluster, " in line and "./run.sh local" in line


def test_a_cluster_that_does_not_answer(kubectl):
    server = f"https://127.0.0.1:{free_port()}"
    line = error_line(kubectl({"kind-kind": server}))
    assert "the cluster of kubectl's context kind-kind does not answer (" in line and "refused" in line


def test_a_cluster_on_another_machine_is_used_only_when_it_is_named(kubectl):
    servers = {"production": "https://cluster.invalid:6443", "kind-kind": f"https://127.0.0.1:{free_port()}"}
    line = error_line(kubectl(servers))
    assert "context production is a cluster at https://cluster.invalid:6443, which is not on this machine" in line
    assert line.endswith("./run.sh kubernetes production")
    assert "context production does not answer (" in error_line(kubectl(servers, "production"))
    assert "context kind-kind does not answer (" in error_line(kubectl(servers, "kind-kind"))


def test_a_context_that_kubectl_does_not_know(kubectl):
    line = error_line(kubectl({"kind-kind": "https://127.0.0.1:1"}, "minikube"))
    assert "there is no context 'minikube' in kubectl's configuration, which has: kind-kind" in line


@pytest.mark.parametrize("arguments", [["stat"], ["local", "now"], ["down", "--force"], ["logs", "a", "b"]])
def test_an_unknown_command_or_argument(checkout, arguments):
    assert "./run.sh help" in error_line(checkout.run(*arguments))


def test_a_benchmark_that_does_not_exist(checkout):
    assert "ingest, query, start" in error_line(checkout.run("bench", "all"))


def test_an_assistants_server_writes_nothing_but_its_messages_to_stdout(checkout):
    shutil.copy(CHECKOUT / "requirements" / "mcp.txt", checkout.folder / ".venv")
    run = checkout.run("mcp")
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


@pytest.mark.parametrize("command", ["export", "import"])
def test_an_unknown_option_of_a_transfer(checkout, command):
    shutil.copy(CHECKOUT / "requirements" / "transfer.txt", checkout.folder / ".venv")
    assert f"usage: ./run.sh {command}" in error_line(checkout.run(command, "--nonsense"))


def test_logs_before_the_first_start(checkout):
    assert "nothing was started yet" in error_line(checkout.run("logs"))


@pytest.mark.parametrize("arguments", [["help"], ["-h"], ["--help"]])
def test_help(checkout, arguments):
    run = checkout.run(*arguments)
    assert run.returncode == 0
    assert "./run.sh status" in run.stdout


def test_a_start_with_a_full_disk_says_what_to_do(monkeypatch):
    monkeypatch.setattr(stack.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**6))
    with pytest.raises(CommandError, match=r"5 MB free.* free some space elsewhere, the traces are kept"):
        stack.check_disk()


@pytest.mark.parametrize(
    ("character", "quoted"), [(":", ":"), ('"', '\\"'), ("$", "\\$"), ("`", "\\`"), ("\\", "\\\\"), ("\n", "$'\\n'")]
)
def test_a_path_with_an_unusable_character(tmp_path, character, quoted):
    line = error_line(Checkout(tmp_path / f"a{character}b", packages=False).run("status"))
    assert f"contains the character {quoted}," in line


def test_variables_for_other_pythons_and_databases_are_ignored(checkout):
    foreign = {"PYTHONHOME": "/nowhere", "PGSSLMODE": "nonsense", "PGSERVICE": "none"}
    run = checkout.run("status", env=os.environ | foreign)
    assert run.stderr == ""
    assert "postgres    not running" in run.stdout


def test_changed_code_changes_the_plan_of_the_parts_that_a_start_then_restarts(monkeypatch, tmp_path):
    monkeypatch.setattr(stack, "CHECKOUT", tmp_path)
    monkeypatch.setattr(stack, "PLAN", tmp_path / "parts.json")

    def plan() -> dict[str, dict]:
        stack._write_plan({"PATH": str(tmp_path)})
        return stack._plan()["parts"]

    def changed(file: str, content: str) -> set[str]:
        before = plan()
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
        after = plan()
        return {name for name in after if after[name] != before[name]}

    assert changed("digit/app.py", "first") == {"digit"}
    assert changed("digit/app.py", "second") == {"digit"}
    assert changed("telemetry/work.py", "first") == stack.TRACED
    assert changed("promscale/store.py", "first") == set()


def test_status_says_what_rotel_guarantees_and_has_lost(monkeypatch, tmp_path):
    monkeypatch.setattr(stack, "LOGS", tmp_path)
    (tmp_path / "collector.log.1").write_text("ERROR Exporting failed, dropping data. error=RESOURCE_EXHAUSTED\n" * 2)
    (tmp_path / "collector.log").write_text("memory allocation of 654311424 bytes failed\nStarting Rotel.\n")
    report = stack.collector_report({"PATH": str(tmp_path)})
    assert "rotel keeps a span that it acknowledged in memory, and loses it when it is killed" in report
    assert "batches dropped: 2, crashes for lack of memory: 1" in report


def test_status_says_that_opentelemetrys_collector_keeps_its_queue_on_disk(tmp_path):
    (tmp_path / "otelcol").touch(mode=0o755)
    assert stack.collector_report({"PATH": str(tmp_path)}).endswith("on disk")
