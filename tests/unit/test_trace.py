"""The tree of a trace's spans, their self times and the critical path."""

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status, TracesData

from explorer.trace import Operation, Trace


def span(name: str, start: int, end: int, parent: str = "", span_id: str = "", **fields) -> Span:
    return Span(
        name=name,
        span_id=(span_id or name).encode(),
        parent_span_id=parent.encode(),
        start_time_unix_nano=start,
        end_time_unix_nano=end,
        **fields,
    )


def data(*spans: Span, service: str = "shop") -> TracesData:
    resource = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value=service))])
    return TracesData(resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])])


def trace(*spans: Span) -> Trace:
    return Trace([data(*spans)])


def rows(trace: Trace) -> list[tuple[str, int]]:
    return [(span.otlp.name, span.depth) for span in trace.spans]


def named(trace: Trace) -> dict:
    return {span.otlp.name: span for span in trace.spans}


def critical(trace: Trace) -> dict[str, list]:
    return {span.otlp.name: sorted(span.critical) for span in trace.spans if span.critical}


def test_children_follow_their_parent_sorted_by_start():
    spans = [
        span("late", 50, 60, "root"),
        span("inner", 15, 20, "early"),
        span("early", 10, 30, "root"),
        span("root", 0, 100),
    ]
    tree = Trace([data(*spans[:2]), data(*spans[2:], service="till")])
    assert rows(tree) == [("root", 0), ("early", 1), ("inner", 2), ("late", 1)]
    assert (tree.start, tree.end, tree.depth) == (0, 100, 3)
    assert tree.services == {"till": 2, "shop": 2}


def test_a_span_whose_parent_is_missing_is_a_root_and_an_orphan():
    tree = trace(span("root", 0, 100), span("lost", 10, 20, "nobody"), span("below", 12, 15, "lost"))
    assert rows(tree) == [("root", 0), ("lost", 0), ("below", 1)]
    assert [span.is_orphan for span in tree.spans] == [False, True, False]


def test_a_cycle_of_parents_shows_every_span_once():
    tree = trace(span("a", 0, 9, "c"), span("b", 1, 8, "a"), span("c", 2, 7, "b"), span("self", 3, 4, "self"))
    assert rows(tree) == [("a", 0), ("b", 1), ("c", 2), ("self", 0)]


def test_client_and_server_span_may_share_an_id_as_in_zipkin():
    tree = trace(
        span("page", 0, 100),
        span("call", 10, 90, "page", span_id="shared", kind=Span.SPAN_KIND_CLIENT),
        span("answer", 20, 80, "page", span_id="shared", kind=Span.SPAN_KIND_SERVER),
        span("work", 30, 40, "shared"),
    )
    assert rows(tree) == [("page", 0), ("call", 1), ("answer", 2), ("work", 3)]


def test_spans_with_the_same_id_and_different_starts_are_all_shown():
    tree = trace(
        span("root", 0, 100), span("one", 10, 20, "root", span_id="x"), span("two", 30, 40, "root", span_id="x")
    )
    assert rows(tree) == [("root", 0), ("one", 1), ("two", 1)]


def test_self_time_is_what_no_child_covers():
    tree = trace(
        span("root", 0, 100),
        span("one", 10, 30, "root"),
        span("overlapping", 20, 40, "root"),
        span("inside", 22, 25, "root"),
        span("beyond", 90, 120, "root"),
    )
    assert named(tree)["root"].own == [(0, 10), (40, 90)]
    assert named(tree)["one"].own == [(10, 30)]


def test_a_child_outside_of_its_parents_time_does_not_reduce_its_self_time():
    tree = trace(span("root", 100, 200), span("before", 0, 50, "root"), span("after", 300, 400, "root"))
    assert named(tree)["root"].own == [(100, 200)]


def test_the_critical_path_of_sequential_calls():
    tree = trace(span("root", 0, 100), span("one", 10, 30, "root"), span("two", 40, 90, "root"))
    assert critical(tree) == {"root": [(0, 10), (30, 40), (90, 100)], "one": [(10, 30)], "two": [(40, 90)]}


def test_the_critical_path_goes_through_the_last_of_parallel_calls():
    tree = trace(
        span("root", 0, 100), span("quick", 10, 50, "root"), span("slow", 10, 90, "root"), span("in", 20, 30, "slow")
    )
    assert critical(tree) == {"root": [(0, 10), (90, 100)], "slow": [(10, 20), (30, 90)], "in": [(20, 30)]}


def test_the_critical_path_stays_in_the_parents_time():
    tree = trace(span("root", 10, 50), span("async", 30, 90, "root"), span("later", 60, 70, "root"))
    assert critical(tree)["root"] == [(10, 30)]
    assert critical(tree)["async"] == [(30, 50)]
    assert "later" not in critical(tree)


def test_operations_sum_up_the_spans_of_the_same_service_and_name():
    failed = Status(code=Status.STATUS_CODE_ERROR)
    tree = Trace(
        [
            data(span("root", 0, 100), span("call", 10, 50, "root", "one"), span("call", 50, 90, "root", "two")),
            data(span("call", 20, 40, "one", "three", status=failed), service="till"),
        ]
    )
    assert list(tree.operations.values()) == [
        Operation("shop", "root", count=1, self_time=20, critical_time=20, errors=0),
        Operation("shop", "call", count=2, self_time=60, critical_time=60, errors=0),
        Operation("till", "call", count=1, self_time=20, critical_time=20, errors=1),
    ]


def test_parallel_calls_share_the_critical_path_but_not_their_self_time():
    tree = trace(span("root", 0, 100), span("call", 0, 60, "root", "one"), span("call", 20, 100, "root", "two"))
    call = tree.operations["shop", "call"]
    assert (call.self_time, call.critical_time) == (140, 80)
    assert sum(operation.critical_time for operation in tree.operations.values()) == 100


def test_a_span_that_ends_before_it_starts_has_no_duration():
    tree = trace(span("root", 100, 50))
    assert (tree.start, tree.end) == (100, 100)
    assert (tree.spans[0].own, tree.spans[0].critical) == ([], [])


def test_an_empty_trace():
    tree = Trace([])
    assert (tree.spans, tree.depth, tree.services, tree.operations) == ([], 0, {}, {})


def test_ten_thousand_nested_spans():
    tree = trace(*(span(str(n), n, 40_000 - n, str(n - 1) if n else "") for n in range(10_000)))
    assert tree.depth == 10_000
    assert [name for name, _ in rows(tree)] == [str(n) for n in range(10_000)]
    assert named(tree)["7"].critical == [(39_992, 39_993), (7, 8)]


def test_ten_thousand_sibling_spans():
    tree = trace(span("root", 0, 100_000), *(span(str(n), n * 10, n * 10 + 9, "root") for n in range(10_000)))
    assert tree.depth == 2
    assert len(named(tree)["root"].own) == 10_000
    assert sum(end - start for span in tree.spans for start, end in span.critical) == 100_000
