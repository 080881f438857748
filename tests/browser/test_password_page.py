"""The page of a password and the header of all pages, in a real browser."""

import pytest

import generator.app
from explorer.traces import create_traces
from telemetry.call import CallFailed
from telemetry.services import EXPLORER
from tests.store.otlp_messages import child, request, span

PICTURE = "Waterfall of the trace"


@pytest.fixture
def trace(promscale):
    """The root span of a stored trace."""
    root = span("GET /")
    promscale.export(request(root, child(root, "generator.generate"), service="generator"))
    return root


@pytest.fixture
def url(serve, promscale, trace, monkeypatch):
    """The generator's, whose password has the stored trace."""
    traces = serve(create_traces(f"127.0.0.1:{promscale.server.port}"))
    monkeypatch.setitem(EXPLORER, "traces", int(traces.rpartition(":")[2]))
    monkeypatch.setattr(generator.app, "generate", lambda length: "x" * length)
    monkeypatch.setattr(generator.app, "trace_reference", lambda: {"trace_id": trace.trace_id.hex()})
    return serve(generator.app.app)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_password_has_the_length_that_was_asked_for_and_a_picture_of_its_trace(
    open_page, url, trace, scheme, screenshot
):
    page = open_page(url, width=360, scheme=scheme)
    page.get_by_label("Length").fill("20")
    page.get_by_role("button", name="Another password").click()
    page.get_by_text("x" * 20, exact=True).wait_for()
    assert page.url.endswith("?length=20")
    picture = page.get_by_alt_text(PICTURE)
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") == 720
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    screenshot(page, f"password-{scheme}")
    picture.click()
    page.wait_for_url(f"**/trace/{trace.trace_id.hex()}")


def test_a_failed_password_says_what_failed_and_leads_to_its_trace(open_page, url, trace, monkeypatch):
    def fail(length):
        raise CallFailed("http://localhost:5051 answered 500: digit does not like it")

    monkeypatch.setattr(generator.app, "generate", fail)
    monkeypatch.setattr("telemetry.service.trace_reference", lambda: {"trace_id": trace.trace_id.hex()})
    page = open_page(f"{url}/", status=500)
    assert "digit does not like it" in page.get_by_role("alert").inner_text()
    page.get_by_alt_text(PICTURE).wait_for()
    page.get_by_role("link", name="The trace of this password").click()
    page.wait_for_url(f"**/trace/{trace.trace_id.hex()}")


def test_a_trace_id_in_the_header_opens_the_trace_from_another_port(open_page, url, trace):
    page = open_page(url)
    page.get_by_label("Trace id").fill(trace.trace_id.hex().upper())
    page.get_by_role("button", name="Open").click()
    page.wait_for_url(f"**/trace/{trace.trace_id.hex()}")
    assert page.get_by_role("navigation", name="Pages").get_by_role("link", name="Traces").get_attribute("aria-current")
