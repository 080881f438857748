"""Headless Chromium by Playwright: the system's, or the one that `playwright install chromium` has downloaded."""

import os
import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or Path(__file__).parents[2] / ".data" / "screenshots")


@pytest.fixture(scope="session")
def chromium():
    with playwright.sync_playwright() as running:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        if not (system or Path(running.chromium.executable_path).exists()):
            pytest.skip("Chromium is not installed: apt install chromium, or playwright install chromium")
        # Chromium's sandbox does not work for root.
        browser = running.chromium.launch(executable_path=system, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """A function that opens a URL in a new window, and asserts the page's status.

    The test fails if a page reports an error.
    """
    contexts, problems = [], []

    def open_page(url: str, width: int = 1280, scheme: str = "light", height: int = 900, status: int = 200, **options):
        def report(message) -> None:
            if message.type == "error" and (status == 200 or message.location["url"] != url):
                problems.append(message.text)

        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", report)
        assert page.goto(url).status == status
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def screenshot():
    """A function that saves a picture of a page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=SCREENSHOTS / f"{name}.png")
