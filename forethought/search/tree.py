"""A tree while a search grows it; `freeze` makes the record that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field

from forethought.types import FINISHED, Budget, Messages, Node, Step, Tree


def finished(step: Step) -> bool:
    """Did the model itself end here (its end token or a stop string), rather than a limit or a fault?"""
    return step.stop in FINISHED


@dataclass(slots=True)
class Place:
    """A node that can still change; `Node` has the meaning of each field."""

    parent: int
    step: Step | None
    value: float | None = None
    visits: int = 0
    total: float = 0.0
    children: list[int] = field(default_factory=list)


class Growth:
    """Nodes in the order they were added; node 0 is the root, which has no step."""

    def __init__(self, messages: Messages, policy: str) -> None:
        self.messages = messages
        self.policy = policy
        self.places = [Place(parent=-1, step=None)]

    def add(self, parent: int, step: Step, value: float | None = None) -> int:
        """A new child of `parent`; returns its index."""
        if not 0 <= parent < len(self.places):
            raise ValueError(f"there is no node {parent} to grow from; the tree has {len(self.places)}")
        index = len(self.places)
        self.places.append(Place(parent, step, value))
        self.places[parent].children.append(index)
        return index

    def back_up(self, node: int, value: float) -> None:
        """One more visit worth `value`, at `node` and at every node above it."""
        while node >= 0:
            place = self.places[node]
            place.visits += 1
            place.total += value
            node = place.parent

    def freeze(self, budget: Budget, best: int | None = None, note: str = "") -> Tree:
        """The tree as a record, at any moment of the search."""
        nodes = tuple(
            Node(place.parent, place.step, place.value, place.visits, place.total, tuple(place.children))
            for place in self.places
        )
        if best is not None and not 0 < best < len(nodes):
            raise ValueError(f"best is node {best}; it must be one of the {len(nodes) - 1} below the root, or None")
        return Tree(self.messages, self.policy, budget, nodes, best, note)
