"""The pages /learn of port 3000: the exercises of the workshop beside a SQL editor, whose result is checked."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flask import Blueprint, abort, redirect, render_template, request, send_from_directory, url_for
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape
from werkzeug.wrappers import Response

import workshop
from explorer.checking import differences
from explorer.database import Database, RefusedStatement
from explorer.results import TextResult
from explorer.sql_pages import SHOWN_ROWS, refuse_other_sites, refused, shown, statement
from explorer.web import MAX_SQL_URL
from workshop import Exercise, Mistake

IMAGES = workshop.FOLDER / "images"


class Verdict(NamedTuple):
    """The result of a check. It is right if `differences` is empty and the reference has rows."""

    differences: Sequence[str]
    mistake: Mistake | None = None  # that has the same result
    has_data: bool = True  # whether the reference finds anything in the stored spans

    @property
    def is_right(self) -> bool:
        return self.has_data and not self.differences


def learn_pages(database: Database) -> Blueprint:
    """The list of the exercises at /learn, to which the paths of Grafana's dashboards lead, and a page for each."""
    pages = Blueprint("learn", __name__)
    pages.before_request(refuse_other_sites)
    pages.add_app_template_filter(_markdown, "markdown")

    @pages.get("/learn")
    def index() -> str:
        return render_template("learn_index.html", exercises=workshop.exercises())

    @pages.get("/d/<any(workshop, 'workshop-answers'):uid>")
    def grafana(uid: str) -> Response:
        """Grafana's dashboards of the workshop are at these paths."""
        return redirect(url_for("learn.index"))

    @pages.get("/learn/images/<name>")
    def image(name: str) -> Response:
        return send_from_directory(IMAGES, name)

    @pages.route("/learn/<slug>", methods=["GET", "POST"])
    def exercise(slug: str) -> str | tuple[str, int]:
        shown_exercise = _exercise(slug)
        text = statement(request.values.get("sql", ""))
        content, status = _answer(database, shown_exercise, text)
        page = render_template(
            "learn.html",
            exercise=shown_exercise,
            exercises=workshop.exercises(),
            sql=text,
            max_url=MAX_SQL_URL,
            **content,
        )
        return page, status

    return pages


def check(database: Database, exercise: Exercise, text: str) -> tuple[TextResult, Verdict]:
    """The first SHOWN_ROWS + 1 rows of a reader's statement, and whether they answer an exercise.

    The reference reads the same spans at the same time. Raises RefusedStatement.
    """
    with database.user_statements(2 + len(exercise.mistakes)) as run:
        given = run(text, SHOWN_ROWS + 1)
        try:
            expected = run(exercise.answer, SHOWN_ROWS + 1)
            if not expected.rows:
                return given, Verdict([], has_data=False)
            found = differences(given, expected, exercise.is_ordered)
            mistakes = exercise.mistakes if found and given.rows else ()
            same = (
                mistake
                for mistake in mistakes
                if not differences(given, run(mistake.sql, SHOWN_ROWS + 1), exercise.is_ordered)
            )
            return given, Verdict(found, next(same, None))
        except RefusedStatement as error:
            raise RefusedStatement(f"The reference, with which your result is compared, failed: {error}") from error


def _exercise(slug: str) -> Exercise:
    for exercise in workshop.exercises():
        if exercise.slug == slug:
            return exercise
    abort(404, "There is no such exercise. The page /learn lists them.")


def _answer(database: Database, exercise: Exercise, text: str) -> tuple[Mapping[str, object], int]:
    """What the page shows of a statement and its check, and the status."""
    if not text.strip():
        return {}, 200
    began = time.monotonic()
    try:
        if "check" not in request.values:
            result = database.run_user_statement(text, SHOWN_ROWS + 1)
            return shown(database, result, time.monotonic() - began), 200
        result, verdict = check(database, exercise, text)
    except RefusedStatement as error:
        return refused(text, error), 400
    return {"verdict": verdict, **shown(database, result)}, 200


class _Renderer(RendererHTML):
    """The Markdown of an exercise as HTML: its images are served here, and SQL can be coloured.

    Links to other files of the project, which the explorer does not serve, become their names.
    """

    def fence(self, tokens: Sequence[Token], number: int, options: Any, environment: Any) -> str:
        token = tokens[number]
        return f'<pre class="{escape(token.info.strip())}" tabindex="0">{escape(token.content)}</pre>\n'

    def image(self, tokens: Sequence[Token], number: int, options: Any, environment: Any) -> str:
        token = tokens[number]
        url = url_for("learn.image", name=str(token.attrGet("src")).rpartition("/")[2])
        return f'<img src="{escape(url)}" alt="{escape(token.content)}">'

    def link_open(self, tokens: Sequence[Token], number: int, options: Any, environment: Any) -> str:
        return self.renderToken(tokens, number, options, environment) if _is_url(tokens[number]) else ""

    def link_close(self, tokens: Sequence[Token], number: int, options: Any, environment: Any) -> str:
        opening = next(token for token in reversed(tokens[:number]) if token.type == "link_open")
        if _is_url(opening):
            return self.renderToken(tokens, number, options, environment)
        path = str(opening.attrGet("href")).removeprefix("../../").partition("#")[0].replace("../", "docs/")
        return "" if tokens[number - 1].content == path else f" (<code>{escape(path)}</code>)"


def _is_url(link: Token) -> bool:
    return "://" in str(link.attrGet("href"))


_MARKDOWN = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")


def _markdown(text: str) -> Markup:
    return Markup(_MARKDOWN.render(text))
