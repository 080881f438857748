"""What the documents say of the project's files is true."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks import worksheet
from local import CHECKOUT
from tests.documents import DOCUMENTS, anchors, links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_to_files_and_headings(document):
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def linked_files(document: Path) -> set[Path]:
    return {(document.parent / path).resolve() for path, _ in links(document)}


def test_the_index_has_every_document():
    """The index, or that of a folder within docs/."""
    index, *others = sorted((CHECKOUT / "docs").rglob("README.md"), key=lambda path: len(path.parts))
    linked = linked_files(index)
    assert linked >= set(others)
    assert linked.union(*map(linked_files, others)) >= set(DOCUMENTS) - {index}


def test_the_changelog_has_the_projects_version():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}] - " in (CHECKOUT / "CHANGELOG.md").read_text()


def test_the_worksheet_is_computed_from_the_measured_values():
    """`./run.sh bench scale` prints these tables; with --promscales or --dsn, it also writes them there."""
    text = worksheet.DOCUMENT.read_text()
    for name, table in worksheet.tables(worksheet.read()).items():
        assert worksheet.block(name, table) in text, f"{name}: ./run.sh bench scale has other values"


def test_the_documented_connections_of_a_promscale_are_those_of_the_worksheet():
    section = worksheet.DOCUMENT.read_text().partition("### Connections")[2].partition("###")[0]
    documented = re.findall(r"^\| `promscale[a-z-]*` \| (\d+) \|", section, re.MULTILINE)
    assert sum(map(int, documented)) == worksheet.CONNECTIONS
    assert f"That is {worksheet.CONNECTIONS} in all" in section


def imported_packages(package: str) -> set[str]:
    """The first part of the name of each module that the package's files import."""
    nodes = [node for file in (CHECKOUT / package).glob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names}


def test_packages_import_no_more_than_the_architecture_says():
    table = re.findall(
        r"^\| (`.+) \| .+ \| (.*) \|$", (CHECKOUT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    rows = [[re.findall(r"`(\w+)`", cell) for cell in row] for row in table]
    packages = {package for row in rows for package in row[0]}
    assert packages == {path.parent.name for path in CHECKOUT.glob("*/*.py")} - {"tests", "benchmarks"}
    for names, allowed in rows:
        for name in names:
            assert imported_packages(name) & packages <= {name, *allowed}, name
