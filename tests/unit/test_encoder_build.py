"""The Rust encoder is used only if it was built from the sources as they are now; a failed build stops nothing."""

import os
import shutil
import subprocess

import pytest

from local import encoder, stack
from tests.stack.checkout import Checkout, error_line


@pytest.fixture
def built(monkeypatch, tmp_path):
    """A copy of the sources of a built encoder."""
    sources = tmp_path / "encoder"
    shutil.copytree(encoder.SOURCES, sources, ignore=shutil.ignore_patterns("target"))
    monkeypatch.setattr(encoder, "SOURCES", sources)
    monkeypatch.setattr(encoder, "INSTALLED", tmp_path / "encoder.sha256")
    encoder.INSTALLED.write_text(encoder._hash_of_sources())
    return sources


def planned_encoder(settings: dict[str, str]) -> str:
    [promscale] = [part for part in stack.parts(settings) if part.name == "promscale"]
    return promscale.environment["PROMSCALE_ENCODER"]


def test_an_encoder_of_earlier_sources_is_not_used(built):
    assert planned_encoder({}) == "rust"
    assert planned_encoder({"PROMSCALE_ENCODER": "python"}) == "python"
    with (built / "src" / "row.rs").open("a") as source:
        source.write("// another column\n")
    assert planned_encoder({}) == "python"


def test_a_failed_build_is_one_line_with_its_log(tmp_path):
    checkout = Checkout(tmp_path / "checkout")
    (checkout.folder / ".venv" / "encoder.sha256").unlink(missing_ok=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "cargo").write_text("#!/bin/sh\necho 'no compiler here' >&2; exit 1\n")
    (programs / "cargo").chmod(0o755)
    build = subprocess.run(
        [checkout.folder / ".venv" / "bin" / "python", "-P", "-m", "local.encoder"],
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(checkout.folder)},
        capture_output=True,
        text=True,
    )
    log = checkout.folder / ".data" / "logs" / "encoder.log"
    assert error_line(build).endswith(f"the output: {log}")
    assert log.read_text()
    assert not (checkout.folder / ".venv" / "encoder.sha256").exists()
