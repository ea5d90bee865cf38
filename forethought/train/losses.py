"""Losses: `loss(pack, outputs) -> (scalar, metrics)`, knobs bound with `functools.partial`.

The scalar is a sum over the pack's targets; the learner divides by the step's normaliser, so that how a step was cut
into packs cannot change its gradient. A metric is a mean as (sum, count), so that packs can be added up; under a name
that ends in `_max` it is a largest value with any count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from forethought.train.batch import Pack
from forethought.train.forward import Outputs

Metrics = dict[str, tuple[Tensor, Tensor]]
Loss = Callable[[Pack, Outputs], tuple[Tensor, Metrics]]


def nll(pack: Pack, outputs: Outputs) -> tuple[Tensor, Metrics]:
    """Weighted negative log-likelihood: the sum over targets of -weight x log-probability."""
    logprobs_M = outputs.logprobs_M
    return -(pack.weight_M * logprobs_M).sum(), {"nll": _mean(-logprobs_M.detach())}


def policy_gradient(
    pack: Pack,
    outputs: Outputs,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    kl: float = 0.0,
    kl_length: Literal["sequence", "token"] = "sequence",
    tis: float | None = 2.0,
) -> tuple[Tensor, Metrics]:
    """The clipped surrogate of PPO and GRPO, token by token; the weights are the advantages.

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), the ratio taken against the learner's own
    log-probabilities when the data were made (`proximal`); without them the update counts as on-policy and the ratio is
    1, its gradient the score function's. GRPO, Dr. GRPO, DAPO and RLOO differ in weights and normaliser only
    (`data.grpo`). The defaults are DAPO's clip-higher (2503.14476, section 3.1).

    Args:
        kl: weight of the k3 estimate of KL(policy || reference), exp(d) - d - 1 with d = reference - policy, per target
            (DeepSeekMath, equation 4). Needs `reference`.
        kl_length: `"sequence"` takes the mean of k3 over each sequence's targets, for the normaliser `"sequences"`;
            `"token"` takes it as it is, for `"tokens"`.
        tis: cap of the truncated importance weight exp(proximal - sampler) that corrects for a sampler whose numbers
            differ from the learner's (Yao et al. 2025); `None` is off. Targets without the sampler's have weight 1.

    Raises:
        ValueError: `kl` without reference log-probabilities, or bounds below 0.
    """
    if clip_low < 0 or clip_high < 0 or kl < 0 or (tis is not None and tis <= 0):
        raise ValueError(f"clip_low={clip_low}, clip_high={clip_high}, kl={kl} must be 0 or more, and tis={tis} above")
    new_M, weight_M = outputs.logprobs_M, pack.weight_M
    old_M = new_M.detach() if pack.proximal_M is None else pack.proximal_M
    ratio_M = (new_M - old_M).exp()
    clipped_M = ratio_M.clamp(1 - clip_low, 1 + clip_high)
    surrogate_M = torch.minimum(ratio_M * weight_M, clipped_M * weight_M)
    known_M = ~pack.sampler_M.isnan()
    correction_M = torch.where(known_M, (old_M - pack.sampler_M).exp(), 1.0)
    if tis is not None:
        surrogate_M = surrogate_M * correction_M.clamp(max=tis)
    value = -surrogate_M.sum()
    with torch.no_grad():
        up_M, down_M = weight_M > 0, weight_M < 0
        metrics = {
            "ratio": _mean(ratio_M),
            "ratio_max": _largest(ratio_M),
            "clipped_up": _mean((ratio_M > 1 + clip_high)[up_M].float()),
            "clipped_down": _mean((ratio_M < 1 - clip_low)[down_M].float()),
            "zero_advantage": _mean((weight_M == 0).float()),
        }
        if tis is not None:
            metrics["tis_capped"] = _mean((correction_M > tis)[known_M].float())
    if pack.reference_M is not None:
        gap_M = pack.reference_M - new_M
        k3_M = gap_M.exp() - gap_M - 1
        if kl_length == "sequence":
            targets_N = torch.bincount(pack.datum_M)
            value = value + kl * (k3_M / targets_N[pack.datum_M]).sum()
        else:
            value = value + kl * k3_M.sum()
        metrics["kl_reference"] = _mean(k3_M.detach())
    elif kl:
        raise ValueError(f"kl is {kl} and there are no reference log-probabilities; give step() reference=…")
    return value, metrics


def gap(pack: Pack, outputs: Outputs) -> Metrics:
    """How far the sampler's log-probabilities are from the learner's: |difference|, and k3 of KL(sampler || learner).

    Read off the learner's log-probabilities when the data were made (`proximal`) or, without them, the present ones.
    """
    old_M = outputs.logprobs_M.detach() if pack.proximal_M is None else pack.proximal_M
    difference_M = (old_M - pack.sampler_M)[~pack.sampler_M.isnan()]
    return {
        "sampler_gap": _mean(difference_M.abs()),
        "sampler_gap_max": _largest(difference_M.abs()),
        "sampler_kl": _mean(difference_M.exp() - difference_M - 1),
    }


def entropy(pack: Pack, outputs: Outputs) -> Metrics:
    """Mean entropy (nats) of the distributions that predicted the targets."""
    return {"entropy": _mean(outputs.entropy_M)}


def _mean(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.sum(), torch.tensor(float(values.numel()), device=values.device)


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum; -inf, with a count of 0, where there is none."""
    count = torch.tensor(float(values.numel()), device=values.device)
    return (values.detach().max() if values.numel() else torch.tensor(-torch.inf, device=values.device)), count
