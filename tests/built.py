"""What is built or installed for the tests from packages of Go and Node: once, and kept in the user's cache."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# The latest Jaeger that is a Go module, which is Jaeger 2.13: tags from v2 on would need a path that ends in /v2.
JAEGER = "github.com/jaegertracing/jaeger", "v1.76.0"
BUILDER = "go.opentelemetry.io/collector/cmd/builder", "v0.159.0"
MANIFEST = Path(__file__).parent / "compose" / "otelcol.yaml"
PACKAGES = Path(__file__).parent / "panels" / "package.json"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracing-demo"


def jaeger_sources() -> Path:
    """A folder with the sources of Jaeger's module, to be written to, and the program itself in it."""
    return _once(f"jaeger-{JAEGER[1]}", _build_jaeger)


def jaeger() -> Path:
    return jaeger_sources() / "cmd" / "jaeger" / "jaeger"


def otelcol() -> Path:
    """The OpenTelemetry Collector with the components of collector/config.yaml."""
    return _once(f"otelcol-{BUILDER[1]}", _build_otelcol) / "otelcol"


def grafana_data() -> Path:
    """A folder whose node_modules have Grafana's library for data, and what else PACKAGES names."""
    versions = json.loads(PACKAGES.read_text())["dependencies"]
    return _once(f"grafana-data-{versions['@grafana/data']}", _install_grafana_data)


def node(program: Path, input: str) -> subprocess.CompletedProcess:
    """Run a program that uses these; skips the test where there is no Node for it. Its output is for the caller."""
    command = _program("node")
    # Of the packages that the library requires, some are modules of the newer kind.
    asked = subprocess.run([command, "-p", "process.features.require_module"], capture_output=True, text=True)
    if asked.stdout.strip() != "true":
        pytest.skip("Grafana's library needs Node 20.19, 22.12 or later")
    environment = os.environ | {"NODE_PATH": str(grafana_data() / "node_modules")}
    return subprocess.run([command, program], input=input, env=environment, capture_output=True, text=True)


def go(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Call go; skips the test where there is none. Its output is for the caller to look at."""
    program = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if not program:
        pytest.skip("there is no Go here to build it with")
    variables = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOWORK": "off"} | environment
    return subprocess.run([program, *arguments], cwd=cwd, env=variables, capture_output=True, text=True)


def _once(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, which `build` fills if it is not there yet."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = CACHE / f"{name}.unfinished"
            if unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(folder)
    return folder


def _build_jaeger(folder: Path) -> None:
    module = json.loads(_checked("mod", "download", "-json", "@".join(JAEGER), cwd=folder))
    shutil.copytree(module["Dir"], folder, dirs_exist_ok=True)
    for path in [folder, *folder.rglob("*")]:  # in Go's own cache they are read-only
        path.chmod(path.stat().st_mode | 0o200)
    _checked("build", "-ldflags=-s -w", "-o", "cmd/jaeger/jaeger", "./cmd/jaeger", cwd=folder)


def _build_otelcol(folder: Path) -> None:
    manifest = shutil.copy(MANIFEST, folder)
    _checked("run", "@".join(BUILDER), f"--config={manifest}", "--skip-strict-versioning", cwd=folder)


def _install_grafana_data(folder: Path) -> None:
    shutil.copy(PACKAGES, folder)
    quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    done = subprocess.run([_program("npm"), "install", *quiet], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"there is no {name} here to read Grafana's panels with")
    return found


def _checked(*arguments: str, cwd: Path) -> str:
    done = go(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
