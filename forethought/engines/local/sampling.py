"""Draw one token a row from the logits, each row by its own seed, and say how likely it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from forethought.types import Sampling

BLOCK = 256
"""Entries in one block of the two-level inverse CDF; a flat cumulative sum over 49,152 costs more than the model."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniforms(seeds_B: np.ndarray, counters_B: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each row, by its seed (uint64) and how many tokens it has drawn (splitmix64, 24 bits).

    Counter-based, so what a row draws does not depend on which rows share its batch.
    """
    with np.errstate(over="ignore"):
        x = _mix(seeds_B) + (counters_B.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        x = _mix(x)
    return ((x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).astype(np.float32)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return np.asarray(x ^ (x >> np.uint64(31)))


@dataclass(frozen=True, slots=True)
class Draws:
    """How each of B rows is drawn, ready for `draw`; `None` stands for what no row asks for."""

    greedy_B: torch.Tensor | None
    all_greedy: bool
    divisor_B1: torch.Tensor | None
    """Temperatures, 1 for greedy rows."""
    top_p_B: torch.Tensor | None

    @classmethod
    def of(cls, samplings: Sequence[Sampling], device: torch.device) -> Draws:
        """Those of rows drawn by these settings, on the device where their logits are."""
        greedy = [sampling.temperature == 0 for sampling in samplings]
        divisors = [sampling.temperature or 1.0 for sampling in samplings]
        top_ps = [sampling.top_p for sampling in samplings]
        return cls(
            torch.tensor(greedy, device=device) if any(greedy) else None,
            all(greedy),
            torch.tensor(divisors, device=device).unsqueeze(1) if set(divisors) != {1.0} else None,
            torch.tensor(top_ps, device=device) if set(top_ps) != {1.0} else None,
        )


def draw(logits_BV: torch.Tensor, uniform_B: torch.Tensor, draws: Draws) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (B, int64) and their log-probabilities (B, float32).

    Temperature 0 is greedy, its log-probability taken at temperature 1. The log-probability is the model's at the
    row's temperature, before the nucleus is cut out.
    """
    scaled_BV = logits_BV.float()
    if draws.divisor_B1 is not None:
        scaled_BV = scaled_BV / draws.divisor_B1
    # One kernel that stays in the cache, row by row: maximum, exponentials and sum apart cost three times as much.
    probs_BV = scaled_BV.softmax(dim=1)
    if draws.all_greedy:
        tokens_B = probs_BV.argmax(dim=1)
    else:
        kept_BV = probs_BV if draws.top_p_B is None else _nucleus(probs_BV, draws.top_p_B)
        tokens_B = _inverse_cdf(kept_BV, uniform_B)
        if draws.greedy_B is not None:
            tokens_B = torch.where(draws.greedy_B, probs_BV.argmax(dim=1), tokens_B)
    return tokens_B, probs_BV.gather(1, tokens_B.unsqueeze(1)).squeeze(1).log()


def _nucleus(probs_BV: torch.Tensor, top_p_B: torch.Tensor) -> torch.Tensor:
    sorted_BV, order_BV = probs_BV.sort(dim=1, descending=True)
    before_BV = sorted_BV.cumsum(dim=1) - sorted_BV
    sorted_BV = torch.where(before_BV < top_p_B.unsqueeze(1), sorted_BV, 0.0)
    cut_BV = torch.zeros_like(probs_BV).scatter(1, order_BV, sorted_BV)
    return torch.where((top_p_B < 1).unsqueeze(1), cut_BV, probs_BV)


def _inverse_cdf(weights_BV: torch.Tensor, uniform_B: torch.Tensor) -> torch.Tensor:
    """The token at which the running sum of weights passes `uniform` of its total; first by block, then inside it."""
    batch, vocab = weights_BV.shape
    if vocab <= BLOCK:
        running_BV = weights_BV.cumsum(dim=1)
        return _within(weights_BV, running_BV, uniform_B.unsqueeze(1) * running_BV[:, -1:]).squeeze(1)
    blocks = -(-vocab // BLOCK)
    if blocks * BLOCK != vocab:
        weights_BV = torch.nn.functional.pad(weights_BV, (0, blocks * BLOCK - vocab))
    weights_BNK = weights_BV.view(batch, blocks, BLOCK)
    running_BN = weights_BNK.sum(dim=2).cumsum(dim=1)
    wanted_B1 = uniform_B.unsqueeze(1) * running_BN[:, -1:]
    block_B1 = torch.searchsorted(running_BN, wanted_B1, right=True).clamp_(max=blocks - 1)
    before_B1 = torch.where(block_B1 > 0, running_BN.gather(1, (block_B1 - 1).clamp(min=0)), 0.0)
    inside_BK = weights_BNK[torch.arange(batch, device=weights_BV.device), block_B1.squeeze(1)]
    at_B1 = _within(inside_BK, inside_BK.cumsum(dim=1), wanted_B1 - before_B1)
    return (block_B1 * BLOCK + at_B1).squeeze(1)


def _within(weights_BK: torch.Tensor, running_BK: torch.Tensor, wanted_B1: torch.Tensor) -> torch.Tensor:
    """Where the running sum passes what is wanted (B, 1)."""
    at_B1 = torch.searchsorted(running_BK, wanted_B1, right=True).clamp_(max=weights_BK.shape[1] - 1)
    # Rounding can point past the last token that has any weight: take the likeliest then.
    return torch.where(weights_BK.gather(1, at_B1) > 0, at_B1, weights_BK.argmax(dim=1, keepdim=True))
