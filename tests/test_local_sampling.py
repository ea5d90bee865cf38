"""Drawing: by the distribution, by the row's own seed, and each row by its own settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from forethought.engines.local.sampling import Draws, draw, uniforms
from forethought.types import Sampling

CPU = torch.device("cpu")


def alike(count: int, sampling: Sampling) -> Draws:
    return Draws.of([sampling] * count, CPU)


@pytest.mark.parametrize("vocabulary", [103, 700], ids=["one block", "three blocks"])
def test_draws_follow_the_distribution_and_the_nucleus_is_cut(vocabulary: int) -> None:
    logits_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(0)) * 2
    count = 20_000
    rows_BV = logits_V.expand(count, -1)
    uniform_B = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), np.zeros(count)))
    tokens_B, logprobs_B = draw(rows_BV, uniform_B, alike(count, Sampling()))
    expected_V = logits_V.log_softmax(0)
    torch.testing.assert_close(logprobs_B, expected_V[tokens_B], atol=1e-4, rtol=0)
    top = expected_V.exp().topk(20)
    shares = torch.bincount(tokens_B, minlength=vocabulary)[top.indices] / count
    assert float((shares - top.values).abs().max()) < 5 * (float(top.values.max()) / count) ** 0.5
    cut_B, _ = draw(rows_BV, uniform_B, alike(count, Sampling(top_p=0.3)))
    sorted_V = expected_V.exp().sort(descending=True)
    kept = int((sorted_V.values.cumsum(0) < 0.3).sum()) + 1
    assert set(cut_B.tolist()) == set(sorted_V.indices[:kept].tolist())
    cold_B, cold_logprobs_B = draw(rows_BV, uniform_B, alike(count, Sampling(temperature=0.5)))
    torch.testing.assert_close(cold_logprobs_B, (logits_V / 0.5).log_softmax(0)[cold_B], atol=1e-4, rtol=0)


def test_uniforms_are_spread_and_do_not_depend_on_the_batch() -> None:
    many = uniforms(np.arange(4096, dtype=np.uint64), np.full(4096, 3))
    assert 0 <= many.min() < 0.01 < 0.99 < many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.02
    assert abs(float(np.corrcoef(many[:-1], many[1:])[0, 1])) < 0.06
    two, one = np.array([17, 5], dtype=np.uint64), np.array([5], dtype=np.uint64)
    assert uniforms(two, np.array([3, 9]))[1] == uniforms(one, np.array([9]))[0]


def test_rows_with_different_settings_are_drawn_as_if_alone() -> None:
    settings = [
        Sampling(),
        Sampling(temperature=0),
        Sampling(temperature=0.3),
        Sampling(top_p=0.2),
        Sampling(top_p=0.9),
    ]
    logits_BV = torch.randn((50, 300), generator=torch.Generator().manual_seed(1))
    uniform_B = torch.from_numpy(uniforms(np.arange(50, dtype=np.uint64), np.zeros(50)))
    rows = [settings[row % 5] for row in range(50)]
    tokens_B, logprobs_B = draw(logits_BV, uniform_B, Draws.of(rows, CPU))
    for row, sampling in enumerate(rows):
        token, logprob = draw(logits_BV[row : row + 1], uniform_B[row : row + 1], Draws.of([sampling], CPU))
        assert int(tokens_B[row]) == int(token)
        assert float(logprobs_B[row]) == pytest.approx(float(logprob), abs=1e-6)


def test_a_token_without_probability_is_never_drawn() -> None:
    """Uniform numbers at both ends, where the running sum is rounded."""
    logits_BV = torch.full((2, 600), float("-inf"))
    logits_BV[:, [3, 300, 511]] = torch.tensor([0.1, 0.2, 0.3])
    uniform_B = torch.tensor([0.0, 1 - 2**-24])
    tokens_B, logprobs_B = draw(logits_BV, uniform_B, alike(2, Sampling()))
    assert tokens_B.tolist() == [3, 511]
    assert torch.isfinite(logprobs_B).all()
