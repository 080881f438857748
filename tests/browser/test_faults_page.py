"""The page on which faults are switched, in a real browser."""

import pytest

from faults.app import create_app
from faults.cases import chosen
from faults.recorder import Recorder

TOKEN = "the-token-of-this-test"


@pytest.fixture
def recorder(flag_file, dsn, monkeypatch) -> Recorder:
    for limit in ("RETRY_SECONDS", "CONNECT_SECONDS"):
        monkeypatch.setattr(f"faults.recorder.{limit}", 60)
    recorder = Recorder(flag_file, dsn, None)
    recorder.start()
    return recorder


def group(page, flag: str):
    return page.get_by_role("group", name=flag)


def variant(page, flag: str, name: str):
    return group(page, flag).get_by_role("button", name=name)


@pytest.mark.parametrize("javascript", [True, False])
def test_a_fault_is_switched_with_the_keyboard(open_page, serve, flag_file, recorder, javascript):
    page = open_page(serve(create_app(flag_file, recorder)), java_script_enabled=javascript)
    assert variant(page, "digit.errors", "mild").get_attribute("aria-pressed") == "true"
    variant(page, "digit.errors", "mild").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#digit.errors")
    assert variant(page, "digit.errors", "strong").get_attribute("aria-pressed") == "true"
    assert flag_file.flags()["digit.errors"].variant == "strong"
    assert group(page, "digit.errors").get_by_text("changed", exact=True).is_visible()
    [row] = page.get_by_role("row").filter(has_text="digit.errors").all()
    assert "mild → strong" in row.inner_text()
    # The next key presses go on where the fault is.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('[id=\"digit.errors\"]') !== null")
    page.get_by_role("button", name="Reset everything").press("Enter")
    page.get_by_text("Everything is at its default.").wait_for()
    assert flag_file.flags()["digit.errors"].variant == "mild"


def test_all_faults_are_switched_off_at_once(open_page, serve, flag_file, recorder):
    page = open_page(serve(create_app(flag_file, recorder)))
    page.get_by_role("button", name="Switch all faults off").click()
    page.get_by_text("Not at their defaults:").wait_for()
    assert {flag.variant for flag in flag_file.flags().values() if flag.is_fault} == {"off"}
    assert page.get_by_role("button", name="Switch all faults off").count() == 0


def test_numbers_are_set_and_an_empty_field_restores_the_default(open_page, serve, flag_file, recorder):
    page = open_page(serve(create_app(flag_file, recorder)), width=360)
    page.get_by_label("Users").fill("12")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Seed").press("Enter")
    page.get_by_text("Not at their defaults:").wait_for()
    assert flag_file.flags()["load"].parameters == {"users": 12, "rate": 1, "seed": 7}
    page.get_by_label("Percentage").fill("10")
    page.get_by_role("button", name="Set the sampling").click()
    page.get_by_text("percent=10", exact=False).first.wait_for()
    for label in ("Users", "Requests per second", "Seed"):
        page.get_by_label(label).fill("")
    page.get_by_role("button", name="Set the traffic").click()
    page.get_by_text("users=12,", exact=False).first.wait_for()  # among the latest changes
    assert flag_file.flags()["load"].parameters == {}
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("javascript", [True, False])
def test_a_case_is_started_and_solved(open_page, serve, flag_file, recorder, screenshot, javascript):
    page = open_page(serve(create_app(flag_file, recorder)), width=360, java_script_enabled=javascript)
    before = flag_file.flags()
    page.get_by_label("Number of the case").fill("4")
    page.get_by_role("button", name="Start the case").click()
    page.get_by_text("A case is open: seed 4").wait_for()
    assert variant(page, "digit.errors", "strong").is_disabled()
    if javascript:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        screenshot(page, "case")
    page.get_by_label("The fault").select_option(label="upper.errors")
    page.get_by_role("button", name="Answer").click()
    page.get_by_text("Wrong: the service is right.").wait_for()
    page.get_by_label("The fault").select_option(label=chosen(4).flag)
    page.get_by_role("button", name="Answer").click()
    page.get_by_text(f"Right: it was {chosen(4).flag}, strong.").wait_for()
    assert flag_file.flags() == before
    assert variant(page, "digit.errors", "strong").is_enabled()


def test_the_token_is_asked_for_once(open_page, serve, flag_file, recorder):
    page = open_page(serve(create_app(flag_file, recorder, TOKEN)))
    assert variant(page, "digit.errors", "strong").is_disabled()
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Allow changes").click()
    variant(page, "digit.errors", "strong").click()
    page.wait_for_url("**/#digit.errors")
    assert flag_file.flags()["digit.errors"].variant == "strong"
    assert page.get_by_label("Token").count() == 0
    assert page.evaluate("document.cookie") == ""
