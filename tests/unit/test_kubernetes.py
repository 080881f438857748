"""kubernetes/, as kubectl renders it: valid for three releases of Kubernetes, and agreeing with docker-compose.yaml."""

import json
import os
import re
import shlex
import socket
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from explorer import database
from local import CHECKOUT, kubernetes
from promscale import jaeger, store
from promscale.__main__ import GRACE_SECONDS
from telemetry.services import COLLECTOR_HEALTH_PORT, POSTGRES_PORT, PROMSCALE_GRPC_PORT, SERVICES
from tests import built
from tests.compose_file import services, size

COMPOSE = services()
BASE, EXTERNAL = "base", "external-database"
RELEASES = all_versions()[-3:]
TRACED = [*SERVICES, "load"]
# What kubectl writes into an annotation of each object that it applies, and what an annotation may have.
MAX_ANNOTATION_BYTES = 262_144

Object = dict[str, Any]


@pytest.fixture(scope="module")
def render():
    """A function that returns the objects of a folder of kubernetes/, by kind and name."""

    def render(folder: str) -> dict[tuple[str, str], Object]:
        command = [str(built.kubectl()), "kustomize", str(CHECKOUT / "kubernetes" / folder)]
        objects = list(yaml.safe_load_all(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        by_name = {(item["kind"], item["metadata"]["name"]): item for item in objects}
        assert len(by_name) == len(objects)
        return by_name

    return render


@pytest.fixture(scope="module")
def base(render):
    return render(BASE)


@pytest.fixture(scope="module")
def pods(base):
    """The specification of each part's Pod, by the part's name."""
    return {
        name: item["spec"]["template"]["spec"]
        for (kind, name), item in base.items()
        if kind in ("Deployment", "StatefulSet")
    }


@pytest.fixture(scope="module")
def containers(pods):
    return {name: pod["containers"][0] for name, pod in pods.items()}


@pytest.fixture(scope="module")
def environments(base, containers):
    """The variables of each part, of which those in optional Secrets and ConfigMaps that do not exist are missing."""

    def value(name: str, source: Object) -> str | None:
        kind, reference = next(iter(source.items()))
        item = base.get(({"configMapKeyRef": "ConfigMap", "secretKeyRef": "Secret"}[kind], reference["name"]), {})
        values = item.get("data", {}) | item.get("stringData", {})
        assert reference["key"] in values or reference.get("optional"), name
        return values.get(reference["key"])

    def variables(container: Object) -> dict[str, str]:
        found: dict[str, str | None] = {}
        for source in container.get("envFrom", []):
            found |= base["ConfigMap", source["configMapRef"]["name"]]["data"]
        for variable in container.get("env", []):
            name = variable["name"]
            found[name] = variable["value"] if "value" in variable else value(name, variable["valueFrom"])
        return {name: text for name, text in found.items() if text is not None}

    return {name: variables(container) for name, container in containers.items()}


def config_map(objects: dict[tuple[str, str], Object], name: str) -> Object:
    """A generated ConfigMap, whose name ends in the hash of its content."""
    [found] = [
        item for (kind, key), item in objects.items() if kind == "ConfigMap" and re.fullmatch(name + "-\\w+", key)
    ]
    return found


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("folder", [BASE, EXTERNAL])
def test_every_object_is_valid(render, folder, release):
    for item in render(folder).values():
        kubernetes_validate.validate(item, release, strict=True)


@pytest.mark.parametrize("folder", [BASE, EXTERNAL])
def test_every_object_fits_into_the_annotation_of_a_client_side_apply(render, folder):
    for name, item in render(folder).items():
        assert len(json.dumps(item)) < MAX_ANNOTATION_BYTES, name


def test_all_objects_belong_to_the_namespace_and_carry_the_label_of_the_demo(base):
    for (kind, name), item in base.items():
        assert kind == "Namespace" or item["metadata"]["namespace"] == kubernetes.NAMESPACE, name
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "tracing-demo", name


# Agreement with docker-compose.yaml ---------------------------------------------------------------------------------


def test_the_parts_are_those_of_compose(pods):
    assert pods.keys() == COMPOSE.keys()
    assert all(len(pod["containers"]) == 1 for pod in pods.values())


@pytest.mark.parametrize("name", COMPOSE)
def test_images_agree(pods, name):
    every = [*pods[name]["containers"], *pods[name].get("initContainers", [])]
    assert {container["image"] for container in every} == {COMPOSE[name]["image"]}


@pytest.mark.parametrize("name", sorted(COMPOSE.keys() - {"grafana"}))
def test_commands_agree(containers, name):
    expected = shlex.split(COMPOSE[name]["command"])
    if name == "postgres":
        # Each promscale has connections of its own.
        expected[expected.index("max_connections=60")] = "max_connections=100"
    assert containers[name]["args"] == expected


def compose_environment(name: str) -> dict[str, str]:
    """What Compose sets when the user's environment sets nothing, but for HEALTH."""
    given = {
        key: re.sub(r"\$\{\w+(:-([^}]*)|:\+[^}]*)\}", r"\2", str(value))
        for key, value in environment_of(name).items()
        if value is not None
    }
    return {key: value.rstrip(",") for key, value in given.items() if key != "HEALTH"}


def environment_of(name: str) -> dict[str, Any]:
    return COMPOSE[name].get("environment", {})


@pytest.mark.parametrize("name", COMPOSE)
def test_environments_agree(base, environments, name):
    expected = compose_environment(name)
    if name == "collector":
        # Kubernetes' default for these is the one of collector/config.yaml; all Pods of promscale are the next test's.
        assert expected.pop("COLLECTOR_PROCESSORS") == "[memory_limiter]" and expected.pop("TRACE_SAMPLING_PERCENT")
        assert expected.pop("PROMSCALE_ENDPOINT") == f"promscale:{PROMSCALE_GRPC_PORT}"
    if name == "grafana":
        expected.pop("GF_SECURITY_ADMIN_PASSWORD")  # Grafana's own default, unless there is the Secret
    actual = environments[name]
    assert {key: actual.get(key) for key in expected} == expected
    shared = config_map(base, "demo")["data"].keys()
    assert actual.keys() - expected.keys() - shared <= {"PGDATA", "PROMSCALE_ENDPOINT"}


def test_the_collector_reaches_all_promscales(base, environments):
    [(host, port)] = re.findall(r"^dns:///([\w-]+):(\d+)$", environments["collector"]["PROMSCALE_ENDPOINT"])
    service = base["Service", host]["spec"]
    assert (service["clusterIP"], service["selector"]) == ("None", {"app.kubernetes.io/name": "promscale"})
    assert {int(port)} == {entry["port"] for entry in service["ports"]} == {PROMSCALE_GRPC_PORT}


@pytest.mark.parametrize("name", sorted(COMPOSE.keys() - {"load"}))
def test_ports_agree(base, containers, name):
    published = {int(port.rsplit(":", 1)[1]) for port in COMPOSE[name]["ports"]}
    assert {port["containerPort"] for port in containers[name]["ports"]} == published
    service = base["Service", name]["spec"]
    assert {port["port"] for port in service["ports"]} == published - {COLLECTOR_HEALTH_PORT}
    assert service["selector"] == {"app.kubernetes.io/name": name}
    assert service.get("type", "ClusterIP") == "ClusterIP"


def test_run_sh_forwards_the_ports_that_compose_publishes():
    published = {
        name: {tuple(map(int, port.rsplit(":", 2)[1:])) for port in part.get("ports", [])}
        for name, part in COMPOSE.items()
    }
    forwarded = defaultdict(set)
    for name, local_port, port in kubernetes.FORWARDED:
        forwarded[name].add((local_port, port))
    published["collector"].remove((COLLECTOR_HEALTH_PORT, COLLECTOR_HEALTH_PORT))
    assert forwarded == {name: ports for name, ports in published.items() if ports}
    assert (POSTGRES_PORT, 5432) in forwarded["postgres"]


@pytest.mark.parametrize("name", COMPOSE)
def test_pods_are_checked_as_containers_are(containers, name):
    container = containers[name]
    readiness = container.get("readinessProbe", {})
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    if health := environment_of(name).get("HEALTH"):
        get = readiness["httpGet"]
        assert f"{ports[get['port']]}{get['path']}" == health
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    elif name == "postgres":
        assert readiness["exec"]["command"] == COMPOSE[name]["healthcheck"]["test"][1:]
    elif name == "grafana":
        [path] = re.findall(r":3000(/\S+)", COMPOSE[name]["healthcheck"]["test"][-1])
        assert readiness["httpGet"] == {"path": path, "port": "http"}
    elif name != "load":  # the images of the Collector and Jaeger
        assert readiness["httpGet"]["path"] == "/"
    assert readiness or name == "load"


@pytest.mark.parametrize("name", COMPOSE)
def test_memory_limits_agree(containers, name):
    resources = containers[name]["resources"]
    assert size(resources["limits"]["memory"]) == size(COMPOSE[name]["mem_limit"])
    assert size(resources["requests"]["memory"]) <= size(resources["limits"]["memory"])
    assert "cpu" in resources["requests"]


def files_in(folder_or_file: Path) -> dict[str, str]:
    """The content of each file by its path below, which is empty for a file itself."""
    if folder_or_file.is_file():
        return {"": folder_or_file.read_text()}
    return {file.name: file.read_text() for file in folder_or_file.iterdir()}


@pytest.mark.parametrize("name", COMPOSE)
def test_pods_get_the_files_that_containers_get(base, pods, containers, name):
    expected = {}
    for outside, inside in (volume.split(":")[:2] for volume in COMPOSE[name].get("volumes", [])):
        if outside.startswith("./"):
            expected |= {(inside, below): text for below, text in files_in(CHECKOUT / outside).items()}
    maps = {
        volume["name"]: volume["configMap"]["name"] for volume in pods[name].get("volumes", []) if "configMap" in volume
    }
    actual = {}
    for mount in containers[name].get("volumeMounts", []):
        if mount["name"] in maps:
            data = base["ConfigMap", maps[mount["name"]]]["data"]
            files = {"": data[mount["subPath"]]} if "subPath" in mount else data
            actual |= {(mount["mountPath"], below): text for below, text in files.items()}
    assert actual == expected


@pytest.mark.parametrize("name", COMPOSE)
def test_what_is_kept_is_on_a_persistent_volume(base, pods, containers, name):
    kept = {
        inside
        for outside, inside, *_ in (volume.split(":") for volume in COMPOSE[name].get("volumes", []))
        if "/" not in outside
    }
    claims = {volume["name"] for volume in pods[name].get("volumes", []) if "persistentVolumeClaim" in volume}
    for volume in pods[name].get("volumes", []):
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in base
    if stateful := base.get(("StatefulSet", name)):
        claims |= {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    mounted = {mount["mountPath"] for mount in containers[name].get("volumeMounts", []) if mount["name"] in claims}
    assert mounted == kept


def test_pods_wait_for_what_containers_wait_for(pods):
    for name in TRACED:
        conditions = COMPOSE[name]["depends_on"].items()
        healthy = {part for part, on in conditions if on["condition"] == "service_healthy"}
        if name == "load":
            healthy.remove("generator")  # load itself waits for it
        [init] = pods[name]["initContainers"]
        assert init["command"][-1] == COMPOSE["faults"]["environment"]["FAULTS_FILE"]  # which faults writes
        assert set(init.get("args", [])) == {f"{part}/{SERVICES[part]}" for part in healthy - {"faults"}}


def test_the_wait_ends_when_the_file_and_the_services_are_there(pods, tmp_path):
    [init] = pods["generator"]["initContainers"]
    file = tmp_path / "flags.json"
    with socket.create_server(("127.0.0.1", 0)) as first, socket.socket() as second:
        second.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1/{server.getsockname()[1]}" for server in (first, second)]
        waiting = subprocess.Popen([*init["command"][:-1], str(file), *addresses])
        for step in (file.touch, second.listen):
            assert waiting.poll() is None
            step()
        assert waiting.wait(60) == 0


def test_postgresql_starts_with_the_limit(containers, tmp_path):
    entrypoint = tmp_path / "docker-entrypoint.sh"
    entrypoint.write_text('#!/bin/sh\nulimit -d\nprintf "%s\\n" "$@"\n')
    entrypoint.chmod(0o755)
    command = [*containers["postgres"]["command"], *containers["postgres"]["args"]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    assert int(output[0]) * 1024 == COMPOSE["postgres"]["ulimits"]["data"]
    assert output[1:] == containers["postgres"]["args"]


# What only Kubernetes has -------------------------------------------------------------------------------------------


def test_the_namespace_enforces_the_pod_security_standard(base):
    labels = base["Namespace", kubernetes.NAMESPACE]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", COMPOSE)
def test_pods_are_restricted(pods, name):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/"""
    pod = pods[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {key for volume in pod.get("volumes", []) for key in volume} <= {
        *("name", "configMap", "emptyDir", "persistentVolumeClaim")
    }
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container.get("ports", []))
        assert context.get("readOnlyRootFilesystem", False) == COMPOSE[name].get("read_only", False)


@pytest.mark.parametrize("name", COMPOSE)
def test_pods_get_no_variables_and_no_token_of_the_cluster(pods, name):
    """Kubernetes would set PROMSCALE_PORT and others for each Service."""
    assert pods[name]["enableServiceLinks"] is False
    assert pods[name]["automountServiceAccountToken"] is False


def test_nothing_may_connect_but_the_parts_that_do(base):
    allowed = defaultdict(set)
    policies = {name: item["spec"] for (kind, name), item in base.items() if kind == "NetworkPolicy"}
    assert policies.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress"]
        server = policy["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in policy["ingress"]:
            for peer in rule["from"]:
                [expression] = peer["podSelector"]["matchExpressions"]
                assert (expression["key"], expression["operator"]) == ("app.kubernetes.io/name", "In")
                for client in expression["values"]:
                    allowed[client] |= {f"{server}:{port['port']}" for port in rule["ports"]}
    database, storage, otlp = "postgres:5432", "promscale:9202", "collector:4317"
    assert allowed == {
        "load": {"generator:5050", otlp},
        "generator": {"upper:5054", "lower:5053", "digit:5051", "special:5052", otlp},
        "lower": {"digit:5051", otlp},
        **{name: {otlp} for name in ("upper", "digit", "special")},
        "faults": {database},
        "collector": {storage},
        "promscale": {database},
        "dashboards": {storage, database},
        "traces": {storage, database},
        "jaeger": {storage},
        "grafana": {"jaeger:16686", database},
    }


def test_one_part_writes_the_flags_and_those_that_read_them_run_on_its_node(base, pods, containers):
    [folder] = {volume.split(":")[1] for name in [*TRACED, "faults"] for volume in COMPOSE[name]["volumes"]}
    term = pods["faults"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    for name in [*TRACED, "faults"]:
        assert pods[name]["affinity"] == pods["faults"]["affinity"]
        labels = base["Deployment", name]["spec"]["template"]["metadata"]["labels"]
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
        [mount] = [mount for mount in containers[name]["volumeMounts"] if mount["name"] == "faults"]
        assert mount["mountPath"] == folder
        assert mount.get("readOnly", False) == (name != "faults")
        assert pods[name]["securityContext"].get("fsGroup") == (10002 if name == "faults" else None)
    assert base["Deployment", "faults"]["spec"]["strategy"] == {"type": "Recreate"}
    # The file of the token is for its own user only.
    writer = containers["faults"]["securityContext"]["runAsUser"]
    assert writer not in {pods[name]["securityContext"]["runAsUser"] for name in TRACED}
    assert not any("runAsUser" in containers[name]["securityContext"] for name in TRACED)


def test_promscale_scales_and_keeps_a_pod_during_a_drain(base, pods):
    scaler = base["HorizontalPodAutoscaler", "promscale"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "promscale"}
    assert "replicas" not in base["Deployment", "promscale"]["spec"]  # an apply would undo what the autoscaler did
    assert base["PodDisruptionBudget", "promscale"]["spec"]["maxUnavailable"] == 1 < scaler["minReplicas"]
    assert pods["promscale"]["terminationGracePeriodSeconds"] > 2 * GRACE_SECONDS


def test_the_connections_of_all_promscales_fit(base, containers):
    [limit] = re.findall(r"max_connections=(\d+)", " ".join(containers["postgres"]["args"]))
    [grafana] = re.findall(
        r"maxOpenConns: (\d+)", config_map(base, "grafana-provisioning-datasources")["data"]["datasources.yaml"]
    )
    promscale = jaeger.CONNECTIONS + store.WRITERS + 2  # upkeep, readiness
    replicas = base["HorizontalPodAutoscaler", "promscale"]["spec"]["maxReplicas"]
    others = 2 * database.CONNECTIONS + int(grafana) + 2
    assert replicas * promscale + others < int(limit)


def test_the_overlay_replaces_the_database_by_a_secret(render, base):
    overlay = render(EXTERNAL)
    removed = {(kind, name.partition("-")[0]) for kind, name in base.keys() - overlay.keys()}
    assert removed == {
        *((kind, "postgres") for kind in ("StatefulSet", "Service", "NetworkPolicy", "ConfigMap")),
        ("Secret", "database"),
    }
    assert overlay.items() <= base.items()
    assert "postgres:5432" not in json.dumps(list(overlay.values()))


def test_the_page_of_the_overlay_has_the_keys_of_the_secret(base, containers):
    keys = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for container in containers.values()
        for variable in container.get("env", [])
        if variable.get("valueFrom", {}).get("secretKeyRef", {}).get("name") == "database"
    }
    assert base["Secret", "database"]["stringData"].keys() <= keys
    page = (CHECKOUT / "docs" / "kubernetes.md").read_text()
    assert set(re.findall(r"--from-literal=(\w+_DB_\w+)=", page)) == keys
