"""The images of the full stack: the real ones if their registry can be reached, otherwise stand-ins with the same
names.

The stand-ins are built from Debian 13's packages and from programs of tests/built.py. There is none for Grafana.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from local import CHECKOUT
from tests import built

RECIPES = Path(__file__).parent / "stand_ins"
DEBIAN = "tracing-demo-test-debian"
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
LABEL = "tracing-demo.stand-in"


class ImagesUnavailable(Exception):
    """There are neither the images nor the means to build stand-ins. The message says why."""


def obtain() -> set[str]:
    """Pull or build all images; returns those for which there is neither the real one nor a stand-in.

    Raises ImagesUnavailable if this machine cannot build stand-ins.
    """
    text = (CHECKOUT / "docker-compose.yaml").read_text() + (CHECKOUT / "Dockerfile").read_text()
    images = dict.fromkeys(re.findall(r"(?:image: |^FROM )(\S+:\S+)", text, re.MULTILINE))
    return {image for image in images if not _is_real(image) and not _build(image)}


def _is_real(image: str) -> bool:
    label = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image, check=False)
    if label.returncode:
        return docker("pull", "--quiet", image, check=False).returncode == 0
    return not label.stdout.strip()


def _build(image: str) -> bool:
    """Build the stand-in, again if its recipe has changed; returns whether there is one."""
    recipe = _RECIPES.get(image.partition(":")[0])
    if not recipe:
        return False
    with recipe() as context:
        docker("build", "--quiet", "--label", f"{LABEL}=yes", "--tag", image, str(context))
    return True


@contextmanager
def _python():
    _debian()
    with _context("python") as context:
        shutil.copy(TRUSTED, context)
        yield context


@contextmanager
def _timescaledb():
    _debian()
    with _context("timescaledb") as context:
        yield context


def _program(build: Callable[[], Path]) -> Callable[[], AbstractContextManager[Path]]:
    @contextmanager
    def recipe():
        with _context("program") as context:
            shutil.copy(build(), context / "program")
            yield context

    return recipe


_RECIPES = {
    "python": _python,
    "timescale/timescaledb": _timescaledb,
    "otel/opentelemetry-collector-contrib": _program(built.otelcol),
    "jaegertracing/jaeger": _program(built.jaeger),
}


@contextmanager
def _context(recipe: str):
    """A copy of the recipe's folder, as a build context to which files can be added."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(RECIPES / recipe, folder, dirs_exist_ok=True))


def _debian() -> None:
    """Build the base image of the stand-ins, once."""
    if docker("image", "inspect", DEBIAN, check=False).returncode == 0:
        return
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        raise ImagesUnavailable("no image registry can be reached, and only root with debootstrap can build stand-ins")
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    with tempfile.TemporaryDirectory() as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "trixie", folder]
        debootstrap = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert debootstrap.returncode == 0, debootstrap.stdout[-2000:]
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as archive:
            docker("import", "-", DEBIAN, stdin=archive.stdout)


def docker(*arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run docker, which must succeed unless `check` is False; `options` are subprocess.run's."""
    finished = subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)
    assert not check or finished.returncode == 0, finished.stdout + finished.stderr
    return finished
