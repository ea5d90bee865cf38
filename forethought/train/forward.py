"""The model's forward pass over a pack: hidden states under the trie's mask, log-probabilities at the targets alone.

The vocabulary is the largest tensor of a small model by far (49,152 columns against a width of 576), so it is only
ever computed at the positions that predict a target, a chunk of rows at a time, and computed again in the backward
pass, all but the last chunk, which is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from forethought.train.attention import attending, fuses, plan
from forethought.train.batch import Pack

CHUNK = 512
"""Rows of the vocabulary tensor that are in memory at once."""
CHUNK_GPU = 4096
"""The same on a GPU, which has the memory and wants large products."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model says at the M targets of a pack."""

    logprobs_M: Tensor
    """float32: log-probability of each target at the learner's temperature."""
    entropy_M: Tensor
    """float32, without gradient: entropy (nats) of the distribution that predicted it."""
    values_M: Tensor | None = None
    """float32: what the scalar head says at each target itself; `None` without a head, and for data without labels."""


def parts(model: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """The body of a causal language model (tokens to hidden states) and its vocabulary head, peft's wrapping taken off.

    Raises:
        ValueError: the head is not a plain linear layer of its own, the logits are scaled or capped after it, or the
            layers are not all attention that can be given a mask (recurrent layers would mix a pack's sequences).
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    body, head = base.base_model, base.get_output_embeddings()
    if body is base or type(head) is not nn.Linear:
        raise ValueError(
            f"{type(base).__name__} has no body with a plain linear vocabulary head (it has {type(head).__name__}); "
            "the learner needs one (leave lm_head out of LoRA's target and saved modules)"
        )
    others = set(getattr(base.config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if others or not base._supports_attention_backend:
        names = ", ".join(sorted(others)) or "attention of its own"
        raise ValueError(f"{type(base).__name__} has layers that cannot be packed ({names})")
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(base.config, name, None) not in (None, 1, 1.0):
            raise ValueError(f"{type(base).__name__} sets {name}={getattr(base.config, name)}; the learner lacks it")
    return body, head


def forward(model: nn.Module, pack: Pack, *, temperature: float = 1.0, scalar: nn.Linear | None = None) -> Outputs:
    """Log-probabilities, entropies and the values of a `scalar` head at a pack's targets; all lie on one device.

    Runs in the precision of the autocast that surrounds it; the softmax is in float32 always.
    """
    body, head = parts(model)
    device = pack.tokens_T.device
    low = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    trie = plan(pack, fused=fuses(body.config, device))
    with attending(body):
        hidden_TD = body(
            input_ids=pack.tokens_T[None], position_ids=pack.positions_T[None], use_cache=False, trie=trie
        ).last_hidden_state[0]
    at_U, row_M = torch.unique(pack.at_M, return_inverse=True)
    dtype = low or hidden_TD.dtype
    with torch.autocast(device.type, enabled=False):
        logprobs_M, entropy_U = _Head.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            hidden_TD[at_U].to(dtype), head.weight.to(dtype), head.bias, row_M, pack.target_M, temperature
        )
        here_M = pack.here_M
        values_M = None if scalar is None or here_M is None else scalar(hidden_TD[here_M].float()).squeeze(-1)
    return Outputs(logprobs_M, entropy_U[row_M], values_M)


class _Head(torch.autograd.Function):
    """Hidden rows to the log-probabilities of their targets, holding at most `CHUNK` rows of the vocabulary.

    `hidden_UD` are distinct rows, each of which predicts one or more targets: target `m` is read off row `row_M[m]`.
    Entropy comes without gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_UD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        row_M: Tensor,
        target_M: Tensor,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        rows, chunk = len(hidden_UD), _chunk(hidden_UD)
        lse_U = hidden_UD.new_empty(rows, dtype=torch.float32)
        entropy_U = torch.empty_like(lse_U)
        logit_M = lse_U.new_empty(len(row_M))
        logits_CV = hidden_UD.new_empty(0)
        for start in range(0, rows, chunk):
            logits_CV = linear(hidden_UD[start : start + chunk], weight_VD, bias_V)
            for low, high, block_BV in _blocks(logits_CV):
                block_BV.copy_(logits_CV[low:high])
                block_BV /= temperature
                top_B = block_BV.amax(-1)
                block_BV -= top_B[:, None]
                weights_BV = block_BV.exp()
                sum_B = weights_BV.sum(-1)
                lse_B = sum_B.log()
                entropy_U[start + low : start + high] = lse_B - torch.linalg.vecdot(weights_BV, block_BV) / sum_B
                lse_U[start + low : start + high] = lse_B + top_B
            inside = (row_M >= start) & (row_M < start + chunk)
            logit_M[inside] = logits_CV[row_M[inside] - start, target_M[inside]].float() / temperature
        ctx.save_for_backward(hidden_UD, weight_VD, bias_V, row_M, target_M, lse_U, logits_CV)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_U)
        return logit_M - lse_U[row_M], entropy_U

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_UD, weight_VD, bias_V, row_M, target_M, lse_U, kept_CV = ctx.saved_tensors
        grad_M = grads[0] / ctx.temperature
        rows, chunk = len(hidden_UD), _chunk(hidden_UD)
        grad_U = torch.zeros_like(lse_U).index_add_(0, row_M, grad_M)
        grad_hidden_UD = torch.empty_like(hidden_UD)
        grad_weight_VD = grad_bias_V = None
        for start in range(0, rows, chunk):
            end = min(start + chunk, rows)
            logits_CV = kept_CV if end == rows else linear(hidden_UD[start:end], weight_VD, bias_V)
            grad_CV = torch.empty_like(logits_CV)
            inside = (row_M >= start) & (row_M < end)
            for low, high, block_BV in _blocks(logits_CV):
                block_BV.copy_(logits_CV[low:high])
                block_BV /= ctx.temperature
                block_BV -= lse_U[start + low : start + high, None]
                block_BV.exp_()
                block_BV *= -grad_U[start + low : start + high, None]
                here = inside & (row_M >= start + low) & (row_M < start + high)
                block_BV.index_put_((row_M[here] - start - low, target_M[here]), grad_M[here], accumulate=True)
                grad_CV[low:high] = block_BV
            torch.mm(grad_CV, weight_VD, out=grad_hidden_UD[start:end])
            if ctx.needs_input_grad[1]:
                piece_VD = grad_CV.T @ hidden_UD[start:end]
                grad_weight_VD = piece_VD if grad_weight_VD is None else grad_weight_VD.add_(piece_VD)
            if bias_V is not None and ctx.needs_input_grad[2]:
                piece_V = grad_CV.float().sum(0)
                grad_bias_V = piece_V if grad_bias_V is None else grad_bias_V.add_(piece_V)
        grad_bias_V = None if grad_bias_V is None else grad_bias_V.to(bias_V.dtype)
        return grad_hidden_UD, grad_weight_VD, grad_bias_V, None, None, None


def _chunk(hidden_UD: Tensor) -> int:
    return CHUNK_GPU if hidden_UD.is_cuda else CHUNK


def _blocks(logits_CV: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Row ranges of a chunk with a float32 buffer for each: on a CPU small enough to stay in its cache."""
    rows, vocabulary = logits_CV.shape
    size = rows if logits_CV.is_cuda else min(rows, max(1, 2**20 // vocabulary))
    buffer_BV = logits_CV.new_empty(size, vocabulary, dtype=torch.float32)
    for low in range(0, rows, size):
        high = min(low + size, rows)
        yield low, high, buffer_BV[: high - low]
