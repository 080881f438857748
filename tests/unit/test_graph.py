"""The layout of graphs."""

from itertools import combinations

from explorer.graph import NODE_HEIGHT, NODE_WIDTH, Box, Edge, Failures, draw, layout


def test_callers_are_above_callees():
    drawn = layout("abcd", [("a", "b"), ("a", "c"), ("b", "d"), ("a", "d")])
    y = {node: at for node, (_, at) in drawn.nodes.items()}
    assert y["a"] < y["b"] == y["c"] < y["d"]


def test_nodes_do_not_overlap_and_are_inside_the_picture():
    nodes = range(30)
    edges = [(n, 2 * n + 1 + k) for n in nodes for k in (0, 1, 5) if 2 * n + 1 + k < 30] + [(7, 0), (3, 3)]
    drawn = layout([*nodes, "alone"], edges)
    for (x, y), (other_x, other_y) in combinations(drawn.nodes.values(), 2):
        assert abs(x - other_x) >= NODE_WIDTH or abs(y - other_y) >= NODE_HEIGHT
    for x, y in drawn.nodes.values():
        assert NODE_WIDTH / 2 <= x <= drawn.width - NODE_WIDTH / 2
        assert NODE_HEIGHT / 2 <= y <= drawn.height - NODE_HEIGHT / 2
    assert set(drawn.paths) == set(drawn.labels) == set(edges)


def test_cycles_and_self_loops_are_drawn():
    drawn = layout("ab", [("a", "b"), ("b", "a"), ("a", "a")])
    assert len(set(drawn.paths.values())) == 3
    assert len(set(drawn.labels.values())) == 3


def test_components_are_side_by_side():
    drawn = layout("abcd", [("a", "b"), ("c", "d")])
    assert drawn.width < 3 * NODE_WIDTH


def test_an_empty_graph_has_no_nodes():
    assert layout([], []).nodes == {}


def test_labels_of_edges_do_not_cover_each_other():
    # A long edge and a short one lead to the same node, and others from the same one.
    edges = [("a", "b"), ("a", "c"), ("b", "c"), ("a", "d"), ("a", "e")]
    for rows in (1, 2):
        labels = layout("abcde", edges, label_rows=rows).labels
        for (x, y), (other_x, other_y) in combinations(labels.values(), 2):
            assert abs(x - other_x) >= 120 or abs(y - other_y) >= 16 * rows


def test_boxes_have_room_for_their_texts():
    name = "checkout-service-of-the-european-region.production.example"
    failures = Failures(0.5, "one failed call", text="50 % failed")
    short, long = Box("a", "a", "1/s", "a", 0), Box("b", name, "1/s", "b", 0, failures=failures)
    assert "".join(long.lines) == name
    assert Box("c", "c" * 61, "", "", 0).lines[-1].endswith("…")
    small, large = draw([short], []), draw([short, long], [Edge("a", "b", "1/s", "a calls b", failures=failures)])
    assert small.box_height == NODE_HEIGHT
    assert large.box_height >= NODE_HEIGHT + 16 * len(long.lines)
    (_, top), (_, bottom) = large.layout.nodes["a"], large.layout.nodes["b"]
    assert bottom - top > large.box_height
