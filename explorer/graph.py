"""A layered layout of a directed graph, from top to bottom, ready to be drawn as SVG. No I/O.

The method of Sugiyama, Tagawa and Toda (1981): remove cycles, assign layers, order each layer, assign coordinates. Why
no library does it: docs/architecture.md.
"""

import itertools
import textwrap
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

NODE_WIDTH, NODE_HEIGHT = 168, 48
LINE_HEIGHT = 16
MAX_NAME = 60  # characters; the title has all
_LINE_LENGTH = 22  # characters of a node's width
GAP_X, GAP_Y = 28, 76
_BEND_WIDTH = 40  # of a long edge in each layer that it passes through
_MARGIN = 36
_SWEEPS = 12
_LABEL_WIDTH = 124
# Where a label may be on the last part of its edge, the best place first: near the target, the edges of one source are
# already apart.
_LABEL_PLACES = (0.7, 0.55, 0.8, 0.45, 0.3, 0.2)

Node = Hashable
Connection = tuple[Node, Node]  # from, to
Point = tuple[float, float]


class Layout(NamedTuple):
    """Everything is in pixels."""

    width: float
    height: float
    nodes: dict[Node, Point]  # centres
    paths: dict[Connection, str]  # SVG paths, which end at the target's border
    labels: dict[Connection, Point]  # points on the edges


class Failures(NamedTuple):
    """The failed calls of a node or an edge; without `url` they are not a link."""

    share: float  # of the calls, from 0 to 1
    title: str
    url: str = ""
    text: str = ""  # "" for a bar only


class Box(NamedTuple):
    """A node, for templates/graph.html; without `url` it is not a link."""

    id: Node
    name: str
    figures: str
    title: str
    colour: int  # index in COLOURS
    url: str = ""
    failures: Failures | None = None

    @property
    def lines(self) -> list[str]:
        name = self.name if len(self.name) <= MAX_NAME else self.name[: MAX_NAME - 1] + "…"
        return textwrap.wrap(name, _LINE_LENGTH) or [name]


class Edge(NamedTuple):
    """An arrow with a text, for templates/graph.html; without `url` it is not a link."""

    source: Node
    target: Node
    text: str
    title: str
    url: str = ""
    failures: Failures | None = None


class Drawing(NamedTuple):
    """A graph for templates/graph.html. All boxes have the same size, in pixels."""

    boxes: list[Box]
    edges: list[Edge]
    layout: Layout
    box_width: float
    box_height: float


def draw(boxes: Sequence[Box], edges: Sequence[Edge]) -> Drawing:
    """The ends of all edges must be in `boxes`."""
    rows = max((_rows(box) for box in boxes), default=0)
    height = NODE_HEIGHT + max(rows - 2, 0) * LINE_HEIGHT
    label_rows = 1 + any(edge.failures and edge.failures.text for edge in edges)
    placed = layout([box.id for box in boxes], [(edge.source, edge.target) for edge in edges], height, label_rows)
    return Drawing(list(boxes), list(edges), placed, NODE_WIDTH, height)


def _rows(box: Box) -> int:
    """The lines of text in a box."""
    return len(box.lines) + bool(box.figures) + bool(box.failures and box.failures.text)


class _Bend(NamedTuple):
    """The place where a long edge passes through a layer."""

    edge: Connection
    layer: int


_Neighbours = Mapping[Node, list[Node]]
_Layers = list[list[Node]]  # nodes and bends


def layout(
    nodes: Iterable[Node], edges: Iterable[Connection], node_height: float = NODE_HEIGHT, label_rows: int = 1
) -> Layout:
    """Callers are above callees except in cycles. The ends of all edges must be in `nodes`."""
    step = node_height + GAP_Y + 2 * (label_rows - 1) * LINE_HEIGHT
    nodes, edges = list(dict.fromkeys(nodes)), list(dict.fromkeys(edges))
    layer_of = _assign_layers(nodes, _without_cycles(nodes, edges))
    layers: _Layers = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for node in nodes:
        layers[layer_of[node]].append(node)
    chains: dict[Connection, list[Node]] = {}
    for edge in edges:
        bends = _bends(edge, layer_of)
        chains[edge] = [edge[0], *bends, edge[1]]
        for bend in bends:
            layers[bend.layer].append(bend)
    neighbours = defaultdict(list)
    for chain in chains.values():
        for node, other in itertools.pairwise(chain):
            neighbours[node].append(other)
            neighbours[other].append(node)
    x = _side_by_side([_order_and_place(part, neighbours) for part in _components(layers, neighbours)])
    left = min((center - _width(node) / 2 for node, center in x.items()), default=0) - _MARGIN
    right = max((center + _width(node) / 2 for node, center in x.items()), default=0) + _MARGIN
    points = {
        node: (round(x[node] - left, 1), _MARGIN + node_height / 2 + number * step)
        for number, layer in enumerate(layers)
        for node in layer
    }
    drawn = {edge: _draw([points[node] for node in chain], node_height) for edge, chain in chains.items()}
    labels = _place_labels({edge: places for edge, (_, places) in drawn.items()}, (label_rows + 0.2) * LINE_HEIGHT)
    return Layout(
        width=round(right - left, 1),
        height=2 * _MARGIN + max((len(layers) - 1) * step + node_height, 0),
        nodes={node: points[node] for node in nodes},
        paths={edge: path for edge, (path, _) in drawn.items()},
        labels=labels,
    )


def _without_cycles(nodes: list[Node], edges: list[Connection]) -> list[Connection]:
    """The edges without the back edges of a depth-first search, which starts at nodes that nothing leads to."""
    targets = defaultdict(list)
    for source, target in edges:
        targets[source].append(target)
    kept: list[Connection] = []
    seen: set[Node] = set()
    called = {target for source, target in edges if source != target}
    for start in sorted(nodes, key=lambda node: node in called):
        path, on_path = [(start, iter(targets[start]))] if start not in seen else [], {start}
        seen.add(start)
        while path:
            node, remaining = path[-1]
            for target in remaining:
                if target in on_path:
                    continue
                kept.append((node, target))
                if target not in seen:
                    seen.add(target)
                    on_path.add(target)
                    path.append((target, iter(targets[target])))
                    break
            else:
                path.pop()
                on_path.discard(node)
    return kept


def _assign_layers(nodes: list[Node], edges: list[Connection]) -> dict[Node, int]:
    """Longest-path layering: each node is below all nodes that lead to it. There must be no cycles."""
    targets, waiting = defaultdict(list), dict.fromkeys(nodes, 0)
    for source, target in edges:
        targets[source].append(target)
        waiting[target] += 1
    layer, ready = dict.fromkeys(nodes, 0), [node for node in nodes if not waiting[node]]
    for node in ready:
        for target in targets[node]:
            layer[target] = max(layer[target], layer[node] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return layer


def _bends(edge: Connection, layer_of: Mapping[Node, int]) -> list[_Bend]:
    """A bend in each layer between source and target."""
    first, last = (layer_of[node] for node in edge)
    step = 1 if first < last else -1
    return [_Bend(edge, layer) for layer in range(first + step, last, step)]


def _components(layers: _Layers, neighbours: _Neighbours) -> list[_Layers]:
    """The layers of each connected component."""
    components: list[_Layers] = []
    seen: set[Node] = set()
    for start in itertools.chain.from_iterable(layers):
        if start not in seen:
            component = {start}
            waiting = [start]
            for node in waiting:
                new = dict.fromkeys(other for other in neighbours[node] if other not in component)
                component.update(new)
                waiting += new
            seen |= component
            components.append([[node for node in layer if node in component] for layer in layers])
    return components


def _side_by_side(components: list[dict[Node, float]]) -> dict[Node, float]:
    """The x coordinates of all components, each to the right of the one before."""
    x: dict[Node, float] = {}
    end = 0.0
    for component in components:
        shift = end - min(center - _width(node) / 2 for node, center in component.items())
        x |= {node: center + shift for node, center in component.items()}
        end = max(x[node] + _width(node) / 2 for node in component) + GAP_X
    return x


def _order_and_place(layers: _Layers, neighbours: _Neighbours) -> dict[Node, float]:
    """The x coordinate of each node: near its neighbours', without overlap (barycentre heuristic)."""
    x = {node: float(number * (NODE_WIDTH + GAP_X)) for layer in layers for number, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            if layer:
                x.update(_place_layer(layer, x, neighbours))
    return x


def _place_layer(layer: list[Node], x: Mapping[Node, float], neighbours: _Neighbours) -> dict[Node, float]:
    wanted = {node: fmean([x[other] for other in neighbours[node]] or [x[node]]) for node in layer}
    ordered = sorted(layer, key=lambda node: wanted[node])
    placed = {ordered[0]: wanted[ordered[0]]}
    for before, node in itertools.pairwise(ordered):
        placed[node] = max(wanted[node], placed[before] + (_width(before) + _width(node)) / 2 + GAP_X)
    # So far nodes were only moved to the right: move the layer back so that the mean displacement is zero.
    back = fmean(placed[node] - wanted[node] for node in ordered)
    return {node: center - back for node, center in placed.items()}


def _width(node: Node) -> float:
    return _BEND_WIDTH if isinstance(node, _Bend) else NODE_WIDTH


def _place_labels(places: Mapping[Connection, list[Point]], height: float) -> dict[Connection, Point]:
    """Each label at the first of its places that no other label covers, or else at the first.

    Those with few places come first.
    """
    labels: dict[Connection, Point] = {}
    cells: dict[tuple[int, int], list[Point]] = defaultdict(list)  # of the size of a label

    def cell(point: Point) -> tuple[int, int]:
        return int(point[0] // _LABEL_WIDTH), int(point[1] // height)

    def is_covered(point: Point) -> bool:
        column, row = cell(point)
        near = itertools.product((column - 1, column, column + 1), (row - 1, row, row + 1))
        others = itertools.chain.from_iterable(cells.get(key, ()) for key in near)
        return any(abs(point[0] - x) < _LABEL_WIDTH and abs(point[1] - y) < height for x, y in others)

    for edge, points in sorted(places.items(), key=lambda item: len(item[1])):
        labels[edge] = next((point for point in points if not is_covered(point)), points[0])
        cells[cell(labels[edge])].append(labels[edge])
    return labels


def _draw(points: list[Point], node_height: float) -> tuple[str, list[Point]]:
    """An SVG path from the border of the first node to that of the last, and points for its label."""
    (x, y), (last_x, last_y) = points[0], points[-1]
    half_width, half_height = NODE_WIDTH / 2, node_height / 2
    if len(points) == 2 and (x, y) == (last_x, last_y):
        # A self-loop at the right side of the node.
        edge = x + half_width
        return f"M{edge:g},{y - 10:g} c34,-16 34,36 0,20", [(edge + 14, y)]
    if y == last_y:
        # Two nodes of one layer, which are part of a cycle: below the nodes.
        path = f"M{x:g},{y + half_height:g} C{x:g},{y + 70:g} {last_x:g},{y + 70:g} {last_x:g},{y + half_height:g}"
        return path, [((x + last_x) / 2, y + half_height + 34)]
    down = 1 if last_y > y else -1
    # An edge that leads up is shifted to the right, so that it does not cover the edge that leads down.
    shift = 0 if down == 1 else NODE_WIDTH / 4
    points = [(x + shift, y + down * half_height), *points[1:-1], (last_x + shift, last_y - down * half_height)]
    path = f"M{points[0][0]:g},{points[0][1]:g}"
    for (from_x, from_y), (to_x, to_y) in itertools.pairwise(points):
        middle = (from_y + to_y) / 2
        path += f" C{from_x:g},{middle:g} {to_x:g},{middle:g} {to_x:g},{to_y:g}"
    places = [_on_curve(points[-2], points[-1], place) for place in _LABEL_PLACES]
    return path, [*places, *(_on_curve(*part, 0.5) for part in itertools.pairwise(points[:-1]))]


def _on_curve(begin: Point, end: Point, place: float) -> Point:
    """A point of the curve that `_draw` makes, from its begin (0) to its end (1)."""
    along_x = 3 * place**2 - 2 * place**3
    # The control points are half-way down: the Bezier curve's weights of its begin, middle and end.
    along_y = 1.5 * place * (1 - place) + place**3
    return (
        round(begin[0] + (end[0] - begin[0]) * along_x, 1),
        round(begin[1] + (end[1] - begin[1]) * along_y, 1),
    )
