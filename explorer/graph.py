"""A directed graph laid out in layers, from top to bottom, ready to be drawn as SVG. No I/O."""

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable
from statistics import fmean
from typing import NamedTuple

NODE_WIDTH, NODE_HEIGHT = 168, 48
GAP_X, GAP_Y = 28, 76
_BEND_WIDTH = 40  # what a long edge takes of a layer that it passes through
_MARGIN = 36
_SWEEPS = 12


class Layout(NamedTuple):
    """Everything in pixels. An edge's `path` is an SVG path that ends at its target; `labels` are points on edges."""

    width: float
    height: float
    nodes: dict[Hashable, tuple[float, float]]  # the centre
    paths: dict[tuple[Hashable, Hashable], str]
    labels: dict[tuple[Hashable, Hashable], tuple[float, float]]


class Edge(NamedTuple):
    """An arrow for templates/graph.html, and the number of calls on it, which can lead somewhere."""

    source: Hashable
    target: Hashable
    calls: int
    title: str
    url: str = ""


class _Bend(NamedTuple):
    """Where an edge passes through a layer."""

    edge: tuple[Hashable, Hashable]
    layer: int


def layout(nodes: Iterable[Hashable], edges: Iterable[tuple[Hashable, Hashable]]) -> Layout:
    """Callers above callees as far as there are no cycles; edges must be between `nodes`."""
    nodes, edges = list(dict.fromkeys(nodes)), list(dict.fromkeys(edges))
    layer_of = _layers(nodes, _without_cycles(nodes, edges))
    layers: list[list] = [[] for _ in range(max(layer_of.values(), default=-1) + 1)]
    for node in nodes:
        layers[layer_of[node]].append(node)
    chains = {}
    for edge in edges:
        first, last = layer_of[edge[0]], layer_of[edge[1]]
        step = 1 if first < last else -1
        bends = [_Bend(edge, layer) for layer in range(first + step, last, step)]
        for bend in bends:
            layers[bend.layer].append(bend)
        chains[edge] = [edge[0], *bends, edge[1]]
    neighbours = defaultdict(list)
    for chain in chains.values():
        for one, other in itertools.pairwise(chain):
            neighbours[one].append(other)
            neighbours[other].append(one)
    x = _side_by_side([_order_and_place(part, neighbours) for part in _parts(layers, neighbours)])
    left = min((x[node] - _width(node) / 2 for node in x), default=0) - _MARGIN
    right = max((x[node] + _width(node) / 2 for node in x), default=0) + _MARGIN
    points = {
        node: (round(x[node] - left, 1), _MARGIN + NODE_HEIGHT / 2 + number * (NODE_HEIGHT + GAP_Y))
        for number, layer in enumerate(layers)
        for node in layer
    }
    drawn = {edge: _draw([points[node] for node in chain]) for edge, chain in chains.items()}
    return Layout(
        round(right - left, 1),
        2 * _MARGIN + max(len(layers) * (NODE_HEIGHT + GAP_Y) - GAP_Y, 0),
        {node: points[node] for node in nodes},
        {edge: path for edge, (path, _) in drawn.items()},
        {edge: label for edge, (_, label) in drawn.items()},
    )


def _without_cycles(nodes: list, edges: list[tuple]) -> list[tuple]:
    """The edges but those that lead back to where a walk along the others came from."""
    targets = defaultdict(list)
    for source, target in edges:
        targets[source].append(target)
    kept, seen = [], set()
    called = {target for source, target in edges if source != target}
    for start in sorted(nodes, key=lambda node: node in called):
        path, on_path = [(start, iter(targets[start]))] if start not in seen else [], {start}
        seen.add(start)
        while path:
            node, rest = path[-1]
            for target in rest:
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


def _layers(nodes: list, edges: list[tuple]) -> dict[Hashable, int]:
    """Each node below all that lead to it."""
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


def _parts(layers: list[list], neighbours: dict) -> list[list[list]]:
    """The layers of each part of the graph that no edge ties to the others."""
    parts, seen = [], set()
    for start in (node for layer in layers for node in layer):
        if start not in seen:
            part = {start: None}
            waiting = [start]
            for node in waiting:
                new = dict.fromkeys(other for other in neighbours[node] if other not in part)
                part |= new
                waiting += new
            seen |= part.keys()
            parts.append([[node for node in layer if node in part] for layer in layers])
    return parts


def _side_by_side(parts: list[dict[Hashable, float]]) -> dict[Hashable, float]:
    x, end = {}, 0.0
    for part in parts:
        shift = end - min(x - _width(node) / 2 for node, x in part.items())
        x |= {node: at + shift for node, at in part.items()}
        end = max(x[node] + _width(node) / 2 for node in part) + GAP_X
    return x


def _order_and_place(layers: list[list], neighbours: dict) -> dict[Hashable, float]:
    """Where each node's centre is: near its neighbours', without overlap. Sorts each layer from left to right."""
    x = {node: float(number * (NODE_WIDTH + GAP_X)) for layer in layers for number, node in enumerate(layer)}
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {node: fmean([x[other] for other in neighbours[node]] or [x[node]]) for node in layer}
            layer.sort(key=wanted.get)
            ends = []
            for node in layer:
                ends.append(max(wanted[node], ends[-1] + _distance(before, node) if ends else wanted[node]))
                before = node
            # Pushed to the right only so far: the layer as a whole goes back to the middle of what it wants.
            back = fmean([end - wanted[node] for end, node in zip(ends, layer, strict=True)]) if layer else 0
            x.update((node, end - back) for end, node in zip(ends, layer, strict=True))
    return x


def _distance(one: Hashable, other: Hashable) -> float:
    return (_width(one) + _width(other)) / 2 + GAP_X


def _width(node: Hashable) -> float:
    return _BEND_WIDTH if isinstance(node, _Bend) else NODE_WIDTH


def _draw(points: list[tuple[float, float]]) -> tuple[str, tuple[float, float]]:
    """An SVG path from the border of the first node to that of the last, and the point for its label."""
    (x, y), (last_x, last_y) = points[0], points[-1]
    half_width, half_height = NODE_WIDTH / 2, NODE_HEIGHT / 2
    if len(points) == 2 and (x, y) == (last_x, last_y):
        # A loop at the node's right side.
        edge = x + half_width
        return f"M{edge:g},{y - 10:g} c34,-16 34,36 0,20", (edge + 14, y)
    if y == last_y:
        # Neighbours of one layer, of which one leads back: below the nodes.
        path = f"M{x:g},{y + half_height:g} C{x:g},{y + 70:g} {last_x:g},{y + 70:g} {last_x:g},{y + half_height:g}"
        return path, ((x + last_x) / 2, y + half_height + 34)
    down = 1 if last_y > y else -1
    # What leads back up starts and ends beside the middle, so as not to lie on an edge that leads down.
    aside = 0 if down == 1 else NODE_WIDTH / 4
    points = [(x + aside, y + down * half_height), *points[1:-1], (last_x + aside, last_y - down * half_height)]
    path = f"M{points[0][0]:g},{points[0][1]:g}"
    for (from_x, from_y), (to_x, to_y) in itertools.pairwise(points):
        middle = (from_y + to_y) / 2
        path += f" C{from_x:g},{middle:g} {to_x:g},{middle:g} {to_x:g},{to_y:g}"
    # In the gap before the target, where edges from one source are apart already.
    (from_x, from_y), (to_x, to_y) = points[-2:]
    return path, (round((from_x + 2 * to_x) / 3, 1), round((from_y + 2 * to_y) / 3 - down * 6, 1))
