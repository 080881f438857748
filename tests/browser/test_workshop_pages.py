"""The pages of the workshop in a real browser. Their pictures in docs/workshop/ are taken here."""

import hashlib
import json
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from tests.browser.conftest import SCREENSHOTS
from tests.workshop_traces import store_passwords
from workshop import exercises

FIRST, SECOND, *_ = exercises()


@pytest.fixture
def learn(dsn, promscale, serve):
    """The URL of the list of exercises."""
    return f"{serve(create_dashboards(make_conninfo(dsn, user='explorer')))}/learn"


def address(learn: str, exercise, sql: str) -> str:
    return f"{learn}/{exercise.slug}?{urlencode({'sql': sql, 'check': 'yes'})}"


def test_an_exercise_is_solved_and_remembered(learn, promscale, database, open_page):
    store_passwords(promscale, database, FIRST.number)
    page = open_page(learn)
    assert page.locator(".state").all_text_contents() == [""] * len(exercises())
    page.get_by_role("link", name=FIRST.title).click()

    [mistake, *_] = FIRST.mistakes
    page.get_by_label("Your statement").fill(mistake.sql)
    page.get_by_role("button", name="Check").click()
    assert page.locator(".verdict h2").text_content() == mistake.title
    page.get_by_label("Your statement").fill(FIRST.answer)
    page.get_by_role("button", name="Check").click()
    page.get_by_text("Right.").wait_for()

    page.goto(learn)
    assert page.locator(".state").first.text_content() == "✓ solved, your answer"
    assert page.get_by_text(f"You have solved 1 of {len(exercises())}.").is_visible()
    page.get_by_role("link", name="your answer").click()
    assert page.get_by_label("Your statement").input_value() == FIRST.answer

    page.goto(learn)
    with page.expect_navigation():
        page.get_by_role("button", name="Forget my progress").click()
    assert page.locator(".state").all_text_contents() == [""] * len(exercises())


def test_hints_and_the_answer_are_shown_on_demand(learn, open_page):
    page = open_page(f"{learn}/{FIRST.slug}")
    hint = page.get_by_text("Look at one trace first")
    assert not hint.is_visible()
    page.get_by_text("Hint 1").click()
    assert hint.is_visible()
    page.get_by_text("Answer", exact=True).click()
    page.get_by_role("link", name="Put it into the editor and check it").click()
    assert page.get_by_label("Your statement").input_value() == FIRST.answer
    page.get_by_text("Nothing to compare with.").wait_for()


def test_control_enter_runs_without_a_check(learn, open_page):
    page = open_page(f"{learn}/{FIRST.slug}")
    page.get_by_label("Your statement").fill("select 17 as number")
    with page.expect_navigation():
        page.get_by_label("Your statement").press("Control+Enter")
    assert page.locator(".result td").all_text_contents() == ["17"]
    assert page.locator(".verdict").count() == 0


def test_an_exercise_works_without_javascript(learn, promscale, database, open_page):
    store_passwords(promscale, database, SECOND.number)
    page = open_page(f"{learn}/{SECOND.slug}", java_script_enabled=False)
    page.get_by_label("Your statement").fill(SECOND.answer)
    page.get_by_role("button", name="Check").click()
    page.get_by_text("Right.").wait_for()


def test_a_narrow_window_needs_no_scrolling_to_the_side(learn, open_page):
    for path in ("", f"/{FIRST.slug}"):
        page = open_page(learn + path, width=360)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.slug)
def test_the_picture_of_an_exercise(exercise, learn, promscale, database, open_page):
    """Of its answer's result; answers.json has the hash of each answer with a picture."""
    store_passwords(promscale, database, exercise.number)
    page = open_page(address(learn, exercise, exercise.answer), width=1280, height=1600)
    page.get_by_text("Right.").wait_for()
    assert page.locator(".result tbody tr").count()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    result = page.locator(".result figure, .result .scroll").first
    result.screenshot(path=SCREENSHOTS / f"{exercise.slug}.png")
    notes = SCREENSHOTS / "answers.json"
    noted = json.loads(notes.read_text()) if notes.exists() else {}
    noted[exercise.slug] = hashlib.sha256(exercise.answer.encode()).hexdigest()
    notes.write_text(json.dumps(noted, indent=2, sort_keys=True) + "\n")
