"""The images of the full stack: the real ones where their registry is reached, else stand-ins under the same names.

The stand-ins are made of Debian 13's packages and of programs built here; there is none for Grafana.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from tests.stack.checkout import ROOT

RECIPES = Path(__file__).parent / "stand_ins"
DEBIAN = "tracing-demo-test-debian"
TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
LABEL = "tracing-demo.stand-in"


class Missing(Exception):
    """An image can be had neither way. The message says why."""


def obtain() -> set[str]:
    """See to it that all images are here; returns those for which there is neither the real one nor a stand-in.

    Raises Missing where this machine cannot make stand-ins.
    """
    text = (ROOT / "docker-compose.yaml").read_text() + (ROOT / "Dockerfile").read_text()
    images = dict.fromkeys(re.findall(r"(?:image: |^FROM )(\S+:\S+)", text, re.MULTILINE))
    return {image for image in images if not _is_real(image) and not _make(image)}


def _is_real(image: str) -> bool:
    label = docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}', image, check=False)
    if label.returncode:
        return docker("pull", "--quiet", image, check=False).returncode == 0
    return not label.stdout.strip()


def _make(image: str) -> bool:
    """Make the stand-in, anew if its recipe has changed; returns whether there is one."""
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


def _program(build: str) -> Callable:
    @contextmanager
    def recipe():
        from tests import built  # which needs Go, as the others do not

        with _context("program") as context:
            shutil.copy(getattr(built, build)(), context / "program")
            yield context

    return recipe


_RECIPES = {
    "python": _python,
    "timescale/timescaledb": _timescaledb,
    "otel/opentelemetry-collector-contrib": _program("otelcol"),
    "jaegertracing/jaeger": _program("jaeger"),
}


@contextmanager
def _context(recipe: str):
    """A copy of the recipe's folder, to be added to."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(RECIPES / recipe, folder, dirs_exist_ok=True))


def _debian() -> None:
    """See to it that there is the base of the stand-ins."""
    if docker("image", "inspect", DEBIAN, check=False).returncode == 0:
        return
    if os.getuid() != 0 or not shutil.which("debootstrap"):
        raise Missing("no image registry is reached, and only root with debootstrap can make stand-ins of the images")
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    with tempfile.TemporaryDirectory() as folder:
        command = ["debootstrap", "--variant=minbase", f"--include={packages}", "trixie", folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        with subprocess.Popen(["tar", "-C", folder, "-c", "."], stdout=subprocess.PIPE) as archive:
            docker("import", "-", DEBIAN, stdin=archive.stdout)


def docker(*arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Call docker; `options` are subprocess.run's. Fails where docker does, unless `check` is False."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done
