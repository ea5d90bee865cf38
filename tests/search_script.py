"""A tree told in advance, and a judge of it: what golden trees are grown from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forethought.engines.scripted import Reply, Scripted
from forethought.types import Messages, Sampling, Step, Tree, Verdict, user

ASK = user("What is 2+2?")


def told(replies: Mapping[str, Sequence[Reply]], delay: float = 0.0) -> Scripted:
    """An engine that knows, for the text of each prefix, what it says there the first time, the second, ..."""
    waiting = {prefix: iter(several) for prefix, several in replies.items()}

    def script(messages: Messages, prefix: tuple[Step, ...], sampling: Sampling, call: int) -> Reply:
        return next(waiting["".join(step.text for step in prefix)])

    return Scripted(script, delay=delay)


class Judge:
    """Scores a path by its last step's text and computes 1 token; what is not in the table is `other`."""

    def __init__(self, scores: Mapping[str, float | None] | None = None, other: float | None = 0.5) -> None:
        self.scores, self.other = scores or {}, other
        self.paths: list[str] = []

    async def __call__(self, messages: Messages, steps: tuple[Step, ...]) -> Verdict:
        self.paths.append("".join(step.text for step in steps))
        return Verdict(self.scores.get(steps[-1].text, self.other), cost=1, note=f"{steps[-1].text} is not it")


def shape(tree: Tree) -> list[tuple[int, str, float | None, int]]:
    """(parent, text, value, visits) of each node below the root."""
    return [(node.parent, node.step.text, node.value, node.visits) for node in tree.nodes if node.step]


def answer(tree: Tree) -> str:
    """The text of the best thought's last step."""
    assert tree.best is not None
    return tree.steps(tree.best)[-1].text
