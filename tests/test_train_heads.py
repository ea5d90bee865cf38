"""The scalar head: where it is read, its losses against values worked out by hand, and a step that learns."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any

import pytest
import torch

from forethought.engines.local import LocalEngine
from forethought.engines.local.tiny import TinyConfig, build
from forethought.thought.tokens import render
from forethought.train.batch import Pack, pack
from forethought.train.forward import Outputs, forward
from forethought.train.heads import bradley_terry, compared, cross_entropy, fresh, marked, odds, squared_error
from forethought.train.learner import Learner
from forethought.types import Datum, Step, Trace, user

MODEL, TOKENIZER = build(TinyConfig(layers=1, width=32, context=64))


def trace(*texts: str, problem: str = "p") -> Trace:
    return Trace(problem, user("1 + 1?"), tuple(Step(text, tuple(TOKENIZER.encode(text))) for text in texts), "tiny")


def made(*rows: Datum | None) -> list[Datum]:
    return [row for row in rows if row is not None]


def said(values: list[float], labels: list[float], pairs: list[int] | None = None) -> tuple[Pack, Outputs, Any]:
    """A pack whose targets have these values, labels and pairs."""
    index = torch.arange(len(values))
    owners = torch.tensor(pairs or [-1] * len(values))
    ones = torch.ones(len(values))
    piece = Pack(
        index, index, index, index, index, ones, ones, None, None, index, index, len(values),
        here_M=index, label_M=torch.tensor(labels), pair_M=owners,
    )  # fmt: skip
    values_M = torch.tensor(values, requires_grad=True)
    return piece, Outputs(ones, ones, values_M), values_M


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_step_is_read_at_its_last_token_and_one_without_a_label_is_not() -> None:
    steps = trace("ab\n", "c\n", "", "def")
    (datum,) = made(marked(TOKENIZER, steps, (1.0, None, 0.0, 0.25)))
    tokens, spans = render(TOKENIZER, steps.messages, steps.steps)
    assert datum.tokens == tokens
    places = [place for place, target in enumerate(datum.mask) if target]
    assert places == [spans[0][1] - 1, spans[3][1] - 1]  # the empty step has no token to be read at
    assert [datum.labels[place] for place in places] == [1.0, 0.25]
    assert marked(TOKENIZER, steps, (None,) * 4) is None
    with pytest.raises(ValueError, match="4 steps and 3 labels"):
        marked(TOKENIZER, steps, (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="nan"):
        marked(TOKENIZER, steps, (1.0, 1.0, 1.0, math.nan))


def test_cross_entropy_by_hand() -> None:
    piece, outputs, values = said([2.0, -1.0, 0.5], [1.0, 0.0, 0.25])
    value, metrics = cross_entropy(piece, outputs, right=3.0)
    by_hand = [
        -3 * math.log(sigmoid(2.0)),
        -math.log(1 - sigmoid(-1.0)),
        -3 * 0.25 * math.log(sigmoid(0.5)) - 0.75 * math.log(1 - sigmoid(0.5)),
    ]
    assert value.item() == pytest.approx(sum(by_hand), rel=1e-6)
    assert (metrics["accuracy"][0] / metrics["accuracy"][1]).item() == pytest.approx(2 / 3)
    value.backward()
    assert values.grad.tolist() == pytest.approx(
        [3 * (sigmoid(2.0) - 1), sigmoid(-1.0), 3 * 0.25 * (sigmoid(0.5) - 1) + 0.75 * sigmoid(0.5)], rel=1e-5
    )


def test_squared_error_by_hand() -> None:
    piece, outputs, values = said([2.0, -1.0], [1.0, 0.5])
    value, _ = squared_error(piece, outputs)
    assert value.item() == pytest.approx((sigmoid(2.0) - 1) ** 2 + (sigmoid(-1.0) - 0.5) ** 2, rel=1e-6)
    value.backward()
    slope = [2 * (sigmoid(v) - y) * sigmoid(v) * (1 - sigmoid(v)) for v, y in ((2.0, 1.0), (-1.0, 0.5))]
    assert values.grad.tolist() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_bradley_terry_by_hand(margin: float) -> None:
    """One pair of two, one group of three with two comparisons (two are equally good), and one nobody compares."""
    piece, outputs, values = said([1.0, 0.3, 2.0, -1.0, 0.5, 9.0], [1, 0, 1, 0, 1, 1], [0, 0, 7, 7, 7, -1])
    value, metrics = bradley_terry(piece, outputs, margin=margin)

    def loss(better: float, worse: float) -> float:
        return -math.log(sigmoid(better - worse - margin))

    assert value.item() == pytest.approx(loss(1.0, 0.3) + (loss(2.0, -1.0) + loss(0.5, -1.0)) / 2, rel=1e-6)
    assert metrics["accuracy"][1].item() == 3
    value.backward()
    assert values.grad[0].item() == pytest.approx(sigmoid(0.7 - margin) - 1, rel=1e-5)
    assert values.grad[5].item() == 0
    assert values.grad.sum().item() == pytest.approx(0, abs=1e-6)  # the reward's zero is free


def test_odds_even_out_right_and_wrong_and_soft_labels_count_as_shares() -> None:
    data = made(*(marked(TOKENIZER, trace("a"), (label,)) for label in (1.0, 0.0, 0.0, 0.5)))
    assert odds(data) == pytest.approx(2.5 / 1.5)
    with pytest.raises(ValueError, match="all 1 labels are right"):
        odds(data[:1])


def test_only_what_differs_is_compared() -> None:
    data = made(
        *(marked(TOKENIZER, trace(text), (label,), pair=pair) for text, label, pair in
          (("a", 1.0, 1), ("b", 0.0, 1), ("c", 1.0, 2), ("d", 1.0, 2), ("e", 0.0, None)))
    )  # fmt: skip
    assert compared(data) == data[:2]


def pairs() -> list[Datum]:
    texts = ("2\n", "3, as it seems", "2, since 1 and 1\n", "11")
    rows = (marked(TOKENIZER, trace(text, problem=f"p{n // 2}"), (1.0 - n % 2,), pair=n // 2) for n, text in
            enumerate(texts))  # fmt: skip
    return made(*rows)


def test_a_pair_is_never_torn_apart() -> None:
    data = pairs()
    whole = sum(piece.computed for piece in pack(data, 200))
    assert len(pack(data, 200)) == 1
    cut = pack(data, whole - 1)
    assert [piece.pair_M.tolist() for piece in cut if piece.pair_M is not None] == [[0, 0], [1, 1]]
    longest = max(len(datum.tokens) for datum in data)
    with pytest.raises(ValueError, match="the 2 data of pair"):
        pack(data, longest)
    steps = []
    for max_tokens in (200, whole - 1):
        torch.manual_seed(0)
        model, _ = build(TinyConfig(layers=1, width=32, context=64))
        learner = Learner(model, lr=1e-2, head=fresh(model), max_tokens=max_tokens)
        for _ in range(2):
            metrics = learner.step(data, bradley_terry, normaliser=2.0)
        steps.append((metrics["loss"], metrics["accuracy"], learner.head.weight.tolist() if learner.head else None))
    assert steps[0][0] == pytest.approx(steps[1][0], rel=1e-5)
    assert torch.tensor(steps[0][2]).allclose(torch.tensor(steps[1][2]), atol=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, squared_error, bradley_terry])
@pytest.mark.parametrize("frozen", [False, True])
def test_two_steps_teach_the_head_and_the_trunk_unless_it_is_frozen(loss: Any, frozen: bool) -> None:
    model, _ = build(TinyConfig(layers=1, width=32, context=64))
    model.requires_grad_(not frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = Learner(model, lr=1e-2, head=fresh(model))
    first, *_, last = (learner.step(pairs(), loss, normaliser=2.0)["loss"] for _ in range(3))
    assert last < first
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()) == frozen


def test_the_engine_says_what_the_learner_taught() -> None:
    """What is read in training, packed, is what `LocalEngine.values` reads when the head serves."""
    model, tokenizer = build(TinyConfig(layers=2, width=32, context=64))
    learner = Learner(model, lr=1e-2, head=fresh(model))
    traces = [trace("1\n", "2\n"), trace("1\n", "3\n", "so 4")]
    data = made(*(marked(tokenizer, one, tuple(float(n) for n in range(len(one.steps)))) for one in traces))
    for _ in range(3):
        learner.step(data, partial(cross_entropy, right=0.5))
    assert learner.head is not None
    with torch.no_grad():
        trained = [forward(model, pack([datum], 64)[0], scalar=learner.head).values_M for datum in data]
    engine = LocalEngine(model, tokenizer, name="v", dtype="fp32")
    engine.attach(learner.head.weight[0], learner.head.bias.item())
    for one, values_M in zip(traces, trained, strict=True):
        assert values_M is not None
        assert asyncio.run(engine.values(one.messages, one.steps)) == pytest.approx(values_M.tolist(), abs=1e-4)
        assert values_M.abs().max() > 0.01


def test_the_head_is_part_of_the_learners_state() -> None:
    model, _ = build(TinyConfig(layers=1, width=32, context=64))
    learner = Learner(model, lr=1e-2, head=fresh(model))
    learner.step(pairs(), cross_entropy)
    other = Learner(model, lr=1e-2, head=fresh(model))
    other.load_state_dict(learner.state_dict())
    assert learner.head is not None
    assert other.head is not None
    assert torch.equal(learner.head.weight, other.head.weight)
    assert learner.head.weight.any()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no scalar head"):
        Learner(MODEL, lr=1.0).step(pairs(), cross_entropy)
    plain = Datum((1, 2), (False, True), (0.0, 1.0))
    with pytest.raises(ValueError, match="no labels"):
        Learner(MODEL, lr=1.0, head=fresh(MODEL)).step([plain], cross_entropy)
