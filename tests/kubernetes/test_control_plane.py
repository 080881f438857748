"""./run.sh kubernetes with the control plane of Kubernetes: etcd, the API server and the controllers.

There is no node and no container: the tests set the status of the Pods, as a kubelet would.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from local import CHECKOUT
from local.kubernetes import FORWARD_MARK, NAMESPACE
from tests import built
from tests.stack.checkout import Checkout, error_line
from tests.stack.stacks import checked, skip_unless_ports_are_free
from tests.waiting import free_port, wait_until

pytestmark = pytest.mark.slow
CONTEXT = "kind-tests"
NOW = "2026-01-01T00:00:00Z"


class Cluster:
    """The control plane, whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        programs = built.control_plane()
        self._etcd_url, peer_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._running: list[psutil.Popen] = []
        self.environment = os.environ | {
            "KUBECONFIG": str(folder / "config"),
            "PATH": f"{built.kubectl().parent}:{os.environ['PATH']}",
        }
        port = free_port()
        key = folder / "key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (folder / "tokens").write_text("token-of-the-tests,admin,1,system:masters\n")
        cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
        config = {
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": "token-of-the-tests"}}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": "tests", "user": "admin"}}],
            "current-context": CONTEXT,
        }
        (folder / "config").write_text(json.dumps(config))
        with (folder / "log").open("w") as log:

            def start(program: str, **options: object) -> None:
                words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
                self._running.append(psutil.Popen([programs / program, *words], stdout=log, stderr=log, cwd=folder))

            start(
                "etcd",
                data_dir=folder / "etcd",
                listen_client_urls=self._etcd_url,
                advertise_client_urls=self._etcd_url,
                listen_peer_urls=peer_url,
                initial_advertise_peer_urls=peer_url,
                initial_cluster=f"default={peer_url}",
            )
            start(
                "kube-apiserver",
                etcd_servers=self._etcd_url,
                bind_address="127.0.0.1",
                secure_port=port,
                cert_dir=folder / "certificates",
                endpoint_reconciler_type="none",  # the default one needs an address other than loopback
                service_account_issuer="https://kubernetes.default.svc",
                service_account_key_file=key,
                service_account_signing_key_file=key,
                token_auth_file=folder / "tokens",
                authorization_mode="AlwaysAllow",
                service_cluster_ip_range="10.96.0.0/16",
            )
            wait_until(lambda: self.kubectl("get", "--raw", "/readyz").returncode == 0, "the API server")
            start(
                "kube-controller-manager",
                kubeconfig=folder / "config",
                service_account_private_key_file=key,
                bind_address="127.0.0.1",
                secure_port=free_port(),
                leader_elect="false",
            )

    def kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(built.kubectl()), *arguments]
        return subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True)

    def get(self, kinds: str) -> list[dict[str, Any]]:
        """All objects of these kinds in the namespace of the demo."""
        listed = checked(self.kubectl("get", kinds, "--namespace", NAMESPACE, "--output", "json"))
        items: list[dict[str, Any]] = json.loads(listed.stdout)["items"]
        return items

    def set_status(self, status_of: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Of all Pods: `status_of` returns the status of a container, whose specification it gets."""
        for pod in self.get("pods"):
            containers = [
                {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
                | status_of(container)
                for container in pod["spec"]["containers"]
            ]
            ready = all(container["ready"] for container in containers)
            status = {
                "phase": "Running" if ready else "Pending",
                "startTime": NOW,
                "conditions": [{"type": "Ready", "status": str(ready), "lastTransitionTime": NOW}],
                "containerStatuses": containers,
            }
            patch = json.dumps({"status": status})
            options = ("--namespace", NAMESPACE, "--subresource=status", "--type=merge", f"--patch={patch}")
            self.kubectl("patch", "pod", pod["metadata"]["name"], *options)  # it may be gone since

    def close(self) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(60)


def runs(container: dict[str, Any]) -> dict[str, Any]:
    return {"ready": True, "state": {"running": {"startedAt": NOW}}}


def lacks_its_image(container: dict[str, Any]) -> dict[str, Any]:
    missing = container["image"] == "tracing-demo"
    return {"ready": False, "state": {"waiting": {"reason": "ErrImagePull"}}} if missing else runs(container)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    skip_unless_ports_are_free()
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def run(cluster, tmp_path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A function that runs ./run.sh in a copy of the checkout, while all Pods have the status of the first argument."""
    checkout = Checkout(tmp_path / "checkout")

    def run(status_of, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with ThreadPoolExecutor() as pool:
            running = pool.submit(checkout.run, *arguments, env=cluster.environment | environment)
            while not running.done():
                cluster.set_status(status_of)
            return running.result()

    yield run
    checked(run(runs, "reset"))


def test_the_objects_are_accepted_and_a_second_apply_changes_none(cluster):
    def generations() -> dict[str, int]:
        return {
            item["metadata"]["name"]: item["metadata"]["generation"] for item in cluster.get("deployments,statefulsets")
        }

    applied = checked(cluster.kubectl("apply", "-k", "kubernetes/base"))
    assert "PodSecurity" not in applied.stderr
    # The API server admits the Pods, by the Pod Security Standard of the namespace.
    parts = {name: 2 if name == "promscale" else 1 for name in generations()}

    def pods() -> dict[str, int]:
        names = [pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in cluster.get("pods")]
        return {name: names.count(name) for name in names}

    # The HorizontalPodAutoscaler has set promscale's number of replicas, which makes a new generation.
    wait_until(lambda: pods() == parts, "the Pods")
    before = generations()
    checked(cluster.kubectl("apply", "-k", "kubernetes/base"))
    assert generations() == before
    checked(cluster.kubectl("apply", "-k", "kubernetes/external-database", "--dry-run=server"))
    checked(cluster.kubectl("delete", "namespace", NAMESPACE))


def test_a_node_without_the_image(run):
    line = error_line(run(lacks_its_image, "kubernetes"))
    assert "the image tracing-demo is not in the cluster: docker build " in line
    assert "kind load docker-image tracing-demo --name tests" in line


def test_from_start_to_reset(cluster, run):
    # Without a node, no port can be forwarded.
    line = error_line(run(runs, "kubernetes", LOAD_USERS="6", DEMO_TOKEN="a-token-of-the-tests"))
    assert "port 5050 is not forwarded within" in line and f"kubectl --context {CONTEXT} " in line
    [load] = [item for item in cluster.get("deployments") if item["metadata"]["name"] == "load"]
    name = load["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"]
    [settings] = [item["data"] for item in cluster.get("configmaps") if item["metadata"]["name"] == name]
    assert (settings["LOAD_USERS"], settings["BIND_ADDRESS"]) == ("6", "0.0.0.0")

    status = run(runs, "status").stdout
    assert status.count(" healthy ") == len(cluster.get("deployments,statefulsets"))
    assert "the Kubernetes stack is running on the same ports" in error_line(run(runs, "local"))
    assert f"the demo is in the context {CONTEXT}; ./run.sh reset" in error_line(run(runs, "kubernetes", "another"))

    down = checked(run(runs, "down"))
    assert down.stdout == "Stopped: 15 Pods ended, none is left.\n"
    assert not cluster.get("pods") and cluster.get("persistentvolumeclaims")
    assert not forwarding()
    checked(run(runs, "reset"))
    assert cluster.kubectl("get", "namespace", NAMESPACE).returncode


def forwarding() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if FORWARD_MARK in process.environ():
                found.append(process)
    return found
