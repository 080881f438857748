"""The exercises of the workshop and the pages /learn, on a real database."""

import re
from urllib.parse import quote

import pytest
from psycopg.conninfo import make_conninfo

from explorer.dashboards import create_dashboards
from explorer.database import Database
from explorer.learn import check
from tests.panels import WORKSHOP
from tests.workshop_traces import store_passwords
from workshop import exercises

SLUGS = [exercise.slug for exercise in exercises()]
FIRST, *_ = exercises()


@pytest.fixture
def reader(dsn, promscale):
    return Database(make_conninfo(dsn, user="explorer"))


@pytest.fixture
def client(dsn, promscale):
    return create_dashboards(make_conninfo(dsn, user="explorer")).test_client()


@pytest.mark.parametrize("exercise", exercises(), ids=SLUGS)
def test_a_check_accepts_the_reference_and_rejects_typical_mistakes(exercise, reader, promscale, database):
    store_passwords(promscale, database, exercise.number)
    _, verdict = check(reader, exercise, exercise.answer)
    assert verdict.is_right, verdict
    for mistake in exercise.mistakes:
        _, verdict = check(reader, exercise, mistake.sql)
        assert (verdict.is_right, verdict.mistake) == (False, mistake)
        assert verdict.differences


def test_without_spans_there_is_nothing_to_compare_with(reader):
    _, verdict = check(reader, FIRST, FIRST.answer)
    assert (verdict.is_right, verdict.has_data, verdict.differences) == (False, False, [])


def test_now_and_the_spans_are_the_same_for_both_statements(reader, promscale, database):
    """Although time passes, and spans arrive, while the reader's statement runs."""
    store_passwords(promscale, database, FIRST.number)
    with reader.user_statements(2) as run:
        [[before, count]] = run("select now(), count(*) from span, (select pg_sleep(0.01)) as pause", 1).rows
        store_passwords(promscale, database, FIRST.number)
        assert run("select now(), count(*) from span", 1).rows == [[before, count]]


def test_every_exercise_has_its_page(client):
    links = re.findall(r'<a href="(/learn/[^"]+)">', client.get("/learn").text)
    assert links == [f"/learn/{slug}" for slug in SLUGS]
    for exercise in exercises():
        page = client.get(f"/learn/{exercise.slug}").text
        assert f"<h1>{exercise.title}</h1>" in page
        assert page.count("<summary>Hint") == 2
        assert 'role="status"' not in page
        for image in re.findall(r'<img src="([^"]+)"', page):
            assert client.get(image).mimetype == "image/png"


def test_the_links_to_grafanas_dashboards_lead_to_the_exercises(client):
    for uid in WORKSHOP:
        assert client.get(f"/d/{uid}").headers["Location"] == "/learn"


def test_a_right_answer_is_marked_as_solved(client, promscale, database):
    store_passwords(promscale, database, FIRST.number)
    page = client.get(f"/learn/{FIRST.slug}?check=yes&sql={quote(FIRST.answer)}").text
    assert f'data-solved="{FIRST.slug}"' in page
    assert "<strong>Right.</strong>" in page


def test_a_typical_mistake_is_explained(client, promscale, database):
    store_passwords(promscale, database, FIRST.number)
    [mistake, *_] = FIRST.mistakes
    page = client.get(f"/learn/{FIRST.slug}?check=yes&sql={quote(mistake.sql)}").text
    assert f"<h2>{mistake.title}</h2>" in page
    assert "data-solved" not in page
    assert re.search(r"<li>The column passwords differs in \d+ rows of \d+", page)


def test_a_statement_can_be_run_without_a_check(client):
    page = client.get(f"/learn/{FIRST.slug}?sql=select+17+as+number").text
    assert '<td class="number">17</td>' in page
    assert "verdict" not in page


def test_a_refused_statement_is_shown_with_its_error(client):
    response = client.get(f"/learn/{FIRST.slug}?check=yes&sql=select+nothing+from+span")
    assert response.status_code == 400
    assert "column &#34;nothing&#34; does not exist" in response.text
    assert client.get(f"/learn/{FIRST.slug}?check=yes&sql=delete+from+span").status_code == 400


def test_there_is_no_page_for_other_exercises(client):
    assert client.get("/learn/11-nothing").status_code == 404


def test_pages_of_other_sites_cannot_run_a_statement(client):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get(f"/learn/{FIRST.slug}?sql=select+1", headers=headers).status_code == 403
