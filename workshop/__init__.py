"""The exercises of the workshop, read from docs/workshop/: one Markdown file each, with sections of fixed names.

The explorer's page /learn, Grafana's two dashboards and the tests have them from here. No I/O but reading those files,
and the standard library only.
"""

import functools
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "docs" / "workshop"
FACTS = ("Time", "Switch on", "Order of the rows")
SECTIONS = ("Question", "Why it matters", "Hints", "Answer", "What you see", "Typical mistakes", "Variation")

_FACT = re.compile(r"^- (.+?): (.+(?:\n  .+)*)$", re.MULTILINE)
_COMMAND = re.compile(r"`\./run\.sh ([^`]+)`")
_STATEMENT = re.compile(r"^```sql\n(.*?)^```\n?", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^\d\. (.+(?:\n   .+)*)$", re.MULTILINE)
_ORDERS = {"matters": True, "any": False}


class Mistake(NamedTuple):
    """A typical wrong answer. The text says what is wrong with it."""

    title: str
    sql: str
    text: str


class Exercise(NamedTuple):
    """Texts are Markdown, with links relative to docs/workshop/."""

    slug: str  # the file's name without its ending
    number: int
    title: str
    time: str
    preparation: str
    commands: tuple[str, ...]  # of ./run.sh, which the preparation names: "faults off"
    is_ordered: bool  # whether an answer must have the rows in the reference's order
    question: str
    why: str
    hints: tuple[str, ...]
    answer: str  # the reference's SQL
    seen: str
    mistakes: tuple[Mistake, ...]
    variation: str


@functools.cache
def exercises() -> tuple[Exercise, ...]:
    """All exercises in their order. Raises ValueError, which names the file that has not the form of an exercise."""
    return tuple(parse(path.stem, path.read_text()) for path in sorted(FOLDER.glob("[0-9][0-9]-*.md")))


def parse(slug: str, text: str) -> Exercise:
    """The exercise of a file's text. Raises ValueError."""
    head, *parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], (part.strip() for part in parts[1::2]), strict=True))
    facts = {name: " ".join(fact.split()) for name, fact in _FACT.findall(head)}
    title = re.match(r"# (\d+)\. (.+)\n", head)
    if not title or tuple(facts) != FACTS or tuple(sections) != SECTIONS:
        raise ValueError(f"{slug}.md has not a title with a number, the list {FACTS} and the sections {SECTIONS}")
    time, preparation, order = facts.values()
    question, why, hints, answer, seen, mistakes, variation = sections.values()
    if order not in _ORDERS:
        raise ValueError(f"{slug}.md says of the order of the rows {order!r}, and not one of {', '.join(_ORDERS)}")
    sql, more = _statement(slug, answer)
    if more:
        raise ValueError(f"{slug}.md has more than one statement as its answer")
    return Exercise(
        slug=slug,
        number=int(title[1]),
        title=title[2],
        time=time,
        preparation=preparation,
        commands=tuple(_COMMAND.findall(preparation)),
        is_ordered=_ORDERS[order],
        question=question,
        why=why,
        hints=tuple(hint.replace("\n   ", "\n") for hint in _ITEM.findall(hints)),
        answer=sql,
        seen=seen,
        mistakes=tuple(_mistake(slug, part) for part in re.split(r"^### ", mistakes, flags=re.MULTILINE)[1:]),
        variation=variation,
    )


def _mistake(slug: str, text: str) -> Mistake:
    title, _, content = text.partition("\n")
    return Mistake(title, *_statement(slug, content))


def _statement(slug: str, text: str) -> tuple[str, str]:
    """The statement with which a text begins, and what follows it."""
    if not (found := _STATEMENT.match(text.strip() + "\n")):
        raise ValueError(f"{slug}.md has no SQL where a statement is expected: {text[:40]!r}")
    return found[1], text.strip()[found.end() :].strip()
