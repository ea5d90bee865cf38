"""A tree while a search grows it; `freeze` makes the record that is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate

from forethought.types import FINISHED, Budget, Messages, Node, Step, Tree


def finished(step: Step) -> bool:
    """Did the model itself end here (its end token or a stop string), rather than a limit or a fault?"""
    return step.stop in FINISHED


@dataclass(slots=True)
class Place:
    """A node that can still change; `Node` has the meaning of each field."""

    parent: int
    step: Step | None
    """`None` at the root, and where the sample that was asked for has not come (yet)."""
    value: float | None = None
    visits: int = 0
    total: float = 0.0
    children: list[int] = field(default_factory=list)
    before: tuple[Step, ...] = ()
    """Steps that came with this one and stand before it: calls of tools, and what they gave. Nodes of their own in the
    record."""

    @property
    def move(self) -> Step | None:
        """What leads here as one step: all its text, and whatever of it was sampled."""
        if self.step is None or not self.before:
            return self.step
        steps = (*self.before, self.step)
        return replace(
            self.step,
            text="".join(step.text for step in steps),
            tokens=tuple(token for step in steps if step.sampled for token in step.tokens),
            logprobs=tuple(each for step in steps if step.sampled for each in step.logprobs),
        )


class Growth:
    """Nodes in the order they were asked for; node 0 is the root, which has no step."""

    def __init__(self, messages: Messages, policy: str) -> None:
        self.messages = messages
        self.policy = policy
        self.places = [Place(parent=-1, step=None)]

    def add(self, parent: int, step: Step | None = None, value: float | None = None) -> int:
        """A new child of `parent`; returns its index. Without a step, the place of a sample that was asked for."""
        if not 0 <= parent < len(self.places):
            raise ValueError(f"there is no node {parent} to grow from; the tree has {len(self.places)}")
        index = len(self.places)
        self.places.append(Place(parent, step, value))
        self.places[parent].children.append(index)
        return index

    def graft(self, tree: Tree) -> int:
        """All of another tree below this root; its node i (1 or more) becomes what is returned plus i."""
        base = len(self.places) - 1
        root = self.places[0]
        for index, node in enumerate(tree.nodes):
            moved = [base + child for child in node.children]
            if index:
                parent = base + node.parent if node.parent else 0
                self.places.append(Place(parent, node.step, node.value, node.visits, node.total, moved))
            else:
                root.visits, root.total = root.visits + node.visits, root.total + node.total
                root.children += moved
        return base

    def path(self, node: int) -> list[int]:
        """Node indices from the root's child down to `node`."""
        indices = []
        while node > 0:
            indices.append(node)
            node = self.places[node].parent
        return indices[::-1]

    def steps(self, node: int) -> tuple[Step, ...]:
        """The thought that ends in `node`."""
        path = [self.places[index] for index in self.path(node)]
        return tuple(step for place in path for step in (*place.before, place.step) if step is not None)

    def slots(self, node: int) -> list[int]:
        """Where `node` stands: at each place on its path, how many of its siblings were asked for before it."""
        places = self.places
        return [places[places[index].parent].children.index(index) for index in self.path(node)]

    def back_up(self, node: int, value: float) -> None:
        """One more visit worth `value`, at `node` and at every node above it."""
        while node >= 0:
            place = self.places[node]
            place.visits += 1
            place.total += value
            node = place.parent

    def freeze(self, budget: Budget, best: int | None = None, note: str = "") -> Tree:
        """The tree as a record, at any moment of the search; places without a step are left out."""
        if best is not None and (not 0 < best < len(self.places) or self.places[best].step is None):
            raise ValueError(
                f"best is node {best}; it must be one of the {len(self.places) - 1} below the root, or None"
            )
        kept = [index for index, place in enumerate(self.places) if index == 0 or place.step is not None]
        sizes = [1 + len(self.places[old].before) for old in kept]
        last = dict(zip(kept, (end - 1 for end in accumulate(sizes)), strict=True))
        nodes: list[Node] = []
        for old in kept:
            place = self.places[old]
            parent = last.get(place.parent, -1)
            for step in place.before:
                nodes.append(Node(parent, step, None, place.visits, place.total, (len(nodes) + 1,)))
                parent = len(nodes) - 1
            below = (child for child in place.children if child in last)
            children = tuple(last[child] - len(self.places[child].before) for child in below)
            nodes.append(Node(parent, place.step, place.value, place.visits, place.total, children))
        return Tree(self.messages, self.policy, budget, tuple(nodes), None if best is None else last[best], note)
