"""Call trees of sets of traces: self times, their comparison by path, and the aggregate flame graph."""

import itertools

import pytest

from explorer.analysis import paths
from explorer.analysis.paths import Frame, compare, flame_graph
from explorer.analysis.spans import Span, Trace, traces
from tests.demo_traces import passwords

MS = 1_000_000
_ids = itertools.count(1)


def tree(name: str, start: float, end: float, *children: list[Span], service: str = "shop", failed=False) -> list[Span]:
    """A span with its descendants; times in ms."""
    top = Span(
        trace_id="",
        span_id=next(_ids),
        parent_span_id=None,
        service=service,
        name=name,
        start=round(start * MS),
        end=round(end * MS),
        failed=failed,
        tags={},
        resource_tags={},
    )
    for child in children:
        child[0].parent_span_id = top.span_id
    return [top, *(span for child in children for span in child)]


def made(*trees: list[Span]) -> list[Trace]:
    for number, spans in enumerate(trees):
        for span in spans:
            span.trace_id = f"{number:032x}"
    return traces(span for spans in trees for span in spans)


def names(path: tuple) -> str:
    return "/".join(name for _, name in path)


def self_ms(trace: Trace) -> dict[str, float]:
    return {span.name: span.self_time / MS for span in trace.spans}


def test_overlapping_children_are_counted_once():
    [trace] = made(tree("buy", 0, 100, tree("a", 10, 40), tree("b", 30, 60), tree("inside", 12, 20)))
    assert self_ms(trace) == {"buy": 50, "a": 30, "b": 30, "inside": 8}


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(90, 150, 90), (-20, 5, 95), (100, 150, 100), (-20, 0, 100), (-5, 120, 0), (50, 50, 100)],
)
def test_children_outside_of_their_parents_time(start, end, expected):
    [trace] = made(tree("buy", 0, 100, tree("pay", start, end)))
    assert self_ms(trace)["buy"] == expected


def test_grandchildren_do_not_reduce_the_self_time():
    [trace] = made(tree("buy", 0, 100, tree("pay", 10, 20, tree("late", 15, 90))))
    assert self_ms(trace) == {"buy": 90, "pay": 5, "late": 75}


def test_spans_of_a_cycle_of_parents_have_no_path():
    one, two = tree("one", 0, 10), tree("two", 0, 10)
    one[0].parent_span_id, two[0].parent_span_id = two[0].span_id, one[0].span_id
    itself = tree("itself", 0, 10)
    itself[0].parent_span_id = itself[0].span_id
    set_of_traces = made([*one, *two, *itself, *tree("buy", 0, 5)])
    assert [names(row.path) for row in compare(set_of_traces, [])] == ["buy", "itself"]


def test_paths_are_aligned():
    first = made(
        tree("buy", 0, 100, tree("look", 5, 15), tree("pay", 20, 50, tree("bank", 20, 40, service="bank"))),
        tree("buy", 0, 300, tree("look", 5, 25), tree("look", 30, 60), tree("pay", 100, 200)),
    )
    second = made(tree("buy", 0, 80, tree("wrap", 60, 70), tree("pay", 20, 30, failed=True), failed=True))
    rows = compare(first, second)
    assert [names(row.path) for row in rows] == ["buy", "buy/look", "buy/pay", "buy/pay/bank", "buy/wrap"]
    buy, look, pay, bank, wrap = rows
    assert bank.path == (("shop", "buy"), ("shop", "pay"), ("bank", "bank"))
    assert (buy.first.traces, buy.first.spans, buy.first.errors, buy.first.median_ms) == (2, 2, 0, 200)
    assert buy.first.p95_ms == pytest.approx(290)
    assert (buy.second.traces, buy.second.errors, buy.second.median_ms, buy.second.p95_ms) == (1, 1, 80, 80)
    assert (look.first.traces, look.first.spans, look.first.spans_per_trace) == (2, 3, 1.5)
    assert (look.first.median_ms, look.first.self_ms_per_trace) == (20, 30)
    assert look.second == (0, 0, 0, 0, None, None, None, None, 0)
    assert (pay.first.self_median_ms, pay.second.self_median_ms) == (55, 10)
    assert pay.self_difference == 10 - (10 + 100) / 2
    assert (bank.first.spans_per_trace, bank.second.spans) == (0.5, 0)
    assert (wrap.first.spans, wrap.second.self_ms_per_trace) == (0, 10)


def test_a_set_compared_with_itself_has_no_differences():
    demo = passwords(seed=1, count=20)
    rows = compare(demo, demo)
    assert rows and all(row.first == row.second and row.self_difference == 0 for row in rows)
    assert sum(row.first.spans for row in rows) == sum(len(trace.spans) for trace in demo)


def test_nothing_compared_with_nothing():
    assert compare([], []) == []
    assert flame_graph([]) == []


def frame_names(frame: Frame) -> list:
    return [frame.operation[1], frame.self_ms, frame.total_ms, *(frame_names(child) for child in frame.children)]


def test_a_flame_graph_adds_up_self_times_by_path():
    set_of_traces = made(
        tree("buy", 0, 100, tree("look", 0, 10), tree("pay", 20, 50, tree("bank", 20, 40))),
        tree("buy", 0, 100, tree("look", 0, 20), tree("look", 30, 35)),
        tree("sell", 0, 40, tree("look", 0, 40)),
    )
    buy, sell = flame_graph(set_of_traces)
    assert frame_names(buy) == ["buy", 60 + 75, 200, ["look", 35, 35], ["pay", 10, 30, ["bank", 20, 20]]]
    assert frame_names(sell) == ["sell", 0, 40, ["look", 40, 40]]
    assert (buy.spans, buy.children[0].spans, buy.duration_ms) == (2, 3, 200)


def test_a_frame_is_as_wide_as_its_parts_also_if_children_run_at_the_same_time():
    [buy] = flame_graph(made(tree("buy", 0, 100, tree("a", 0, 80), tree("b", 10, 150))))
    assert (buy.self_ms, buy.duration_ms, buy.total_ms) == (0, 100, 80 + 140)
    assert [child.operation[1] for child in buy.children] == ["b", "a"]


def test_the_frames_of_the_demo_have_all_of_its_self_time():
    demo = passwords(seed=2, count=20)

    def total(frame: Frame) -> float:
        return frame.self_ms + sum(map(total, frame.children))

    assert sum(map(total, flame_graph(demo))) == pytest.approx(
        sum(span.self_time for trace in demo for span in trace.spans) / MS
    )


def test_the_most_frequent_paths_are_kept_with_those_above_them(monkeypatch):
    monkeypatch.setattr(paths, "MAX_PATHS", 3)
    often = [tree("often", 1, 2) for _ in range(5)]
    rare = [tree(f"rare {number}", 3, 4) for number in range(10)]
    demo = made(tree("buy", 0, 100, tree("pay", 0, 50, *often), *rare))
    assert [names(row.path) for row in compare(demo, demo)] == ["buy", "buy/pay", "buy/pay/often"]


def test_a_deep_trace_ends_at_a_depth():
    deep = tree("leaf", 0, 1)
    for number in range(3000):
        deep = [*tree(str(number), 0, 1, deep[:1]), *deep[1:]]
    assert len(compare(made(deep), [])) == paths.MAX_DEPTH
