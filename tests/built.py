"""Programs and packages of Go, Rust and Node for the tests: built once, and kept in the user's cache folder.

`python3 -m tests.built` builds the programs before the tests. The standard library only, so that it can run before
.venv exists.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import SkipTest

# Jaeger 2.13, the latest that is a Go module: a tag of version 2 or later would need a module path that ends in /v2.
JAEGER = "github.com/jaegertracing/jaeger", "v1.76.0"
BUILDER = "go.opentelemetry.io/collector/cmd/builder", "v0.159.0"
MANIFEST = Path(__file__).parent / "compose" / "otelcol.yaml"
KUBERNETES = Path(__file__).parent / "kubernetes" / "programs"
# Jaeger without optimizations takes two thirds of the processor time to build, and any tests less than that to run.
GOFLAGS = "-trimpath '-gcflags=all=-N -l'"
ENCODER_FUZZ = Path(__file__).parent.parent / "promscale" / "encoder" / "fuzz"
PACKAGES = Path(__file__).parent / "panels" / "package.json"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracing-demo"


def jaeger_sources() -> Path:
    """A folder with the sources of Jaeger's module, and two programs in it."""
    return _cached(f"jaeger-{JAEGER[1]}-suite", _build_jaeger)


def jaeger() -> Path:
    return jaeger_sources() / "cmd" / "jaeger" / "jaeger"


def jaeger_suite() -> Path:
    """Jaeger's tests of a storage, as a program. It runs in its own folder."""
    return jaeger_sources() / "cmd" / "jaeger" / "internal" / "integration" / "suite"


def otelcol() -> Path:
    """The OpenTelemetry Collector with the components that collector/config.yaml uses."""
    manifest = hashlib.sha256(MANIFEST.read_bytes()).hexdigest()[:12]
    return _cached(f"otelcol-{BUILDER[1]}-{manifest}", _build_otelcol) / "otelcol"


def kubectl() -> Path:
    """kubectl, which has Kustomize in it: the one on the PATH, or else one that is built."""
    present = shutil.which("kubectl")
    return Path(present) if present else _of_kubernetes("kubectl") / "kubectl"


def control_plane() -> Path:
    """A folder with etcd, kube-apiserver and kube-controller-manager."""
    return _of_kubernetes("etcd", "kube-apiserver", "kube-controller-manager")


def encoder_fuzz_target() -> Path:
    """The fuzz target of promscale's Rust encoder, with libFuzzer's options and checks of overflows. Skips the test
    without cargo."""
    cargo = _program("cargo")
    # What cargo-fuzz passes for libFuzzer's feedback, without a sanitizer, which would need a nightly compiler.
    coverage = ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
    flags = ["--cfg=fuzzing", "-Cdebug-assertions=on", "-Coverflow-checks=on", "-Cpasses=sancov-module"]
    flags += [f"-Cllvm-args=-sanitizer-coverage-{option}" for option in coverage]
    host = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    target = next(line.removeprefix("host: ") for line in host.splitlines() if line.startswith("host: "))
    folder = CACHE / "encoder-fuzz"
    # With --target, the flags are not for cargo's build scripts.
    command = [cargo, "build", "--release", "--locked", f"--target={target}", f"--target-dir={folder}"]
    environment = os.environ | {"RUSTFLAGS": " ".join(flags)}
    build = subprocess.run(command, cwd=ENCODER_FUZZ, env=environment, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr[-3000:]
    return folder / target / "release" / "encode"


def grafana_data() -> Path:
    """A folder whose node_modules contains the packages of package.json, with Grafana's library for data."""
    versions = json.loads(PACKAGES.read_text())["dependencies"]
    return _cached(f"grafana-data-{versions['@grafana/data']}", _install_grafana_data)


def node(program: Path, stdin: str) -> subprocess.CompletedProcess[str]:
    """Run a program that uses Grafana's library, without checking its exit code. Skips the test without such a Node."""
    command = _program("node")
    # Some packages that the library loads with require() are ES modules.
    feature = subprocess.run([command, "-p", "process.features.require_module"], capture_output=True, text=True)
    if feature.stdout.strip() != "true":
        raise SkipTest("Grafana's library needs Node 20.19, 22.12 or later")
    environment = os.environ | {"NODE_PATH": str(grafana_data() / "node_modules")}
    return subprocess.run([command, program], input=stdin, env=environment, capture_output=True, text=True)


def go(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run go; the caller checks the exit code. Skips the test without Go."""
    program = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if not program:
        raise SkipTest("Go is not installed")
    variables = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": GOFLAGS, "GOGC": "400", "GOWORK": "off"} | environment
    return subprocess.run([program, *arguments], cwd=cwd, env=variables, capture_output=True, text=True)


def _cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache. `build` fills it if it does not exist."""
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
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
    for path in [folder, *folder.rglob("*")]:  # files in Go's module cache are read-only
        path.chmod(path.stat().st_mode | 0o200)
    _checked("build", "-ldflags=-s -w", "-o", "cmd/jaeger/jaeger", "./cmd/jaeger", cwd=folder)
    suite = folder / "cmd" / "jaeger" / "internal" / "integration"
    _checked("test", "-c", "-vet=off", "-ldflags=-s -w", "-o", "suite", cwd=suite)


def _build_otelcol(folder: Path) -> None:
    manifest = shutil.copy(MANIFEST, folder)
    _checked("run", "@".join(BUILDER), f"--config={manifest}", "--skip-strict-versioning", cwd=folder)


def _of_kubernetes(*programs: str) -> Path:
    """A folder with these programs of tests/kubernetes/programs."""
    module = (KUBERNETES / "go.mod").read_text()
    [version] = re.findall(r"k8s.io/kubernetes (v\S+)", module)

    def build(folder: Path) -> None:
        shutil.copytree(KUBERNETES, folder / "sources")
        _checked("mod", "tidy", cwd=folder / "sources")
        packages = [f"./{program}" for program in programs]
        _checked("build", "-ldflags=-s -w", "-o", f"{folder}/", *packages, cwd=folder / "sources")

    return _cached(f"{programs[-1]}-{version}", build)


def _install_grafana_data(folder: Path) -> None:
    shutil.copy(PACKAGES, folder)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock")
    npm = subprocess.run([_program("npm"), "install", *options], cwd=folder, capture_output=True, text=True)
    assert npm.returncode == 0, npm.stdout[-3000:] + npm.stderr[-3000:]


def _program(name: str) -> str:
    path = shutil.which(name)
    if not path:
        raise SkipTest(f"{name} is not installed")
    return path


def _checked(*arguments: str, cwd: Path) -> str:
    finished = go(*arguments, cwd=cwd)
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished.stdout


if __name__ == "__main__":
    jaeger()
    otelcol()
    kubectl()
    encoder_fuzz_target()
    control_plane()
