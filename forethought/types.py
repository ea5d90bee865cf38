"""The nouns that every room shares, and the one protocol. Imports nothing of ours, does no I/O, holds no tensor.

Every record is frozen and made of plain values, so that a trace can be compared, hashed by content, stored and sent
as it is. What changes while a search runs (counters, frontiers) lives in the room that changes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

Stop = Literal["end", "stop", "length", "budget", "error"]
"""Why a step ended: the model's end token, a stop string, `Sampling.max_tokens` or the context, the search's budget,
or a fault of the engine. They are never folded into one another."""
FINISHED: tuple[Stop, ...] = ("end", "stop")
"""The stops of a thought that came to its own end, rather than to a limit or a fault."""

Action = Literal[
    "plan", "decompose", "hypothesise", "step", "check", "revise", "backtrack", "restate", "tool", "observe", "answer"
]
"""What a step does in a thought."""


class Message(TypedDict):
    """One turn of a conversation, as OpenAI's chat API has it."""

    role: str
    content: str


Messages = tuple[Message, ...]


def user(content: str) -> Messages:
    """The conversation that consists of one user turn."""
    return (Message(role="user", content=content),)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question whose answer can be checked. Only a `grade` ever reads `answer`."""

    id: str
    """Unique within its task and stable between runs, e.g. `addition/train/0/17`."""
    messages: Messages
    answer: str
    """The gold answer as text, never shown to a search."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the task knows of this problem (level, numbers, source line); JSON values only."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one step is drawn."""

    max_tokens: int = 256
    """Most new tokens, the end token included."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches `top_p`; 1 is the whole vocabulary."""
    stop: tuple[str, ...] = ()
    """Strings that end the step. The one that was hit stays at the end of the step's text."""
    seed: int | None = None
    """Same seed, same weights, same prefix: same draw. `None` draws a fresh one."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}; a step needs room for at least 1 token")
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be above 0 and at most 1")
        if not isinstance(self.stop, tuple) or "" in self.stop:
            raise ValueError(f"stop is {self.stop!r}; it must be a tuple of strings, none of them empty")


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a thought and exactly the tokens it was sampled as."""

    text: str
    tokens: tuple[int, ...] = ()
    """Token ids as sampled, the end token included where it was drawn; empty where the engine does not tell."""
    logprobs: tuple[float, ...] = ()
    """Log-probability (nats) of each token under the model at the sampling temperature (at 1 where that is 0), before
    any top-p cut; empty where the engine does not tell."""
    stop: Stop = "end"
    action: Action = "step"
    sampled: bool = True
    """False for text we wrote (a tool's output, a forced "Wait"): context, never a target."""
    value: float | None = None
    """What the policy itself thinks this step is worth, where it has a value head."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What any judge says of a thought."""

    score: float | None
    """In [0, 1] for graders; `None` means it could not be judged, and is never counted as 0."""
    steps: tuple[float | None, ...] = ()
    """A score for each step, where the judge gives them."""
    answer: str | None = None
    """The final answer the judge read, normalised; `None` where there is none. Votes count these."""
    note: str = ""
    """Why, in words: what was compared, or what went wrong."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Scores by criterion."""
    cost: int = 0
    """Tokens the judge itself computed to say this."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may spend and what it has spent. `search.budget.Account` does the booking."""

    tokens: int | None = None
    """Most tokens, the generator's and the verifier's together; `None` is no limit."""
    seconds: float | None = None
    """Most wall-clock seconds; `None` is no limit."""
    used: int = 0
    """Tokens settled so far."""
    held: int = 0
    """Tokens reserved by samples that are still being drawn."""
    calls: int = 0
    """Calls to the engine and to the verifier."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"a budget of {self.tokens} tokens buys no thought; give at least 1, or None for no limit")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"a budget of {self.seconds} seconds buys no thought; give more than 0, or None")


@dataclass(frozen=True, slots=True)
class Node:
    """One place in a search tree: the step that led here and what the search has learned of it."""

    parent: int
    """Index in `Tree.nodes`; -1 for the root."""
    step: Step | None
    """`None` only at the root."""
    value: float | None = None
    """The verifier's score of the path that ends here."""
    visits: int = 0
    total: float = 0.0
    """Sum of the values backed up through this node."""
    children: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A search's whole work. Best-of-n is a tree of n chains below one root."""

    messages: Messages
    policy: str
    """`Engine.name` of the generator."""
    budget: Budget
    """Limits and spend when the search ended."""
    nodes: tuple[Node, ...]
    """Node 0 is the root; parents stand before their children."""
    best: int | None = None
    """The leaf the search would answer with; `None` where no thought finished."""
    note: str = ""
    """What went wrong, in words, where an engine failed."""

    def path(self, leaf: int) -> tuple[int, ...]:
        """Node indices from the root's child down to `leaf`."""
        indices: list[int] = []
        while leaf > 0:
            indices.append(leaf)
            leaf = self.nodes[leaf].parent
        return tuple(reversed(indices))

    def steps(self, leaf: int) -> tuple[Step, ...]:
        """The thought that ends in `leaf`."""
        return tuple(step for index in self.path(leaf) if (step := self.nodes[index].step) is not None)

    def leaves(self) -> tuple[int, ...]:
        """Nodes without children, in order; an empty tree has none."""
        return tuple(index for index, node in enumerate(self.nodes) if index > 0 and not node.children)


@dataclass(frozen=True, slots=True)
class Trace:
    """One root-to-leaf path: the only record on disk."""

    problem_id: str
    messages: Messages
    steps: tuple[Step, ...]
    policy: str
    """`Engine.name`: the model and its training step, e.g. `smollm2-135m@120`."""
    tree: str | None = None
    """Names the search that this path belongs to; paths of one tree share it. A group, in GRPO's sense."""
    nodes: tuple[int, ...] = ()
    """The path's node indices in that tree."""
    values: tuple[float | None, ...] = ()
    """The search's value at each of those nodes."""
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """By judge: `grade` is the task's own, written at training time."""

    @property
    def text(self) -> str:
        """The whole thought and answer."""
        return "".join(step.text for step in self.steps)

    @property
    def stop(self) -> Stop:
        """Why the last step ended; `error` where there is no step at all."""
        return self.steps[-1].stop if self.steps else "error"

    @property
    def reward(self) -> float | None:
        """The score of the task's own grade, or `None` where it was not or could not be judged."""
        verdict = self.verdicts.get("grade")
        return None if verdict is None else verdict.score


@dataclass(frozen=True, slots=True)
class Datum:
    """One training sequence of T tokens. Mask and weight are apart: zero advantage is not "untrained"."""

    tokens: tuple[int, ...]
    """T token ids: prompt, then steps, as sampled."""
    mask: tuple[bool, ...]
    """T: is this token a target?"""
    weights: tuple[float, ...]
    """T: what the loss multiplies this target with (1, or an advantage)."""
    logprobs: tuple[float, ...] = ()
    """T or none: the sampler's log-probabilities, 0 outside the mask."""
    labels: tuple[float, ...] = ()
    """T or none: targets of a scalar head (step labels, values)."""
    pair: int | None = None
    """Data that are compared with one another share this number."""

    def __post_init__(self) -> None:
        for name in ("mask", "weights", "logprobs", "labels"):
            row: Sequence[object] = getattr(self, name)
            if len(row) != len(self.tokens) and (row or name in ("mask", "weights")):
                raise ValueError(f"a datum of {len(self.tokens)} tokens has {len(row)} {name}; they must be as many")


@runtime_checkable
class Engine(Protocol):
    """Draws one step at a time. Batching, prefix reuse and coalescing of concurrent calls are the engine's business.

    A fault of the engine is a step with `stop="error"`, `sampled=False` and what went wrong as its text; an exception
    is a bug, or a `ValueError` that names what the caller must change (a prompt longer than the context).
    """

    @property
    def name(self) -> str:
        """The model and its training step, e.g. `smollm2-135m@120`."""
        ...

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        """One continuation of `prefix` (the steps so far, possibly none)."""
        ...

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        """Log-probability of every token of every step, at temperature 1."""
        ...
