"""The files of the workshop's exercises."""

import hashlib
import json
import re

import pytest

from workshop import FOLDER, exercises, parse

TEXT = (FOLDER / "01-passwords-per-minute.md").read_text()


def test_the_exercises_are_numbered():
    assert [(exercise.number, exercise.slug[:2]) for exercise in exercises()] == [
        (number, f"{number:02}") for number in range(1, len(exercises()) + 1)
    ]


@pytest.mark.parametrize("exercise", exercises(), ids=lambda exercise: exercise.slug)
def test_an_exercise_is_complete(exercise):
    assert (len(exercise.hints), len(exercise.mistakes)) == (2, 3)
    assert all((exercise.question, exercise.why, exercise.answer, exercise.seen, exercise.variation))
    assert all(mistake.text and mistake.sql != exercise.answer for mistake in exercise.mistakes)
    # Grafana shows these, and cannot follow links to files of the project.
    assert not re.search(r"\]\((?!http)", exercise.question + exercise.preparation)


def test_what_an_exercise_wants_switched_on_is_read():
    commands = {exercise.number: exercise.commands for exercise in exercises()}
    assert commands[1] == ()
    assert commands[8] == ("faults off", "faults set digit.pool_of_one strong")
    assert [exercise.number for exercise in exercises() if exercise.is_ordered] == [1, 4, 5, 8, 9, 10]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## Hints", "## Hint", "the sections"),
        ("# 1. ", "# ", "a title with a number"),
        ("- Time: ", "- Duration: ", "the list"),
        ("rows: matters", "rows: yes", "'yes', and not one of matters, any"),
        ("```sql\nselect\n    start_time", "```\nselect\n    start_time", "no SQL where a statement is expected"),
    ],
)
def test_a_file_without_that_form_is_named(old, new, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        parse("01-mine", TEXT.replace(old, new))
    assert "01-mine.md" in str(raised.value)


def test_the_pictures_are_up_to_date():
    """tests/browser/test_workshop_pages.py takes a picture of each answer's result, and notes the answer's hash."""
    noted = json.loads((FOLDER / "images" / "answers.json").read_text())
    answers = {exercise.slug: hashlib.sha256(exercise.answer.encode()).hexdigest() for exercise in exercises()}
    assert noted == answers, "run SCREENSHOTS=docs/workshop/images ./run.sh test tests/browser/test_workshop_pages.py"
    for exercise in exercises():
        assert re.findall(r"!\[.+\]\((.+)\)", exercise.seen) == [f"images/{exercise.slug}.png"]
        assert (FOLDER / "images" / f"{exercise.slug}.png").exists()
