"""Files that repeat the names, ports and URLs of telemetry/services.py agree with it."""

import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase

import pytest

from local import CHECKOUT
from telemetry.services import (
    BESIDE,
    CHARACTER_SERVICES,
    COLLECTOR_HEALTH_PORT,
    FAULTS_PORT,
    OTLP_GRPC_PORT,
    OTLP_HTTP_PORT,
    PAGES,
    POSTGRES_PORT,
    PROMSCALE_GRPC_PORT,
    PROMSCALE_HTTP_PORT,
    SERVICES,
)
from tests.compose_file import services
from tests.documents import DOCUMENTS

BIND = "${BIND_ADDRESS:-127.0.0.1}"
TRACED = [*SERVICES, "load"]
# By the name of the part in the Compose files: the ports that it publishes.
PUBLISHED = {
    **{name: {port} for name, port in SERVICES.items()},
    "collector": {OTLP_GRPC_PORT, OTLP_HTTP_PORT, COLLECTOR_HEALTH_PORT},
    "promscale": {PROMSCALE_HTTP_PORT, PROMSCALE_GRPC_PORT},
    "postgres": {POSTGRES_PORT},
    "faults": {FAULTS_PORT},
    **{name: {port} for name, port in BESIDE.items()},
    "grafana": {PAGES["dashboards"]},
    "jaeger": {PAGES["traces"]},
}
LOOPBACK_ONLY = {POSTGRES_PORT, COLLECTOR_HEALTH_PORT}
PORTS = set().union(*PUBLISHED.values()) - {COLLECTOR_HEALTH_PORT}  # those that the documents list
README = (CHECKOUT / "README.md").read_text()


@pytest.fixture(scope="module")
def parts():
    """The parts of the full stack."""
    return services()


@pytest.mark.parametrize("name", SERVICES)
def test_compose_runs_each_service(parts, name):
    port, part = SERVICES[name], parts[name]
    assert part["command"] == f"python -m telemetry {name}"
    assert part["environment"]["PORT"] == port
    assert part["environment"]["HEALTH"] == f"{port}/healthz"


@pytest.mark.parametrize("name", TRACED)
def test_compose_names_each_traced_part_and_tells_it_the_urls_of_the_services(parts, name):
    environment = parts[name]["environment"]
    assert environment["OTEL_SERVICE_NAME"] == name
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == f"http://collector:{OTLP_GRPC_PORT}"
    urls = {variable: value for variable, value in environment.items() if variable.endswith("_URL")}
    assert urls == {f"{service.upper()}_URL": f"http://{service}:{port}" for service, port in SERVICES.items()}


def test_compose_starts_the_generator_after_the_services_that_it_calls(parts):
    healthy = {name for name, on in parts["generator"]["depends_on"].items() if on["condition"] == "service_healthy"}
    assert healthy == {*CHARACTER_SERVICES, "faults"}


@pytest.mark.parametrize(("name", "port"), BESIDE.items())
def test_compose_runs_the_explorer_beside_grafana_and_jaeger(parts, name, port):
    environment = parts[name]["environment"]
    assert parts[name]["command"] == f"python -m explorer {name}"
    assert (environment["PORT"], environment["HEALTH"]) == (port, f"{port}/healthz")
    for linking in (name, "generator"):
        assert parts[linking]["environment"][f"EXPLORER_{name.upper()}_PORT"] == port


def test_in_compose_the_services_answer_by_their_host_names(parts):
    allowed = parts["generator"]["environment"]["ALLOWED_HOSTS"].split(",")
    assert set(SERVICES) | {"promscale"} <= set(allowed)


def test_in_compose_one_part_writes_the_flags_and_the_others_read_them(parts):
    file = parts["faults"]["environment"]["FAULTS_FILE"]
    [(volume, folder)] = [mount.split(":") for mount in parts["faults"]["volumes"]]
    assert file.startswith(f"{folder}/")
    assert parts["faults"]["user"] == "0:0"  # other than that of the services, which may not read the token
    for name in TRACED:
        assert parts[name]["volumes"] == [f"{volume}:{folder}:ro"]
        assert parts[name]["environment"]["FAULTS_FILE"] == file
        assert parts[name]["depends_on"]["faults"] == {"condition": "service_healthy"}
        assert "user" not in parts[name]


def test_in_compose_changes_need_a_token_where_the_ports_are_published_to_others(parts):
    assert parts["faults"]["environment"]["PUBLISHED_ADDRESS"] == BIND


@pytest.mark.parametrize("file", ["docker-compose.yaml", "docker-compose.original.yaml"])
def test_compose_publishes_the_ports_of_the_table(file):
    parts = services(file)
    for name, part in parts.items():
        extended = part.get("extends", {})
        ports = services(extended["file"])[extended["service"]].get("ports", []) if extended else part.get("ports", [])
        published = {int(port.rsplit(":", 2)[1]) for port in ports}
        assert published == PUBLISHED.get(name, set()), name
        for port in ports:
            address = port.rsplit(":", 2)[0]
            assert address == ("127.0.0.1" if int(port.rsplit(":", 2)[1]) in LOOPBACK_ONLY else BIND), port
    assert parts.keys() >= {*PUBLISHED, "load"} - ({*BESIDE} if file.endswith("original.yaml") else set())


@pytest.mark.parametrize(
    "name", [*TRACED, "promscale", "explorer", "faults", "frame", "queries", "serving", "telemetry"]
)
def test_the_image_contains_each_package(name):
    patterns = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert f"!{name}" in patterns
    assert not any(fnmatchcase(name, pattern) for pattern in patterns if pattern != "*")


@pytest.mark.parametrize("name", SERVICES)
def test_python_finds_each_service(name):
    """Each has an app, which `python -m telemetry` serves under the name of its folder."""
    assert (CHECKOUT / name / "app.py").exists()


def test_an_unknown_service_is_refused():
    command = [sys.executable, "-m", "telemetry", "digits"]
    finished = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 1
    assert finished.stderr == f"'digits' is not a service; name one of {', '.join(SERVICES)}\n"


@pytest.mark.parametrize(
    ("file", "ports"),
    [
        ("collector/config.yaml", {OTLP_GRPC_PORT, OTLP_HTTP_PORT, COLLECTOR_HEALTH_PORT, PROMSCALE_GRPC_PORT}),
        ("jaeger/config.yaml", {PAGES["traces"], PROMSCALE_GRPC_PORT}),
        ("grafana/provisioning/datasources/datasources.yaml", {PAGES["traces"]}),
        ("grafana/home/home.json", {PAGES["traces"]}),
        ("promscale/__main__.py", {PROMSCALE_HTTP_PORT, PROMSCALE_GRPC_PORT}),
    ],
)
def test_other_files_have_the_ports_of_the_table(file, ports):
    numbers = {int(number) for number in re.findall(r"\b\d{4,5}\b", (CHECKOUT / file).read_text())}
    assert ports <= numbers


def test_the_dev_container_forwards_the_ports_of_the_table():
    container = json.loads((CHECKOUT / ".devcontainer" / "devcontainer.json").read_text())
    ports = {SERVICES["generator"], FAULTS_PORT, POSTGRES_PORT, PROMSCALE_HTTP_PORT, *PAGES.values()}
    assert set(container["forwardPorts"]) == ports
    assert {int(port) for port in container["portsAttributes"]} == ports


# Documents -----------------------------------------------------------------------------------------------------------


def expanded(text: str) -> set[int]:
    """The ports in a list such as "3000, 5050 to 5054 and 16686"."""
    ranges = re.findall(r"\b(\d{4,5})(?: to (\d{4,5}))?\b", text)
    return {port for first, last in ranges for port in range(int(first), int(last or first) + 1)}


def test_the_readme_lists_all_ports():
    [listed] = re.findall(r"^The ports (.*?) must be free", README, re.MULTILINE | re.DOTALL)
    assert expanded(listed) == PORTS


def test_the_readmes_links_are_to_the_pages():
    linked = {int(port) for port in re.findall(r"[<(]http://localhost:(\d+)", README)}
    assert linked == {SERVICES["generator"], FAULTS_PORT, PROMSCALE_HTTP_PORT, *PAGES.values()}


@pytest.mark.parametrize("name", TRACED)
def test_the_readme_shows_each_service(name):
    [diagram] = re.findall(r"^```mermaid\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert re.search(rf"\b{name}\b", diagram)
    assert f"`{name}/`" in README


def test_the_table_of_containers_has_each_part_and_its_ports():
    rows = re.findall(
        r"^\| ([\w, ]+) \|[^|]+\|([^|]*)\|[^|]*\|$", (CHECKOUT / "docs" / "docker.md").read_text(), re.MULTILINE
    )
    listed = {names: expanded(ports) for names, ports in rows[1:]}
    assert {name for names in listed for name in names.split(", ")} == {*PUBLISHED, "load"}
    for names, ports in listed.items():
        assert ports == set().union(*(PUBLISHED.get(name, set()) for name in names.split(", "))), names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_documents_name_no_other_ports(document):
    named = re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", document.read_text())
    assert {int(port) for port in named} <= PORTS
