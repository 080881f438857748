"""Where a graph's nodes and edges are drawn."""

from itertools import combinations

from explorer.graph import NODE_HEIGHT, NODE_WIDTH, layout


def test_callers_are_above_callees():
    made = layout("abcd", [("a", "b"), ("a", "c"), ("b", "d"), ("a", "d")])
    y = {node: at for node, (_, at) in made.nodes.items()}
    assert y["a"] < y["b"] == y["c"] < y["d"]


def test_nodes_do_not_overlap_and_are_inside():
    nodes = range(30)
    edges = [(n, 2 * n + 1 + k) for n in nodes for k in (0, 1, 5) if 2 * n + 1 + k < 30] + [(7, 0), (3, 3)]
    made = layout([*nodes, "alone"], edges)
    for (x, y), (other_x, other_y) in combinations(made.nodes.values(), 2):
        assert abs(x - other_x) >= NODE_WIDTH or abs(y - other_y) >= NODE_HEIGHT
    for x, y in made.nodes.values():
        assert NODE_WIDTH / 2 <= x <= made.width - NODE_WIDTH / 2
        assert NODE_HEIGHT / 2 <= y <= made.height - NODE_HEIGHT / 2
    assert set(made.paths) == set(made.labels) == set(edges)


def test_cycles_and_loops_are_drawn():
    made = layout("ab", [("a", "b"), ("b", "a"), ("a", "a")])
    assert len(set(made.paths.values())) == 3
    assert len(set(made.labels.values())) == 3


def test_parts_that_nothing_ties_are_side_by_side():
    made = layout("abcd", [("a", "b"), ("c", "d")])
    assert made.width < 3 * NODE_WIDTH


def test_nothing():
    assert layout([], []).nodes == {}
