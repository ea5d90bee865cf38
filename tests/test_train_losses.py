"""Losses against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_train_data import LETTERS, thought
from torch import Tensor

from forethought.recipes.grpo import METHODS
from forethought.train.batch import Pack, pack
from forethought.train.data import grpo
from forethought.train.forward import Outputs
from forethought.train.losses import Loss, gap, nll, policy_gradient
from forethought.types import Datum

NAN = math.nan


def pieces(
    weights: list[float],
    new: list[float],
    *,
    sampler: list[float] | None = None,
    proximal: list[float] | None = None,
    reference: list[float] | None = None,
    owners: list[int] | None = None,
) -> tuple[Pack, Outputs, Tensor]:
    n = len(weights)
    (row,) = pack([Datum((0,) * (n + 1), (False,) + (True,) * n, (0.0, *weights))], n + 1)
    row = replace(
        row,
        sampler_M=torch.tensor(sampler or [NAN] * n),
        proximal_M=None if proximal is None else torch.tensor(proximal),
        reference_M=None if reference is None else torch.tensor(reference),
        datum_M=torch.tensor(owners or [0] * n),
    )
    logprobs = torch.tensor(new, requires_grad=True)
    return row, Outputs(logprobs, torch.zeros(n)), logprobs


def mean(metric: tuple[Tensor, Tensor]) -> float:
    return (metric[0] / metric[1]).item()


def test_nll() -> None:
    row, outputs, _ = pieces([1.0, 0.5, 0.0], [-1.0, -2.0, -4.0])
    value, metrics = nll(row, outputs)
    assert value.item() == pytest.approx(2.0)
    assert mean(metrics["nll"]) == pytest.approx(7 / 3)


def test_on_policy_gradient_is_the_score_function_times_the_advantage() -> None:
    row, outputs, logprobs = pieces([2.0, -3.0], [-1.0, -0.5])
    value, metrics = policy_gradient(row, outputs)
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-2.0, 3.0]
    assert mean(metrics["ratio"]) == 1.0


def test_clipped_surrogate() -> None:
    """Ratios 1.5, 1.25, 0.5, 0.5, 1.5 with advantages +, +, +, -, -: only the optimistic side is cut."""
    ratios = [1.5, 1.25, 0.5, 0.5, 1.5]
    weights = [1.0, 1.0, 1.0, -1.0, -1.0]
    row, outputs, logprobs = pieces(weights, [math.log(r) for r in ratios], proximal=[0.0] * 5)
    value, metrics = policy_gradient(row, outputs, clip_low=0.2, clip_high=0.28)
    assert value.item() == pytest.approx(-(1.28 + 1.25 + 0.5 - 0.8 - 1.5))
    value.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, -1.25, -0.5, 0.0, 1.5])
    assert mean(metrics["clipped_up"]) == pytest.approx(1 / 3)
    assert mean(metrics["clipped_down"]) == pytest.approx(1 / 2)
    assert metrics["ratio_max"][0].item() == pytest.approx(1.5)


def test_truncated_importance_sampling_caps_at_its_limit_and_skips_the_unknown() -> None:
    proximal = [-1.0, -1.0, -1.0]
    sampler = [-1.0 - math.log(1.5), -1.0 - math.log(5.0), NAN]
    row, outputs, logprobs = pieces([1.0, 1.0, 1.0], proximal, proximal=proximal, sampler=sampler)
    value, metrics = policy_gradient(row, outputs, tis=2.0)
    value.backward()
    assert value.item() == pytest.approx(-(1.5 + 2.0 + 1.0))
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.5, -2.0, -1.0])
    assert mean(metrics["tis_capped"]) == pytest.approx(0.5)
    assert policy_gradient(row, outputs, tis=None)[0].item() == pytest.approx(-3.0)


def test_k3_against_the_reference() -> None:
    new, reference = [-1.0, -2.0, -0.5], [-1.5, -1.0, -0.5]
    k3 = [math.exp(r - n) - (r - n) - 1 for n, r in zip(new, reference, strict=True)]
    row, outputs, logprobs = pieces([0.0, 0.0, 0.0], new, reference=reference, owners=[0, 0, 1])
    token, metrics = policy_gradient(row, outputs, kl=0.1, kl_length="token")
    assert token.item() == pytest.approx(0.1 * sum(k3))
    assert mean(metrics["kl_reference"]) == pytest.approx(sum(k3) / 3)
    assert mean(metrics["zero_advantage"]) == 1.0
    sequence, _ = policy_gradient(row, outputs, kl=0.1)
    assert sequence.item() == pytest.approx(0.1 * ((k3[0] + k3[1]) / 2 + k3[2]))
    sequence.backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].item() == pytest.approx(0.1 / 2 * (1 - math.exp(-0.5)))


def test_sampler_gap() -> None:
    row, outputs, _ = pieces([1.0] * 3, [-1.0, -2.0, -3.0], sampler=[-1.1, -1.7, NAN])
    found = gap(row, outputs)
    assert mean(found["sampler_gap"]) == pytest.approx(0.2)
    assert found["sampler_gap_max"][0].item() == pytest.approx(0.3)
    assert mean(found["sampler_kl"]) == pytest.approx(
        ((math.exp(0.1) - 0.1 - 1) + (math.exp(-0.3) + 0.3 - 1)) / 2, rel=1e-4
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_methods_objectives(method: str) -> None:
    """Recipe's knobs, builder, loss and normaliser together, against each paper's formula: a group of thoughts of 3, 5
    and 2 tokens with rewards 1, 0, 0, the last one cut off, and a ratio that differs from thought to thought."""
    lengths, rewards, ratios = [3, 5, 2], [1.0, 0.0, 0.0], [1.4, 0.7, 1.1]
    group = [thought("abc", 1.0), thought("defgh", 0.0), thought("ij", 0.0, stop="length")]
    knobs, normaliser = METHODS[method]
    data, _ = grpo([group], LETTERS, max_tokens=10, **knobs)
    old = [tuple(-2.0 if target else 0.0 for target in datum.mask) for datum in data]
    (row,) = pack(data, 100, proximal=old)
    new_M = torch.tensor([-2.0 + math.log(ratios[number]) for number in row.datum_M.tolist()])
    value, _ = policy_gradient(row, Outputs(new_M, torch.zeros_like(new_M)), clip_low=0.2, clip_high=0.28, tis=None)
    value = value / {"sequences": len(data), "tokens": len(row.at_M)}[normaliser]

    mean, spread = 1 / 3, math.sqrt(2 / 9)
    if method == "rloo":
        advantages = [1.0, -0.5, -0.5]
    else:
        advantages = [(reward - mean) / (1.0 if method == "dr-grpo" else spread) for reward in rewards]
    clipped = [min(r * a, min(max(r, 0.8), 1.28) * a) for r, a in zip(ratios, advantages, strict=True)]
    summed = [n * c for n, c in zip(lengths, clipped, strict=True)]
    wanted = {
        "grpo": sum(clipped) / 3,
        "dr-grpo": sum(summed) / 10 / 3,
        "dapo": sum(summed[:2]) / (3 + 5),  # the overlong filter leaves the cut thought in the baseline alone
        "rloo": sum(summed) / 3,
    }
    assert value.item() == pytest.approx(-wanted[method], rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        nll,
        partial(policy_gradient, kl=0.3),
        partial(policy_gradient, kl=0.3, kl_length="token"),
        partial(policy_gradient, tis=None),
    ],
)
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    """At ratios away from the clip's edges, with a frozen proximal policy."""
    new = [-1.0, -0.4, -2.2, -0.9, -1.6]
    proximal = [-1.1, -0.9, -2.1, -0.5, -1.7]
    row, outputs, logprobs = pieces(
        [1.0, 0.5, -1.0, -0.3, 0.0], new, proximal=proximal, reference=[-1.2, -0.3, -2.0, -1.0, -1.0],
        sampler=[-1.0, -1.9, -2.0, NAN, -1.5], owners=[0, 0, 1, 1, 1],
    )  # fmt: skip
    loss(row, outputs)[0].backward()
    assert logprobs.grad is not None

    def at(index: int, shift: float) -> float:
        moved = torch.tensor(new, dtype=torch.float64)
        moved[index] += shift
        return loss(row, Outputs(moved, outputs.entropy_M))[0].item()

    for index in range(len(new)):
        slope = (at(index, 1e-4) - at(index, -1e-4)) / 2e-4
        assert logprobs.grad[index].item() == pytest.approx(slope, abs=1e-4)


def test_refusals() -> None:
    row, outputs, _ = pieces([1.0], [-1.0])
    with pytest.raises(ValueError, match=r"kl is 0\.1 and there are no reference"):
        policy_gradient(row, outputs, kl=0.1)
    with pytest.raises(ValueError, match=r"clip_low=-0\.1"):
        policy_gradient(row, outputs, clip_low=-0.1)
    with pytest.raises(ValueError, match="tis=0"):
        policy_gradient(row, outputs, tis=0)
