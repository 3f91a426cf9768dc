"""Ways through random warehouses, against shortest paths of a graph library."""

from __future__ import annotations

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from mads4.behavior.motion import FORWARD, LEFT, RIGHT, UNREACHABLE, WAIT, Leg, MotionTables
from mads4.behavior.paths import NOWHERE, around, straight

STEPS = [(0, -1), (1, 0), (0, 1), (-1, 0)]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[bool]]:
    width, height = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    slots = draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
    return width, slots


def graph(
    width: int, slots: list[bool], laden: bool, target: int, blocked: frozenset[int] = frozenset()
) -> nx.DiGraph:
    """Return all moves between poses 4 * cell + heading, edge by edge."""
    height = len(slots) // width
    moves = nx.DiGraph()
    for y in range(height):
        for x in range(width):
            for heading, (dx, dy) in enumerate(STEPS):
                pose = 4 * (y * width + x) + heading
                moves.add_edge(pose, pose - heading + (heading - 1) % 4, action=LEFT)
                moves.add_edge(pose, pose - heading + (heading + 1) % 4, action=RIGHT)
                inside = 0 <= x + dx < width and 0 <= y + dy < height
                cell = (y + dy) * width + x + dx
                if (
                    inside
                    and cell not in blocked
                    and not (laden and slots[cell] and cell != target)
                ):
                    moves.add_edge(pose, 4 * cell + heading, action=FORWARD)
    return moves


def leg_to(motion: MotionTables, target: int, laden: bool) -> tuple[Leg, int]:
    """Return the errand, and what it takes once its cell is reached."""
    return (motion.put_back(target), 1) if laden else (motion.park(target), 0)


def shortest(moves: nx.DiGraph, start: int, target: int) -> int:
    steps = nx.single_source_shortest_path_length(moves, start)
    return min((steps[4 * target + h] for h in range(4) if 4 * target + h in steps), default=-1)


@settings(deadline=None, max_examples=60)
@given(layouts(), st.booleans(), st.data())
def test_the_straight_way_is_a_shortest_one(
    layout: tuple[int, list[bool]], laden: bool, data: st.DataObject
) -> None:
    width, slots = layout
    motion = MotionTables(width, slots, [0])
    target = data.draw(st.integers(0, len(slots) - 1))
    pose = data.draw(st.integers(0, 4 * len(slots) - 1))
    moves = graph(width, slots, laden, target)
    expected = shortest(moves, pose, target)
    leg, handling = leg_to(motion, target, laden)
    way = straight(motion, leg, pose, 100)
    if expected < 0:
        assert way == NOWHERE
        return
    assert way.cost == expected + handling
    assert way == straight(motion, leg, pose, 100)
    if expected == 0:
        assert way.action == WAIT
        return
    assert way.cells[-1] == target
    follower = next(v for _, v, a in moves.out_edges(pose, data="action") if a == way.action)
    assert shortest(moves, follower, target) == expected - 1


@settings(deadline=None, max_examples=60)
@given(layouts(), st.booleans(), st.data())
def test_the_way_around_is_the_shortest_that_avoids_the_blocked_cells(
    layout: tuple[int, list[bool]], laden: bool, data: st.DataObject
) -> None:
    width, slots = layout
    motion = MotionTables(width, slots, [0])
    cells = st.integers(0, len(slots) - 1)
    target, pose = data.draw(cells), data.draw(st.integers(0, 4 * len(slots) - 1))
    blocked = data.draw(st.frozensets(cells, max_size=6)) - {pose >> 2}
    expected = shortest(graph(width, slots, laden, target, blocked), pose, target)
    leg, _ = leg_to(motion, target, laden)
    way = around(motion, leg, pose, {target}, blocked, UNREACHABLE)
    if expected < 0:
        assert way == NOWHERE
        return
    assert way.cost == expected
    assert not blocked.intersection(way.cells)
    assert around(motion, leg, pose, {target}, blocked, expected) == way
    assert expected == 0 or around(motion, leg, pose, {target}, blocked, expected - 1) == NOWHERE
