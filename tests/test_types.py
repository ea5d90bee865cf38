"""The nouns: what they refuse, and how a tree gives its paths."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import pytest

from forethought.types import Budget, Datum, Engine, Messages, Node, Sampling, Step, Trace, Tree, Verdict, user

MESSAGES = user("What is 2 + 3?")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"stop": "\n"}, r"stop is '\\n'"),
        ({"stop": ("\n", "")}, "none of them empty"),
    ],
)
def test_sampling_refuses(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Sampling(**wrong)


def test_sampling_takes_its_edges() -> None:
    assert Sampling(max_tokens=1, temperature=0, top_p=1, stop=("\n",)).temperature == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"tokens": 0}, "0 tokens"),
        ({"tokens": -5}, "-5 tokens"),
        ({"seconds": 0.0}, "0.0 seconds"),
        ({"seconds": float("nan")}, "nan seconds"),
    ],
)
def test_budget_refuses(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Budget(**wrong)


def test_a_budget_without_limits_is_one() -> None:
    assert Budget() == Budget(tokens=None, seconds=None, used=0, held=0, calls=0)


@pytest.mark.parametrize("row", ["mask", "weights", "logprobs", "labels"])
def test_a_datums_rows_are_as_long_as_its_tokens(row: str) -> None:
    rows: dict[str, Any] = {"mask": (True, True), "weights": (1.0, 1.0)}
    with pytest.raises(ValueError, match=f"2 tokens has 1 {row}"):
        Datum(tokens=(1, 2), **(rows | {row: (1.0,)}))


def test_only_a_datums_mask_and_weights_are_due() -> None:
    assert Datum(tokens=(1, 2), mask=(False, True), weights=(0.0, 1.0)).logprobs == ()
    with pytest.raises(ValueError, match="0 weights"):
        Datum(tokens=(1, 2), mask=(False, True), weights=())


TREE = Tree(
    messages=MESSAGES,
    policy="m@0",
    budget=Budget(),
    nodes=(
        Node(-1, None, children=(1, 2)),
        Node(0, Step("a"), children=(3,)),
        Node(0, Step("b")),
        Node(1, Step("c"), children=(4,)),
        Node(3, Step("d")),
    ),
)


def test_a_trees_paths() -> None:
    assert TREE.leaves() == (2, 4)
    assert TREE.path(4) == (1, 3, 4)
    assert TREE.path(2) == (2,)
    assert TREE.path(0) == ()
    assert [step.text for step in TREE.steps(4)] == ["a", "c", "d"]


def test_a_tree_that_never_grew_has_no_leaf() -> None:
    assert Tree(MESSAGES, "m@0", Budget(), (Node(-1, None),)).leaves() == ()


def test_a_trace_reads_as_its_steps() -> None:
    trace = Trace("p/0", MESSAGES, (Step("a\n", stop="stop"), Step("b", stop="length")), "m@0")
    assert (trace.text, trace.stop) == ("a\nb", "length")
    assert Trace("p/0", MESSAGES, (), "m@0").stop == "error"


def test_an_unjudged_trace_has_no_reward() -> None:
    trace = Trace("p/0", MESSAGES, (Step("a"),), "m@0")
    assert trace.reward is None
    assert dataclasses.replace(trace, verdicts={"grade": Verdict(None, note="gold unreadable")}).reward is None
    assert dataclasses.replace(trace, verdicts={"vote": Verdict(1.0)}).reward is None
    assert dataclasses.replace(trace, verdicts={"vote": Verdict(1.0), "grade": Verdict(0.0)}).reward == 0.0


def test_records_are_frozen_plain_values() -> None:
    trace = Trace("p/0", MESSAGES, (Step("a", tokens=(1,), logprobs=(-0.5,)),), "m@0", verdicts={"grade": Verdict(1.0)})
    assert json.loads(json.dumps(dataclasses.asdict(trace)))["steps"][0]["tokens"] == [1]
    assert trace == dataclasses.replace(trace)
    with pytest.raises(dataclasses.FrozenInstanceError):
        trace.policy = "other"  # type: ignore[misc]  # the point of the test


class Echo:
    """The least an engine can be."""

    name = "echo@0"

    async def sample(self, messages: Messages, prefix: Sequence[Step], sampling: Sampling) -> Step:
        return Step(messages[-1]["content"][: sampling.max_tokens])

    async def logprobs(self, messages: Messages, steps: Sequence[Step]) -> tuple[tuple[float, ...], ...]:
        return tuple(() for _ in steps)


def test_an_engine_is_whatever_samples() -> None:
    engine: Engine = Echo()
    assert isinstance(engine, Engine)
    assert not isinstance(object(), Engine)
