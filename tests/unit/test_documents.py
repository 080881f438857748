"""What the documents say of the project's files is true."""

import json
import re
import tomllib

import pytest

from tests.documents import CHECKOUT, DOCUMENTS, anchors, links


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_links_lead_to_files_and_headings(document):
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_index_has_every_document():
    index = CHECKOUT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path, _ in links(index)}
    assert linked >= set(DOCUMENTS) - {index}


def test_the_changelog_has_the_projects_version():
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## [{version}] - " in (CHECKOUT / "CHANGELOG.md").read_text()


def test_the_dev_container_forwards_the_ports_of_the_links():
    container = json.loads((CHECKOUT / ".devcontainer" / "devcontainer.json").read_text())
    linked = re.findall(r"[<(]http://localhost:(\d+)", (CHECKOUT / "README.md").read_text())
    assert {int(port) for port in linked} <= set(container["forwardPorts"])
