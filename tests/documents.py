"""The project's Markdown documents, as the tests read them."""

import re
from collections.abc import Iterator
from pathlib import Path

from local import CHECKOUT

DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")])
# A fenced code block: its language and its text.
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def code_blocks(document: Path, language: str) -> list[str]:
    return blocks(document.read_text(), language)


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language in Markdown."""
    return [code for name, code in _FENCE.findall(text) if name == language]


def links(document: Path) -> Iterator[tuple[str, str]]:
    """Path and anchor of each link to a file of the project; either may be empty."""
    text = _INLINE_CODE.sub("", _FENCE.sub("", document.read_text()))
    for target in _LINK.findall(text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings: in lower case, without punctuation, with hyphens."""
    headings = _HEADING.findall(_FENCE.sub("", document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
